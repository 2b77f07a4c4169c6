from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.tools.check.caption_text import SCRIPTS, code, misread, normal, script, useless


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a dog", "Latin"),
        ("Un chien à Besançon", "Latin"),
        ("собака на пляже", "Cyrillic"),
        ("собака (dog) на пляже", "Cyrillic"),
        ("σκύλος", "Greek"),
        ("كلب على الشاطئ", "Arabic"),
        ("כלב", "Hebrew"),
        ("沙滩上的狗", "Han"),
        ("いぬがはしる", "Kana"),
        ("イヌ", "Kana"),
        ("개가 달린다", "Hangul"),
        ("कुत्ता", "Devanagari"),
        ("หมา", "Thai"),
        ("ᚠᚢᚦ", "other"),
        ("2034", "no letters"),
        ("🐕 !?", "no letters"),
        ("", "no letters"),
    ],
)
def test_scripts(text: str, name: str) -> None:
    assert SCRIPTS[script(text)] == name


@given(st.text())
def test_any_text_has_a_script(text: str) -> None:
    assert 0 <= script(text) < len(SCRIPTS)
    assert isinstance(useless(text), bool)
    assert normal(normal(text)) == normal(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "IMG_2034",
            "IMG_2034.JPG",
            "img-0001 (2)",
            "DSC00012",
            "DSCF1234.jpeg",
            "P1010203",
            "2034",
            "12 / 7",
        ),
        *("1024x768", "2019-07-12 10.22.33", "photo", "Untitled", "untitled-3", "beach_02.png", "image (1)"),
        *("https://example.org/a/b?c=d", "www.example.org", "...", "-", "#7"),
        *("nan", "NULL", "<NA>", "#N/A", "<br/>", "<p> </p>", "&nbsp;-&nbsp;", "???", "\ufffd\ufffd"),
    ],
)
def test_says_nothing(text: str) -> None:
    assert useless(text)


@pytest.mark.parametrize(
    "text",
    [
        *("a dog", "dog", "Photo of a dog", "12 dogs", "x" * 300, "1. FC Köln", "img of a cat", "🐕", "沙滩"),
        *("see www.example.org for more", "scanner", "imagine", "Apollo 11", "pictures"),
    ],
)
def test_says_something(text: str) -> None:
    assert not useless(text)


def test_equal_captions() -> None:
    assert normal("  A  Dog\non the beach") == normal("a dog on the BEACH")


def test_long_captions_take_no_time() -> None:
    for text in ("a." * 50_000, "img" + " " * 100_000 + "x", "1x" * 50_000, "a" * 100_000):
        assert isinstance(useless(text), bool)
        script(text)


def test_marks_of_a_wrong_encoding() -> None:
    latin1 = "a ’quoted’ dog – 5 €".encode("cp1252").decode("latin1")
    assert misread(latin1)
    assert misread("caf\ufffd")
    assert not misread("a “quoted” dog – 5 €, café, 犬\n")


def test_text_for_programs() -> None:
    for text in (
        '["a", 1]',
        "{'text': 'a dog'}",
        '{"a": 1}',
        "<p>a dog</p>",
        "a dog<br>runs",
        '<a href="x">dog</a>',
    ):
        assert code(text)
    for text in ("a dog", "[untitled]", "{curly}", "a <3 b", "x < y > z", "<dog>", "f(x) = [1, 2]"):
        assert not code(text)
