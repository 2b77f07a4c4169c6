"""Labelled images in Parquet files."""

from __future__ import annotations

import datetime
import decimal
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.labelled import load_labelled, open_labelled, parquet
from openslip.errors import DataError


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
    found = open_labelled(str(tmp_path))
    assert found.splits["train"].labels.tolist() == [0, 1]
    assert list(found.splits["train"].images) == [b"image 0", b"image 2"]
    assert "1 of 3 images of train has no label and is left out" in " ".join(found.notes)


def test_labels_of_several_widths(tmp_path):
    write_parquet(tmp_path / "test-0.parquet", pa.array([0, 1], pa.uint8()))
    write_parquet(tmp_path / "test-1.parquet", pa.array([2, 1], pa.int64()))
    assert load_labelled(str(tmp_path)).labels.tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (pa.array([0.5, 1.0]), "amounts, not whole numbers"),
        (pa.array([[["x"], ["y"]]]), "lists of lists"),
        (pa.array([b"x", b"\xff"]), "no text"),
        (pa.array([datetime.date(2024, 1, 1)]), "dates or times"),
        (pa.array([{"x": 1}]), "objects"),
        (pa.array([decimal.Decimal("0.5")]), "amounts"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, why):
    write_parquet(tmp_path / "test.parquet", labels)
    with pytest.raises(DataError, match=f"'label' holds no class labels.*{why}"):
        load_labelled(str(tmp_path))


def test_labels_that_are_ids_are_refused(tmp_path):
    for i, split in enumerate(("train", "test")):
        write_parquet(tmp_path / f"a/{split}.parquet", pa.array(np.arange(90) + (i + 3) * 1_000_000_000))
    write_parquet(
        tmp_path / "b/test.parquet", [f"a bird that sits on branch {i} of a high tree" for i in range(150)]
    )
    write_parquet(tmp_path / "c/test.parquet", [f"class {i}" for i in range(150)])
    with pytest.raises(DataError, match="an id of each image, not a class"):
        load_labelled(str(tmp_path / "a"))
    with pytest.raises(DataError, match="captions, not classes.*retrieval:"):
        load_labelled(str(tmp_path / "b"))
    assert len(load_labelled(str(tmp_path / "c")).class_names) == 150


def test_minus_one_is_a_class_beside_one(tmp_path):
    write_parquet(tmp_path / "test.parquet", [-1, 1, -1])
    assert load_labelled(str(tmp_path)).class_names == ("-1", "1")
    (tmp_path / "classes.json").write_text('{"-1": "no", "1": "yes"}')
    assert load_labelled(str(tmp_path)).class_names == ("no", "yes")
    (tmp_path / "classes.json").unlink()
    write_parquet(tmp_path / "test.parquet", [-1, 1, 0])
    assert load_labelled(str(tmp_path)).class_names == ("0", "1")


def test_each_files_own_names_count(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1, 2], ["cat", "dog", "ant"])
    write_parquet(tmp_path / "test.parquet", [0, 1], ["ant", "cat"])
    found = open_labelled(str(tmp_path))
    assert found.class_names == ("cat", "dog", "ant")
    assert found.splits["test"].labels.tolist() == [2, 0]
    assert "each file's names count for its own labels" in " ".join(found.notes)
    write_parquet(tmp_path / "train-1.parquet", [0, 1], start=3)
    with pytest.raises(DataError, match=r"name their classes differently, and train-1.parquet has no names"):
        open_labelled(str(tmp_path))
    write_parquet(tmp_path / "train-1.parquet", [0, 2], ["cat", "dog"])
    with pytest.raises(DataError, match="name no class"):
        open_labelled(str(tmp_path))


def test_a_split_without_the_column_is_left_out(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "test.parquet", [0, 1], label="index")
    found = open_labelled(str(tmp_path))
    assert list(found.splits) == ["train"]
    assert "The test split has no column 'label' and is left out" in found.notes
    with pytest.raises(DataError, match="no labelled test split"):
        found.untrained()


def test_names_of_one_file_count_for_files_without(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "test.parquet", [1, 0])
    found = open_labelled(str(tmp_path))
    assert found.class_names == ("cat", "dog")
    assert "do not name their classes" in " ".join(found.notes)


