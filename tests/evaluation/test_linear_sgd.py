"""The paper's linear protocol: equals a loop written by hand, leaves the tower alone, and resumes bit for bit."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import openslip
from finetunings import config_of, pictures
from openslip.classifier import FinetunedClassifier
from openslip.data.labelled import load_labelled
from openslip.evaluation import suite
from openslip.evaluation.finetune import LinearBySgd, LinearRecipe, run
from openslip.evaluation.finetune.data import HEAD, seeded, train_loader
from openslip.evaluation.finetune.data import test_transform as transform_of
from openslip.evaluation.finetune.state import fingerprint
from openslip.evaluation.linear import Linear
from openslip.training.saving import tensors

RECIPE = dataclasses.replace(LinearRecipe(), epochs=4, batch=8)


@pytest.fixture
def data(tmp_path):
    return pictures(tmp_path / "colours")


@pytest.fixture(params=["vit", "test_resnet"])
def encoder(request):
    torch.manual_seed(0)
    return openslip.create(config_of(**({} if request.param == "vit" else {"name": request.param})))


def by_hand(encoder, spec: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The protocol in one loop; return the layer's weight and the logits of the test pictures."""
    train, test = load_labelled(spec, "train"), load_labelled(spec, "test")
    tower, views = encoder.model.image_tower.eval(), encoder.config.views
    with seeded(0, HEAD):
        layer = nn.Linear(tower.width, 3)
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    base = 0.1 * RECIPE.batch / 256
    optimizer = torch.optim.SGD(layer.parameters(), lr=base, momentum=0.9, weight_decay=0)
    options = {"batch": RECIPE.batch, "seed": 0, "epochs": range(RECIPE.epochs), "workers": 0}
    batches = iter(train_loader(train, RECIPE, views, **options))
    for epoch in range(RECIPE.epochs):
        for group in optimizer.param_groups:
            group["lr"] = base * 0.5 * (1 + math.cos(math.pi * epoch / RECIPE.epochs))
        for _ in range(len(train) // RECIPE.batch):
            batch = next(batches)
            with torch.no_grad():
                features = tower(batch.images)
            loss = nn.functional.cross_entropy(layer(features), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    transform = transform_of(RECIPE, views)
    images = torch.stack([transform(Image.open(_open(image))) for image in test.images])
    with torch.no_grad():
        return layer.weight.detach(), layer(tower(images))


def _open(image: Any):
    import io

    return io.BytesIO(image)


def last(folder):
    (found,) = folder.glob("step-*")
    return tensors.read_tensors(found / "model.safetensors")


def test_equals_a_loop_written_by_hand(encoder, data, tmp_path):
    task = LinearBySgd(str(data), tmp_path / "kept", recipe=RECIPE, precision="fp32")
    top1, *_ = task.evaluate(encoder)
    before = fingerprint(encoder.model.image_tower)
    weight, logits = by_hand(encoder, str(data))
    kept = last(tmp_path / "kept")
    torch.testing.assert_close(kept["head.weight"], weight, atol=1e-6, rtol=1e-6)
    labels = load_labelled(str(data), "test").labels
    assert top1.value == pytest.approx(np.mean(logits.argmax(1).numpy() == labels))
    assert (top1.task, top1.metric) == ("linear:colours", "top1")
    assert fingerprint(encoder.model.image_tower) == before
    for name, value in encoder.model.image_tower.state_dict().items():  # BatchNorm's statistics as well
        assert torch.equal(kept[f"tower.{name}"], value)


def test_killed_and_resumed_equals_uninterrupted(encoder, data, tmp_path, monkeypatch):
    def task(name):
        return LinearBySgd(str(data), tmp_path / name, recipe=RECIPE, precision="fp32")

    expected = task("whole").evaluate(encoder)
    step, calls = run.Trainer.step, iter(range(1000))

    def killed_step(trainer, batch):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(run.Trainer, "step", killed_step)
        with pytest.raises(KeyboardInterrupt):
            task("killed").evaluate(encoder)
    found = task("killed").evaluate(encoder)
    assert [(r.metric, r.value) for r in found] == [(r.metric, r.value) for r in expected]
    whole, killed = last(tmp_path / "whole"), last(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_the_paper_s_values_and_no_other_augmentation(data):
    recipe = LinearRecipe()
    assert (recipe.epochs, recipe.lr, recipe.batch, recipe.betas[0], recipe.weight_decay) == (
        90,
        0.1,
        256,
        0.9,
        0,
    )
    assert (recipe.scale, recipe.flip, recipe.crop) == ((0.08, 1.0), 0.5, 224 / 256)
    views = config_of().views
    loader = train_loader(
        load_labelled(str(data), "train"), recipe, views, batch=8, seed=0, epochs=range(1), workers=0
    )
    dataset: Any = loader.dataset
    names = [type(step).__name__ for step in dataset.transform.transforms]
    assert [name.lstrip("Maybe") for name in names] == [
        "RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "ToTensor", "Normalize",
    ]  # fmt: skip


def test_the_preset_chooses_between_both_and_results_tell_them_apart(data):
    ours, paper = (suite.parse_task(f"linear:{data}", preset=preset) for preset in ("auto", "paper"))
    assert isinstance(ours, Linear)
    assert isinstance(paper, LinearBySgd)
    assert (ours.about()["settings"], paper.about()["settings"]) == ("", "preset=paper")
    assert suite.distinct([ours, paper]) == ["linear:colours", "linear:colours [preset=paper]"]
    assert isinstance(suite.parse_task(f"linear:{data}", preset="small-data"), Linear)


def test_the_classifier_is_kept_and_can_be_used(data, tmp_path):
    torch.manual_seed(0)
    encoder = openslip.create(config_of())
    task = LinearBySgd(str(data), tmp_path / "kept", recipe=RECIPE, precision="fp32")
    results = task.evaluate(encoder)
    assert results[0].classifier == str(tmp_path / "kept")
    test = load_labelled(str(data), "test")
    classifier = FinetunedClassifier(tmp_path / "kept")
    _, logits = by_hand(encoder, str(data))
    probabilities = classifier(list(test.images)).numpy()
    assert probabilities == pytest.approx(logits.softmax(1).numpy(), abs=1e-5)
