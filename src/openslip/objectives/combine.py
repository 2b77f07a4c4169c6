"""Weighted sums of objectives, and the text they are written as: `clip + 1.0 * simclr`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from openslip import toml
from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError, TrainingError, did_you_mean
from openslip.needs import LABELS, OF_RECORDS, TEXT, Need, View, joined
from openslip.objectives.byol import Byol
from openslip.objectives.clip import Clip
from openslip.objectives.dino import Dino
from openslip.objectives.distil import Distil, Preserve
from openslip.objectives.ibot import Ibot
from openslip.objectives.lejepa import LeJepa
from openslip.objectives.mocov3 import MoCoV3
from openslip.objectives.objective import At, Curve, Dims, LogitScale, Objective
from openslip.objectives.siglip import SigLip
from openslip.objectives.simclr import SimClr
from openslip.objectives.words import Words
from openslip.ranges import check_ranges

if TYPE_CHECKING:
    from openslip.models import Model

REGISTRY: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (Clip, SigLip, SimClr, MoCoV3, Byol, Dino, Ibot, LeJepa, Words, Distil, Preserve)
}
"""Name in configuration → objective. A new objective of ours is a file and a name in this line."""


def known() -> dict[str, type[Objective]]:
    """Return the objectives by the name that their options go by: ours, and the user's own ones that are loaded."""
    return {kind.name: kind for kind in REGISTRY.values()}


TITLES = {frozenset({"clip", "simclr"}): "SLIP", frozenset({"clip", "words"}): "SuperCLIP"}
"""Sums that people have a name for."""


@dataclass(frozen=True)
class Term:
    """An objective in a sum: weight, name as written, class, and options of the class's own `Config`."""

    weight: float
    written: str
    kind: type[Objective]
    config: Any

    def __str__(self) -> str:
        return self.written if self.weight == 1 else f"{self.weight!r} * {self.written}"


