"""`slip datasets`: the table of data sets, one card, and where sets are found."""

from __future__ import annotations

import json
import re

import pytest

from openslip.cli import main
from openslip.evaluation.datasets import cards, places
from toys import save_photos, save_toy_model


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch) -> None:
    monkeypatch.setenv(places.ROOTS, "")


def test_all_cards_as_a_table_and_as_json(tmp_path, capsys) -> None:
    (tmp_path / "Food-101").mkdir()
    assert main(["datasets", "--datasets", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line]
    assert rows[0].split() == ["name", "title", "kind", "classes", "metric", "paper", "found"]
    assert [row.split()[0] for row in rows[2:-1]] == list(cards())
    assert f"{tmp_path}/Food-101" in rows[2]
    assert main(["datasets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == list(cards())
    assert sum(one["paper"] for one in found) == 26


def test_one_card(tmp_path, capsys) -> None:
    assert main(["datasets", "show", "Food-101"]) == 0
    printed = capsys.readouterr().out
    for said in (
        "101",
        "75,750 train",
        "a photo of {}, a type of food.",
        "apple pie",
        "https://",
        "not on this",
    ):
        assert said in printed
    assert main(["datasets", "show", "fer2013", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["happy"] == ["happy", "smiling"]


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["show", "food102"], "no card for a data set", 1),
        (["show"], "takes one name", 2),
        (["food101"], "slip datasets show food101", 2),
        (["sho"], "Did you mean 'show'", 2),
    ],
)
def test_words_that_mean_nothing(words, said, status, capsys) -> None:
    assert main(["datasets", *words]) == status
    assert said in capsys.readouterr().err


def test_evaluating_a_set_by_its_name_with_names_and_prompts_of_a_file(tmp_path, capsys) -> None:
    save_photos(tmp_path / "sets/hateful_memes", test=3)
    model = save_toy_model(tmp_path / "model")
    labels, templates = tmp_path / "labels.json", tmp_path / "templates.json"
    labels.write_text('{"hateful_memes": ["nice", "nasty"], "mnist": ["0"]}')
    templates.write_text('{"hateful_memes": ["a {}", "the {}"]}')
    words = ["evaluate", model, "zeroshot:hateful_memes"]
    assert main(words) == 1
    assert "Hateful Memes is not on this machine" in capsys.readouterr().err
    given = ["--datasets", str(tmp_path / "sets"), "--classnames", str(labels), "--templates", str(templates)]
    assert main([*words, *given, "--out", str(tmp_path / "out.json")]) == 0
    first = json.loads((tmp_path / "out.json").read_text())[0]
    assert (first["task"], first["metric"]) == ("zeroshot:hateful_memes", "roc_auc")
    assert re.fullmatch(r"a \{\} \| the \{\}, names \w{8}", first["prompts"])
    assert main(["evaluate", model, f"knn:{tmp_path}", "--classnames", str(labels)]) == 2
    assert "--classnames" in capsys.readouterr().err
