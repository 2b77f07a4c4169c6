"""Several labels a picture, however tables and Parquet files write them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.labelled import open_labelled, open_named
from openslip.data.labelled.several import several_in
from openslip.errors import DataError
from oracle import coloured

ROWS = [["dress", "red"], ["dress"], ["red", "long"], ["coat", "red", "long"], ["coat"]]
CLASSES = ("coat", "dress", "long", "red")
MATRIX = [[int(name in row) for name in CLASSES] for row in ROWS]


@pytest.fixture
def pictures(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(coloured(i))
    return tmp_path


def table(folder, cells, column="label", name="a.csv"):
    rows = [f'{i}.png,"{cell}"' for i, cell in enumerate(cells)]
    (folder / name).write_text("\n".join([f"image,{column}", *rows]) + "\n")
    return str(folder / name)


@pytest.mark.parametrize(
    "form", ["pipes", "semicolons", "json", "python", "jsonl", "parquet", "parquet numbers"]
)
def test_every_form_gives_the_same_labels(pictures, form):
    match form:
        case "pipes":
            spec = table(pictures, ["|".join(row) for row in ROWS])
        case "semicolons":
            spec = table(pictures, ["; ".join(row) for row in ROWS])
        case "json":
            spec = table(pictures, [json.dumps(row).replace('"', '""') for row in ROWS])
        case "python":
            spec = table(pictures, [repr(row) for row in ROWS])
        case "jsonl":
            rows = [json.dumps({"image": f"{i}.png", "label": row}) for i, row in enumerate(ROWS)]
            (pictures / "a.jsonl").write_text("\n".join(rows))
            spec = str(pictures / "a.jsonl")
        case _:
            images = [{"bytes": coloured(i), "path": None} for i in range(len(ROWS))]
            labels = [[CLASSES.index(one) for one in row] for row in ROWS] if "numbers" in form else ROWS
            made = pa.table({"image": images, "label": labels})
            if "numbers" in form:
                feature = {"feature": {"_type": "ClassLabel", "names": CLASSES}, "_type": "Sequence"}
                features = {"image": {"_type": "Image"}, "label": feature}
                described = json.dumps({"info": {"features": features}})
                made = made.replace_schema_metadata({b"huggingface": described.encode()})
            pq.write_table(made, pictures / "a.parquet")
            spec = str(pictures / "a.parquet")
    found = open_labelled(spec, several=True)
    assert found.class_names == CLASSES
    assert found.splits["all"].labels.tolist() == MATRIX
    assert found.describe().endswith("5 images, 1.8 labels an image")
    for refused in (open_labelled, open_named):
        with pytest.raises(DataError, match=r"several labels each \(multi-label\)"):
            refused(spec)
    train, test = found.split("train"), found.split("test")
    assert len(train) + len(test) == 5
    assert train.labels.shape[1] == 4


def test_splits_are_decided_together(pictures):
    text = "image,label,split\n0.png,a|b,train\n1.png,a,train\n2.png,c,train\n3.png,b|c,test\n4.png,b,val\n"
    (pictures / "a.csv").write_text(text)
    found = open_labelled(str(pictures / "a.csv"), several=True)
    assert {split: part.labels.tolist() for split, part in found.splits.items()} == {
        "train": [[1, 1, 0], [1, 0, 0], [0, 0, 1]],
        "val": [[0, 1, 0]],
        "test": [[0, 1, 1]],
    }


def test_no_label_is_not_an_empty_list(pictures):
    rows = [["a", "b"], [], None, ["a"]]
    text = "\n".join(json.dumps({"image": f"{i}.png", "label": row}) for i, row in enumerate(rows))
    (pictures / "a.jsonl").write_text(text)
    found = open_labelled(str(pictures / "a.jsonl"), several=True)
    assert found.splits["all"].labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert any("1 of 4 images has no label" in said for said in found.notes)


def test_names_that_differ_in_spelling_are_one_class(pictures):
    spec = table(pictures, ["Red|long", "long", "dress"])
    (pictures / "b").mkdir()
    (pictures / "a.csv").write_text(
        "image,label,split\n0.png,Red|long,train\n1.png,long,train\n2.png,red,test\n"
    )
    found = open_labelled(spec, several=True)
    assert set(found.class_names) == {"long", "Red"}
    assert found.splits["test"].labels.tolist() == [[int(name == "Red") for name in found.class_names]]


def test_what_is_one_class_each():
    assert several_in(["Leaf|dry", "Leaf|wet", "Root"], "label") is None
    assert several_in(["a", "b"], "labels") is None
    assert several_in(["tench, Tinca tinca", "tench"], "label") is None
    assert several_in(["Leaf|dry", "Leaf|wet"], "Finding Labels") == {
        "Leaf|dry": ["Leaf", "dry"],
        "Leaf|wet": ["Leaf", "wet"],
    }


def test_what_is_unclear_is_refused(pictures):
    with pytest.raises(
        DataError, match=r"unclear whether column 'label' holds several labels.*call the column 'labels'"
    ):
        open_labelled(table(pictures, ["Leaf|dry", "Leaf|wet", "Root|dry"]))
    found = open_labelled(table(pictures, ["Leaf|dry", "Leaf|wet", "Root|dry"], "labels"), several=True)
    assert found.class_names == ("Leaf", "Root", "dry", "wet")
    with pytest.raises(DataError, match="lists of labels that cannot be read"):
        open_labelled(table(pictures, ["['a', open('x')]", "['b']"]), several=True)
    (pictures / "a.csv").write_text("image,label\n0.png,ant\n0.png,bee\n")
    with pytest.raises(DataError, match=r"another label than a row before \(multi-label\).*ant\|bee"):
        open_labelled(str(pictures / "a.csv"), several=True)


def test_lists_of_captions_are_no_labels(pictures):
    rows = [
        [f"a picture number {i} of the many that people have described, {j}" for j in range(5)]
        for i in range(300)
    ]
    images = [{"bytes": coloured(i), "path": None} for i in range(300)]
    pq.write_table(pa.table({"image": images, "label": rows}), pictures / "a.parquet")
    with pytest.raises(DataError, match="are no classes"):
        open_labelled(str(pictures / "a.parquet"), several=True)


def test_texts_of_lists_of_one_label_are_that_label(pictures):
    found = open_labelled(table(pictures, ['[""ant""]', "['bee']", '[""ant""]']))
    assert found.class_names == ("ant", "bee")
    assert found.splits["all"].labels.tolist() == [0, 1, 0]


def test_labels_of_other_kinds_are_still_single(pictures):
    images = [{"bytes": coloured(i), "path": None} for i in range(3)]
    pq.write_table(pa.table({"image": images, "label": [["a"], ["b"], []]}), pictures / "a.parquet")
    found = open_labelled(str(pictures / "a.parquet"))
    assert not found.several
    assert found.splits["all"].labels.tolist() == [0, 1]
    assert found.splits["all"].labels.dtype == np.int64
