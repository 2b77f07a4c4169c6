"""Sets as the `datasets` library writes them and as the hub lays them out. The hub itself is replaced."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys

import fsspec
import pytest
from PIL import Image

from openslip.data.sources import huggingface
from openslip.data.sources.huggingface import HubDataset, open_hub, pick, split_of
from openslip.data.sources.parquet import ParquetTable
from openslip.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def jpegs(count):
    def jpeg(i):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), (i, 40, 90)).save(buffer, "JPEG")
        return buffer.getvalue()

    return list(map(jpeg, range(count)))


def make(count=5, start=0):
    """A set with an image feature, several captions and a label."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "captions": datasets.Sequence(datasets.Value("string")),
        }
    )
    columns = {
        "image": [{"bytes": jpeg, "path": None} for jpeg in jpegs(start + count)[start:]],
        "label": [0] * count,
        "captions": [[f"caption {start + i}", " another "] for i in range(count)],
    }
    return datasets.Dataset.from_dict(columns, features)


def check(source, count, start=0):
    assert [record.image for record in source] == jpegs(start + count)[start:]
    assert [record.captions for record in source] == [
        (f"caption {i}", "another") for i in range(start, start + count)
    ]


def test_saved_to_disk(tmp_path):
    make().save_to_disk(tmp_path / "one")
    spec = f"hf:{tmp_path}/one"
    source = open_hub(spec)
    assert isinstance(source, HubDataset)
    check(source, 5)
    assert (source[3].key, source[3].source) == (f"{spec}:3", spec)
    assert source[-1].key == f"{spec}:4"
    assert source.note == f"Columns of {spec}: image from 'image', caption from 'captions' (guessed)"
    with pytest.raises(IndexError):
        source[5]
    with pytest.raises(DataError, match="a single set, not one named 'test'"):
        open_hub(f"{spec}:test")


def test_saved_splits(tmp_path):
    both = datasets.DatasetDict({"train": make(3), "test": make(2, 3)})
    both.save_to_disk(tmp_path / "both")
    check(open_hub(f"hf:{tmp_path}/both"), 3)
    check(open_hub(f"hf:{tmp_path}/both:test"), 2, 3)
    with pytest.raises(DataError, match=r"no split 'tets'.*Did you mean 'test'"):
        open_hub(f"hf:{tmp_path}/both:tets")
    datasets.DatasetDict({"extra": make(1)}).save_to_disk(tmp_path / "other")
    check(open_hub(f"hf:{tmp_path}/other"), 1)


def test_another_process_gets_the_files_not_the_rows(tmp_path):
    make().save_to_disk(tmp_path / "one")
    source = open_hub(f"hf:{tmp_path}/one")
    pickled = pickle.dumps(source)
    check(pickle.loads(pickled), 5)
    assert jpegs(1)[0] not in pickled
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[4].captions)"
    result = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert result.stdout.decode().strip() == "('caption 4', 'another')"


def test_images_are_not_decoded_and_may_be_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no JPEG at all")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    columns = {"image": [str(tmp_path / "a.jpg"), str(tmp_path / "gone.jpg"), None], "text": ["x", None, "z"]}
    source = HubDataset(datasets.Dataset.from_dict(columns, features), name="files")
    assert (source[0].image, source[0].captions) == (b"no JPEG at all", ("x",))
    with pytest.raises(DataError, match=r"does not exist.*gone\.jpg"):
        source[1]
    with pytest.raises(DataError, match=r"^The row has no image in column 'image'\. Got: '.*files:2'"):
        source[2]


def test_columns_of_a_dataset(tmp_path):
    plain = make().remove_columns("captions")
    with pytest.raises(DataError, match=r"No column of pets looks like the caption.*image .*, label \("):
        HubDataset(plain, name="pets")
    assert HubDataset(plain, name="pets", captions_required=False)[0].captions == ()
    twice = make().add_column("note", [f"n{i}" for i in range(5)])
    source = HubDataset(twice, name="pets", image_column="image", caption_column="note,captions")
    assert (source[1].captions, source.note) == (("n1", "caption 1", "another"), "")
    urls = datasets.Dataset.from_dict({"url": ["https://example.org/a.jpg"], "text": ["x"]})
    with pytest.raises(DataError, match="'url' of pets holds web addresses"):
        HubDataset(urls, name="pets")
    paths = datasets.Dataset.from_dict({"path": ["a.jpg"], "text": ["x"]})
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert HubDataset(paths, name="pets", image_root=str(tmp_path))[0].image == b"a"
    with pytest.raises(DataError, match="only the image's name"):
        HubDataset(paths, name="pets")[0]
    with pytest.raises(DataError, match="no rows"):
        HubDataset(plain.select([]), name="pets")


def test_rows_picked_by_the_library():
    picked = make().shuffle(seed=0).select([4, 1])
    expected = [tuple(c.strip() for c in captions) for captions in picked["captions"]]
    assert [record.captions for record in HubDataset(picked, name="some")] == expected


