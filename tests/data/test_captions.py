"""What counts as a caption."""

from __future__ import annotations

import pytest

from slip.data.captions import texts


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
