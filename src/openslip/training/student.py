"""What is trained: the model together with its objective."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from openslip.config import Config, ModelConfig
from openslip.data.own_tokenizer import OwnTokenizer
from openslip.data.tokenizer import Tokenizer
from openslip.errors import ConfigError
from openslip.models import Model, build
from openslip.models.inputs import Inputs
from openslip.models.lora import plain_name
from openslip.models.model import Mask
from openslip.models.tuning import frozen_parts, is_frozen
from openslip.needs import TEXT, Need, View, joined
from openslip.objectives import At, Dims, Loss, Objective, Sum
from openslip.training.fixed import FixedModels
from openslip.training.teacher import Teacher

MODEL = "model."
"""Prefix of the names of the model's tensors in a student. Checkpoints leave the prefix out; there the objective's
tensors begin with `objective.`"""

POOLED = ("feature", "embedding")
"""Outputs that are one vector for each row, or are made of one."""
Features = Mapping[tuple[str, Need], Tensor]
"""Outputs for a batch: the student's under "", those of a term's teacher or fixed model under the term's name."""


class Student(nn.Module):
    """A model with its objective: one module, so that a wrapper sees all that is trained.

    fixed: the fixed models that terms of the objective learn from. They are no part of the module.
    """

    def __init__(self, model: Model, objective: Sum, fixed: FixedModels | None = None) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.fixed = fixed or FixedModels({}, {})

    @property
    def views(self) -> tuple[View, ...]:
        """All views that are drawn, each once: the objective's views, then the views for the fixed models alone."""
        return joined([*self.objective.written.views, *self.fixed.views])

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as of any module. Frozen parts stay in evaluation mode, and so do teachers' copies of them."""
        super().train(mode)
        frozen = set(frozen_parts(self.model)) if mode else ()
        if frozen:
            teachers = [o.teacher for o in self.objective.objectives if o.teacher is not None]
            for model in (self.model, *(teacher["model"] for teacher in teachers if "model" in teacher)):
                for name, part in model.named_modules():
                    if name in frozen:
                        part.eval()
        return self

    def forward(self, inputs: Inputs, at: At) -> dict[str, Tensor]:
        """Return the losses of a batch: `loss`, with gradient, and named values without."""
        return self.losses(self.targets(inputs, at) | self.features(inputs, at), at)

    def targets(self, inputs: Inputs, at: At) -> dict[tuple[str, Need], Tensor]:
        """Return the targets of this step: the features by teachers and by fixed models, without gradient."""
        return self.teachers_features(inputs, at) | self.fixed_features(inputs, at)

    def features(self, inputs: Inputs, at: At, *, learning: bool = False) -> dict[tuple[str, Need], Tensor]:
        """Return the towers' outputs for a batch, or for a part of one, for the terms of this step.

        learning: leave out outputs of frozen towers, which have no gradient.
        """
        needs = [need for need in self.objective.needs(at) if need.by == "student"]
        needs = [need for need in needs if self.learns(need)] if learning else needs
        sources = {need: ("", replace(need, out="feature")) for need in needs if need.out in POOLED}
        given = {key: inputs.kept[key] for key in sources.values() if key in inputs.kept}
        asked = [need for need in needs if sources.get(need) not in given]
        found = self.model.features(inputs, asked, self._masks(inputs, at))
        return {("", need): feature for need, feature in found.items()} | given

    def learns(self, need: Need) -> bool:
        """Whether a need's output has a gradient: its tower learns, or the token of its mask does."""
        tower = self.model.text_tower if need.view == TEXT else self.model.image_tower
        return tower is not None and (need.masked or not is_frozen(tower))

    def teachers_features(self, inputs: Inputs, at: At) -> dict[tuple[str, Need], Tensor]:
        """Return the outputs of this step's teachers for a batch, or for a part of one; without gradient."""
        found: dict[tuple[str, Need], Tensor] = {}
        for _, name, objective in self.objective.taking_part(at):
            needs = [n for n in objective.needs_for(objective.config) if n.by == "teacher"]
            if needs:
                student_like = [replace(need, by="student") for need in needs]
                with torch.no_grad():
                    model = objective.teacher["model"]
                    made = model.project(model.features(inputs, student_like), student_like)
                found |= {(name, replace(need, by="teacher")): feature for need, feature in made.items()}
        return found

    def fixed_features(self, inputs: Inputs, at: At) -> dict[tuple[str, Need], Tensor]:
        """Return the outputs of this step's fixed models for a batch, or for a part of one; without gradient."""
        found: dict[tuple[str, Need], Tensor] = {}
        learners: dict[str, dict[str, list[Need]]] = {}
        for _, name, objective in self.objective.taking_part(at):
            needs = [need for need in objective.needs_for(objective.config) if need.by == "fixed"]
            found |= {(name, need): inputs.kept[name, need] for need in needs if (name, need) in inputs.kept}
            needs = [need for need in needs if (name, need) not in inputs.kept]
            if needs:
                learners.setdefault(self.fixed.spec(name), {})[name] = needs
        for spec, terms in learners.items():
            needs = list(dict.fromkeys(need for several in terms.values() for need in several))
            made = self.fixed.models[spec].features(inputs, needs)
            found |= {(name, need): made[need] for name, own in terms.items() for need in own if need in made}
        return found

    def _masks(self, inputs: Inputs, at: At) -> dict[str, Mask]:
        """Return the masks of this step's views, for the rows at hand."""
        masks: dict[str, Mask] = {}
        for _, name, objective in self.objective.taking_part(at):
            hidden = {need.view for need in objective.needs_for(objective.config) if need.masked}
            for view in objective.views_for(objective.config):
                if view.name not in hidden:
                    continue
                if view.name in masks:
                    raise ConfigError(
                        f"Two objectives mask the view {view.name}",
                        got=str(self.objective.written),
                        fix=f"Let the objective {name} draw a view of its own",
                    )
                images, rows = inputs.views[view.name], inputs.rows[view.name]
                patches = math.prod(self.model.image_tower.grid(images.shape[-1]))
                masked, token = objective.masked(view, rows.total, patches, at)
                own = masked[rows.first : rows.first + rows.count]
                masks[view.name] = own.to(images.device), token
        return masks

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
    def after_step(self, at: At, taken: Tensor) -> None:
        """Do what follows an optimiser's step; `taken`, a scalar bool, is false if the step was left out."""
        self.objective.after_step(self.model, at, taken)
        for _, _, objective in self.objective.taking_part(at):
            if objective.teacher is not None:
                objective.teacher.follow(self._followed(objective), objective.momentum(at))

    def _followed(self, objective: Objective) -> dict[str, nn.Module]:
        """Return the modules that an objective's teacher averages: the towers that it needs, and heads."""
        needs = [need for need in objective.needs_for(objective.config) if need.by == "teacher"]
        heads = {name: getattr(objective, name) for name in objective.teacher_heads}
        return ({"model": self.model.only(needs)} if needs else {}) | heads

    def add_teachers(self) -> Student:
        """Give a teacher, an average that starts as the student, to every objective that needs one; return the student.

        Call this after the towers are prepared, and before they are spread. Raises ConfigError if an objective lacks a
        head that its teacher should follow.
        """
        for objective in self.objective.objectives:
            for head in objective.teacher_heads:
                if not isinstance(getattr(objective, head, None), nn.Module):
                    raise ConfigError(
                        f"The objective {objective.name} has no head for its teacher to follow",
                        got=f"teacher_heads {', '.join(objective.teacher_heads)}; no module {head}",
                        fix="List only attributes of the objective that hold modules",
                    )
            if followed := self._followed(objective):
                objective.teacher = Teacher(followed)
        return self