def test_a_folder_of_parquet_as_the_library_writes_it(tmp_path):
    (tmp_path / "data").mkdir()
    make(3).to_parquet(tmp_path / "data/train-00000-of-00002.parquet", batch_size=2)
    make(2, 3).to_parquet(tmp_path / "data/train-00001-of-00002.parquet")
    make(4).to_parquet(tmp_path / "data/validation-00000-of-00001.parquet")
    for scheme in ("hf", "hf-stream"):
        source = open_hub(f"{scheme}:{tmp_path}")
        assert isinstance(source, ParquetTable)
        check(source, 5)
        assert source[3].key == "train-00001-of-00002.parquet:0"
        check(open_hub(f"{scheme}:{tmp_path}:val"), 4)
    with pytest.raises(DataError, match=r"no split 'test'.*train"):
        open_hub(f"hf:{tmp_path}:test")
    (tmp_path / "odd:name").mkdir()
    with pytest.raises(DataError, match=r"odd:name.*save_to_disk"):
        open_hub(f"hf:{tmp_path}/odd:name")


@pytest.fixture
def hub(monkeypatch):
    """A hub whose sets are given as path → number of rows for each revision, and lie in memory."""
    memory = fsspec.filesystem("memory")

    def fill(**revisions):
        def list_hub(repository, revision):
            found = {}
            for path, rows in revisions.get("converted" if revision else "own", {}).items():
                url = f"memory://{repository}/{revision}/{path}"
                with memory.open(url, "wb") as file:
                    make(rows).to_parquet(file)
                found[path] = url
            return found if repository == "owner/name" else {}

        monkeypatch.setattr(huggingface, "list_hub", list_hub)

    yield fill
    memory.store.clear()


def test_streaming_takes_the_hubs_copy(hub):
    hub(converted={"default/train/0000.parquet": 2, "default/test/0000.parquet": 3}, own={"train.parquet": 9})
    source = open_hub("hf-stream:owner/name")
    assert isinstance(source, ParquetTable)
    check(source, 2)
    check(pickle.loads(pickle.dumps(source)), 2)
    check(open_hub("hf-stream:owner/name:test"), 3)
    check(open_hub("hf-stream:owner/name/default:test"), 3)


def test_streaming_takes_the_repositorys_own_files_where_the_copy_is_partial(hub):
    hub(converted={"default/partial-train/0000.parquet": 2}, own={"data/train-00000-of-00001.parquet": 4})
    check(open_hub("hf-stream:owner/name"), 4)
    hub(converted={"default/partial-train/0000.parquet": 2})
    with pytest.raises(DataError, match="no whole copy.*hf:owner/name"):
        open_hub("hf-stream:owner/name")


def test_streaming_configs(hub):
    hub(converted={"en/train/0000.parquet": 1, "de/train/0000.parquet": 2})
    check(open_hub("hf-stream:owner/name/de"), 2)
    with pytest.raises(DataError, match=r"several configs\. Got: 'de, en'"):
        open_hub("hf-stream:owner/name")
    with pytest.raises(DataError, match="no config 'dee'.*Did you mean 'de'"):
        open_hub("hf-stream:owner/name/dee")
    with pytest.raises(DataError, match=r"no Parquet files.*Check the name"):
        open_hub("hf-stream:owner/nobody")


@pytest.mark.parametrize("at", ["@refs/convert/parquet", "@refs%2Fconvert%2Fparquet"])
def test_what_the_hub_is_asked(monkeypatch, at):
    class Hub:
        def find(self, root, revision):
            if root == "datasets/owner/gone":
                raise FileNotFoundError(root)
            if root == "datasets/owner/down":
                raise RuntimeError("503 Service Unavailable")
            names = ["README.md", "default/train/0000.parquet", "default/train/0000.parquet.json"]
            return [f"{root}{at if revision == 'refs/convert/parquet' else ''}/{name}" for name in names]

    monkeypatch.setattr("huggingface_hub.HfFileSystem", Hub)
    path = "default/train/0000.parquet"
    for revision, placed in [("", ""), ("refs/convert/parquet", at)]:
        found = huggingface.list_hub("owner/name", revision)
        assert found == {path: f"hf://datasets/owner/name{placed}/{path}"}
        assert huggingface.list_hub("owner/gone", revision) == {}
    with pytest.raises(DataError, match="hub does not list.*503"):
        open_hub("hf-stream:owner/down")


def test_download(monkeypatch, tmp_path):
    asked = []

    def load_dataset(name, config, *, split):
        asked.append((name, config, split))
        if split == "nosuch":
            raise ValueError('Unknown split "nosuch". Should be one of [train].\nMore lines')
        return make()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check(open_hub("hf:owner/name"), 5)
    open_hub("hf:owner/name/config:train[:10%]")
    assert asked == [("owner/name", None, "train"), ("owner/name", "config", "train[:10%]")]
    with pytest.raises(DataError, match=r"cannot be loaded.*owner/name:nosuch.*one of \[train\]\. Write hf:"):
        open_hub("hf:owner/name:nosuch")


