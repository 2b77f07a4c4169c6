from __future__ import annotations

from pathlib import Path

import pytest

from openslip.errors import ConfigError
from openslip.evaluation import suite
from openslip.evaluation.benchmark import FITTING, PAPER, USUAL, from_file, of_sets
from openslip.evaluation.datasets import KINDS, cards
from openslip.evaluation.datasets.places import ROOTS


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has all data sets, as far as names go."""
    for name in cards():
        (tmp_path / name).mkdir()
    monkeypatch.setenv(ROOTS, str(tmp_path))
    return tmp_path


def test_the_papers_26_by_its_protocols(everything) -> None:
    found = of_sets(paper=True)
    assert len(found.tasks) == 26 * len(PAPER)
    assert found.missing == ()
    assert [asked.task for asked in found.tasks[:3]] == [
        "zeroshot:food101",
        "linear:food101",
        "zeroshot:cifar10",
    ]


def test_every_set_by_what_it_has(everything) -> None:
    tasks = {asked.task for asked in of_sets(paper=False).tasks}
    assert {"retrieval:flickr30k", "pairs:winoground", "knn:imagenetv2"} < tasks
    assert not {"knn:flickr30k", "retrieval:food101"} & tasks
    assert {asked.task for asked in of_sets(paper=False, protocols=["retrieval"]).tasks} == {
        f"retrieval:{name}" for name, card in cards().items() if card.kind == "captions"
    }


def test_sets_that_are_not_there_are_named(everything) -> None:
    (everything / "food101").rmdir()
    assert [card.name for card in of_sets(paper=True).missing] == ["food101"]


def test_every_protocol_measures_a_kind_of_sets_and_usual_ones_fit() -> None:
    assert set(USUAL) == set(FITTING) == set(KINDS)
    assert {name for kind in KINDS for name in FITTING[kind]} <= set(suite.PROTOCOLS)
    of_no_classes = {name: kind for kind in KINDS if kind != "classes" for name in FITTING[kind]}
    assert of_no_classes == suite.KINDS
    assert all(set(USUAL[kind]) <= set(FITTING[kind]) for kind in KINDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no task"),
        ("tasks = 3", "lists no task"),
        ("taks = []", "Did you mean 'tasks'"),
        ("tasks = [3]", "names no task"),
        ('[[task]]\ntusk = "knn:a"', "names no task"),
        ('[[task]]\ntask = "knn:a"\nlabel_colum = "b"', "Did you mean 'label"),
        ("tasks = [", "cannot be read"),
        pytest.param("tasks = " + "[" * 20_000, "too deeply", id="deep"),
        ('tasks = ["knn:a"]\n\x00', "cannot be read"),
    ],
)
def test_a_file_of_tasks_that_says_something_else(tmp_path, text, said) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        from_file(tmp_path / "mine.toml", ("label_column",))


def test_a_file_of_tasks(tmp_path) -> None:
    (tmp_path / "mine.toml").write_text(
        'tasks = ["knn:a"]\n[[task]]\ntask = "knn:table.csv"\nlabel-column = "kind"\n'
    )
    plain, table = from_file(tmp_path / "mine.toml", ("label_column",)).tasks
    assert (plain.task, plain.options, plain.found) == ("knn:a", {}, False)
    assert (table.task, table.options) == ("knn:table.csv", {"label_column": "kind"})
