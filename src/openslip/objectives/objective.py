"""The contract of an objective: all that is special about it, in one module of one file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from openslip.config import ModelConfig
from openslip.needs import Need, View

if TYPE_CHECKING:
    from openslip.models import Model


@dataclass(frozen=True)
class At:
    """Where in the run a step is taken. What an objective does there is a function of this and of its state alone."""

    step: int = 0
    """Steps taken before."""
    steps: int = 1
    """Steps of the whole run."""
    seed: int = 0
    """The run's seed."""
    scheduled: bool = True
    """Whether scheduled views are drawn at this step (see `openslip.needs.View`)."""


@dataclass(frozen=True)
class Dims:
    """What the heads of an objective are sized by."""

    width: int
    """Of the image tower's feature."""
    text_width: int = 0
    """Of the text tower's; 0 without one."""
    embed_dim: int = 0
    """Of the space that images and texts share; 0 of a fixed model without one, which embeds images by its feature."""
    context: int = 0
    """Longest caption, in tokens."""
    vocabulary: int = 0
    """Token ids there are."""
    special: tuple[int, ...] = ()
    """Ids of the tokens that are no part of a caption: start, end and padding, as far as they are known."""
    fixed: Dims | None = None
    """Of the fixed model that the objective learns from."""
    records: int = 0
    """Records of the source that is trained on, each counted once; 0 where nothing is trained."""

    @classmethod
    def of(cls, model: Model, config: ModelConfig, records: int = 0) -> Dims:
        """Return the sizes of a model that this configuration describes."""
        text = model.text_tower
        return cls(
            width=model.image_tower.width,
            text_width=text.width if text is not None else 0,
            embed_dim=config.embed_dim,
            context=config.text.context,
            vocabulary=config.text.vocabulary,
            records=records,
        )


@dataclass(frozen=True)
class LogitScale:
    """Where an objective starts the model's logit scale, and between which values the objective keeps it."""

    initial: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A value that an objective reports, as a report draws it."""

    key: str
    """Name of the value among those that `loss` returns, and in metrics.jsonl."""
    title: str
    note: str
    best: Literal["low", "high"]
    chance: Callable[[int, int], float] | None = None
    """Gives the value of a model that knows nothing, from the rows of a batch and those with scheduled views."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of an objective that has none."""


class Objective(nn.Module):
    """What training minimises, with its views, its heads, its state and its options.

    A subclass is one file. `openslip.objectives.REGISTRY` lists ours; docs/objectives.md shows how to write another.
    Parameters are trained with the model's; parameters, buffers and the teacher are saved and resumed with the run, and
    are no part of the model that leaves it.
    """

    name: ClassVar[str]
    """What configuration calls the objective, and what the names of its values begin with."""
    title: ClassVar[str]
    """What people call it."""
    views: ClassVar[tuple[View, ...]]
    """The views that it draws of an image."""
    needs: ClassVar[tuple[Need, ...]]
    """What it is computed from; a need of captions is what makes captions read at all."""
    Config: ClassVar[type] = NoOptions
    """Dataclass of the options: `objective.NAME.…` in configuration. Their ranges stand in the annotations."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    logit_scale: ClassVar[LogitScale | None] = None
    """For an objective that needs the logit scale: the model has one, which others may share."""
    by_record: ClassVar[tuple[str, ...]] = ()
    """Buffers whose row n is of record n (`openslip.needs.RECORDS`). A step changes the rows `touched` alone, and a run
    that starts from this one's weights does not take them over: its records are others."""
    touched: Tensor | None
    """Rows of the buffers `by_record` that `after_step` is going to change, (M,) int64; `loss` says which."""
    teacher_heads: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold heads of which the teacher has its own average."""
    teacher: nn.ModuleDict | None
    """Set by training for an objective that needs features by the teacher (see `openslip.training.teacher`)."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.teacher = None  # of the instance: one of the class would hide the module that is set later
        self.touched = None

    @classmethod
    def views_for(cls, config: Any) -> tuple[View, ...]:
        """Return the views, where they depend on the options."""
        return cls.views

    @classmethod
    def needs_for(cls, config: Any) -> tuple[Need, ...]:
        """Return the needs, where they depend on the options."""
        return cls.needs

    @classmethod
    def logit_scale_for(cls, config: Any) -> LogitScale | None:
        """Return where the logit scale starts, and its limits, where they depend on the options."""
        return cls.logit_scale

    @classmethod
    def fixed_model(cls, config: Any) -> str | None:
        """Return which fixed model the needs `by="fixed"` are of, as `init` names one; "" for what the run starts from.

        None where the objective has no such needs.
        """
        return None

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return embeddings by name: the features of this process's rows, through the objective's heads.

        With micro-batches the towers see a part of the batch at a time, the heads all of it.
        """
        raise NotImplementedError

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, with gradient, and named scalars without one.

        Of several processes each has its share of the batch, equally many rows. The mean of their values is that of
        the whole batch, and the gradient of the mean is its gradient (`openslip.collectives` gathers with gradient).
        """
        raise NotImplementedError

    def forward(self, features: Mapping[Need, Tensor], at: At) -> dict[str, Tensor]:
        """Return the losses of one batch's features."""
        return self.loss(self.embed(features), at)

    def masked(self, view: View, rows: int, patches: int, at: At) -> tuple[Tensor, Tensor]:
        """Return which patches of a masked view are hidden, and the token in their place, for an objective that masks.

        The patches are (rows, patches) bool of the whole batch of all processes, drawn on the CPU from `at` alone, so
        that any share of the batch has the same masks. The token (width,) is a parameter of the objective.
        """
        raise NotImplementedError

    def momentum(self, at: At) -> float:
        """Return the share of itself that the teacher keeps in the step that was just taken."""
        raise NotImplementedError

    def after_step(self, model: Model, at: At) -> None:
        """Do what follows an optimiser's step: clamp the model's scale, move a centre. Without gradient, in place."""
        scale, limits = model.logit_scale, self.logit_scale
        if limits is not None and scale is not None:  # whose logarithm is the parameter
            scale.clamp_(math.log(limits.low), math.log(limits.high))


def mean_over_captions(
    loss: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], embeddings: Mapping[str, Tensor], captions: int
) -> dict[str, Tensor]:
    """Return the means of the values that `loss` has for each of several captions of the images (N, captions, ·).

    `text` and `captions` of the embeddings have captions as their second dimension, where there are several. So each
    caption is told apart from others of its place alone, and never from another of its own image (the multi-text loss
    of LaCLIP; Fan et al. 2023).
    """
    if captions == 1:
        return loss(embeddings)
    own = [name for name in ("text", "captions") if name in embeddings]
    each = [loss({**embeddings, **{name: embeddings[name][:, n] for name in own}}) for n in range(captions)]
    return {key: torch.stack([values[key] for values in each]).mean(0) for key in each[0]}


def cosine_momentum(start: float, at: At) -> float:
    """Return the momentum of a teacher at a step: from `start` to 1 (BYOL; Grill et al. 2020, section 3.3)."""
    return 1 - (1 - start) * (math.cos(math.pi * min(at.step / max(at.steps, 1), 1)) + 1) / 2
