"""What is trained: the model, and the objective that it is trained by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from openslip.config import Config
from openslip.models import Model, build, without_weights
from openslip.models.inputs import Inputs
from openslip.models.text import VOCABULARY
from openslip.needs import Need
from openslip.objectives import At, Dims, Loss, Sum

MODEL = "model."
"""What the names of the model's tensors begin with here. Checkpoints leave it out: what ships has its own names there,
and what is the objective's begins with `objective.`"""

Features = Mapping[tuple[str, Need], Tensor]
"""What was computed of a batch: by the student under "", by the teacher of a term under the term's name."""


class Student(nn.Module):
    """A model with its objective: one module, so that a wrapper sees all that is trained."""

    def __init__(self, model: Model, objective: Sum) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, inputs: Inputs, at: At) -> dict[str, Tensor]:
        """Return the losses of a batch: `loss`, with gradient, and named values without."""
        return self.losses(self.features(inputs, at), at)

    def features(self, inputs: Inputs, at: At) -> dict[tuple[str, Need], Tensor]:
        """Return what the towers make of a batch, or of a part of one, for the terms of this step."""
        needs = [need for need in self.objective.needs(at) if need.by == "student"]
        return {("", need): feature for need, feature in self.model.features(inputs, needs).items()}

    def losses(self, features: Features, at: At) -> dict[str, Tensor]:
        """Return the losses of the whole batch's features: projections, heads and losses are computed once."""
        needs = [need for need in self.objective.needs(at) if need.by == "student"]
        given = self.model.project({need: f for (by, need), f in features.items() if not by}, needs)
        each = {
            name: given | {need: f for (by, need), f in features.items() if by == name}
            for _, name, _ in self.objective.taking_part(at)
        }
        return self.objective(each, at)

    @torch.no_grad()
    def after_step(self, at: At) -> None:
        """Do what follows an optimiser's step."""
        self.objective.after_step(self.model, at)


def stored_name(name: str) -> str:
    """Return what checkpoints call a tensor of a `Student`."""
    return name.removeprefix(MODEL)


def stored_state(student: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a student by the names that checkpoints give them."""
    return {stored_name(name): tensor for name, tensor in student.state_dict().items()}


def stored_parameters(student: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a student by the names that checkpoints give them."""
    for name, parameter in student.named_parameters():
        yield stored_name(name), parameter


def build_student(config: Config, loss: Loss, *, weights: bool = True) -> Student:
    """Return a student with fresh weights from torch's generator, or timm's where the configuration asks for them.

    weights: false where others are put in afterwards, so that none are fetched.
    """
    shape = config.model if weights else without_weights(config.model)
    views = {view.name: config.views.of(view.kind) for view in loss.views}
    scale = loss.logit_scale
    model = build(
        shape, config.views.size, loss.needs, views, **({"logit_scale": scale.initial} if scale else {})
    )
    text = model.text_tower
    dims = Dims(
        width=model.image_tower.width,
        text_width=text.width if text is not None else 0,
        embed_dim=config.model.embed_dim,
        context=config.model.text.context,
        vocabulary=VOCABULARY,
    )
    return Student(model, loss.build(dims))
