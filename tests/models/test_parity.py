"""SLIP ViT-S/16 against numbers computed with the reference implementation, on weights that follow from their names."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.config import Config
from openslip.encoder import Encoder
from openslip.evaluation.zeroshot import classifier
from openslip.interop.reference import to_reference
from openslip.models.inputs import Inputs
from openslip.needs import Need
from openslip.objectives import At, parse
from openslip.training.student import Student, build_student, stored_parameters, stored_state

GOLDEN = Path(__file__).parent.parent / "golden"
RULE = runpy.run_path(str(GOLDEN / "named_weights.py"))
EXPECTED = json.loads((GOLDEN / "reference_slip_vits16.json").read_text())["SLIP_VITS16"]


def _losses(out: dict[str, Tensor], temperature: float = 0.1) -> dict[str, Tensor]:
    """The losses as the paper writes them: symmetric cross-entropy, and NT-Xent over both views' embeddings."""
    image, text = F.normalize(out["image"], dim=-1), F.normalize(out["text"], dim=-1)
    first, second = F.normalize(out["ssl_1"], dim=-1), F.normalize(out["ssl_2"], dim=-1)
    n = len(image)
    logits = out["logit_scale"] * image @ text.T
    labels = torch.arange(n)
    clip = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    both = torch.cat([first, second])
    similarities = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    twins = torch.cat([labels + n, labels])
    ssl = F.cross_entropy(similarities, twins)
    return {
        "loss": clip + ssl,
        "clip_loss": clip,
        "clip_acc": 100 * (logits.argmax(1) == labels).float().mean(),
        "ssl_loss": ssl,
        "ssl_acc": 100 * (similarities[:n].argmax(1) == twins[:n]).float().mean(),
    }


@pytest.fixture(scope="module")
def student() -> Student:
    with torch.device("meta"):
        student = build_student(Config(), parse(Config().objective))
    student.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in stored_state(student).items():
            value.copy_(torch.as_tensor(RULE["weight"](to_reference(name), tuple(value.shape))))
    return student


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    arrays = {name: torch.from_numpy(value) for name, value in RULE["inputs"]().items()}
    views = {"image": arrays["image"], "ssl_1": arrays["aug1"], "ssl_2": arrays["aug2"]}
    return Inputs(views, arrays["text"])


def _embeddings(student: Student, inputs: Inputs) -> tuple[dict[str, Tensor], dict[Need, Tensor]]:
    """Return the embeddings of both terms, and the towers' features."""
    needs = student.objective.needs(At())
    features = student.model.features(inputs, needs)
    given, found = student.model.project(features, needs), {}
    for _, _, objective in student.objective.taking_part(At()):
        found |= objective.embed(given)
    return found, features


def test_embeddings_and_losses_in_evaluation_mode(student: Student, inputs: Inputs) -> None:
    student.eval()
    with torch.no_grad():
        out, features = _embeddings(student, inputs)
        own = student(inputs, At())
    found = {"visual": features[Need("image")]}
    found |= {"image_embed": out["image"], "text_embed": out["text"]}
    found |= {"aug1_embed": out["ssl_1"], "aug2_embed": out["ssl_2"]}
    for name, value in found.items():
        first = np.array(EXPECTED[f"eval_{name}"])
        error = np.linalg.norm(value[:, :8].numpy() - first, axis=1) / np.linalg.norm(first, axis=1)
        assert error.max() < 1e-4, name
        if f"eval_{name}_norm" in EXPECTED:
            assert value.norm(dim=1).tolist() == pytest.approx(EXPECTED[f"eval_{name}_norm"], rel=1e-4), name
    for name, value in _losses(out).items():
        assert value.item() == pytest.approx(EXPECTED["eval_loss"][name], abs=1e-5), name
    for name, reference in {"loss": "loss", "clip_loss": "clip_loss", "simclr_loss": "ssl_loss"}.items():
        assert own[name].item() == pytest.approx(EXPECTED["eval_loss"][reference], abs=1e-5), name


def test_losses_and_gradients_in_training_mode(student: Student, inputs: Inputs) -> None:
    buffers = {name: value.clone() for name, value in student.named_buffers()}
    student.train().zero_grad()
    losses = _losses(_embeddings(student, inputs)[0])
    losses["loss"].backward()
    for name, value in student.named_buffers():  # leave the module's fixture as it was
        value.copy_(buffers[name])

    for name, value in losses.items():
        assert value.item() == pytest.approx(EXPECTED["train_loss"][name], abs=1e-5), name
    found = {}
    for name, parameter in stored_parameters(student):
        assert parameter.grad is not None, name
        # Summed in fp64: over 16 million squares a norm in fp32 is itself 1e-3 off.
        found[to_reference(name)] = parameter.grad.double().norm().item()
    assert set(found) == set(EXPECTED["grad_norms"])
    for name, norm in EXPECTED["grad_norms"].items():
        # A bias in front of a BatchNorm has no effect: its gradient is rounding noise around zero.
        assert found[name] == pytest.approx(norm, rel=1e-3, abs=1e-5), name


def _text_of_the_reference(tower, projection: Tensor, tokens: Tensor) -> Tensor:
    """Its formula, written out: all tokens of all blocks, the feature at the largest id."""
    x = tower.token_embedding(tokens) + tower.positional_embedding
    mask = torch.full((tokens.shape[1], tokens.shape[1]), -torch.inf).triu(1)
    for block in tower.blocks:
        q, k, v = (
            part.unflatten(2, (block.heads, -1)).transpose(1, 2)
            for part in block.qkv(block.norm1(x)).chunk(3, dim=2)
        )
        attention = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + mask).softmax(dim=3)
        x = x + block.proj((attention @ v).transpose(1, 2).flatten(2))
        hidden = block.fc1(block.norm2(x))
        x = x + block.fc2(hidden * torch.sigmoid(1.702 * hidden))
    return tower.norm(x)[torch.arange(len(x)), tokens.argmax(dim=1)] @ projection


def test_zero_shot_logits_are_those_of_the_reference_formula(student: Student, inputs: Inputs) -> None:
    names = ["cat", "old barn owl", "airplane"]
    templates = ["a photo of a {}.", "{}", "a blurry photo of the large {}, in a video game."]
    encoder = Encoder(student.model.eval(), Config())
    model: Any = student.model
    with torch.no_grad():
        weights = []
        for name in names:
            made = encoder.tokenize([template.replace("{}", name) for template in templates])
            tokens = F.pad(made, (0, 77 - made.shape[1]))
            texts = _text_of_the_reference(model.text_tower, model.text_projection, tokens)
            mean = F.normalize(texts, dim=1).mean(dim=0)
            weights.append(mean / mean.norm())
        images = F.normalize(student.model.encode_image(inputs.views["image"]), dim=1)
        expected = model.logit_scale.exp() * images @ torch.stack(weights).T
    found = encoder.logit_scale * images.numpy() @ classifier(encoder, names, templates, batch_size=4).T
    assert np.ptp(expected.numpy()) > 0.1
    assert found == pytest.approx(expected.numpy(), abs=1e-4)