@pytest.mark.parametrize(
    "spec", ["hf:", "hf:name", "hf-stream:a/b/c/d", "hf:../x/y", "hf:no such/folder", "hf:/a/b"]
)
def test_names_that_are_none(spec):
    with pytest.raises(DataError, match="no such folder, and this cannot be the name of a set"):
        open_hub(spec)


def test_without_the_library(monkeypatch, tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for spec in ("hf:owner/name", f"hf:{tmp_path}"):
        with pytest.raises(DataError, match=r"`datasets` is not installed.*pip install datasets"):
            open_hub(spec)


def test_a_damaged_saved_set(tmp_path):
    make().save_to_disk(tmp_path / "one")
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match="saved set cannot be read"):
        open_hub(f"hf:{tmp_path}/one")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00004.parquet", "train"),
        ("data/train-00000-of-00004-0a1b2c.parquet", "train"),
        ("data/test_unseen-00000-of-00001.parquet", "test_unseen"),
        ("default/train/0000.parquet", "train"),
        ("en/my_split/0000.parquet", "my_split"),
        ("val.parquet", "validation"),
        ("cc3m-train-0001.parquet", "train"),
        ("train2017/part.parquet", "train"),
        ("test/train.parquet", "train"),
        ("pairs.parquet", ""),
        ("contest/latest.parquet", ""),
        ("0000.parquet", ""),
    ],
)
def test_split_of(path, split):
    assert split_of(path) == split


def test_pick():
    def names(paths, config="", split=""):
        return pick({path: path for path in paths}, config, split, "set")

    assert names(["b.parquet", "a.parquet"]) == ["a.parquet", "b.parquet"]
    assert names(["part-00001-of-2.parquet", "part-00000-of-2.parquet"])[0] == "part-00000-of-2.parquet"
    assert names(["x/test.parquet", "x/val.parquet", "x/train-0.parquet"]) == ["x/train-0.parquet"]
    assert names(["default/train/0.parquet", "other/train/0.parquet"]) == ["default/train/0.parquet"]
    with pytest.raises(DataError, match="no split 'train'.*test, validation"):
        names(["test.parquet", "val.parquet"])
    with pytest.raises(DataError, match="no split 'test'.*Leave the split out"):
        names(["a.parquet"], split="test")
    with pytest.raises(DataError, match="no config 'x'"):
        names(["a.parquet"], config="x")


def saved(folder, change, caption=("one cat", "two cats", "three dogs")):
    """A saved set whose Arrow file was changed."""
    captions = list(caption)
    dataset = datasets.Dataset.from_dict({"image": jpegs(len(captions)), "caption": captions})
    dataset.save_to_disk(str(folder))
    (path,) = folder.glob("*.arrow")
    path.write_bytes(change(path.read_bytes()))
    return f"hf:{folder}"


@pytest.mark.parametrize("end", [2_000_000, 200, -1])
@pytest.mark.parametrize("picked", [False, True])
def test_texts_that_reach_beyond_their_buffer_are_not_read(tmp_path, end, picked):
    ends = struct.pack("<4i", 0, 7, 15, 25)
    spec = saved(tmp_path / "set", lambda data: data.replace(ends, struct.pack("<4i", 0, 7, 15, end)))
    source = open_hub(spec)
    if picked:  # through a mapping of indices
        rows = datasets.load_from_disk(str(tmp_path / "set")).select([2, 0])
        source = HubDataset(rows, name="x")
    source = pickle.loads(pickle.dumps(source))
    with pytest.raises(DataError, match="cannot be read"):
        source[0 if picked else 2]
    assert source[1 if picked else 0].captions == ("one cat",)


def test_one_text_that_is_no_utf8_is_one_row(tmp_path):
    source = open_hub(saved(tmp_path / "set", lambda data: data.replace(b"two cats", b"two \xffats")))
    with pytest.raises(DataError, match="cannot be read"):
        source[1]
    assert [source[i].captions for i in (0, 2)] == [("one cat",), ("three dogs",)]
    assert source.contents is not None
    assert (source.contents.things, source.contents.seen) == ("rows", 3)


def test_the_split_that_nobody_asked_for_is_said(tmp_path):
    datasets.DatasetDict({"test": make(1), "train": make(2)}).save_to_disk(str(tmp_path / "set"))
    spec = f"hf:{tmp_path}/set"
    assert f"Split 'train' of {spec} is taken; there are also 'test': {spec}:test" in open_hub(spec).note
    assert "Split" not in open_hub(f"{spec}:test").note
    for split in ("train", "validation"):
        make(1).to_parquet(str(tmp_path / f"parquet/{split}-00000-of-00001.parquet"))
    assert "there are also 'validation'" in open_hub(f"hf:{tmp_path}/parquet").note