def test_which_column_is_the_label(tmp_path):
    def write(**columns):
        table = pa.table({"image": [b"\xff\xd8 1", b"\xff\xd8 2"], **columns})
        pq.write_table(table, tmp_path / "test.parquet")

    def names(**options):
        return open_labelled(str(tmp_path), **options).class_names

    write(fine_label=["fox", "ant"], coarse_label=["mammal", "insect"])
    found = open_labelled(str(tmp_path))
    assert found.class_names == ("ant", "fox")
    assert "from 'fine_label', not from 'coarse_label'" in " ".join(found.notes)
    assert names(label_column="coarse_label") == names(label_column="Coarse-Label") == ("insect", "mammal")
    write(category_id=[3, 4], class_name=["fox", "ant"])
    assert names() == ("ant", "fox")
    write(breed=["pug", "corgi"], owner=["A", "B"])
    assert names() == ("corgi", "pug")
    write(breed=["pug", "corgi"], species=["dog", "dog"])
    with pytest.raises(
        DataError, match=r"Several columns .* may be the label.*species, breed.*--data.label-column"
    ):
        names()
    write(colour=["red", "blue"], caption=["a dog", "a cat"])
    with pytest.raises(
        DataError, match=r"image, colour, caption.*a caption is no class.*--data.label-column colour"
    ):
        names()
    assert names(label_column="colour") == ("blue", "red")
    write(caption=["a dog", "a cat"])
    with pytest.raises(DataError, match="a caption is no class.*retrieval:"):
        names()
    with pytest.raises(DataError, match="no column 'colour'"):
        names(label_column="colour")


def test_pixels_are_no_pictures(tmp_path):
    pq.write_table(pa.table({"image": [[0, 255], [1, 2]], "label": [0, 1]}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="holds pixel values, not pictures.*PNG"):
        open_labelled(str(tmp_path))


def test_images_by_path(tmp_path):
    (tmp_path / "pics").mkdir()
    for name in "ab":
        (tmp_path / f"pics/{name}.png").write_bytes(name.encode())
    struct = [{"bytes": None, "path": "pics/a.png"}, {"bytes": b"inside", "path": "pics/b.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(struct, kind), "label": [0, 1]}), tmp_path / "test.parquet")
    assert list(load_labelled(str(tmp_path)).images) == [b"a", b"inside"]
    (tmp_path / "other").mkdir()
    pq.write_table(
        pa.table({"image_path": ["a.png", "b.png"], "label": [0, 1]}), tmp_path / "other/test.parquet"
    )
    with pytest.raises(DataError, match="not where they were looked for.*--data.image-root"):
        load_labelled(str(tmp_path / "other"))
    images = load_labelled(str(tmp_path / "other"), image_root=str(tmp_path / "pics")).images
    assert list(pickle.loads(pickle.dumps(images))) == [b"a", b"b"]


def test_the_file_that_is_named_is_measured(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1] * 5, ["a", "b"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [0, 1] * 3, ["a", "b"], start=10)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [0, 1], ["a", "b"], start=16)
    found = open_labelled(str(tmp_path / "train-00000-of-00002.parquet"))
    assert {split: len(part) for split, part in found.splits.items()} == {"all": 10}
    assert "alone is measured" in " ".join(found.notes)
    found = open_labelled(str(tmp_path / "test-00000-of-00001.parquet"))
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 16, "test": 2}
    found = open_labelled(str(tmp_path / "train-*.parquet"))
    assert {split: len(part) for split, part in found.splits.items()} == {"all": 16}


def test_a_column_of_splits(tmp_path):
    table = {
        "image": [b"\xff\xd8"] * 5,
        "label": ["a", "b"] * 2 + ["a"],
        "split": ["train", "test"] * 2 + ["extra"],
    }
    pq.write_table(pa.table(table), tmp_path / "birds.parquet")
    found = open_labelled(str(tmp_path))
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 2, "test": 2}
    assert "1 row is left out, whose 'split' is no known split: 'extra'" in " ".join(found.notes)


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


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([[1], [0], None, [], [1]]),
        pa.array([[1], [0], None, [], [1]], pa.large_list(pa.int8())),
        pa.array([[1], [0], None, [None], [1]], pa.list_(pa.int64(), 1)),
    ],
)
def test_lists_of_one_label_each(tmp_path, labels):
    rows = pa.array([{"bytes": b"x", "path": None}] * 5)
    schema = {"label": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}
    table = pa.table({"image": rows, "label": labels}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": schema}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = open_labelled(str(tmp_path))
    assert found.splits["all"].labels.tolist() == [1, 0, 1]
    assert found.class_names == ("cat", "dog")
