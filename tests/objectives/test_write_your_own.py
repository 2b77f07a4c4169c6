"""The objective that docs/objectives.md writes is one: it keeps the contract, and trains from a user's file."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from objectives.cases import DIMS, features_for
from openslip.objectives import REGISTRY, At, Objective
from openslip.training.saving.run import read_lines
from openslip.training.train import train
from toys import small_options
from training.runs import QUIET, weights

DOCUMENT = Path(__file__).parents[2] / "docs" / "objectives.md"
LOSS = "clip + 0.5 * mylosses:SimSiam"


@pytest.fixture
def simsiam(tmp_path, monkeypatch) -> type[Objective]:
    """Write the document's block of Python to a file, and return the class that is in it."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) < 50
    (tmp_path / "mylosses.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("mylosses").SimSiam
    monkeypatch.setitem(REGISTRY, "mylosses:SimSiam", kind)
    return kind


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
    options = small_options(LOSS)
    assert options["simsiam"] == {"width": 16, "dim": 8}
    objective = replace(tiny_config.objective, loss=LOSS, options=options)
    run = train(replace(tiny_config, objective=objective), toy_source, tmp_path / "run", console=QUIET)
    lines = read_lines(run.path / "metrics.jsonl")
    assert all(-1 <= line["simsiam_loss"] <= 1 for line in lines)
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["clip_loss"] + 0.5 * lines[-1]["simsiam_loss"])
    assert any(name.startswith("objective.simsiam.predictor") for name in weights(run))
    assert run.config.objective.loss == LOSS
