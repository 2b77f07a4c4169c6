"""`slip search` end to end, on small indexes of an untrained model."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openslip.cli import main
from openslip.encoder import Encoder
from openslip.search.index import Index
from openslip.training.saving import metadata
from searched import index_of_pictures, some_vectors, tiny_model, unnormalised, write_index, write_pictures

COLUMNS = {
    "price": [10.0, 20.5, None, 40.0],
    "colour": ["red", "blue", "\x1b[31mred", "<b>"],
    "tags": [["a", "b"], [], None, ["c"]],
}
CAPTIONS = [["a red dress", "a dress"], ["a [bold]shoe[/bold]"], [], ["x" * 400]]


def write_weights(path: Path, encoder: Encoder) -> None:
    metadata.write_model(path, encoder.model.state_dict(), encoder.config)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The file of the tiny model's weights."""
    path = tmp_path / "tiny.safetensors"
    write_weights(path, tiny_model())
    return str(path)


@pytest.fixture
def index(tmp_path: Path, model: str) -> Index:
    """Four pictures with columns, in the folder `vectors`, which names its model."""
    found = index_of_pictures(
        tmp_path / "vectors", write_pictures(tmp_path / "pictures", 4), COLUMNS, captions=CAPTIONS
    )
    about = found.about | {"model": found.about["model"] | {"spec": model}}
    (found.folder / "index.json").write_text(json.dumps(about))
    return found


