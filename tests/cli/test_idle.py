"""An option that has no effect is refused, and one that has is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openslip.cli import idle, main
from openslip.cli.arguments import given
from openslip.cli.evaluate import Options as Evaluate
from openslip.cli.train import resolve
from openslip.errors import UsageError


def evaluate(words: str) -> None:
    argv = words.split()
    tasks = [word for word in argv if ":" in word or word in ("knn", "zeroshot")]
    data = argv[argv.index("--data") + 1] if "--data" in argv else ""
    idle.evaluate(given(Evaluate, argv), Path("run"), tasks, data)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "photos"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run/config.toml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("run knn:photos --templates {}", "templates"),
        ("run knn:photos --preset paper", "preset"),
        ("run knn:photos --data photos", "data"),
        ("run knn:photos --image-column a", "image-column"),
        ("run zeroshot:pairs.csv --data.caption-column a", "caption-column"),
        ("run knn --data photos --leave-broken", "leave-broken"),
        ("run knn:photos knn:scenes --label-column a", "label-column"),
        ("run retrieval:pairs.csv --label-column a", "label-column"),
    ],
)
def test_evaluate_refuses(words, option, here) -> None:
    with pytest.raises(UsageError, match=f"--{option} has no effect here"):
        evaluate(words)


@pytest.mark.parametrize(
    "words",
    [
        "run knn:photos zeroshot:photos --templates {}",
        "run finetune:photos --preset paper",
        "run knn knn:scenes --data photos",
        "run retrieval:pairs.csv --image-column a",
        "run knn:photos --which best",
        "run knn:table.csv --image-column a --label-column b --image-root c",
    ],
)
def test_evaluate_lets_through(words, here) -> None:
    evaluate(words)


def test_which_is_for_runs(here, capsys) -> None:
    for command in (["evaluate", "photos", "knn:photos"], ["consolidate", "photos"]):
        assert main([*command, "--which", "best"]) == 2
        assert "--which has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("--objective.loss clip --views.ssl.blur 0.5", "views.ssl.blur"),
        ("--objective.loss clip --objective.simclr.dim 64", "objective.simclr.dim"),
        ("--objective.loss simclr --objective.clip.block 64", "objective.clip.block"),
        ("--objective.loss simclr --views.image.flip 0.5", "views.image.flip"),
        ("--views.local.blur 0.2", "views.local.blur"),
        ("--objective.loss clip --objective.ssl_every 2", "objective.ssl-every"),
        ("--objective.loss clip --objective.ssl_from 0.8", "objective.ssl-from"),
        ("--objective.loss simclr --model.text.width 64", "model.text.width"),
        ("--model.image.name resnet18 --model.image.width 64", "model.image.width"),
        ("--training.offload", "training.offload"),
        ("--data.workers 0 --data.prefetch 2", "data.prefetch"),
        ("--evaluation.best knn:x/top1", "evaluation.best"),
        ("--data.templates cifar", "data.templates"),
        ("--objective.loss simclr --data.drop_words 0.2", "data.drop-words"),
        ("--data.class_names names.json", "data.class-names"),
        ("--data.label_column kind", "data.label-column"),
        ("--data.train labels:photos --data.caption_column a", "data.caption-column"),
        ("--data.train labels:photos --data.val 10% --data.leave_broken", "data.leave-broken"),
    ],
)
def test_train_refuses(words, option) -> None:
    train = [] if "--data.train" in words else ["--data.train", "x.csv"]
    with pytest.raises(UsageError, match=f"--{option} has no effect here"):
        resolve(["small-data", *train, *words.split()])


@pytest.mark.parametrize(
    "words",
    [
        "--views.ssl.blur 0.5 --objective.simclr.dim 64 --model.text.width 64 --model.image.width 64",
        "--objective.loss clip --data.workers 0",
        "--training.parallel fsdp --training.offload",
        "--data.val 10% --evaluation.best retrieval:val/text_recall@1",
    ],
)
def test_train_lets_through(words) -> None:
    resolve(["small-data", "--data.train", "x.csv", *words.split()])


@pytest.mark.parametrize(
    "sources",
    [
        ["--data.train", "labels:photos", "--data.label-column", "kind"],
        ["--data.train", "x.csv + 2 * labels:photos", "--data.caption-column", "title"],
        ["--data.train", "x.csv", "--data.val", "labels:photos", "--data.class-names", "names.json"],
    ],
)
def test_train_lets_options_of_labelled_images_through(sources) -> None:
    resolve(["small-data", *sources, "--data.templates", "cifar"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "run", "--image-root", "x"], "--image-root has no effect here.*--pictures"),
        (
            ["data", "convert", "t.csv", "out", "--quality", "80"],
            "--quality has no effect here.*--short-side",
        ),
        (
            ["data", "convert", "t.csv", "out", "--shard-size", "9", "--shard-mb", "1"],
            "--shard-size has no effect",
        ),
        (
            ["data", "convert", "t.csv", "out", "--short-side", "9", "--encoding", "png", "--quality", "9"],
            "--quality has no effect",
        ),
        (["data", "check", "scenes:train:4", "--image-column", "x"], "--image-column has no effect here"),
        (["data", "show", "scenes:train:4", "--data.image-root", "x"], "--image-root has no effect here"),
        (["data", "show", "scenes:train:4", "--data.templates", "cifar"], "--templates has no effect here"),
    ],
)
def test_others_refuse(words, said, here, capsys) -> None:
    assert main(words) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (here / "out").exists()
