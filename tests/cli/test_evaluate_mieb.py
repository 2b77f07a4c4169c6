import json

import pytest
from rich.console import Console

from mieb_fakes import Library, Task, put_in_place
from openslip.cli import main
from openslip.training.train import train
from toys import make_tiny_config


@pytest.fixture
def run(tmp_path, toy_source):
    return train(make_tiny_config(epochs=1), toy_source, tmp_path / "run", console=Console(quiet=True)).path


def test_a_benchmark_is_measured_task_by_task(run, monkeypatch, capsys) -> None:
    put_in_place(Library(Task("One"), Task("Gone"), Task("Two", "Any2AnyRetrieval")), monkeypatch)
    assert main(["evaluate", str(run), "mieb:lite"]) == 1
    printed = capsys.readouterr()
    assert "The data of MIEB's task Gone cannot be loaded" in printed.err
    assert "2 of 3 tasks measured" in printed.err
    assert "mieb:Two" in printed.out
    kept = json.loads((run / "results.json").read_text())
    assert [one["task"] for one in kept] == ["mieb:One", "mieb:Two"]
    assert (
        main(["evaluate", str(run), "mieb", "--data", "One,Two", "--general", "mieb:Two"]) != 0
    )  # without --against
    assert main(["evaluate", str(run), "mieb", "--data", "One,Two"]) == 0
    assert "mieb:One" in capsys.readouterr().out


def test_two_models_are_compared_without_intervals(run, tmp_path, toy_source, monkeypatch, capsys) -> None:
    other = train(
        make_tiny_config(epochs=1), toy_source, tmp_path / "other", console=Console(quiet=True)
    ).path
    put_in_place(Library(Task("One"), Task("Two", "Any2AnyRetrieval")), monkeypatch)
    assert main(["evaluate", str(run), "mieb:One", "--general", "mieb:Two", "--against", str(other)]) == 0
    printed = capsys.readouterr().out
    assert "Own tasks" in printed
    assert "General tasks" in printed
    assert "nan" not in printed


def test_columns_are_refused(run, monkeypatch, capsys) -> None:
    put_in_place(Library(Task("One")), monkeypatch)
    assert main(["evaluate", str(run), "mieb:One", "--label-column", "kind"]) == 2
    assert "bring their own data" in capsys.readouterr().err
