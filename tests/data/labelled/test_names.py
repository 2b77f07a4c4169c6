"""Files beside a data set that name its classes."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.labelled import LabelledSet, names, open_labelled
from openslip.data.labelled.names import names_beside
from openslip.errors import DataError
from openslip.evaluation import datasets


def beside(folder, data, values, name="classes.json", **options):
    for file in folder.iterdir():
        file.unlink()
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))
    found = names_beside(folder, values, **options)
    return dict(found.names) if found else None


@pytest.mark.parametrize(
    ("data", "values", "names"),
    [
        (["cat", "dog"], [0, 1], {0: "cat", 1: "dog"}),
        (["cat", "dog"], ["1"], {0: "cat", 1: "dog"}),
        ({"1": "cat", "2": "dog"}, [1, 2], {1: "cat", 2: "dog"}),
        ({"10": "ten", "9": "nine"}, [9], {9: "nine", 10: "ten"}),
        ({"cat": "0", "dog": "1"}, [0, 1], {0: "cat", 1: "dog"}),
        ({"cat": 1, "dog": 2, "hound": 2}, [1, 2], {1: "cat", 2: "dog"}),
        ({"dog": 1, "cat": 0}, ["cat", "dog"], {"cat": "cat", "dog": "dog"}),
        (["big cat", "Dog"], ["dog", "big_cat"], {"big_cat": "big cat", "dog": "Dog"}),
        ({"n01440764": "tench", "n2": "other"}, ["n01440764"], {"n01440764": "tench", "n2": "other"}),
        ({"0": ["n01440764", "tench"]}, [0], {0: "tench"}),
        ([{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}], [3], {1: "dog", 3: "cat"}),
        ([{"label": 0, "names": ["cat", "tom"]}], [0], {0: "cat"}),
        ({"id2label": {"0": "cat"}}, [0], {0: "cat"}),
        ({"classes": ["cat", "dog"]}, [1], {0: "cat", 1: "dog"}),
        (["0", "1"], [0, 1], {0: "0", 1: "1"}),
        (["crane", "crane"], [0, 1], {0: "crane", 1: "crane"}),
    ],
)  # fmt: skip
def test_what_classes_json_says(tmp_path, data, values, names):
    found = beside(tmp_path, data, values)
    assert found == names
    assert found is not None
    assert list(found) == list(names)


@pytest.mark.parametrize(
    ("data", "values", "why"),
    [
        (["cat", "dog"], [1, 2], "name no class.*labels count from 1.*by label"),
        (["cat", "dog"], [0, 7], "name no class.*Got: '7; 2 have names'"),
        ({"0": "cat"}, ["cat", "dog"], "name no class.*Got: 'dog"),
        ({"0": 1, "1": 0}, [0], "numbers to numbers"),
        ({"0": {"a": 1}}, [0], "does not list class names"),
        ("{oops", [0], "does not list class names"),
        ("3", [0], "does not list class names"),
        ([["n01440764"]], [0], "is no name"),
        ([""], [0], "is no name"),
        ('["a", 9999999999999999999999999]', [0], "does not list class names"),
        ("[" * 100_000, [0], "does not list class names"),
    ],
)
def test_classes_json_that_does_not_fit_is_an_error(tmp_path, data, values, why):
    with pytest.raises(DataError, match=why):
        beside(tmp_path, data, values)


def test_lists_of_lines(tmp_path):
    assert beside(tmp_path, "cat\n\nred fox\n", [1], "classnames.txt") == {0: "cat", 1: "red fox"}
    assert beside(tmp_path, "1 a cat, sleeping\n2 dog\n", [1], "classes.txt") == {
        1: "a cat, sleeping",
        2: "dog",
    }
    assert beside(tmp_path, "0: 7 up\n1: dog\n", [1], "labels.txt") == {0: "7 up", 1: "dog"}
    assert beside(tmp_path, "747 boeing\n707 boeing\n", [1], "labels.txt") == {
        0: "747 boeing",
        1: "707 boeing",
    }
    wnids = "n01440764 tench, Tinca tinca\nn01443537 goldfish\n"
    found = beside(tmp_path, wnids, ["n01440764"], "classes.txt")
    assert found is not None
    assert found["n01440764"] == "tench"


def test_other_files_that_do_not_fit_are_passed_over(tmp_path, caplog):
    assert beside(tmp_path, "cat\ndog\ncat\ncat\n", [0, 1], "labels.txt") is None  # a label a picture
    assert beside(tmp_path, "cat\ndog\n", [5], "labels.txt") is None
    assert "labels.txt is not used: it does not name the classes of the data, such as 5" in caplog.text
    assert beside(tmp_path, b"\xff\xfe".decode("latin-1"), [5], "labels.txt") is None
    assert beside(tmp_path, {"id2label": {"0": "x"}}, [0], "config.json") is None  # of a model, perhaps
    assert beside(tmp_path, "---\nclass_label: {\n---\n", [0], "README.md") is None
    assert beside(tmp_path, "# class_label\n", [0], "README.md") is None


def test_a_list_that_may_count_from_one_is_said(tmp_path, caplog):
    assert beside(tmp_path, ["cat", "dog", "ant"], [1, 2]) == {0: "cat", 1: "dog", 2: "ant"}
    assert "no picture has the label 0" in caplog.text


def test_the_column_tells_descriptions_apart(tmp_path):
    features = {
        "fine": {"names": ["a", "b"], "_type": "ClassLabel"},
        "coarse": {"names": ["c", "d"], "_type": "ClassLabel"},
    }
    info = {"features": features}
    assert beside(tmp_path, info, [0], "dataset_info.json", column="coarse") == {0: "c", 1: "d"}
    assert beside(tmp_path, info, [0], "dataset_info.json") is None
    other = {"features": {"fine": {"names": ["b", "a"], "_type": "ClassLabel"}}}
    assert beside(tmp_path, {"en": info, "de": info}, [0], "dataset_infos.json", column="fine") == {
        0: "a",
        1: "b",
    }
    assert beside(tmp_path, {"en": info, "de": other}, [0], "dataset_infos.json", column="fine") is None
    head = "---\nfeatures:\n- name: fine\n  dtype:\n    class_label:\n      names:\n        0: no\n        1: 7\n---\n"
    assert beside(tmp_path, head, [0, 1], "README.md", column="fine") == {0: "no", 1: "7"}
    assert beside(tmp_path, {"0": "x", "1": "y"}, [1], "id2label.json") == {0: "x", 1: "y"}


@pytest.mark.parametrize(
    "spec", ["set", "./set/", "other/../set", "set/data", "set/data/test-0.parquet", "set/data/*.parquet"]
)
def test_names_of_a_set_at_a_relative_path(tmp_path, monkeypatch, spec):
    (tmp_path / "other").mkdir()
    (tmp_path / "set/data").mkdir(parents=True)
    pq.write_table(
        pa.table({"image": [b"\xff\xd8"] * 2, "label": [0, 1]}), tmp_path / "set/data/test-0.parquet"
    )
    (tmp_path / "set/classes.json").write_text('["a", "b"]')
    monkeypatch.chdir(tmp_path)
    assert open_labelled(spec).class_names == ("a", "b")


def test_names_lie_up_to_the_folder_of_the_set(tmp_path):
    (tmp_path / "set/data").mkdir(parents=True)
    (tmp_path / "classes.json").write_text('["a", "b"]')
    assert names_beside(tmp_path / "set/data", [0], root=tmp_path / "set") is None
    assert names_beside(tmp_path / "set/data", [0]) is None
    found = names_beside(tmp_path / "set/data", [0], root=tmp_path)
    assert found is not None
    assert found.names == {0: "a", 1: "b"}


def given(tmp_path, content, name="labels.json"):
    (tmp_path / name).write_text(content if name.endswith(".txt") else json.dumps(content))
    return names.read_names(tmp_path / name)


def test_names_that_somebody_gives_for_prompts(tmp_path):
    birds = LabelledSet("birds", "", ("fox", "bee"), True, {}, values=("a_fox", "a_bee"))
    one = given(tmp_path, ["red fox", "honey bee"])
    assert names.renamed(one, birds, None, "birds") == [("red fox",), ("honey bee",)]
    by_value = given(tmp_path, {"a_bee": ["bee", "honey bee"], "a_fox": "red fox"})
    assert names.renamed(by_value, birds, None, "birds") == [("red fox",), ("bee", "honey bee")]
    every = given(tmp_path, {"bee": ["bee", "honey bee"], "fox": ["red fox"]})  # as lists by data set look
    assert names.renamed(every, birds, None, "birds") == [("red fox",), ("bee", "honey bee")]
    within = given(tmp_path, {"id2label": {"0": ["red fox", "vulpes"], "1": "honey bee"}})  # as of a model
    numbered = LabelledSet("birds", "", ("0", "1"), False, {}, values=(0, 1))
    assert names.renamed(within, numbered, None, "birds") == [("red fox", "vulpes"), ("honey bee",)]
    lines = given(tmp_path, "red fox\nhoney bee\n", "names.txt")
    assert names.renamed(lines, birds, None, "birds") == [("red fox",), ("honey bee",)]
    with pytest.raises(DataError, match=r"labels.json lists 3 names, and birds has 2 classes"):
        names.renamed(given(tmp_path, ["fox", "cat", "owl"]), birds, None, "birds")
    assert names.renamed(given(tmp_path, ["owl", "bee", "fox"]), birds, None, "birds") == [("fox",), ("bee",)]


def test_names_by_data_set_as_the_paper_has_them(tmp_path):
    faces = LabelledSet("faces", "", ("0", "1"), False, {}, values=(0, 1))
    keyed = given(tmp_path, {"fer2013": [["angry"], ["happy", "smiling"]], "birds": ["owl", "wren"]})
    assert keyed.by_set
    assert names.renamed(keyed, faces, datasets.get("fer2013"), "x") == [("angry",), ("happy", "smiling")]
    assert names.renamed(keyed, faces, None, "birds") == [("owl",), ("wren",)]
    assert names.renamed(keyed, faces, datasets.get("cars"), "x") is None
    assert not given(tmp_path, {"0": ["angry"], "1": ["happy", "smiling"]}).by_set
    with pytest.raises(DataError, match="does not list class names"):
        given(tmp_path, "5")
    with pytest.raises(DataError, match=r"no such file of class names.*nothing\.json"):
        names.read_names(tmp_path / "nothing.json")
