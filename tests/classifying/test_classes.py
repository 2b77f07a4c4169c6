"""What people write for classes, and what is asked for then."""

from __future__ import annotations

import json

import pytest

from openslip.classifying.classes import check_none, read_classes
from openslip.data.labelled.prompts import DEFAULT_TEMPLATES
from openslip.errors import ConfigError
from openslip.evaluation.datasets import templates


def test_a_file_a_list_and_json_say_the_same(tmp_path) -> None:
    (tmp_path / "classes.txt").write_bytes("\ufeffred dress\r\n\n  shirt \nT_shirt\n".encode())
    (tmp_path / "classes.json").write_text('["red dress", "shirt", "T_shirt"]')
    for spec in (str(tmp_path / "classes.txt"), str(tmp_path / "classes.json"), "red dress, shirt,T_shirt,"):
        asked = read_classes(spec)
        assert asked.names == ("red dress", "shirt", "T_shirt")
        assert asked.words == ("red dress", "shirt", "T shirt")
        assert asked.templates == DEFAULT_TEMPLATES


def test_a_mapping_has_words_of_its_own(tmp_path) -> None:
    file = tmp_path / "mine.JSON"
    file.write_text(json.dumps({"Tshirts": "t-shirt", "0": "flip_flop"}))
    assert read_classes(str(file)).mapping == {"Tshirts": "t-shirt", "0": "flip_flop"}


def test_numbers_before_names_go_as_of_labelled_pictures() -> None:
    asked = read_classes("001.Black_footed,002.Laysan")
    assert asked.names == ("001.Black_footed", "002.Laysan")
    assert asked.words == ("Black footed", "Laysan")
    assert "Numbers before the names" in asked.notes[0]


def test_templates_suit_the_classes_or_are_given(tmp_path) -> None:
    ten = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
    assert read_classes(ten).templates == templates("cifar")
    assert read_classes(ten, ["a {}", "the {}", "a {}"]).templates == ("a {}", "the {}")
    (tmp_path / "mine.txt").write_text("one {}\n")
    assert read_classes("a,b", [str(tmp_path / "mine.txt")]).templates == ("one {}",)
    assert read_classes("a,b", ["cifar"]).templates == templates("cifar")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("dress", "no such file of classes, and one class alone"),
        ("nothing.txt", "no such file of classes"),
        ("dress,", "One class leaves no choice"),
        (",", "name of a class is empty"),
        ("a,,b", "name of a class is empty"),
        ("a,b,a", "named twice.*'a'"),
        ("0,1,2", "numbers without names"),
        ("a,b\x1b[2J", "control characters"),
    ],
)
def test_lists_that_are_none(spec, told) -> None:
    with pytest.raises(ConfigError, match=told):
        read_classes(spec)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.txt", b"\n \n", "no classes to choose from"),
        ("c.txt", b"caf\xe9\nb\n", "not written in UTF-8"),
        ("c.txt", b"a\nb\na\n", "named twice"),
        ("c.json", b"{", "holds no classes"),
        ("c.json", b"3", "holds a int"),
        ("c.json", b'["a", 3]', "3 is not a text"),
        ("c.json", b'{"a": ["b"]}', "is not a text"),
        ("c.json", b'{"a": "x", "a ": "y", "b": "z"}', "named twice"),
        ("c.json", b"[" * 100_000, "holds no classes"),
        ("c.txt", b"a\n" * 600_000, "more than 1 MB"),
    ],
)
def test_files_that_hold_none(tmp_path, name, content, told) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        read_classes(str(tmp_path / name))


@pytest.mark.parametrize("templates", [["a photo of it"], ["{} {}"], ["a {", "{}"]])
def test_templates_without_a_place_for_the_class(templates) -> None:
    with pytest.raises(ConfigError, match=r"holds \{\} once|no such templates"):
        read_classes("a,b", templates)


def test_none_is_no_class() -> None:
    check_none("none", ["a"])
    with pytest.raises(ConfigError, match="--none-class"):
        check_none("a", ["a"])