def run(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["search", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_in_a_pipe_there_are_paths_a_line_each(index: Index, capsys) -> None:
    hits = index.search("a red dress")
    assert run(capsys, index.folder, "a", "red", "dress") == (0, "\n".join(hits.paths) + "\n", "")
    status, out, _ = run(capsys, index.folder, "a red dress", "--print0", "--top", 2)
    assert (status, out) == (0, "".join(f"{path}\0" for path in hits.paths[:2]))


def test_pictures_without_files_have_keys(tmp_path: Path, model: str, capsys) -> None:
    folder = write_index(tmp_path / "vectors", some_vectors(3)).folder
    status, out, _ = run(capsys, folder, "red", "--model", model)
    assert status == 0
    assert sorted(out.split()) == ["k0", "k1", "k2"]


def test_a_mixture_is_said_as_it_was_read(index: Index, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path / "pictures")
    expected = index.search([(2, "dress"), (1, Path("picture 1.png")), (-1, "long sleeves")]).paths
    for words in (
        ["2:dress", "+", "./picture 1.png", "-", "long sleeves"],
        ['"2:dress" + "./picture 1.png" - "long sleeves"'],
    ):
        status, out, err = run(capsys, index.folder, *words)
        assert (status, out.splitlines()) == (0, expected)
        assert err == 'searched for 2:"dress" + "./picture 1.png" - "long sleeves"\n'


def test_texts_that_begin_as_options_do(index: Index, capsys) -> None:
    status, out, err = run(capsys, index.folder, "--top", 4, "--", "--where")
    assert (status, out.splitlines(), err) == (0, index.search("--where").paths, "")
    with pytest.raises(SystemExit) as ended:
        main(["search", str(index.folder), "--wear"])
    assert ended.value.code == 2


def test_a_table(index: Index, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    status, out, _ = run(
        capsys, index.folder, index.folder.parent / "pictures/picture 0.png", "--format", "table"
    )
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["score", "picture", "caption"]
    assert lines[2].split() == ["1.000", "picture", "0.png", "a", "red", "dress"]
    assert "a [bold]shoe[/bold]" in out
    assert max(map(len, lines)) <= 60
    monkeypatch.setenv("COLUMNS", "150")
    status, out, _ = run(capsys, index.folder, "red", "--columns", "price", "colour", "key", "--top", 4)
    assert out.splitlines()[0].split() == ["score", "picture", "caption", "price", "colour", "key"]
    assert "\\x1b[31mred" in out
    assert "\x1b" not in out


def test_a_table_shows_what_fits(index: Index, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    _, out, _ = run(capsys, index.folder, "red", "--format", "table", "--where", "price < 30")
    assert out.splitlines()[0].split() == ["score", "picture", "caption", "price", "colour", "tags"]
    assert "a, b" in out


def test_json_has_everything(index: Index, capsys) -> None:
    text = " ".join(["word"] * 20)
    status, out, err = run(capsys, index.folder, text, "--format", "json", "--top", 3)
    hits = index.search(text, top=3)
    assert status == 0
    assert json.loads(out) == {
        "query": text,
        "among": 4,
        "notes": list(hits.notes),
        "found": [hit.as_json() for hit in hits],
    }
    assert "is left out" in err


def test_csv_has_all_columns(index: Index, capsys) -> None:
    status, out, _ = run(capsys, index.folder, "red", "--format", "csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    hits = index.search("red")
    assert list(rows[0]) == ["row", "score", "key", "path", "caption", "captions", "price", "colour", "tags"]
    assert [np.float32(row["score"]) for row in rows] == hits.scores.tolist()
    assert [row["path"] for row in rows] == hits.paths
    assert [json.loads(row["captions"]) for row in rows] == [list(hit.captions) for hit in hits]
    assert {row["tags"] for row in rows} == {'["a", "b"]', "[]", "", '["c"]'}


@pytest.mark.parametrize("form", ["paths", "table", "json", "csv"])
def test_finding_nothing_is_said_and_no_error(index: Index, tmp_path: Path, capsys, form: str) -> None:
    sheet = tmp_path / "sheet.png"
    status, out, err = run(capsys, index.folder, "red", "--threshold", 1, "--format", form, "--sheet", sheet)
    assert status == 0
    assert "No picture was found among 4 with a similarity of 1 or more" in err
    assert out == {"paths": "", "table": ""}.get(form, out)
    if form == "json":
        assert json.loads(out)["found"] == []
    if form == "csv":
        assert out == "row,score,key,path,caption,captions,price,colour,tags\n"
    assert Image.open(sheet).size[0] > 0


def test_a_sheet_shows_what_has_vanished_or_changed(index: Index, tmp_path: Path, capsys) -> None:
    sheets = [tmp_path / f"{number}.png" for number in range(2)]
    status, _, err = run(capsys, index.folder, "red", "--sheet", sheets[0])
    assert (status, err) == (0, f"wrote {sheets[0]}, 4 pictures\n")
    (tmp_path / "pictures/picture 0.png").unlink()
    (tmp_path / "pictures/picture 1.png").write_bytes(b"<svg></svg>")
    status, out, err = run(capsys, index.folder, "red", "--sheet", sheets[1])
    assert (status, len(out.splitlines())) == (0, 4)
    assert err == f"wrote {sheets[1]}, 4 pictures; of these, gone or changed: 2\n"
    before, after = (np.asarray(Image.open(path)) for path in sheets)
    assert before.shape == after.shape
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        ([], 2, "nothing to search for"),
        (["red", "--print0", "--format", "json"], 2, "--print0 is about paths"),
        (["red", "--format", "csv", "--columns", "price"], 2, "--columns has no effect"),
        (["red", "--which", "best"], 2, "--which has no effect"),
        (["red", "--columns", "prize"], 2, "Did you mean 'price'"),
        (["red", "--top", "0"], 1, "1 picture or more"),
        (["red", "--threshold", "nan"], 1, "from -1 to 1"),
        (["./none.png"], 1, "no such picture"),
        (["red", "-"], 1, "A sign needs a term"),
        (["red", "--where", "prize < 3"], 1, "cannot be used"),
    ],
)
def test_what_is_wrong_is_said(index: Index, capsys, words, status: int, error: str) -> None:
    pytest.importorskip("duckdb")
    found, out, err = run(capsys, index.folder, *words)
    assert (found, out) == (status, "")
    assert error in err


def test_another_model_or_none(index: Index, tmp_path: Path, model: str, capsys) -> None:
    other = tmp_path / "other.safetensors"
    write_weights(other, unnormalised(tiny_model()))
    status, _, err = run(capsys, index.folder, "red", "--model", other)
    assert status == 1
    assert "made with another model" in err
    Path(model).unlink()
    status, _, err = run(capsys, index.folder, "red")
    assert status == 1
    assert "model of the index cannot be loaded" in err


def test_help_asks_for_no_model(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["search", "--help"])
    assert ended.value.code == 0
    assert "--threshold" in capsys.readouterr().out
    assert "openslip.cli.search" in sys.modules
