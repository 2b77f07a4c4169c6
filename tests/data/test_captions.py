"""What counts as a caption."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.captions import is_caption, is_placeholder, texts
from openslip.data.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        (" a ", ("a",)),
        (["a", "", " ", "b\n"], ("a", "b")),
        ("", ()),
        (None, ()),
        (float("nan"), ()),
        ({"a": 1}, ()),
        (["a", 1, None], ("a",)),
        ("\ud83d", ("?",)),
        ("\U0001f600", ("\U0001f600",)),
    ],
)
def test_texts(value, captions):
    assert texts(value) == captions


NOTHING = [
    *(
        "",
        " ",
        "&nbsp;",
        "&#160;",
        "&amp;nbsp;",
        "&nbsp;&#8203; &zwnj;",
        "\u200b",
        "\ufeff",
        "\u2060",
        "\u00ad",
    ),
    *("\u3164", "\u2800", "\ufe0f", "\x00\x01", "\x80", "\x1b[0m", "Â\xa0", "ï»¿", "â€‹"),
]


@pytest.mark.parametrize("text", NOTHING)
def test_what_leaves_nothing_for_the_model_is_no_caption(text):
    assert not is_caption(text)
    assert texts(text) == texts([text]) == ()


@pytest.mark.parametrize(
    "text",
    ["?", "5", "AT&T", "&amp;", "&lt;3", "犬", "âge", "Ã", "❤️", "كلب", "\u200bdog", "\x1b[31mred\x1b[0m"],
)
def test_what_is_seen_is_a_caption(text):
    assert texts(text) == (text,)


@given(st.text())
def test_the_tokenizer_sees_something_of_every_caption_that_counts(text):
    assert not is_caption(text) or Tokenizer().encode(text)


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ('["a dog", "it\'s"]', ("a dog", "it's")),
        ("['a dog', \"it's\"]", ("a dog", "it's")),
        ("['a dog' 'it\\'s'\n 'c']", ("a dog", "it's", "c")),  # numpy's
        ("('a', 'b')", ("a", "b")),
        ("[u'caf\\xe9', None]", ("café",)),
        ('[["a"], ["b", "&nbsp;"]]', ("a", "b")),
        ('["\\ud83d\\ude00"]', ("😀",)),
        ("[]", ()),
        ('["a", 1]', ('["a", 1]',)),
        ("[sic]", ("[sic]",)),
        ("('a')", ("('a')",)),
        ("['a', 'b'", ("['a', 'b'",)),
        ('[{"text": "a"}]', ('[{"text": "a"}]',)),
    ],
)
def test_a_cell_that_spells_a_list_is_several_captions(cell, captions):
    assert texts(cell) == captions


@given(st.lists(st.text(), max_size=4))
def test_lists_are_read_however_they_are_spelled(captions):
    expected = texts(captions)
    assert texts(json.dumps(captions)) == expected
    if not any(mark in text for text in captions for mark in ("\ud800", "\n")):
        assert texts(repr(captions)) == expected


def test_lists_without_an_end_take_no_time():
    for text in ("[" * 100_000, "[" + "'a' " * 50_000 + "x", '["' * 50_000, "(" + "'a'," * 50_000):
        assert len(texts(text)) == 1


def test_keys_lead_into_objects():
    value = [{"text": "a", "lang": "en"}, {"text": ["b", None]}, {"lang": "en"}, "c"]
    assert texts(value, ("text",)) == texts(json.dumps(value), ("text",)) == ("a", "b")
    assert texts({"en": {"title": "a"}}, ("en", "title")) == ("a",)
    assert texts("a", ("text",)) == texts(None, ("text",)) == ()
    assert texts(value) == ("c",)


def test_placeholders():
    for text in (
        "nan",
        "NaN",
        "None",
        "NULL",
        "N/A",
        "n.a.",
        "<NA>",
        "#N/A",
        "#NV",
        "\\N",
        "(none)",
        "no caption",
    ):
        assert is_placeholder(text)
    for text in ("Nancy", "none of them", "banana", "empty street", "a", "NASA", "native"):
        assert not is_placeholder(text)
