"""A run's loss as far as a report knows it, from what its objectives say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError
from openslip.needs import TEXT, Need, View
from openslip.objectives import Curve, Loss, parse
from openslip.objectives.combine import known


@dataclass(frozen=True)
class KnownLoss:
    """A loss as far as its objectives are known.

    A report imports nothing, so it does not know a user's own class. title: the common name of the loss, or the loss as
    written. terms: the number of terms, known or not. whole: whether all terms are known. views, needs, curves and
    options are those of the known terms.
    """

    title: str
    terms: int
    whole: bool
    views: tuple[View, ...]
    needs: tuple[Need, ...]
    curves: tuple[Curve, ...]
    options: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, config: ObjectiveConfig) -> KnownLoss:
        """Return the known part of a configuration's loss, whatever the configuration says."""
        try:
            loss = parse(config)
            return cls._made_of([loss], loss.title, len(loss.terms), whole=True)
        except ConfigError:
            texts = re.split(r"(?<!\d[eE])\+", config.loss)  # no plus of a number such as 1e+3
            options = {name: values for name, values in config.options.items() if name in known()}
            parts = [_parsed(ObjectiveConfig(loss=text, options=options)) for text in texts]
            return cls._made_of(filter(None, parts), config.loss, len(texts), whole=False)

    @classmethod
    def _made_of(cls, parts: Iterable[Loss], title: str, terms: int, *, whole: bool) -> KnownLoss:
        parts = list(parts)
        return cls(
            title,
            terms,
            whole,
            tuple(dict.fromkeys(view for part in parts for view in part.views)),
            tuple(dict.fromkeys(need for part in parts for need in part.needs if need.by != "fixed")),
            tuple(curve for part in parts for curve in part.curves),
            {name: options for part in parts for name, options in part.options.items()},
        )

    @property
    def shared_space(self) -> bool:
        """Whether images and texts are known to share a space, as searching by words needs."""
        return any(need.view == TEXT and need.out == "embedding" for need in self.needs)

    @property
    def text_tower(self) -> bool:
        """Whether the model has a text tower, as far as is known."""
        outputs = ("feature", "embedding", "tokens")
        return not self.whole or any(need.view == TEXT and need.out in outputs for need in self.needs)


def _parsed(config: ObjectiveConfig) -> Loss | None:
    """Return the loss of a configuration, None if it is invalid or unknown."""
    try:
        return parse(config)
    except ConfigError:
        return None
