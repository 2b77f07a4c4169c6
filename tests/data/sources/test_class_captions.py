"""Labelled images as a captioned source: the right name in every caption, whatever form the images lie in."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labelled_forms import FORMS, NAMELESS, World
from openslip.data.labelled import prompts
from openslip.data.order import Order
from openslip.data.record import Source
from openslip.data.sources import open_source
from openslip.data.sources.class_captions import as_labelled, names_classes
from openslip.data.subset import Subset
from openslip.errors import ConfigError, DataError
from oracle import coloured, put

NAMES = ["Cat", "great_white_shark", "7 up", "boeing 747", "ox"]


def class_of(image: bytes | np.ndarray) -> int:
    """Return the class that a picture's colour says (see `oracle.coloured`)."""
    assert isinstance(image, bytes)
    colour = Image.open(io.BytesIO(image)).convert("RGB").getpixel((0, 0))
    assert isinstance(colour, tuple)
    ones, tens, hundreds = (round((value - 12) / 25) for value in colour)
    return ones + 10 * tens + 100 * hundreds


def sort_into(root: Path, classes: dict[str, int], each: int = 3) -> Path:
    """Write pictures into folders: the class of each folder, which its pictures' colour says."""
    for folder, number in classes.items():
        for one in range(each):
            put(root / folder / f"{one}.png", number)
    return root


def hub(path: Path, labels: Sequence[object], names: list[str] | None = None) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": coloured(i), "path": None} for i in range(len(labels))], kind)
    table = pa.table({"image": images, "label": pa.array(labels)})
    if names:
        about = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(about).encode()})
    pq.write_table(table, path, row_group_size=4)
    return path


def opened(place: object, **options: Any) -> Source:
    return open_source(f"labels:{place}", **options)


@pytest.mark.parametrize("form", FORMS)
def test_every_caption_names_the_class_of_its_picture(form) -> None:
    world = World.make(NAMES, 3)
    with tempfile.TemporaryDirectory() as folder:
        source = opened(FORMS[form](Path(folder), world))
        again = pickle.loads(pickle.dumps(source))
        names = [name.replace("_", " ") for name in world.names]
        templates = ("a photo of a {}",) if form == "clip-benchmark" else prompts.DEFAULT_TEMPLATES
        assert len(source) >= len(world.splits["test"])
        for index in range(len(source)):
            record = source[index]
            right = names[class_of(record.image)]
            assert record.captions == tuple(template.replace("{}", right) for template in templates)
            label = source.label(index)
            assert label is not None
            assert source.class_names[label] == right
            assert record.key
            assert again[index] == record
            assert again.label(index) == source.label(index)
        with pytest.raises(IndexError):
            source[len(source)]


@pytest.mark.parametrize("form", NAMELESS)
def test_classes_without_names_are_refused_with_the_way_to_name_them(form) -> None:
    world = World.make(NAMES, 3)
    with tempfile.TemporaryDirectory() as folder:
        spec = NAMELESS[form](Path(folder), world)
        with pytest.raises(DataError, match="The classes of .* have no names.*--data.class-names FILE"):
            opened(spec)


def test_the_training_split_is_taken_and_the_others_are_counted(tmp_path) -> None:
    for split, each in (("train", 4), ("val", 1), ("test", 2)):
        sort_into(tmp_path / split, {"cat": 0, "dog": 1}, each)
    source = opened(tmp_path)
    assert len(source) == 8
    assert source[0].key == "train/cat/0.png"
    assert source.contents is not None
    assert source.contents.seen == 14
    assert {reason: left.count for reason, left in source.contents.left_out.items()} == {
        "the image is of the val split": 2,
        "the image is of the test split": 4,
    }
    assert not any(left.lost for left in source.contents.left_out.values())
    assert "8 train, 2 val, 4 test" in source.note
    assert len(opened(tmp_path / "test")) == 4  # what was named