@dataclass(frozen=True)
class Loss:
    """What a run minimises, as its configuration writes it: `parse` makes it, and it holds no modules yet."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))

    @property
    def title(self) -> str:
        """What people call it: SLIP, or the loss as it is written."""
        if len(self.terms) == 1 and self.terms[0].weight == 1:
            return self.terms[0].kind.title
        return TITLES.get(frozenset(term.kind.name for term in self.terms), str(self))

    @property
    def views(self) -> tuple[View, ...]:
        """All views that are drawn, each once. Views that go with the caption come first."""
        return joined(view for term in self.terms for view in term.kind.views_for(term.config))

    @property
    def needs(self) -> tuple[Need, ...]:
        """The needs of all terms, each once."""
        return tuple(dict.fromkeys(need for term in self.terms for need in term.kind.needs_for(term.config)))

    @property
    def captions(self) -> int:
        """How many captions of each record are read in a step."""
        return max(
            (need.captions for need in self.needs if need.view == TEXT and need not in OF_RECORDS), default=0
        )

    @property
    def captioned(self) -> bool:
        """Whether captions are read."""
        return self.captions > 0

    @property
    def labelled(self) -> bool:
        """Whether the records' classes are read."""
        return LABELS in self.needs

    @property
    def shared_space(self) -> bool:
        """Whether images and texts are trained into one space, as retrieval and zero-shot classification require."""
        own = [need for need in self.needs if need.out == "embedding" and need.by != "fixed"]
        return {need.view == TEXT for need in own} == {True, False}

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The values that its terms report."""
        return tuple(curve for term in self.terms for curve in term.kind.curves)

    @property
    def logit_scale(self) -> LogitScale | None:
        """Where the model's logit scale starts. Raises ConfigError where two terms start it differently."""
        each = {term.kind.name: term.kind.logit_scale_for(term.config) for term in self.terms}
        found = {name: scale for name, scale in each.items() if scale}
        if len({scale.initial for scale in found.values()}) > 1:
            raise ConfigError(
                f"The terms of {str(self)!r} cannot share the model's logit scale",
                got=", ".join(f"{name} starts it at {scale.initial:.3g}" for name, scale in found.items()),
                fix="Train with one of them",
            )
        return next(iter(found.values()), None)

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The complete options of every term: what `ObjectiveConfig.options` holds in a run."""
        return {term.kind.name: toml.to_dict(term.config) for term in self.terms}

    def build(self, dims: Dims, fixed: Mapping[str, Dims] | None = None) -> Sum:
        """Return the modules, freshly initialised from torch's global generator.

        fixed: for each term that learns from a fixed model, the sizes of that model.
        """
        own = {name: dataclasses.replace(dims, fixed=sizes) for name, sizes in (fixed or {}).items()}
        kinds = {term.kind.name: term for term in self.terms}
        return Sum(self, {name: term.kind(term.config, own.get(name, dims)) for name, term in kinds.items()})


class Sum(nn.ModuleDict):
    """Σ weight · objective, over the terms that take part in a step. Built by `Loss.build`.

    Parameters and buffers are named after the term: `simclr.head.layer1.weight`.
    """

    def __init__(self, written: Loss, modules: Mapping[str, Objective]) -> None:
        super().__init__(modules)
        self.written = written

    @property
    def objectives(self) -> list[Objective]:
        """The objectives of all terms."""
        return [cast(Objective, self[term.kind.name]) for term in self.written.terms]

    def taking_part(self, at: At) -> Iterator[tuple[float, str, Any]]:
        """Yield weight, name and objective of the terms of this step.

        The schedule decides: a term with scheduled views takes part on the steps that draw them.
        """
        for term in self.written.terms:
            if at.scheduled or not any(view.scheduled for view in term.kind.views_for(term.config)):
                yield term.weight, term.kind.name, self[term.kind.name]

    def needs(self, at: At) -> tuple[Need, ...]:
        """What the terms of this step need, each once."""
        parts = (module for _, _, module in self.taking_part(at))
        return tuple(dict.fromkeys(need for part in parts for need in part.needs_for(part.config)))

    def forward(self, features: Mapping[str, Mapping[Need, Tensor]], at: At) -> dict[str, Tensor]:
        """Return `loss`, the weighted sum, and every term's own named values, unweighted.

        features: for each term, by name, at least what the term needs; the term gets no more. Raises ConfigError if a
        feature is missing or no term takes part, and TrainingError if a term's return value breaks the contract.
        """
        losses, values = [], {}
        for weight, name, objective in self.taking_part(at):
            given, needs = features[name], objective.needs_for(objective.config)
            missing = [need for need in needs if need not in given]
            if missing:
                raise ConfigError(f"The objective {name} lacks a feature that it needs", got=missing[0])
            result = objective({need: given[need] for need in needs}, at)
            _check_result(name, result)
            losses.append(weight * result["loss"])
            values |= {key: value for key, value in result.items() if key != "loss"}
        if not losses:
            raise ConfigError(f"Nothing is left of {self.written} at step {at.step}")
        return {"loss": torch.stack(losses).sum(), **values}

    @torch.no_grad()
    def after_step(self, model: Model, at: At, taken: Tensor) -> None:
        """Do what every term of the step does after the optimiser's step.

        taken: a scalar bool on the device, false if the step was left out because its loss or gradient was not
        finite. The buffers of the objectives then stay what they were, and nothing waits for the device.
        """
        for _, _, objective in self.taking_part(at):
            teacher = {id(buffer) for buffer in objective.teacher.buffers()} if objective.teacher else set()
            own = {name: buffer for name, buffer in objective.named_buffers() if id(buffer) not in teacher}
            # Buffers by record may be large, so only the rows of the batch are copied.
            rows = {name: objective.touched for name in objective.by_record if objective.touched is not None}
            before = {
                name: buffer[rows[name]] if name in rows else buffer.clone() for name, buffer in own.items()
            }
            objective.after_step(model, at)
            for name, buffer in own.items():
                if name in rows:
                    buffer[rows[name]] = torch.where(taken, buffer[rows[name]], before[name])
                else:
                    buffer.copy_(torch.where(taken, buffer, before[name]))


def _check_result(name: str, result: Any) -> None:
    """Raise TrainingError unless an objective returned `loss` and values of its own, each a tensor of one number."""

    def refuse(what: str, got: object) -> TrainingError:
        fix = (
            f"Let `loss` of the objective return, for example, {{'loss': loss, '{name}_loss': loss.detach()}}"
        )
        return TrainingError(f"The objective {name} {what}", got=got, fix=fix)

    if not isinstance(result, Mapping) or "loss" not in result:
        found = ", ".join(map(str, result)) if isinstance(result, Mapping) else type(result).__name__
        raise refuse("returns no `loss`", found)
    for key, value in result.items():
        if not isinstance(value, Tensor):
            raise refuse(f"returns `{key}`, which is no tensor", type(value).__name__)
        if value.ndim:
            raise refuse(f"returns `{key}`, which is not one number", f"shape {tuple(value.shape)}")
        if key != "loss" and not key.startswith(f"{name}_"):
            raise refuse(f"returns a value whose name does not begin with `{name}_`", key)
    if torch.is_grad_enabled() and not result["loss"].requires_grad:
        raise refuse(
            "returns a `loss` without gradient, from which nothing is learned", "requires_grad False"
        )


_TERM = re.compile(
    r"""\s*(?:(?P<weight>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*\*\s*)?  # a weight, or none for 1
        (?P<name>[^\s:*+]+:[^\s:*+]+|[a-z_./~][\w./~-]*)\s*  # a class of a user's own, or a name
        (?P<plus>\+|$)  # and + where another follows""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def parse(config: ObjectiveConfig) -> Loss:
    """Return the loss that the text `config.loss` names: names joined by `+`, each after an optional weight and `*`.

    `config.options` holds options by the term's name; options of other objectives are left alone. Nothing is imported:
    a user's own class must be loaded already (see `openslip.objectives.own`). Raises ConfigError on a syntax error,
    an unknown or repeated name, options that are unknown or out of range, and options of an unknown objective.
    """
    text = config.loss
    terms: dict[str, Term] = {}
    for weight, name in written_terms(text):
        if name not in REGISTRY:
            raise _unknown(name, text)
        if not math.isfinite(weight):
            raise ConfigError(f"The weight of {name!r} is too large", got=text)
        kind = REGISTRY[name]
        if kind.name in terms:
            raise ConfigError(f"The objective {name!r} appears twice", got=text, fix="Add the weights up.")
        options = config.options.get(kind.name, {})
        own = toml.from_dict(dict(options), kind.Config, kind.Config(), f"objective.{kind.name}.")
        check_ranges(own, f"objective.{kind.name}.")
        terms[kind.name] = Term(weight, name, kind, own)
    for name in config.options:
        if name not in known():
            raise ConfigError(
                f"Unknown configuration section 'objective.{name}'", fix=did_you_mean(name, known())
            )
    return Loss(tuple(terms.values()))


def written_terms(text: str) -> Iterator[tuple[float, str]]:
    """Yield weight and name of each term of a loss, known or not. Raises ConfigError on a syntax error."""
    position, more = 0, True
    while more:
        match = _TERM.match(text, position)
        if match is None:
            where = f" from {text[position:].strip()!r} on" if position else ""
            raise ConfigError(
                f"The objective cannot be understood{where}",
                got=text,
                fix="Write names joined by +, each after an optional weight, as in 'clip + 1.0 * simclr'.",
            )
        yield float(match["weight"] or 1), match["name"]
        position, more = match.end(), match["plus"] == "+"


def _unknown(name: str, text: str) -> ConfigError:
    if ":" in name:
        return ConfigError(
            f"{name!r} is a class of a user's own, whose file is not loaded",
            got=text,
            cause="openslip runs only code that a user names, on the command line or in a file given by --config. It "
            "runs no code that a run or a checkpoint names",
            fix="Give the loss to `slip train` as --objective.loss, or the class to openslip.train as objective=",
        )
    fix = did_you_mean(name.lower(), REGISTRY)
    if "/" in name or "." in name:
        fix = "Write a class of your own with its file or module: path/to/mylosses.py:Mine, or mylosses:Mine"
    return ConfigError(f"Unknown objective {name!r}", got=text, fix=fix)


def complete(config: ObjectiveConfig) -> ObjectiveConfig:
    """Return the configuration with all options of the loss's terms, and none of other objectives."""
    return dataclasses.replace(config, options=parse(config).options)
