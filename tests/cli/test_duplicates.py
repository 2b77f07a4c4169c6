"""`slip duplicates` end to end, on a small index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openslip.cli import main
from openslip.cli.duplicates import Options
from openslip.search import duplicates
from openslip.search.index import Index
from openslip.tools.check.listing import read_list
from searched import index_of_pictures, some_vectors, write_index, write_pictures


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Pictures 0 and 3 are the same file; 1 is the smaller 2, nearly; 4 has a caption of its own beside 2."""
    paths = write_pictures(tmp_path / "pictures", 5)
    paths[3].write_bytes(paths[0].read_bytes())
    pixels = np.asarray(Image.open(paths[1])).copy()
    for number in (2, 4):
        pixels[0, 0] = number
        Image.fromarray(pixels).save(paths[number])
    captions = [["a dress"], ["shoe"], ["a  Shoe"], ["a dress"], ["a sandal"]]
    captions[2] = ["Shoe"]
    return index_of_pictures(tmp_path / "vectors", paths, captions=captions)


def run(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["duplicates", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_in_a_pipe_there_is_a_json_line_of_each_copy(index: Index, tmp_path: Path, capsys) -> None:
    listed = tmp_path / "dup.jsonl"
    status, out, err = run(capsys, index.folder, "--list", listed, "--threshold", 0.999)
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["index"], line["what"], line["of"]) for line in lines] == [
        (2, ["near copy"], 1),
        (3, ["exact copy"], 0),
        (4, ["near copy, other captions"], 1),
    ]
    assert listed.read_text() == out
    assert (sorted(read_list(listed)), sorted(read_list(listed, near=True))) == ([3], [2, 3])
    assert err.startswith("5 pictures: comparing takes")
    for said in ("Nothing has been deleted", f"--without {listed}", "Look at them first", "stay in any case"):
        assert said in err


def test_a_table(index: Index, capsys) -> None:
    status, out, err = run(capsys, index.folder, "--format", "table", "--threshold", 0.999, "--top", 1)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "3 pictures"
    assert [line.split("  ")[1] for line in lines[1:4]] == [
        "the first",
        "near copy",
        "near copy, other captions",
    ]
    assert all(str(index.folder.parent) in line for line in lines[1:4])
    assert lines[4:6] == ["and 1 more group", "3 copies in 2 groups, of 5 pictures:"]
    assert "--list dup.jsonl" in err


def test_a_sheet(index: Index, tmp_path: Path, capsys) -> None:
    (tmp_path / "pictures/picture 2.png").unlink()
    sheet = tmp_path / "near.png"
    status, _, err = run(capsys, index.folder, "--sheet", sheet, "--threshold", 0.999)
    assert status == 0
    assert f"wrote {sheet}, 1 group with near copies" in err
    assert "pictures that are gone or have changed: 1" in err
    assert Image.open(sheet).size[0] > 3 * 224


def test_no_copies(tmp_path: Path, capsys) -> None:
    folder = write_index(tmp_path / "index", some_vectors(4)).folder
    status, out, err = run(capsys, folder, "--sheet", tmp_path / "a.png")
    assert (status, out) == (0, "")
    assert "Nothing" not in err
    status, out, _ = run(capsys, folder, "--format", "table")
    assert (status, out) == (0, "0 copies in 0 groups, of 4 pictures\n")


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["--threshold", "0"], 1, "above 0"),
        (["--format", "table", "--top", "0"], 2, "1 group or more"),
        (["--top", "3"], 2, "--top has no effect"),
    ],
)
def test_what_is_wrong_is_said(index: Index, capsys, words, status: int, error: str) -> None:
    found, out, err = run(capsys, index.folder, *words)
    assert (found, out) == (status, "")
    assert error in err


def test_the_command_has_the_threshold_of_the_library() -> None:
    assert Options.threshold == duplicates.THRESHOLD
