from __future__ import annotations

import json
import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import color_folder
from hypothesis import given
from hypothesis import strategies as st

from slip.data.record import Record
from slip.errors import ConfigError, DataError
from slip.evaluation.datasets import dataset_name, load_labelled, parquet, splits
from slip.evaluation.datasets import scenes as labelled_scenes


def write_parquet(path, labels, names=None, *, label="label", struct=True, start=0):
    images = [f"image {start + i}".encode() for i in range(len(labels))]
    column = (
        pa.array(
            [{"bytes": b, "path": None} for b in images],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        if struct
        else pa.array(images, pa.binary())
    )
    table = pa.table({"image": column, label: labels if isinstance(labels, pa.Array) else pa.array(labels)})
    if names:
        features = {"image": {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
        info = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


class TestFolder:
    def test_split_folders(self, tmp_path):
        color_folder(tmp_path / "my_set", {"red": 3, "green": 2})
        (tmp_path / "my_set/train/deep_blue").mkdir()
        data = load_labelled(str(tmp_path / "my_set"), "test")
        assert (data.name, data.split, len(data), data.named) == ("my_set", "test", 5, True)
        assert data.class_names == ("green", "red")
        assert data.labels.tolist() == [0, 0, 1, 1, 1]
        assert data.labels.dtype == np.int64
        assert data.images[4] == (tmp_path / "my_set/test/red/002.png").read_bytes()
        assert list(pickle.loads(pickle.dumps(data)).images) == list(data.images)

    def test_validation_stands_in_for_test(self, tmp_path):
        color_folder(tmp_path, {"red": 1, "green": 1}, splits=("train", "val"))
        assert load_labelled(str(tmp_path), "test").split == "val"
        assert load_labelled(str(tmp_path), "validation").split == "val"

    def test_no_splits_gives_a_fixed_stratified_fifth(self, tmp_path, caplog):
        color_folder(tmp_path / "plain", {"red": 10, "green": 20, "gold": 1}, splits=())
        train, test = (load_labelled(str(tmp_path / "plain"), split) for split in ("train", "test"))
        assert np.bincount(test.labels, minlength=3).tolist() == [0, 4, 2]  # gold, green, red
        assert np.bincount(train.labels).tolist() == [1, 16, 8]
        assert not set(train.images) & set(test.images)
        assert list(load_labelled(str(tmp_path / "plain"), "test").images) == list(test.images)
        assert "plain has no train and test split" in caplog.text

    def test_file_that_went_away_is_one_images_error(self, tmp_path):
        color_folder(tmp_path, {"red": 2, "green": 1})
        data = load_labelled(str(tmp_path))
        (tmp_path / "test/red/001.png").unlink()
        with pytest.raises(DataError, match=r"does not exist.*001\.png"):
            data.images[2]

    def test_errors_teach(self, tmp_path):
        color_folder(tmp_path / "birds", {"red": 2, "green": 1}, splits=("train",))
        with pytest.raises(DataError, match="Did you mean 'birds'"):
            load_labelled(str(tmp_path / "brids"))
        with pytest.raises(DataError, match="no labelled test split"):
            load_labelled(str(tmp_path / "birds"))
        with pytest.raises(ConfigError, match="Did you mean 'test'"):
            load_labelled(str(tmp_path / "birds"), "tset")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no labelled images"):
            load_labelled(str(tmp_path / "empty"))
        color_folder(tmp_path / "one", {"red": 2})
        with pytest.raises(DataError, match="fewer than two classes"):
            load_labelled(str(tmp_path / "one"))
        (tmp_path / "x.zip").touch()
        with pytest.raises(DataError, match=r"folder or a \.parquet"):
            load_labelled(str(tmp_path / "x.zip"))


class TestParquet:
    @pytest.mark.parametrize("struct", [True, False])
    def test_hub_layout(self, tmp_path, struct):
        folder = tmp_path / "cats" / "data"
        write_parquet(
            folder / "train-00000-of-00002.parquet", [0, 1, 0, 1, 1], ["tabby_cat", "lynx"], struct=struct
        )
        write_parquet(
            folder / "train-00001-of-00002.parquet", [1, 0], ["tabby_cat", "lynx"], struct=struct, start=5
        )
        write_parquet(folder / "test-00000-of-00001.parquet", [1, 0], ["tabby_cat", "lynx"], struct=struct)
        for spec in (tmp_path / "cats", folder, folder / "test-00000-of-00001.parquet"):
            train, test = load_labelled(str(spec), "train"), load_labelled(str(spec), "test")
            assert (train.name, train.class_names) == ("cats", ("tabby cat", "lynx"))
            assert train.labels.tolist() == [0, 1, 0, 1, 1, 1, 0]
            assert list(train.images) == [f"image {i}".encode() for i in range(7)]
            assert test.labels.tolist() == [1, 0]

    def test_random_access_survives_a_small_cache_and_pickling(self, tmp_path, monkeypatch):
        monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
        write_parquet(tmp_path / "s/test.parquet", [0, 1] * 10, ["a", "b"])
        images = load_labelled(str(tmp_path / "s")).images
        images = pickle.loads(pickle.dumps(images))
        for i in np.random.default_rng(0).integers(0, 20, 50):
            assert images[int(i)] == f"image {i}".encode()
        with pytest.raises(IndexError):
            images[20]

    def test_unlabelled_test_split_gives_way_to_validation(self, tmp_path):
        write_parquet(tmp_path / "test-0.parquet", [-1, -1], ["a", "b"])
        write_parquet(tmp_path / "validation-0.parquet", [1, 0, 1], ["a", "b"])
        data = load_labelled(str(tmp_path))
        assert (data.split, data.labels.tolist()) == ("val", [1, 0, 1])
        with pytest.raises(DataError, match="no labelled train split"):
            load_labelled(str(tmp_path), "train")

    @pytest.mark.parametrize(
        "classes",
        [
            ["cat", "big_dog"],
            {"0": "cat", "1": "big_dog"},
            [{"label": 1, "names": ["big dog", "hound"]}, {"label": 0, "names": ["cat"]}],
        ],
    )
    def test_names_from_classes_json(self, tmp_path, classes):
        write_parquet(tmp_path / "test.parquet", [0, 1])
        (tmp_path / "classes.json").write_text(json.dumps(classes))
        data = load_labelled(str(tmp_path))
        assert (data.class_names, data.named) == (("cat", "big dog"), True)

    def test_names_that_are_missing_are_numbers_and_said(self, tmp_path):
        write_parquet(tmp_path / "test.parquet", [0, 2])
        write_parquet(tmp_path / "train.parquet", [0, 3])
        data = load_labelled(str(tmp_path))
        assert (data.class_names, data.named) == (("0", "2", "3"), False)

    @pytest.mark.parametrize(
        "kind", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int8(), pa.int64()]
    )
    def test_labels_of_any_integer_type(self, tmp_path, kind):
        write_parquet(tmp_path / "test.parquet", pa.array([0, 200 if kind != pa.int8() else 2], kind))
        assert load_labelled(str(tmp_path)).class_names[1] == ("2" if kind == pa.int8() else "200")
        write_parquet(tmp_path / "train.parquet", pa.array([0, None, 1], kind))
        with pytest.raises(DataError, match="name no class.*-1"):
            load_labelled(str(tmp_path), "train")

    def test_labels_of_several_widths(self, tmp_path):
        write_parquet(tmp_path / "test-0.parquet", pa.array([0, 1], pa.uint8()))
        write_parquet(tmp_path / "test-1.parquet", pa.array([2, 1], pa.int64()))
        assert load_labelled(str(tmp_path)).labels.tolist() == [0, 1, 2, 1]

    @pytest.mark.parametrize(
        "labels",
        [
            pa.array([2**63], pa.uint64()),
            pa.array([0.5]),
            pa.array([[1]]),
            pa.array([b"x"]),
        ],
    )
    def test_labels_that_are_none(self, tmp_path, labels):
        write_parquet(tmp_path / "test.parquet", labels)
        with pytest.raises(DataError, match="'label' holds no class labels"):
            load_labelled(str(tmp_path))

    def test_text_labels_in_a_dictionary(self, tmp_path):
        write_parquet(tmp_path / "test.parquet", pa.array(["b", "a", "b"]).dictionary_encode())
        assert load_labelled(str(tmp_path)).labels.tolist() == [1, 0, 1]

    def test_text_labels_and_other_column_names(self, tmp_path):
        write_parquet(tmp_path / "test.parquet", ["fox", "ant_hill"], label="category")
        write_parquet(tmp_path / "train.parquet", ["bee", "fox"], label="category")
        data = load_labelled(str(tmp_path))
        assert data.class_names == ("ant hill", "bee", "fox")
        assert data.labels.tolist() == [2, 0]

    def test_one_file_without_split_is_split_by_hash(self, tmp_path, caplog):
        write_parquet(tmp_path / "birds.parquet", [0, 1] * 10, ["a", "b"])
        spec = str(tmp_path / "birds.parquet")
        train, test = load_labelled(spec, "train"), load_labelled(spec, "test")
        assert (len(train), len(test), test.name) == (16, 4, "birds")
        assert sorted([*train.images, *test.images]) == sorted(f"image {i}".encode() for i in range(20))

    def test_errors_teach(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a/test.parquet").write_bytes(b"PAR1 cut in half")
        with pytest.raises(DataError, match="not a readable Parquet file"):
            load_labelled(str(tmp_path / "a"))
        write_parquet(tmp_path / "b/test.parquet", [0, 1], label="quux")
        with pytest.raises(DataError, match=r"no label column.*image, quux"):
            load_labelled(str(tmp_path / "b"))
        write_parquet(tmp_path / "c/test.parquet", [0, 7], ["a", "b"])
        with pytest.raises(DataError, match="labels that name no class"):
            load_labelled(str(tmp_path / "c"))
        write_parquet(tmp_path / "d/test.parquet", [0, 1])
        (tmp_path / "d/classes.json").write_text("{oops")
        with pytest.raises(DataError, match="does not list class names"):
            load_labelled(str(tmp_path / "d"))


class TestScenes:
    @pytest.fixture(autouse=True)
    def scenes(self, monkeypatch):
        made = []

        class Scenes:
            class_names = ("fish", "bird")

            def __init__(self, split, count, seed=0, size=96):
                self.key, self.count = (split, seed), count
                made.append((split, count, seed))

            def __len__(self):
                return self.count

            def label(self, index):
                return index % 2

            def __getitem__(self, index):
                return Record(np.full((2, 2, 3), index, np.uint8), (), "", "scenes")

        monkeypatch.setitem(sys.modules, "slip.data.scenes", SimpleNamespace(Scenes=Scenes))
        labelled_scenes.open_scenes.cache_clear()
        yield made
        labelled_scenes.open_scenes.cache_clear()

    def test_splits_counts_and_seed(self, scenes):
        data = load_labelled("scenes", "test")
        assert (data.name, len(data), data.class_names) == ("scenes", 2000, ("fish", "bird"))
        assert data.labels[:3].tolist() == [0, 1, 0]
        assert data.images[7] is data.images[7]
        load_labelled("scenes", "train")
        load_labelled("scenes:heldout:30", "test")
        load_labelled("scenes:heldout:30", "train")
        load_labelled("scenes:val:20", "test")
        assert {(s, n) for s, n, _ in scenes} == {
            ("train", 4000),
            ("test", 2000),
            ("train", 60),
            ("heldout", 30),
            ("train", 40),
            ("test", 20),
        }

    def test_what_settings_are_chosen_by_is_not_what_is_reported(self, scenes):
        for spec in ("scenes:test:9", "scenes:val:9"):
            load_labelled(spec, "test")
            load_labelled(spec, "train")
        test, val = {seed for _, _, seed in scenes[:2]}, {seed for _, _, seed in scenes[2:]}
        assert len(test) == len(val) == 1
        assert test != val
        assert min(test) > 2**32  # no seed that people train with

    def test_errors_teach(self):
        with pytest.raises(DataError, match="Did you mean 'heldout'"):
            load_labelled("scenes:held-out")
        with pytest.raises(DataError, match="count"):
            load_labelled("scenes:test:many")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("scenes", "scenes"),
        ("scenes:test:50", "scenes"),
        ("scenes:heldout:50", "scenes:heldout"),
        ("scenes:val:50", "scenes:val"),
        ("/a/cifar10", "cifar10"),
        ("/a/cifar10/data/", "cifar10"),
        ("/a/cifar10/test-00000-of-00001.parquet", "cifar10"),
        ("/a/birds.parquet", "birds"),
        ("/a/flickr8k-test-*.tar", "flickr8k-test"),
        ("/a/b-{00..03}.tar", "b"),
        ("/a/shards/*.tar", "shards"),
        ("/a/v1.5", "v1.5"),
    ],
)
def test_dataset_name(spec, name):
    assert dataset_name(spec) == name


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_held_out_is_a_stratified_fifth(labels):
    labels = np.array(labels)
    keys = [f"{i}" for i in range(len(labels))]
    test = splits.held_out(keys, labels)
    for label in set(labels.tolist()):
        total, held_out = (labels == label).sum(), (labels[test] == label).sum()
        assert held_out == (0 if total == 1 else max(1, round(0.2 * total)))


def test_names_that_are_not_utf8(tmp_path):
    color_folder(tmp_path, {"red": 3, "blue": 3}, splits=())
    (tmp_path / "red" / "000.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/red/\xff.png"))
    whole = [load_labelled(str(tmp_path), split) for split in ("train", "test")]
    assert sum(map(len, whole)) == 6


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.parquet")
    for place in (tmp_path / "a.parquet", "/dev/zero"):
        with pytest.raises(DataError, match="come from a folder or a .parquet file"):
            load_labelled(str(place))