def test_a_file_of_another_split_is_what_was_named(tmp_path) -> None:
    names = ["cat", "dog"]
    hub(tmp_path / "train-0.parquet", [0, 1, 0], names)
    hub(tmp_path / "test-0.parquet", [1, 1, 0, 1], names)
    source = opened(tmp_path / "test-0.parquet")
    assert [source.label(i) for i in range(len(source))] == [1, 1, 0, 1]
    assert "the test split" in source.note
    assert len(opened(tmp_path)) == 3


def test_several_splits_without_one_to_train_on_are_refused(tmp_path) -> None:
    for split in ("val", "test"):
        sort_into(tmp_path / split, {"cat": 0, "dog": 1})
    with pytest.raises(DataError, match="no split to train on.*Got: 'val, test'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("names", "called"),
    [
        ({"n01": "cat", "n02": "dog"}, ("cat", "dog")),
        (["cat", "dog"], ("cat", "dog")),
        ("cat\ndog\n", ("cat", "dog")),
        ({"n02": "dog", "n01": "cat", "n03": "owl"}, ("cat", "dog")),
    ],
)
def test_names_come_from_a_file_where_one_is_given(tmp_path, names, called) -> None:
    sort_into(tmp_path / "photos", {"n01": 0, "n02": 1})
    file = tmp_path / ("names.txt" if isinstance(names, str) else "names.json")
    file.write_text(names if isinstance(names, str) else json.dumps(names))
    source = opened(tmp_path / "photos", class_names=str(file))
    assert source.class_names == called
    assert f"Class names from {file.name}: n01 is 'cat', n02 is 'dog'" in source.note
    for index in range(len(source)):
        assert source[index].captions[-1] == called[class_of(source[index].image)]


@pytest.mark.parametrize(
    ("names", "labels", "called"),
    [
        (["ant", "bee", "cow"], [0, 2, 2, 0], ("ant", "cow")),
        ({"7": "cow", "3": "bee"}, [7, 3, 7, 7], ("bee", "cow")),
        ({"bee": 3, "cow": 7}, [7, 3, 7, 7], ("bee", "cow")),
    ],
)
def test_a_file_names_numbered_classes(tmp_path, names, labels, called) -> None:
    hub(tmp_path / "birds.parquet", labels)
    (tmp_path / "mine.json").write_text(json.dumps(names))
    source = opened(tmp_path / "birds.parquet", class_names=str(tmp_path / "mine.json"))
    assert source.class_names == called
    by_label = dict(zip(sorted(set(labels)), called))
    assert [source[i].captions[-1] for i in range(4)] == [by_label[label] for label in labels]


def test_a_file_may_name_classes_by_data_set_and_have_several_names_of_one(tmp_path) -> None:
    hub(tmp_path / "birds.parquet", [0, 1, 1], ["aa", "bb"])
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"birds": [["eagle", "hawk"], ["owl"]], "fish": ["carp", "eel"]}))
    source = opened(tmp_path / "birds.parquet", class_names=str(mine))
    assert source.class_names == ("eagle", "owl")
    assert "the first is taken: 'eagle', not 'hawk'" in source.note
    mine.write_text(json.dumps({"fish": ["carp", "eel"]}))
    with pytest.raises(DataError, match=r"mine\.json has no names for the classes of birds.*names for fish"):
        opened(tmp_path / "birds.parquet", class_names=str(mine))