def stored_name(name: str) -> str:
    """Return what checkpoints call a tensor of a `Student`."""
    return plain_name(name.removeprefix(MODEL))


def stored_state(student: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a student by the names that checkpoints give them."""
    return {stored_name(name): tensor for name, tensor in student.state_dict().items()}


def stored_parameters(student: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a student by the names that checkpoints give them."""
    for name, parameter in student.named_parameters():
        yield stored_name(name), parameter


def build_student(
    config: Config,
    loss: Loss,
    *,
    fixed: FixedModels | None = None,
    own_tokenizer: bytes = b"",
    records: int = 0,
) -> Student:
    """Return a student with fresh weights from torch's generator.

    fixed: the fixed models of the loss. own_tokenizer: the bytes of the tokenizer in the weights that will be put in,
    if they are known. records: the number of records that are trained on, if known.
    """
    views = {view.name: config.views.of(view.kind) for view in loss.views}
    scale = loss.logit_scale
    model = build(
        config.model,
        config.views.size,
        loss.needs,
        views,
        **({"logit_scale": scale.initial} if scale else {}),
    )
    dims = Dims.of(model, config.model, records)
    fixed = fixed or FixedModels({}, {})
    dims = _with_tokens(dims, model, config.model, own_tokenizer)
    return Student(model, loss.build(dims, fixed.dims), fixed)


def _with_tokens(dims: Dims, model: Model, config: ModelConfig, own_tokenizer: bytes) -> Dims:
    """Return the sizes with what is known of the tokenizer: CLIP's, or one that the weights bring."""
    if not config.text.tokenizer:
        return replace(dims, special=Tokenizer.special)
    if model.text_tower is None:  # it would hold the other tokenizer, so captions are read by CLIP's
        return replace(dims, special=Tokenizer.special, vocabulary=Tokenizer.vocabulary_size)
    return replace(dims, special=OwnTokenizer(own_tokenizer, 3).special) if own_tokenizer else dims
