"""What is taken of a folder, what is said to be left out, and what is refused."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.sources import open_source
from openslip.data.sources.folder import ImageFolder
from openslip.data.sources.layout import lay_out, split_names
from openslip.data.sources.mixture import Mixture
from openslip.data.sources.parquet import ParquetPaths, ParquetTable
from openslip.data.sources.table import Table
from openslip.data.sources.webdataset import TarShards
from openslip.errors import DataError


@pytest.fixture
def put(tmp_path, write_tar, jpeg):
    """Put files into a folder: shards and Parquet files of one record, called as the file, pictures, else nothing."""

    def put(*names: str):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".tar" and not path.name.startswith("."):
                write_tar(path, [(f"{path.stem}.jpg", jpeg)])
            elif path.suffix == ".parquet":
                row = {"image": [{"bytes": jpeg, "path": None}], "text": [path.name]}
                pq.write_table(pa.table(row), path)
            else:
                path.write_bytes(jpeg if path.suffix == ".jpg" else b"")
        return str(tmp_path)

    return put


def opened(folder):
    return open_source(folder, captions_required=False)


@pytest.mark.parametrize("ending", ["tar", "parquet"])
@pytest.mark.parametrize("name", ["{}-00000-of-00001", "{}", "flowers_{}-0001", "{}0"])
def test_of_several_splits_that_for_training(put, ending, name):
    names = [f"{name.format(split)}.{ending}" for split in ("test", "train", "validation")]
    folder = put(*names)
    source = opened(folder)
    assert len(source) == 1
    assert "train" in source[0].key
    assert (
        "the files for training are taken, 1; left out by their names: 1 × test, 1 × validation"
        in source.note
    )
    both = opened(f"{folder}/*t*.{ending}")
    assert len(both) == 3
    assert "Files of several splits are taken" in both.note
    for left in names[::2]:
        os.remove(f"{folder}/{left}")
    assert opened(folder).note == source.note.partition("\n")[2]  # with one split there is nothing to be said


def test_left_out_splits_are_counted(put):
    contents = opened(put("train.tar", "val.tar", "val-2.tar")).beside
    assert contents is not None
    assert (contents.seen, contents.used, contents.lost) == (3, 1, 0)
    assert list(contents.left_out) == ["a file of another split (validation)"]


def test_several_splits_and_none_for_training(put):
    folder = put("a-val-0.tar", "a-test-0.tar", "a-test-1.tar")
    with pytest.raises(DataError, match=r"2 × test, 1 × validation") as error:
        opened(folder)
    for pattern, count in zip(error.value.fix.split("'")[1::2], (2, 1), strict=True):
        assert len(opened(pattern)) == count
    put("00000.tar")
    assert opened(folder)[0].key == "00000"


def test_names_that_tell_no_split():
    for names in (
        ["trainers-1.tar", "testimony.tar"],
        ["latest-0.tar", "a.tar"],
        ["cats-00000-of-00002.parquet"],
    ):
        assert list(split_names(names)) == [""]


def test_pictures_of_another_split_are_not_missed(put):
    folder = put("train/a.jpg", "test/b.jpg")
    for split, name in (("train", "a.jpg"), ("test", "b.jpg")):
        with open(f"{folder}/{split}/metadata.csv", "w") as file:
            file.write(f"file_name,text\n{name},a dog\n")
    source = opened(folder)
    assert [record.key for record in source] == ["a.jpg"]
    assert source.beside is not None
    assert list(source.beside.left_out) == ["a file in a folder beside that for training"]


@pytest.mark.parametrize("kind", ["x.tar", "x.parquet", "x.jpg"])
def test_subfolders_for_splits(put, kind):
    folder = put(f"train/{kind}", f"val/{kind}", f"test/{kind}")
    source = opened(folder)
    assert len(source) == 1
    assert "the folder train is taken; left out: test, val" in source.note
    # The files that lie there are counted, not the folders.
    contents = source.contents if kind == "x.jpg" else source.beside
    assert contents is not None
    assert (contents.things, contents.seen, contents.used, contents.lost) == ("files", 3, 1, 0)
    assert len(opened(f"{folder}/val")) == 1
    assert len(opened(f"{folder}/*/{kind}")) == 3
    os.rename(f"{folder}/train", f"{folder}/dev")
    with pytest.raises(DataError, match="several splits, and none"):
        opened(folder)


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_shards_in_subfolders_are_counted(put, ending):
    folder = put(f"a{ending}", f"sub/b{ending}", f"sub/c/d{ending}")
    beside = opened(folder).beside
    assert beside is not None
    ((reason, left),) = beside.left_out.items()
    assert (beside.seen, left.count, left.lost) == (3, 2, True)
    assert f"'{folder}/**/*{ending}'" in reason
    assert len(opened(f"{folder}/**/*{ending}")) == 3


def test_a_picture_beside_the_folders_of_splits(put):
    source = opened(put("train/1.jpg", "val/2.jpg", "cover.jpg"))
    assert [record.key for record in source] == ["1.jpg"]
    assert source.contents is not None
    assert source.contents.left_out["a picture beside the folders"].example == "cover.jpg"


def test_classes_are_no_splits(put):
    assert len(opened(put("cats/1.jpg", "training shoes/1.jpg", "testers/1.jpg", "valves/1.jpg"))) == 4


def test_hidden_files_are_none(put):
    folder = put("._0.tar", "0.tar", "1.tar", ".hidden/2.tar", "._x.parquet", ".DS_Store")
    for spec in (folder, f"{folder}/*.tar", f"{folder}/**/*.tar"):
        assert len(opened(spec)) == 2


def test_pictures_and_shards(put):
    folder = put("1.jpg", "2.jpg", "deep/3.jpg", "old.tar")
    with pytest.raises(DataError, match=r"1 × \.tar \(old\.tar\), 3 pictures \(1\.jpg\)") as error:
        opened(folder)
    shards, pictures = error.value.fix.split("'")[1::2]
    assert type(opened(shards)) is TarShards
    source = opened(pictures)
    assert type(source) is ImageFolder
    assert [record.key for record in source] == ["1.jpg", "2.jpg", "deep/3.jpg"]
    put("a.tar", "b.tar")  # as many shards as pictures
    source = opened(folder)
    assert len(source) == 3
    assert source.beside is not None
    assert source.beside.left_out["a picture beside the shards"].count == 3


def test_pictures_and_parquet(put, jpeg, tmp_path):
    folder = put("1.jpg", "2.jpg", "a.parquet")
    with pytest.raises(DataError, match=r"1 × \.parquet.*2 pictures") as error:
        opened(folder)
    rows, pictures = error.value.fix.split("'")[1::2]
    assert type(opened(rows)) is ParquetTable
    assert len(opened(pictures)) == 2
    pq.write_table(pa.table({"image": ["1.jpg", "2.jpg"], "text": ["a", "b"]}), tmp_path / "a.parquet")
    assert type(opened(folder)) is ParquetPaths  # it names the pictures


def test_tables_beside_shards_are_named(put):
    folder = put("0.tar", "0.parquet", "pairs.csv")  # as img2dataset leaves 0.parquet
    source = opened(folder)
    assert type(source) is TarShards
    assert source.note == f"Tables in {folder} that are not read: pairs.csv"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,text\n1.jpg,one\n"),
        ("metadata.csv", "id;file_name;text\n7;1.jpg;one\n"),
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": "one"}\n'),
    ],
)
def test_the_table_of_a_folder_of_pictures(put, tmp_path, name, text):
    folder = put("1.jpg", "2.jpg")
    (tmp_path / name).write_text(text)
    source = open_source(folder)
    assert type(source) is Table
    assert source[0].captions == ("one",)
    assert f"the table {name}" in source.note
    assert source.beside is not None
    assert source.beside.left_out["a picture that the table does not name"].example == "2.jpg"


def test_pictures_of_another_split_are_not_missed_by_a_table(put, tmp_path):
    folder = put("train/1.jpg", "train/2.jpg", "test/1.jpg", "test/3.jpg")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\n1.jpg,one\n")
    source = open_source(folder)
    assert source.beside is not None
    assert source.beside.left_out["a picture that the table does not name"].count == 1
    assert source.beside.left_out["a file in a folder beside that for training"].count == 2
    assert (source.beside.seen, source.beside.used) == (4, 1)


def test_another_table_in_a_folder_of_pictures_is_named(put, tmp_path):
    folder = put("1.jpg", "sub/2.jpg")
    (tmp_path / "pairs.csv").write_text("file_name,caption\n1.jpg,one\n")  # which may name but a few of them
    source = opened(folder)
    assert type(source) is ImageFolder
    assert f"If the captions are in {folder}/pairs.csv, give that file instead" in source.note


def test_what_img2dataset_leaves_as_files(put, tmp_path):
    folder = put(
        "00000/0.jpg", "00000/1.jpg", "00000.parquet", "00000_stats.json", "00001/2.jpg", "00001.parquet"
    )
    (tmp_path / "00000" / "0.txt").write_text("zero")
    (tmp_path / "00000" / "0.json").write_text('{"caption": "zero", "url": "x"}')
    about = {"url": ["https://x/0.jpg"], "caption": ["zero"], "key": ["0"], "status": ["success"]}
    for name in ("00000", "00001"):
        pq.write_table(pa.table(about), tmp_path / f"{name}.parquet")
    source = opened(folder)
    assert [(record.key, record.captions) for record in source][:2] == [
        ("00000/0.jpg", ("zero",)),
        ("00000/1.jpg", ()),
    ]
    assert source.contents is not None
    assert source.contents.lost == 0


def test_a_parquet_file_of_paths_into_a_folder_of_its_name(put, tmp_path):
    folder = put("train/1.jpg", "train.parquet")
    pq.write_table(pa.table({"image": ["train/1.jpg"], "text": ["one"]}), tmp_path / "train.parquet")
    assert [record.captions for record in opened(folder)] == [("one",)]


@pytest.mark.parametrize("marks", [["state.json", "data-00000-of-00001.arrow"], ["dataset_dict.json"]])
def test_a_set_that_the_library_saved(put, tmp_path, marks):
    folder = put("sub/x.arrow", *marks)
    if "dataset_dict.json" in marks:
        (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    layout = lay_out(folder)
    assert layout.kind == "saved"
    assert ("train, test" in layout.notes[0]) == ("dataset_dict.json" in marks)


def test_pictures_by_a_pattern(put, tmp_path):
    folder = put("a/1.jpg", "a/2.jpg", "b/1.jpg", "a/3.png")
    (tmp_path / "a" / "2.txt").write_text("two")
    source = opened(f"{folder}/a/*.jpg")
    assert [(record.key, record.captions) for record in source] == [("1.jpg", ()), ("2.jpg", ("two",))]
    assert source.name == f"{folder}/a/*.jpg"
    assert [record.key for record in opened(f"{folder}/*/1.jpg")] == ["a/1.jpg", "b/1.jpg"]
    assert len(opened(f"{folder}/a/1.jpg")) == 1


def test_names_with_signs_of_patterns_and_mixtures(put, monkeypatch, tmp_path):
    put("photos [2021]/0.tar", "2 * x/0.tar", "C + D/0.tar", "{a}/0.tar", "x/0.tar")
    monkeypatch.chdir(tmp_path)
    for name in ("photos [2021]", "2 * x", "C + D", "{a}"):
        for spec in (name, f"{name}/*.tar", f"{name}/0.tar", f"{name}/{{0..0}}.tar", f"./{name}/*.tar"):
            assert type(opened(spec)) is TarShards, spec
            assert len(opened(spec)) == 1
    source = opened("2 * C + D/*.tar + x")
    assert isinstance(source, Mixture)
    assert source.weights == (2, 1)
    assert len(opened("*[2021]*/0.tar")) == 2
    with pytest.raises(DataError, match=r"Brackets are part of a pattern"):
        opened("photo [2022]/*.tar")


def test_a_folder_elsewhere(put, monkeypatch, tmp_path):
    import fsspec

    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))
    put("train-0.tar", "test-0.tar")
    memory = fsspec.filesystem("memory")
    for name in ("train-0.tar", "test-0.tar"):
        memory.pipe(f"/layout/{name}", (tmp_path / name).read_bytes())
    memory.pipe("/layout/._train-0.tar", b"\0\5\26\7")
    source = opened("memory://layout")
    assert [record.key for record in source] == ["train-0"]
    assert "left out by their names: 1 × test" in source.note
    assert len(opened("memory://layout/*.tar")) == 2
    with pytest.raises(DataError, match="no captions 'TEXT'"):
        open_source("memory://layout", caption_column="TEXT")