def test_a_file_may_rename_classes_that_have_names(tmp_path) -> None:
    hub(tmp_path / "birds.parquet", [0, 1, 1], ["aa_x", "bb"])
    (tmp_path / "mine.json").write_text(json.dumps({"aa x": "eagle", "bb": "owl"}))
    source = opened(tmp_path / "birds.parquet", class_names=str(tmp_path / "mine.json"))
    assert source.class_names == ("eagle", "owl")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps({"cat": "tiger"}), "The labels name no class of .*mine.json.*Got: 'dog"),
        (json.dumps(["a", "b", "c"]), "The labels name no class"),
        ("{oops", "does not list class names"),
        ("3", "does not list class names"),
    ],
)
def test_a_file_that_does_not_name_all_classes_is_refused(tmp_path, text, why) -> None:
    sort_into(tmp_path / "photos", {"cat": 0, "dog": 1})
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(DataError, match=why):
        opened(tmp_path / "photos", class_names=str(tmp_path / "mine.json"))
    with pytest.raises(DataError, match=r"no such file of class names.*none\.json"):
        opened(tmp_path / "photos", class_names=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("name", "text", "templates"),
    [
        ("mine.json", '["an X-ray of {}.", "{}"]', ("an X-ray of cat.", "cat")),
        ("mine.txt", "an X-ray of {}.\n\n  {}, close up \n", ("an X-ray of cat.", "cat, close up")),
        ("mine.txt", "\ufeffa {}\na {}\n", ("a cat",)),
    ],
)
def test_templates_come_from_a_file(tmp_path, name, text, templates) -> None:
    sort_into(tmp_path / "photos", {"cat": 0, "dog": 1})
    (tmp_path / name).write_text(text)
    source = opened(tmp_path / "photos", templates=str(tmp_path / name))
    assert source[0].captions == templates


def test_templates_are_those_of_zero_shot_or_of_a_set_by_its_name(tmp_path) -> None:
    sort_into(tmp_path, {"cat": 0, "dog": 1})
    assert len(opened(tmp_path)[0].captions) == len(prompts.DEFAULT_TEMPLATES)
    assert opened(tmp_path, templates="cifar")[0].captions[:2] == (
        "a photo of a cat.",
        "a blurry photo of a cat.",
    )
    assert len(opened(tmp_path, templates="imagenet")[0].captions) == 80
    for number, name in enumerate(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    ):
        put(tmp_path / "ten" / name / "0.png", number)
    assert len(opened(tmp_path / "ten")[0].captions) == 18


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("mine.json", '["a photo"]', "holds {} once"),
        ("mine.json", '["a {} and a {}"]', "holds {} once"),
        ("mine.json", '["a {}", 3]', "is a text"),
        ("mine.json", '{"a": 1}', "holds no templates.*not a list"),
        ("mine.json", "[oops", "holds no templates"),
        ("mine.txt", " \n", "holds no templates.*It is empty"),
        ("mine.txt", "a {}\a\n", "control characters"),
        ("", "", "no such templates.*slip datasets"),
    ],
)
def test_templates_that_are_none_are_refused(tmp_path, name, text, why) -> None:
    sort_into(tmp_path / "photos", {"cat": 0, "dog": 1})
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=why):
        opened(tmp_path / "photos", templates=str(tmp_path / name) if name else "fancy")


def test_bad_input_is_refused_in_words(tmp_path) -> None:
    with pytest.raises(DataError, match="names no labelled images.*labels:FOLDER"):
        open_source("labels:")
    with pytest.raises(DataError, match="no labelled images at this place"):
        opened(tmp_path / "nowhere")
    put(tmp_path / "flat" / "0.png", 0)
    with pytest.raises(DataError, match="in no class folders"):
        opened(tmp_path / "flat")
    sort_into(tmp_path / "one", {"cat": 0})
    with pytest.raises(DataError, match="fewer than two classes|in no class folders"):
        opened(tmp_path / "one")
    hub(tmp_path / "birds.parquet", ["cat", "dog"])
    with pytest.raises(DataError, match="has no column 'kind' of labels"):
        opened(tmp_path / "birds.parquet", label_column="kind")
    hub(tmp_path / "blank.parquet", [None, None])
    with pytest.raises(DataError, match="no labelled images"):
        opened(tmp_path / "blank.parquet")


