"""Labelled images in Parquet files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slip.errors import DataError
from slip.evaluation.datasets import load_labelled, parquet


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


@pytest.mark.parametrize("struct", [True, False])
def test_hub_layout(tmp_path, struct):
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


def test_random_access_survives_a_small_cache_and_pickling(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    write_parquet(tmp_path / "s/test.parquet", [0, 1] * 10, ["a", "b"])
    images = load_labelled(str(tmp_path / "s")).images
    images = pickle.loads(pickle.dumps(images))
    for i in np.random.default_rng(0).integers(0, 20, 50):
        assert images[int(i)] == f"image {i}".encode()
    with pytest.raises(IndexError):
        images[20]


def test_unlabelled_test_split_gives_way_to_validation(tmp_path):
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
def test_names_from_classes_json(tmp_path, classes):
    write_parquet(tmp_path / "test.parquet", [0, 1])
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    data = load_labelled(str(tmp_path))
    assert (data.class_names, data.named) == (("cat", "big dog"), True)


def test_names_that_are_missing_are_numbers_and_said(tmp_path):
    write_parquet(tmp_path / "test.parquet", [0, 2])
    write_parquet(tmp_path / "train.parquet", [0, 3])
    data = load_labelled(str(tmp_path))
    assert (data.class_names, data.named) == (("0", "2", "3"), False)


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int8(), pa.int64()])
def test_labels_of_any_integer_type(tmp_path, kind):
    write_parquet(tmp_path / "test.parquet", pa.array([0, 200 if kind != pa.int8() else 2], kind))
    assert load_labelled(str(tmp_path)).class_names[1] == ("2" if kind == pa.int8() else "200")
    write_parquet(tmp_path / "train.parquet", pa.array([0, None, 1], kind))
    with pytest.raises(DataError, match="name no class.*-1"):
        load_labelled(str(tmp_path), "train")


def test_labels_of_several_widths(tmp_path):
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
def test_labels_that_are_none(tmp_path, labels):
    write_parquet(tmp_path / "test.parquet", labels)
    with pytest.raises(DataError, match="'label' holds no class labels"):
        load_labelled(str(tmp_path))


def test_text_labels_in_a_dictionary(tmp_path):
    write_parquet(tmp_path / "test.parquet", pa.array(["b", "a", "b"]).dictionary_encode())
    assert load_labelled(str(tmp_path)).labels.tolist() == [1, 0, 1]


def test_text_labels_and_other_column_names(tmp_path):
    write_parquet(tmp_path / "test.parquet", ["fox", "ant_hill"], label="category")
    write_parquet(tmp_path / "train.parquet", ["bee", "fox"], label="category")
    data = load_labelled(str(tmp_path))
    assert data.class_names == ("ant hill", "bee", "fox")
    assert data.labels.tolist() == [2, 0]


def test_one_file_without_split_is_split_by_hash(tmp_path, caplog):
    write_parquet(tmp_path / "birds.parquet", [0, 1] * 10, ["a", "b"])
    spec = str(tmp_path / "birds.parquet")
    train, test = load_labelled(spec, "train"), load_labelled(spec, "test")
    assert (len(train), len(test), test.name) == (16, 4, "birds")
    assert sorted([*train.images, *test.images]) == sorted(f"image {i}".encode() for i in range(20))


def test_errors_teach(tmp_path):
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
