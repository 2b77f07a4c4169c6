"""Why records cannot be used, in few words, with advice that can help."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from openslip.data.sources.folder import ImageFolder
from openslip.tools.check import as_text, check, judge
from openslip.tools.check.listing import write_list
from openslip.tools.check.troubles import explain

UNKNOWN = "The file is not an image of a known format, or its header is damaged. It looks like "


@pytest.mark.parametrize(
    ("reason", "words", "advice"),
    [
        ("The image file is empty (zero bytes).", "an empty file", "again"),
        ("The JPEG is damaged or truncated: a part is missing. libjpeg says so.", "cut off", "again"),
        ("The image cannot be decoded. image file is truncated (3 bytes).", "cut off", "again"),
        (UNKNOWN + "a web page.", "a web page, not a picture", "A server sends a page"),
        (UNKNOWN + "a HEIC picture. Convert it.", "a HEIC picture, which is not read", "Convert these"),
        (
            UNKNOWN + "a PNG picture: it is damaged, or of a kind that is not read.",
            "a PNG picture that",
            "again",
        ),
        (UNKNOWN + "an MP4 video.", "an MP4 video, not a picture", ""),
        (UNKNOWN + "a Git LFS pointer, which stands for a file.", "Git LFS", "git lfs pull"),
        ("The image is too large to decode. Got: 9 × 9.", "too large", "Store these pictures smaller"),
        ("The image file does not exist. Got: 'a'.", "does not exist", "--data.image-root"),
        (
            "The caption cannot be read. Got: 'a'. 'utf-8' codec can't decode byte.",
            "not UTF-8",
            "CP1252",
        ),
        (
            "The caption cannot be read. Got: 'a'. Expecting value: line 1.",
            ".json that",
            "Write valid JSON",
        ),
        ("The row has no image in column 'jpg'. Got: 'a:3'.", "The row has no image in column 'jpg'", ""),
        ("Nobody has met this. Got: 3.", "Nobody has met this", ""),
    ],
)
def test_reasons(reason, words, advice):
    said = explain([reason] * 3, 3)
    assert said.startswith("Why: 3 × ")
    assert words in said
    assert advice in said
    assert ("again" in said) == (advice == "again")


def test_the_most_frequent_reasons_are_named():
    said = explain(["a", "b", "b", "c", "d", "e"], 6)
    assert said == "Why: 2 × b; 1 × a; 1 × c; 2 × something else."
    assert explain(["a"], 12) == "Why, of the first 1: 1 × a."
    assert explain([], 0) == ""


def test_the_list_says_why(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    Image.effect_noise((80, 80), 99).save(folder / "whole.jpg")
    (folder / "half.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html><body>s3cr3t")
    summary = check(ImageFolder(folder), needs_captions=False, processes=1)
    assert summary is not None
    assert write_list(tmp_path / "list.jsonl", summary) == 3
    entries = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in entries] == ["empty.jpg", "half.jpg", "page.jpg"]
    assert "empty" in entries[0]["reason"]
    assert "truncated" in entries[1]["reason"]
    assert "not an image" in entries[2]["reason"]
    text = " ".join(as_text(summary, judge(summary)).split())
    assert "1 × an empty file; 1 × a JPEG that is cut off or damaged" in text