def test_what_has_no_class_is_left_out_and_said(tmp_path) -> None:
    sort_into(tmp_path / "photos", {"cat": 0, "dog": 1})
    (tmp_path / "photos" / "owl").mkdir()
    assert "owl" in opened(tmp_path / "photos").note
    hub(tmp_path / "birds.parquet", ["cat", "", "dog", None, "cat"])
    source = opened(tmp_path / "birds.parquet")
    assert len(source) == 3
    assert "2 of 5 images have no label and are left out" in source.note
    assert [class_of(source[i].image) for i in range(3)] == [0, 2, 4]
    assert [source[i].key for i in range(3)] == [f"birds.parquet:{row}" for row in (0, 2, 4)]


def test_classes_of_one_name_are_one(tmp_path) -> None:
    hub(tmp_path / "birds.parquet", [0, 1, 2, 1], ["crane", "owl", "crane"])
    source = opened(tmp_path / "birds.parquet")
    assert source.class_names == ("crane", "owl")
    assert [source.label(i) for i in range(4)] == [0, 1, 0, 1]
    assert "Classes with the same name have equal captions, and count as one class: crane" in source.note


def test_in_a_mixture_only_its_records_have_a_class(tmp_path) -> None:
    sort_into(tmp_path / "photos", {"cat": 0, "dog": 1}, 2)
    sort_into(tmp_path / "more", {"Dog": 1, "owl": 2}, 1)
    mixture = open_source(f"labels:{tmp_path / 'photos'} + 0.5 * scenes:train:3 + labels:{tmp_path / 'more'}")
    assert mixture.class_names == ("cat", "dog", "owl")
    assert [mixture.label(i) for i in range(9)] == [0, 0, 1, 1, None, None, None, 1, 2]
    assert mixture.captions_name_classes
    assert names_classes(mixture).tolist() == [True] * 4 + [False] * 3 + [True] * 2
    assert names_classes(Subset(mixture, [0, 4, 8])).tolist() == [True] * 3 + [False] * 2 + [True]
    labelled = as_labelled(mixture, "val")
    (part,) = labelled.splits.values()
    assert part.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert [class_of(part.images[i]) for i in range(6)] == [0, 0, 1, 1, 1, 2]


def test_options_of_labelled_images_and_of_others_in_one_mixture(tmp_path) -> None:
    hub(tmp_path / "birds.parquet", ["cat", "dog"])
    sort_into(tmp_path / "photos", {"owl": 2, "dog": 1}, 1)
    spec = f"labels:{tmp_path / 'birds.parquet'} + labels:{tmp_path / 'photos'} + scenes:train:2"
    source = open_source(spec, label_column="label", templates="default")
    assert source.class_names == ("cat", "dog", "owl")
    with pytest.raises(DataError, match="no column 'kind'"):
        open_source(spec, label_column="kind")


def test_rows_of_large_files_are_read_block_by_block(tmp_path, monkeypatch) -> None:
    """Also where rows without a class are left out, so that blocks are of different lengths."""
    from openslip.data.sources import parquet

    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    labels = ["cat", None, "dog", "cat", "dog", "dog", "cat", None, None, None, None, None, "cat", "dog"]
    hub(tmp_path / "birds.parquet", labels)
    source = opened(tmp_path / "birds.parquet")
    (part,) = source.parts
    assert part.block == 4
    assert part.ends is not None
    assert part.ends.tolist() == [3, 6, 8]
    order = Order(source.parts, 0)
    rows = [int(source[order.locate(position)[1]].key.rpartition(":")[2]) for position in range(8)]
    assert sorted(rows) == [row for row, label in enumerate(labels) if label]
    blocks = [row // 4 for row in rows]
    assert sum(one != other for one, other in pairwise(blocks)) == 2
    hub(tmp_path / "sorted.parquet", ["cat"] * 30 + ["dog"] * 30)
    assert "sorted by class" in opened(tmp_path / "sorted.parquet").note
