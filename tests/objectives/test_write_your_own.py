"""The objective that docs/objectives.md writes is one: it keeps the contract, and trains from a user's file."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from objectives.cases import DIMS, features_for
from openslip.cli.train import resolve
from openslip.objectives import REGISTRY, At, Objective
from openslip.objectives.own import load
from openslip.training.saving import checkpoint
from openslip.training.saving.run import read_lines
from openslip.training.train import train
from toys import with_loss
from training.runs import QUIET, weights

DOCUMENT = Path(__file__).parents[2] / "docs" / "objectives.md"
LOSS = "clip + 0.5 * mylosses:SimSiam"
DATA2VEC = "clip + mydata2vec:Data2Vec"


@pytest.fixture
def simsiam(tmp_path, monkeypatch) -> Iterator[type[Objective]]:
    """Be in a folder with the document's block of Python in a file, and return the class that a loss names of it."""
    yield from written(tmp_path, monkeypatch, 0, "mylosses:SimSiam", LOSS)


@pytest.fixture
def data2vec(tmp_path, monkeypatch) -> Iterator[type[Objective]]:
    """The same of the second block."""
    yield from written(tmp_path, monkeypatch, 1, "mydata2vec:Data2Vec", DATA2VEC)


def written(folder, monkeypatch, number: int, name: str, loss: str) -> Iterator[type[Objective]]:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks[0].splitlines()) < 50
    module = name.partition(":")[0]
    (folder / f"{module}.py").write_text(blocks[number])
    monkeypatch.chdir(folder)
    load(loss)
    yield REGISTRY[name]
    del REGISTRY[name], sys.modules[module]


def test_the_document_has_every_objective_and_option() -> None:
    text = DOCUMENT.read_text()
    for name, kind in REGISTRY.items():
        (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
        assert set(vars(kind.Config())) <= set(re.findall(r"`(\w+)`", section))
        reported = {curve.key for curve in kind.curves}
        assert reported <= set(re.findall(r"`(\w+)`", text))


def test_it_computes_what_the_paper_does(simsiam) -> None:
    objective = simsiam(simsiam.Config(width=16, dim=8), DIMS).double().train()
    features = features_for(objective.needs, 6)
    embeddings = objective.embed(features)
    result = objective.loss(embeddings, At())
    cosine = torch.nn.functional.cosine_similarity
    expected = sum(-cosine(embeddings[p], embeddings[z]).mean() / 2 for p, z in (("p1", "z2"), ("p2", "z1")))
    torch.testing.assert_close(result["loss"], expected)
    assert not result["simsiam_loss"].requires_grad
    assert {curve.key for curve in objective.curves} == result.keys() - {"loss"}
    # Training moves both heads; what is predicted is a constant.
    predicted = [embeddings["p1"], embeddings["p2"]]
    for head in (objective.projector, objective.predictor):
        parameters = list(head.parameters())
        assert all(g is not None for g in torch.autograd.grad(result["loss"], parameters, retain_graph=True))
    targets = torch.autograd.grad(result["loss"], [*predicted, embeddings["z1"]], retain_graph=True)
    through_predictor = torch.autograd.grad(predicted, embeddings["z1"], targets[:2], allow_unused=True)
    torch.testing.assert_close(targets[2], through_predictor[0])


def test_it_trains_from_a_file_of_the_users(tmp_path, toy_source, tiny_config, simsiam) -> None:
    config = with_loss(tiny_config, LOSS)
    assert config.objective.options["simsiam"] == {"width": 16, "dim": 8}
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    lines = read_lines(run.path / "metrics.jsonl")
    assert all(-1 <= line["simsiam_loss"] <= 1 for line in lines)
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["clip_loss"] + 0.5 * lines[-1]["simsiam_loss"])
    assert any(name.startswith("objective.simsiam.predictor") for name in weights(run))
    assert run.config.objective.loss == LOSS


def test_its_command_is_understood(simsiam) -> None:
    (command,) = re.findall(
        r"^slip train (.* --objective\.simsiam\.width .*)$", DOCUMENT.read_text(), re.MULTILINE
    )
    config = resolve(shlex.split(command)).config
    assert config.objective.loss == LOSS
    assert config.objective.options["simsiam"]["width"] == 1024


def test_the_one_with_a_teacher_trains_and_goes_on_to_the_same_weights(
    tmp_path, toy_source, tiny_config, data2vec
) -> None:
    config = with_loss(replace(tiny_config, training=replace(tiny_config.training, epochs=1)), DATA2VEC)
    options = {**config.objective.options, "data2vec": {"crops": 2, "share": 0.5, "momentum": 0.9}}
    config = replace(config, objective=replace(config.objective, options=options))
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    found = weights(run)
    assert found["objective.data2vec.mean"].abs().sum() > 0
    assert any(name.startswith("objective.data2vec.teacher.model") for name in found)
    assert run.config.objective.options["data2vec"]["crops"] == 2
    newest = checkpoint.newest_good(run.checkpoints, print)
    assert newest is not None
    shutil.rmtree(newest)
    again = weights(train(config, toy_source, run.path, resume=True, console=QUIET))
    assert all(torch.equal(value, again[name]) for name, value in found.items())
