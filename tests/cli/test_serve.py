"""`slip serve`: its words, and what it refuses before anything is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from openslip.cli import main


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "takes the folder of an index"),
        (["a", "b", "c"], 2, "takes the folder of an index"),
        (["model", "vectors", "--model", "other"], 2, "The model is named twice"),
        (["vectors", "--which", "best"], 2, "picks a checkpoint"),
        (["vectors", "--port", "70000"], 1, "--port must be from 0 to 65535"),
        (["vectors", "--max-upload", "0"], 1, "--max-upload above 0"),
        (["vectors"], 1, "There is no such folder"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *words]) == status
    assert said in capsys.readouterr().err


def test_an_index_in_the_place_of_the_model_is_noticed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "index.json").write_text("{}")
    assert main(["serve", str(tmp_path), str(tmp_path / "model")]) == 2
    assert "The model comes first" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_the_error_names_it(
    missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    without = lambda name, *rest: None if name == missing else real(name, *rest)  # noqa: E731
    monkeypatch.setattr("openslip.cli.serve.find_spec", without)
    assert main(["serve", "vectors"]) == 1
    said = capsys.readouterr().err
    assert f"Got: '{missing}'. pip install 'openslip[serve]'" in said
