"""Words that people type who know other tools are answered with what there is here."""

from __future__ import annotations

import re

import pytest

from openslip import cli
from openslip.cli import data, hints, main
from openslip.cli.arguments import by_spelling
from openslip.cli.train import accepted
from openslip.config import Config


def answer(words: list[str], capsys) -> str:
    assert main(words) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("slip: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("wise-ft", "`slip mix A B"),
        ("onnx", "`slip export MODEL"),
        ("split", "--data.val 10%"),
        ("predict", "`slip classify MODEL"),
        ("query", "slip search"),
        ("encode", "slip embed"),
        ("index", "slip embed"),
        ("gradio", "slip serve"),
        ("finetune", "finetune:FOLDER"),
        ("test", "`slip evaluate"),
        ("eval", "`slip evaluate"),
        ("init", "`slip recipes show small-data > mine.toml`"),
        ("resume", "`slip train --resume --out RUN`"),
        ("download", "hf:owner/name"),
        ("convert", "`slip data convert SOURCE FOLDER`"),
        ("check", "`slip data check SOURCE`"),
        ("list", "`slip recipes`"),
        ("Export", "It is written 'export'"),
        ("fine_tune", "finetune:FOLDER"),
        ("trian", "Did you mean 'train'?"),
        ("evalute", "Did you mean 'evaluate'?"),
        ("quick-start", "Did you mean 'quickstart'?"),
        ("Train", "It is written 'train'"),
        ("--resume", "A command comes first"),
        ("qqq", "Commands: ablate, classify, compare, consolidate, data"),
    ],
)
def test_commands_elsewhere(word, said, capsys) -> None:
    text = answer([word], capsys)
    assert said in text
    assert f"There is no command {word!r}" in text


def test_a_path_is_no_command(tmp_path, capsys) -> None:
    assert "a command comes first" in answer([str(tmp_path)], capsys)
    assert "a command comes first" in answer(["data", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("validate", "`slip data check SOURCE`"),
        ("split", "--data.val 10%"),
        ("dedup", "--without FILE"),
        ("preview", "`slip data show SOURCE`"),
        ("chekc", "Did you mean 'check'?"),
        ("qqq", "Commands: check, convert"),
    ],
)
def test_words_after_data(word, said, capsys) -> None:
    assert said in answer(["data", word], capsys)


@pytest.mark.parametrize("words", [hints.COMMANDS, hints.DATA, hints.OPTIONS, hints.MISSING])
def test_each_word_has_one_answer(words) -> None:
    names = [name for line in words for name in line.split()]
    assert len(names) == len({*names})


def test_answers_name_commands_and_options_that_there_are() -> None:
    options = {name.removeprefix("--") for name in by_spelling(accepted(Config()))}
    for answer in [*hints.COMMANDS.values(), *hints.DATA.values(), *hints.MISSING.values()]:
        for command in re.findall(r"`slip ([a-z]+)", answer):
            assert command in cli.COMMANDS
        for command in re.findall(r"`slip data ([a-z]+)", answer):
            assert command in data.COMMANDS
        for option in re.findall(r"--([a-z]+\.[a-z.-]+[a-z])", answer):
            assert option in options
    assert not {name for name in cli.COMMANDS if name in " ".join(hints.COMMANDS).split()}
    known = options | {"out", "processes", "limit", "count", "templates", "device", "against"}
    known |= {"batch", "classes", "classnames", "sets", "top", "threshold", "sort-into"}
    assert {name for names in hints.OPTIONS.values() for name in names.split()} <= known


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "small-data", "--epochs", "3"], "called --training.epochs"),
        (
            ["train", "small-data", "--temperature", "3"],
            "one of --objective.clip.temperature",
        ),
        (["train", "small-data", "--objective.temperature", "3"], "It is --objective.simclr.temperature now"),
        (["train", "small-data", "--model.ssl.dim=3"], "It is --objective.simclr.dim now"),
        (
            ["train", "small-data", "--objective.block", "3"],
            "It is --objective.clip.block and --objective.simclr.block now",
        ),
        (["train", "small-data", "--lr=1e-3"], "called --optimizer.lr"),
        (["train", "lit", "--lock-image"], "called --model.image.freeze, and takes a value: all"),
        (
            ["train", "lit", "--lock-image-unlocked-groups", "2"],
            "--model.image.freeze, and takes -2 for all but",
        ),
        (["train", "lit", "--lora-rank", "8"], "one of --model.image.lora, --model.text.lora"),
        (["train", "lit", "--distill-model", "x"], "called --objective.distil.teacher"),
        (["train", "small-data", "--batch-size", "3"], "called --training.batch"),
        (["train", "small-data", "--batch_size", "3"], "called --training.batch"),
        (["train", "small-data", "--workers", "3"], "called --data.workers"),
        (["train", "small-data", "--output", "x"], "called --out"),
        (["train", "small-data", "-o", "x"], "called --out"),
        (["train", "small-data", "--gpu", "0"], "called --training.device"),
        (["train", "small-data", "--device", "cpu"], "called --training.device"),
        (["train", "small-data", "--seed", "1"], "called --training.seed"),
        (["train", "small-data", "--fp16"], "called --training.precision, and takes a value: fp16"),
        (["train", "small-data", "--wandb", "x"], "called --tracking.wandb"),
        (["train", "small-data", "--patience", "3"], "There is no early stopping"),
        (["evaluate", "runs/x", "knn:x", "--gpu", "0"], "called --device"),
        (["evaluate", "runs/x", "knn:x", "--training.device", "cpu"], "called --device"),
        (["data", "check", "x", "--num-workers", "0"], "called --processes"),
        (["data", "show", "x", "-n", "3"], "called --count"),
        (["report", "runs/x", "--output", "x"], "called --out"),
        (["classify", "x", "y", "--labels", "a,b"], "called --classes"),
        (["classify", "x", "y", "--batch-size", "3"], "called --batch"),
        (["classify", "x", "y", "--confidence", "0.5"], "called --threshold"),
    ],
)
def test_options_elsewhere(words, said, capsys) -> None:
    assert said in answer(words, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["small_data"], "It is written 'small-data'"),
        (["pairs.csv"], "There is no recipe 'pairs.csv'"),
        (["photos/"], "`slip train small-data --data.train 'photos/'`"),
        (["mine.toml"], "`slip train --config mine.toml`"),
        (["small-data", "pairs.csv"], "`--data.train pairs.csv`"),
        (["small-data", "--resume", "runs/x"], "`--resume --out runs/x`"),
        (["--config", "--out", "x"], "--config takes a value"),
    ],
)
def test_words_after_train(words, said, capsys) -> None:
    assert said in answer(["train", *words], capsys)


def test_a_run_is_no_recipe(tmp_path, capsys) -> None:
    (tmp_path / "config.toml").touch()
    assert "`slip train --resume --out" in answer(["train", str(tmp_path)], capsys)


def test_the_model_comes_first(capsys) -> None:
    said = answer(["evaluate", "knn:a", "runs/x", "zeroshot:b"], capsys)
    assert "`slip evaluate runs/x knn:a zeroshot:b`" in said
