"""Weighted sums of objectives, and the text they are written as: `clip + 1.0 * simclr`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from openslip.config import EMBEDDINGS
from openslip.errors import ConfigError, did_you_mean
from openslip.objectives.clip import Clip
from openslip.objectives.simclr import SimClr


class Objective(Protocol):
    """What training minimises: embeddings in, named losses out."""

    @property
    def name(self) -> str:
        """What the objective is called in configuration, and the prefix of the values it reports."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The embeddings it is computed from, of `EMBEDDINGS`: views, towers and heads follow from them."""
        ...

    def __call__(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, with gradient, and named detached scalars from the embeddings of one batch.

        Each embedding is (N, D) and not normalised; with `text` comes `logit_scale`, a scalar.
        """
        ...


REGISTRY: dict[str, Callable[..., Objective]] = {"clip": Clip, "simclr": SimClr}
"""Name → dataclass of the objective. Its fields that are options of `parse` are filled from there."""


@dataclass(frozen=True)
class Sum:
    """Σ weight · objective, over the terms whose embeddings are there. Built by `parse`."""

    terms: tuple[tuple[float, Objective], ...]

    @property
    def name(self) -> str:
        return str(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """What any of the terms needs, each once, in the order of `EMBEDDINGS`."""
        return tuple(e for e in EMBEDDINGS if any(e in term.needs for _, term in self.terms))

    def __call__(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, the weighted sum, and every term's own named values, unweighted.

        A term whose embeddings are not there takes no part: on steps without self-supervised views (see
        `openslip.data.schedule`) the loss is that of the others. Raises ConfigError when none is left.
        """
        terms = [(weight, term) for weight, term in self.terms if embeddings.keys() >= set(term.needs)]
        if not terms:
            raise ConfigError(
                f"Nothing is left of {self}", got=f"embeddings {', '.join(embeddings) or 'none'}"
            )
        results = [term(embeddings) for _, term in terms]
        losses = [weight * result.pop("loss") for (weight, _), result in zip(terms, results)]
        return {"loss": torch.stack(losses).sum(), **{k: v for result in results for k, v in result.items()}}

    def __str__(self) -> str:
        return " + ".join(str(term) if weight == 1 else f"{weight!r} * {term}" for weight, term in self.terms)


_TERM = re.compile(
    r"""\s*(?:(?P<weight>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*\*\s*)?  # a weight, or none for 1
        (?P<name>[a-z_]\w*)\s*(?P<plus>\+|$)  # a name, and + where another follows""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def parse(text: str, *, temperature: float = 0.1, block: int = 1024, gradient: str = "exact") -> Objective:
    """Build the objective written in `text`: names joined by `+`, each after an optional weight and `*`.

    `temperature` is SimCLR's; `block` is the number of rows of a similarity matrix held at a time (0: all);
    `gradient` is CLIP's, for several processes (see `Clip`).
    `parse(str(objective))` with the same options gives an equal objective. Raises ConfigError on a syntax
    error, an unknown or repeated name, and options out of range.
    """
    options = {"temperature": temperature, "block": block, "gradient": gradient}
    terms: dict[str, tuple[float, Objective]] = {}
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
        name, weight = match["name"], float(match["weight"] or 1)
        if name not in REGISTRY:
            fix = did_you_mean(name.lower(), REGISTRY)
            raise ConfigError(f"Unknown objective {name!r}", got=text, fix=fix)
        if name in terms:
            raise ConfigError(f"The objective {name!r} appears twice", got=text, fix="Add its weights up.")
        if not math.isfinite(weight):
            raise ConfigError(f"The weight of {name!r} is too large", got=text)
        terms[name] = (weight, _create(REGISTRY[name], options))
        position, more = match.end(), match["plus"] == "+"
    (weight, only), *others = terms.values()
    return only if weight == 1 and not others else Sum(tuple(terms.values()))


def _create(factory: Any, options: Mapping[str, Any]) -> Objective:
    fields = {field.name for field in dataclasses.fields(factory)}
    return factory(**{name: value for name, value in options.items() if name in fields})
