"""The contract of an objective: everything special about it is in one module of one file."""

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
    """Where in the run a step is taken. An objective's work in a step is a function of this and of its state alone."""

    step: int = 0
    """Number of earlier steps."""
    steps: int = 1
    """Steps of the whole run."""
    seed: int = 0
    """The run's seed."""
    scheduled: bool = True
    """Whether scheduled views are drawn at this step (see `openslip.needs.View`)."""


@dataclass(frozen=True)
class Dims:
    """The sizes that an objective's heads follow from."""

    width: int
    """Width of the image tower's feature."""
    text_width: int = 0
    """Width of the text tower's feature; 0 without a text tower."""
    embed_dim: int = 0
    """Dimension of the space that images and texts share; 0 for a fixed model without one, whose feature embeds."""
    context: int = 0
    """Longest caption, in tokens."""
    vocabulary: int = 0
    """Number of token ids."""
    special: tuple[int, ...] = ()
    """Ids of the tokens that are no part of a caption: start, end and padding, as far as they are known."""
    fixed: Dims | None = None
    """Sizes of the fixed model that the objective learns from."""
    records: int = 0
    """Records of the source that is trained on, each counted once; 0 if nothing is trained."""

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
    """The value at which an objective starts the model's logit scale, and the limits within which it keeps it."""

    initial: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A value that an objective reports, as a report draws it."""

    key: str
    """Name of the value in what `loss` returns, and in metrics.jsonl."""
    title: str
    note: str
    best: Literal["low", "high"]
    chance: Callable[[int, int], float] | None = None
    """Returns the value of a model that knows nothing, from the rows of a batch and the rows with scheduled views."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of an objective that has none."""


class Objective(nn.Module):
    """What training minimises, with its views, its heads, its state and its options.

    A subclass is one file. `openslip.objectives.REGISTRY` lists ours; docs/objectives.md shows how to write another.
    Parameters are trained with the model's. Parameters, buffers and the teacher are saved and resumed with the run, and
    are no part of the exported model.
    """

    name: ClassVar[str]
    """The objective's name in configuration; the names of its values begin with it."""
    title: ClassVar[str]
    """The objective's name for people."""
    views: ClassVar[tuple[View, ...]]
    """The views that it draws of an image."""
    needs: ClassVar[tuple[Need, ...]]
    """What it is computed from. Captions are read only if an objective needs them."""
    Config: ClassVar[type] = NoOptions
    """Dataclass of the options: `objective.NAME.…` in configuration. The annotations have their ranges."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    logit_scale: ClassVar[LogitScale | None] = None
    """For an objective that needs the logit scale. The model has one scale, which objectives may share."""
    by_record: ClassVar[tuple[str, ...]] = ()
    """Buffers whose row n is of record n (`openslip.needs.RECORDS`). A step changes only the rows `touched`. A run that
    starts from this run's weights does not take the buffers over, because it has other records."""
    touched: Tensor | None
    """Rows of the buffers `by_record` that `after_step` is going to change, (M,) int64; `loss` sets it."""
    teacher_heads: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold the heads that the teacher averages."""
    teacher: nn.ModuleDict | None
    """Training sets it for an objective that needs features by the teacher (see `openslip.training.teacher`)."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.teacher = None  # of the instance: one of the class would hide the module that is set later
        self.touched = None

    @classmethod
    def views_for(cls, config: Any) -> tuple[View, ...]:
        """Return the views; override it if they depend on the options."""
        return cls.views

    @classmethod
    def needs_for(cls, config: Any) -> tuple[Need, ...]:
        """Return the needs; override it if they depend on the options."""
        return cls.needs

    @classmethod
    def logit_scale_for(cls, config: Any) -> LogitScale | None:
        """Return the start and limits of the logit scale; override it if they depend on the options."""
        return cls.logit_scale

    @classmethod
    def fixed_model(cls, config: Any) -> str | None:
        """Return the fixed model of the needs `by="fixed"`, named as for `init`; "" is what the run starts from.

        None if the objective has no such needs.
        """
        return None

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return embeddings by name: the features of this process's rows, through the objective's heads.

        With micro-batches the towers see a part of the batch at a time, and the heads see the whole batch.
        """
        raise NotImplementedError

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, with gradient, and named scalars without gradient.

        Each of several processes has its share of the batch, with equally many rows. The mean of their values is the
        whole batch's value, and its gradient the whole batch's (`openslip.collectives` gathers with gradient).
        """
        raise NotImplementedError

    def forward(self, features: Mapping[Need, Tensor], at: At) -> dict[str, Tensor]:
        """Return the losses of one batch's features; `loss` runs without autocast, so its products stay in fp32."""
        embeddings = self.embed(features)
        with torch.autocast(next(iter(features.values())).device.type, enabled=False):
            return self.loss(embeddings, at)

    def masked(self, view: View, rows: int, patches: int, at: At) -> tuple[Tensor, Tensor]:
        """Return which patches of a masked view are hidden, and the token in their place, for an objective that masks.

        The first is (rows, patches) bool for the whole batch of all processes, drawn on the CPU from `at` alone. So
        the masks are the same however the batch is shared. The token (width,) is a parameter of the objective.
        """
        raise NotImplementedError

    def momentum(self, at: At) -> float:
        """Return the share of its weights that the teacher keeps in the step that was just taken."""
        raise NotImplementedError

    def after_step(self, model: Model, at: At) -> None:
        """Do what follows an optimiser's step, such as to clamp the logit scale or move a centre; without gradient."""
        scale, limits = model.logit_scale, self.logit_scale
        if limits is not None and scale is not None:  # the parameter is the scale's logarithm
            scale.clamp_(math.log(limits.low), math.log(limits.high))


def mean_over_captions(
    loss: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], embeddings: Mapping[str, Tensor], captions: int
) -> dict[str, Tensor]:
    """Return the mean of `loss` over the several captions of each image, (N, captions, ·).

    With several captions, `text` and `captions` of the embeddings have captions as their second dimension. Caption n of
    an image is told apart only from caption n of other images, never from another caption of its own image (the
    multi-text loss of LaCLIP; Fan et al. 2023).
    """
    if captions == 1:
        return loss(embeddings)
    own = [name for name in ("text", "captions") if name in embeddings]
    each = [loss({**embeddings, **{name: embeddings[name][:, n] for name in own}}) for n in range(captions)]
    return {key: torch.stack([values[key] for values in each]).mean(0) for key in each[0]}


def cosine_momentum(start: float, at: At) -> float:
    """Return the momentum of a teacher at a step: from `start` to 1 (BYOL; Grill et al. 2020, section 3.3)."""
    return 1 - (1 - start) * (math.cos(math.pi * min(at.step / max(at.steps, 1), 1)) + 1) / 2
