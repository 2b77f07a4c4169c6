"""Which columns are taken for what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.sources.columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    Columns,
    choose,
    guess_captions,
    guess_images,
)
from openslip.errors import DataError

NAMES = st.sampled_from([*IMAGE_COLUMNS, *CAPTION_COLUMNS, "Image", "Alt-Text", "caption 1", "x", "id"])


@given(st.lists(NAMES, unique=True), st.sampled_from(["", "x", "caption"]), st.booleans())
def test_what_is_chosen_is_there_and_nothing_twice(columns, caption, required):
    try:
        chosen = choose(
            "t",
            columns,
            caption=caption,
            image_guesses=guess_images(columns),
            caption_guesses=guess_captions(columns),
            captions_required=required,
        )
    except DataError as error:
        assert "No column" in error.what or "no column" in error.what  # noqa: PT017
        return
    assert {chosen.image, *chosen.captions} <= set(columns)
    assert chosen.image not in chosen.captions
    assert chosen.captions or not required
    assert ("caption" in chosen.guessed) == (bool(chosen.captions) and not caption)


def test_the_best_known_name_wins_and_the_first_of_equal_ones():
    assert guess_images(["path", "Image Path", "image-path", "url"]) == ["Image Path", "path", "url"]
    assert guess_captions(["title", "Text", "description"]) == ("Text",)
    assert guess_captions(["title", "caption_1", "caption_0"]) == ("caption_1", "caption_0")
    assert guess_captions(["caption_1", "caption"]) == ("caption",)
    assert guess_captions(["label", "captioned_by"]) == ()


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        (
            Columns("i", ("c",), ("image", "caption")),
            "Columns of t: image from 'i', caption from 'c' (guessed)",
        ),
        (Columns("i", ("c", "d"), ("caption",)), "Columns of t: captions from 'c', 'd' (guessed)"),
        (Columns("i", (), ("image",)), "Columns of t: image from 'i' (guessed); no captions"),
        (Columns("i", ()), "Columns of t: no captions"),
        (Columns("i", ("c",)), ""),
    ],
)
def test_note(columns, note):
    assert columns.note("t") == note
