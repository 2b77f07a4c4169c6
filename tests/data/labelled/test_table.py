"""Labelled images in tables of paths."""

from __future__ import annotations

import json
import pickle

import pytest

from openslip.data.labelled import load_labelled, open_labelled
from openslip.errors import DataError


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pics").mkdir()
    for name in "abcdef":
        (tmp_path / f"pics/{name}.png").write_bytes(name.encode())
    return tmp_path


def write(folder, text, name="birds.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_columns_splits_and_what_is_left_out(pictures):
    spec = write(
        pictures,
        "path,label,split\npics/a.png,red fox,train\npics/b.png,ant,train\npics/b.png,ant,train\n"
        "pics/c.png, ant ,test\npics/d.png,,test\n,ant,test\npics/e.png,ant,holdout\n",
    )
    found = open_labelled(spec)
    assert (found.name, found.class_names) == ("birds", ("ant", "red fox"))
    assert {split: part.labels.tolist() for split, part in found.splits.items()} == {
        "train": [1, 0],
        "test": [0],
    }
    assert list(found.splits["test"].images) == [b"c"]
    assert list(pickle.loads(pickle.dumps(found.splits["train"])).images) == [b"a", b"b"]
    said = " ".join(found.notes)
    assert "image from 'path', label from 'label'" in said
    assert "the row names no image" in said
    assert "1 row is left out, whose 'split' is no known split: 'holdout'" in said
    assert "1 of 2 images of test has no label and is left out" in said


def test_a_set_without_splits_and_the_folder_of_its_images(pictures):
    rows = "".join(f"{name}.png,{i % 2}\n" for i, name in enumerate("abcdef"))
    spec = write(pictures, "filename,target\n" + rows)
    (pictures / "classes.json").write_text(json.dumps(["even", "odd"]))
    found = open_labelled(spec, image_root=str(pictures / "pics"))
    assert (found.undivided, found.class_names) == (True, ("even", "odd"))
    assert sum(len(found.split(split)) for split in ("train", "test")) == 6
    assert "pics (guessed)" in " ".join(open_labelled(spec).notes)


def test_tables_of_the_splits(pictures):
    write(
        pictures, '{"image": "pics/a.png", "label": 7}\n{"image": "pics/b.png", "label": 9}\n', "train.jsonl"
    )
    spec = write(pictures, '{"image": "pics/c.png", "label": 9}\n', "test.jsonl")
    found = open_labelled(spec)
    assert {split: part.labels.tolist() for split, part in found.splits.items()} == {
        "train": [0, 1],
        "test": [1],
    }
    assert not found.named


def test_a_table_for_training_that_cannot_be_used_is_left(pictures):
    write(pictures, "image,caption\npics/a.png,a dog\n", "train.csv")
    found = open_labelled(write(pictures, "image,label\npics/a.png,x\npics/b.png,y\n", "test.csv"))
    assert list(found.splits) == ["test"]
    assert "The train split has no labels and is left out: train.csv has no label column" in " ".join(
        found.notes
    )
    write(pictures, "image,label\nnowhere/a.png,x\n", "train.csv")
    found = open_labelled(str(pictures / "test.csv"))
    assert list(found.splits) == ["test"]
    assert "The training files beside it cannot be used: The images" in found.notes[0]


def test_a_hidden_test_split_is_left_out(pictures):
    write(pictures, "image\npics/a.png\n", "test.csv")
    write(pictures, "image,label\npics/a.png,x\npics/b.png,y\n", "train.csv")
    found = open_labelled(str(pictures / "*.csv"))
    assert list(found.splits) == ["train"]
    assert "The test split has no labels and is left out: test.csv has no label column" in found.notes[0]


def test_a_workbook(pictures):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [("image", "class"), ("pics/a.png", "ant"), ("pics/b.png", "bee"), ("pics/c.png", 3)]:
        book.active.append(row)
    book.save(pictures / "birds.xlsx")
    assert load_labelled(str(pictures / "birds.xlsx")).class_names == ("3", "ant", "bee")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,caption\npics/a.png,a dog\npics/b.png,a cat\n", "a caption is no class.*retrieval:"),
        (
            "image,genus,species\npics/a.png,x,y\npics/b.png,z,w\n",
            "Several columns.*genus.*--data.label-column",
        ),
        ("image,label\npics/a.png,ant\npics/a.png,bee\n", "multi-label.*'ant' and 'bee'"),
        (
            "image,label\npics/a.png,0.5\npics/b.png,0.75\npics/c.png,1\n",
            "'label' holds no class labels.*amounts",
        ),
        ("image,label\nnowhere/a.png,0\nnowhere/b.png,1\n", "not where they were looked for"),
        ("label,height\nant,3\nbee,4\n", "No column of .* looks like the image"),
        ("image,label\n", "has no rows"),
        ("image,label,label\npics/a.png,x,y\n", "2 columns called 'label'"),
        ("image,label\nhttps://example.com/a.png,x\n", "web addresses"),
    ],
)
def test_errors_teach(pictures, text, why):
    with pytest.raises(DataError, match=why):
        open_labelled(write(pictures, text))


def test_a_folder_with_metadata_of_captions_is_one_of_classes(pictures):
    for name in ("cat", "dog"):
        (pictures / name).mkdir()
        (pictures / name / "1.png").write_bytes(name.encode())
        (pictures / name / "2.png").write_bytes(name.encode())
    write(pictures, "file_name,text\ncat/1.png,a cat\n", "metadata.csv")
    assert "cat" in open_labelled(str(pictures)).class_names


def test_a_column_that_was_asked_for_makes_another_set(pictures):
    spec = write(pictures, "image,colour,label\npics/a.png,red,x\npics/b.png,blue,y\n")
    found, other = open_labelled(spec), open_labelled(spec, label_column="Colour")
    assert (found.class_names, other.class_names) == (("x", "y"), ("blue", "red"))
    assert found.location != other.location
