"""The spec says the format; a wrong one says what to write instead."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.sources import open_source
from openslip.data.sources.coco import CocoCaptions
from openslip.data.sources.conceptual import Conceptual
from openslip.data.sources.folder import ImageFolder
from openslip.data.sources.mixture import Mixture
from openslip.data.sources.parquet import ParquetTable
from openslip.data.sources.redcaps import RedCaps
from openslip.data.sources.table import Table
from openslip.data.sources.webdataset import TarShards
from openslip.data.sources.yfcc import Yfcc
from openslip.errors import DataError
from toys import ToySource


@pytest.fixture
def data(tmp_path, write_tar, jpeg):
    """A folder with some of everything."""
    (tmp_path / "shards").mkdir()
    for i in range(12):
        write_tar(tmp_path / "shards" / f"a-{i:04}.tar", [(f"{i}.jpg", jpeg)])
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "1.jpg").write_bytes(jpeg)
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("image,caption,other\ntrain2017/1.jpg,x,y\n")
    (tmp_path / "t.jsonl").write_text('{"image": "1.jpg", "caption": "x"}\n')
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "x"}],
    }
    (tmp_path / "captions_train2017.json").write_text(json.dumps(coco))
    (tmp_path / "b.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    (tmp_path / "rows").mkdir()
    for i in range(2):
        table = {"image": [{"bytes": jpeg, "path": None}], "text": [f"row {i}"]}
        pq.write_table(pa.table(table), tmp_path / "rows" / f"train-0000{i}-of-00002.parquet")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "x1.jpg").write_bytes(jpeg)
    redcaps = {"info": {}, "annotations": [{"image_id": "x1", "subreddit": "cats", "caption": "a cat"}]}
    for year in (2019, 2020):
        (tmp_path / "annotations" / f"cats_{year}.json").write_text(json.dumps(redcaps))
    np.save(
        tmp_path / "cc3m.npy", np.array([{"image_id": "train2017/1.jpg", "captions": ["x"]}], dtype=object)
    )
    (tmp_path / "images" / "00").mkdir()
    with zipfile.ZipFile(tmp_path / "images" / "00" / "000.zip", "w") as file:
        file.writestr("007.jpg", jpeg)
    (tmp_path / "yfcc15m.pkl").write_bytes(pickle.dumps([(7, "a title", "")]))
    pq.write_table(
        pa.table({"index": [7], "title": ["a"], "description": ["b"]}), tmp_path / "yfcc15m.parquet"
    )
    (tmp_path / "README").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "kind", "keys"),
    [
        ("shards/a-0003.tar", TarShards, ["3"]),
        ("shards/a-000[12].tar", TarShards, ["1", "2"]),
        ("shards/a-*.tar", TarShards, [str(i) for i in range(12)]),
        ("**/a-001*.tar", TarShards, ["10", "11"]),
        ("shards/a-{0009..0011}.tar", TarShards, ["9", "10", "11"]),
        ("shards/a-{0011,0002}.tar", TarShards, ["11", "2"]),
        ("shards/{a,a}-00{0,1}0.tar", TarShards, ["0", "10", "0", "10"]),
        ("shards/a-{00?1,*11}.tar", TarShards, ["1", "11", "11"]),
        ("shards", TarShards, [str(i) for i in range(12)]),
        ("train2017", ImageFolder, ["1.jpg"]),
        ("t.csv", Table, ["train2017/1.jpg"]),
        ("captions_train2017.json", CocoCaptions, ["1.jpg"]),
        ("rows", ParquetTable, ["train-00000-of-00002.parquet:0", "train-00001-of-00002.parquet:0"]),
        ("rows/*-00001-*.parquet", ParquetTable, ["train-00001-of-00002.parquet:0"]),
        ("annotations", RedCaps, ["cats/x1.jpg"]),
        ("annotations/cats_20{19,20}.json", RedCaps, ["cats/x1.jpg"]),
        ("annotations/cats_2019.json", RedCaps, ["cats/x1.jpg"]),
        ("cc3m.npy", Conceptual, ["train2017/1.jpg"]),
        ("yfcc15m.pkl", Yfcc, ["00000007"]),
        ("yfcc15m.parquet", Yfcc, ["00000007"]),
    ],
)
def test_formats(data, spec, kind, keys):
    source = open_source(f"{data}/{spec}")
    assert type(source) is kind
    assert [record.key for record in source] == keys
    assert source.name == f"{data}/{spec}"


def test_a_mixture(data):
    spec = f"{data}/shards/a-000[12].tar + 3 * {data}/t.csv"
    source = open_source(spec)
    assert isinstance(source, Mixture)
    assert source.name == spec
    assert [record.key for record in source] == ["1", "2", "train2017/1.jpg"]
    assert [part.share for part in source.parts] == [2, 3]
    (data / "a + b").mkdir()
    (data / "a + b" / "x.jpg").write_bytes((data / "train2017" / "1.jpg").read_bytes())
    assert type(open_source(f"{data}/a + b")) is ImageFolder


def test_tables_without_captions(data):
    (data / "t.csv").write_text("image\ntrain2017/1.jpg\n")
    with pytest.raises(DataError, match="caption"):
        open_source(str(data / "t.csv"))
    assert open_source(str(data / "t.csv"), captions_required=False)[0].captions == ()


def test_options_reach_the_table(data):
    source = open_source(str(data / "t.csv"), caption_column="other")
    assert source[0].captions == ("y",)
    source = open_source(str(data / "t.jsonl"), image_root=str(data / "train2017"))
    assert source[0].key == "1.jpg"


@pytest.mark.parametrize("spec", ["scenes", "scenes:val:100"])
def test_scenes(monkeypatch, spec):
    module = types.ModuleType("openslip.scenes")
    monkeypatch.setattr(module, "open_scenes", lambda spec: ToySource(name=f"opened {spec}"), raising=False)
    monkeypatch.setitem(sys.modules, "openslip.scenes", module)
    assert open_source(spec).name == f"opened {spec}"


def test_home_and_relative_paths(data, monkeypatch):
    monkeypatch.setenv("HOME", str(data))
    assert len(open_source("~/shards/a-{0000..0001}.tar")) == 2
    monkeypatch.chdir(data)
    source = open_source("shards/a-*.tar")
    monkeypatch.chdir("/")
    assert source[0].key == "0"


def test_a_name_with_brackets_is_that_name(data):
    os.rename(data / "shards" / "a-0000.tar", data / "a{0..3}[x].tar")
    assert open_source(str(data / "a{0..3}[x].tar"))[0].key == "0"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shardz/a-0000.tar", "no such file or folder.*Did you mean 'shards'"),
        ("shards/b-0003.tar", r"no such file or folder.*b-0003\.tar.*Did you mean 'a-0003\.tar'"),
        ("empty/deep/down.csv", "is empty"),
        ("shards/zzz.csv", r"has no 'zzz\.csv', but a-0000\.tar, .* and 4 more"),
        ("shards/b*.tar", r"matches no file.*b\*\.tar.*Did you mean"),
        ("shards/a-{0010..0013}.tar", r"2 of 4 files do not exist.*a-0012\.tar"),
        ("shards/a-{0..3}.tar", "4 of 4 files do not exist"),
        ("shards/a-{0000-0003}.tar", r"\{0000-0003\} is neither a range nor a list.*\{00000\.\.00099\}"),
        ("shards/a-{}.tar", "neither a range nor a list"),
        ("shards/a-{0000..0003.tar", "braces do not match"),
        ("shards/a-{{0,1},2}.tar", "braces do not match"),
        ("shards/a-{0003..0000}.tar", r"runs backwards.*\{0000\.\.0003\}"),
        ("shards/a-{0..99999999999}.tar", "too long"),
        ("shards/a-{0..9999}{0..9999}.tar", "100,000,000 files"),
        ("empty", "no images.*It is empty"),
        ("*.json*", "only if all of them are .tar"),
        ("x.parquet", "not a readable Parquet file"),
        ("shards/a-0003.tar + t.csv +", "missing in the mixture"),
        ("README + t.csv", "has no ending"),
        ("b.tar.gz", "compressed.*gunzip"),
        ("README", "has no ending"),
    ],
)
def test_errors(data, spec, message):
    with pytest.raises(DataError, match=message):
        open_source(f"{data}/{spec}")


def test_nothing_and_nowhere():
    with pytest.raises(DataError, match="No data is given"):
        open_source("")
    with pytest.raises(DataError, match="Protocol not known: nowhere"):
        open_source("nowhere://bucket/a-{0..3}.tar")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "https://server/pairs.csv",
            r"Only tar shards and Parquet files can be read.*pairs\.csv'.*Copy the file to a disk",
        ),
        ("https://server/pairs.csv?key=secret", r"pairs\.csv'\."),
        ("s3://bucket/captions.json", "Only tar shards and Parquet files can be read"),
        ("https://server/a-{0..3}.tgz", "only if all of them are .tar"),
        ("https://server/a.tar.zst", "compressed.*unzstd"),
        ("https://server/a-{0..1}.{tar,csv}", r"only if all of them are .tar.*a-1\.csv"),
        ("https://server/set/", r"names no file.*\{00000\.\.00331\}"),
        ("https://server", "names no file"),
        ("https://server/a-*.tar", r"cannot be listed.*does not say which files.*\{00000\.\.00331\}"),
        ("zip://*.tar::https://server/a.zip", "cannot be listed.*chain"),
        ("https://server/a-{3..0}.tar", "runs backwards"),
        ("file:///nowhere/at/all.tar", "no such file or folder"),
    ],
)
def test_addresses_that_are_no_source(spec, message):
    with pytest.raises(DataError, match=message) as error:
        open_source(spec)
    assert "secret" not in str(error.value)


def test_a_file_address_is_a_path(data):
    assert len(open_source(f"file://{data}/shards/a-*.tar")) == 12
    assert open_source(f"file://{data}/t.csv")[0].key == "train2017/1.jpg"
