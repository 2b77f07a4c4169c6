"""Learning from a fixed model: the student matches the model's embeddings of the same pictures and captions.

`distil` learns from a teacher that the user names, `preserve` from the model that the run starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from openslip.collectives import gather_rows, rank
from openslip.errors import ConfigError
from openslip.needs import IMAGE, SSL_VIEWS, TEXT, Need, View
from openslip.objectives.contrast import row_blocks, unit
from openslip.objectives.objective import At, Curve, Dims, Objective
from openslip.ranges import ABOVE_0, FROM_0

OTHER = View("preserve", kind="image")
"""A view of pictures that need no caption: the pictures of `data.ssl`, if that is set."""


@dataclass(frozen=True, kw_only=True)
class MatchingOptions:
    """The options that `distil` and `preserve` have in common."""

    teacher: str = ""
    """The model to learn from, named as for --init. With preserve, empty is the model that the run starts from."""
    text: bool = False
    """Match the embeddings of texts, too."""
    kl: Annotated[float, FROM_0] = 0.0
    """Weight of the divergence between the fixed model's similarities and the student's; 0: no such term."""
    temperature: Annotated[float, ABOVE_0] = 0.07
    """Temperature of the similarities in that divergence, which divides them."""
    block: Annotated[int, FROM_0] = 1024
    """Rows of similarities held at a time; 0 holds them whole."""


class Matching(Objective):
    """What `distil` and `preserve` have in common: the distance of the student's embeddings from a fixed model's.

    L = mean over rows of ‖x − t‖² = 2 − 2 cos(x, t), with the student's x and the fixed model's t at length 1. With
    `text`, L is the sum of this for images and for texts. Each is in [0, 4], and 2 where x and t are at right angles
    (feature distillation of CLIP-KD; Yang et al. 2024, section 3.2, there as a mean over dimensions).

    With `kl` > 0, kl · KL(q ‖ p) is added (contrastive relational distillation of CLIP-KD). q of the fixed model and p
    of the student are softmaxes over the whole batch of cosines divided by `temperature`. With `text` the cosines are
    those of each image with all texts and of each text with all images, and the two divergences are averaged. Without
    `text` they are those of each image with all other images. Both are means over rows.

    With several views, the loss is the mean over views.
    """

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return, for each view and the text, the student's rows (N, D) as `NAME` and the targets as `NAME_target`."""
        embeddings = {}
        for need, feature in features.items():
            if need.by == "fixed":
                embeddings[f"{need.view}_target"] = feature
            else:
                embeddings[need.view] = self.headed(need, feature)
        return embeddings

    def headed(self, need: Need, feature: Tensor) -> Tensor:
        """Return the student's output in the form that is compared with the fixed model's."""
        return feature

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `NAME_loss` (the same, detached) and `NAME_cos`, the images' mean cosine with their targets.

        With `text` also return `NAME_text_cos`, and with `kl` also `NAME_kl`, which is not multiplied by `kl`.
        """
        config = self.config
        pairs = {
            name: (unit(rows), unit(embeddings[f"{name}_target"]).detach())
            for name, rows in embeddings.items()
            if not name.endswith("_target")
        }
        cosines = {name: (rows * targets).sum(1).mean() for name, (rows, targets) in pairs.items()}
        text = cosines.pop(TEXT, None)
        views = list(cosines)
        cosine = torch.stack(list(cosines.values())).mean()
        loss, values = 2 - 2 * cosine, {"cos": cosine}
        if text is not None:
            loss, values["text_cos"] = loss + 2 - 2 * text, text
        if config.kl:
            kinds = [self._divergence(pairs[name], pairs.get(TEXT)) for name in views]
            values["kl"] = torch.stack(kinds).mean()
            loss = loss + config.kl * values["kl"]
        values["loss"] = loss
        return {"loss": loss} | {f"{self.name}_{key}": value.detach() for key, value in values.items()}

    def _divergence(self, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return KL(q ‖ p), a mean over this process's rows, from the student's and the fixed model's rows of each."""
        block, scale = self.config.block, 1 / self.config.temperature
        if texts is None:
            return divergence(images, images, scale, block=block, apart=True)
        return (
            divergence(images, texts, scale, block=block) + divergence(texts, images, scale, block=block)
        ) / 2


def divergence(
    queries: tuple[Tensor, Tensor],
    keys: tuple[Tensor, Tensor],
    scale: float,
    *,
    block: int = 0,
    apart: bool = False,
) -> Tensor:
    """Return the mean over rows n of KL(qₙ ‖ pₙ) = Σₘ qₙₘ (log qₙₘ − log pₙₘ), a scalar.

    queries, keys: this process's rows (N, D) of the student and (N, E) of the fixed model. pₙ is the softmax over
    the keys m of all processes of scale · queryₙ · keyₘ, for the student; qₙ is the same for the fixed model. apart: a
    row is no key of its own. block: rows whose similarities are held at a time, computed again in backward; 0 holds
    all.
    """
    query, target_query = queries
    key, target_key = map(gather_rows, keys)
    first = rank() * len(query)

    def rows_of(
        part_query: Tensor, key: Tensor, part_target: Tensor, target_key: Tensor, start: int
    ) -> Tensor:
        logits = scale * part_query @ key.T
        target = scale * part_target @ target_key.T
        if apart:
            itself = torch.arange(first + start, first + start + len(part_query), device=logits.device)[
                :, None
            ]
            least = torch.finfo(logits.dtype).min  # its share is zero, and 0 · (-inf) would be NaN
            logits, target = logits.scatter(1, itself, least), target.scatter(1, itself, least)
        given = target.log_softmax(1)
        return (given.exp() * (given - logits.log_softmax(1))).sum()

    parts = row_blocks(len(query), block)
    inputs = [(query[part], key, target_query[part], target_key, part.start) for part in parts]
    if len(parts) == 1:
        return rows_of(*inputs[0]) / len(query)
    # Backward computes a block's similarities once more instead of keeping them.
    sums = [checkpoint(rows_of, *rows, use_reentrant=False, preserve_rng_state=False) for rows in inputs]
    return torch.stack(sums).sum() / len(query)


class Distil(Matching):
    """Matches a teacher's embeddings (see `Matching`)."""

    name = "distil"
    title = "Distillation"
    views = (IMAGE,)
    needs = (Need("image"), Need("image", "embedding", by="fixed"))
    curves = (
        Curve("distil_loss", "Distance from the teacher", "0: the teacher's embeddings", "low"),
        Curve("distil_cos", "Cosine with the teacher", "1: the teacher's embeddings", "high", lambda *_: 0.0),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(MatchingOptions):
        match: Literal["feature", "embedding"] = "feature"
        """Which output of the student matches the teacher's embedding. feature: the tower's feature, through a linear
        head that does not ship. embedding: the student's own embedding, which then lives in the teacher's space."""
        views: Literal["image", "ssl"] = "image"
        """Which views are matched. image: the view that goes with the caption. ssl: both self-supervised views."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        fixed = _fixed(self, dims)
        width = fixed.embed_dim or fixed.width
        self.image_head = self.text_head = None
        if config.match == "feature":
            self.image_head = nn.Linear(dims.width, width)
            self.text_head = nn.Linear(dims.text_width, width) if config.text else None
        elif width != dims.embed_dim:
            raise ConfigError(
                "The student's embeddings cannot be matched with the teacher's: they have different dimensions",
                got=f"model.embed_dim {dims.embed_dim}, the teacher's {width}",
                fix=f"Set --model.embed-dim {width}, or --objective.distil.match feature",
            )

    @classmethod
    def views_for(cls, config: Any) -> tuple[View, ...]:
        return SSL_VIEWS if config.views == "ssl" else (IMAGE,)

    @classmethod
    def needs_for(cls, config: Any) -> tuple[Need, ...]:
        seen = (*(view.name for view in cls.views_for(config)), *([TEXT] if config.text else []))
        own = tuple(Need(name, config.match) for name in seen)
        return (*own, *(Need(name, "embedding", by="fixed") for name in seen))

    @classmethod
    def fixed_model(cls, config: Any) -> str:
        """Return the teacher's spec. Raises ConfigError if none is given."""
        if not config.teacher:
            raise ConfigError(
                "The objective distil has no teacher to learn from",
                got="objective.distil.teacher ''",
                fix="Name a model: --objective.distil.teacher open_clip:ViT-B-32/laion2b_s34b_b79k, or a run folder",
            )
        return config.teacher

    def headed(self, need: Need, feature: Tensor) -> Tensor:
        head = self.text_head if need.view == TEXT else self.image_head
        if head is None:
            return feature
        with torch.autocast(feature.device.type, enabled=False):
            return F.linear(feature.to(head.weight.dtype), head.weight, head.bias)


class Preserve(Matching):
    """Keeps the outputs of the model that the run starts from, for pictures and texts (see `Matching`)."""

    name = "preserve"
    title = "Preservation"
    views = (IMAGE,)
    needs = (Need("image", "embedding"), Need("image", "embedding", by="fixed"))
    curves = (
        Curve("preserve_loss", "Distance from the start", "0: the embeddings of the start", "low"),
        Curve(
            "preserve_cos", "Cosine with the start", "1: the embeddings of the start", "high", lambda *_: 0.0
        ),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(MatchingOptions):
        match: Literal["embedding", "feature"] = "embedding"
        """Which output is preserved: the embedding in the space that images and texts share, or the tower's feature."""
        pictures: Literal["same", "other"] = "same"
        """On which pictures. same: the view that goes with the caption. other: a view of its own, scheduled like the
        self-supervised views. It shows pictures of `data.ssl`, if that is set."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        fixed = _fixed(self, dims)
        if config.match == "embedding" and fixed.embed_dim != dims.embed_dim:
            has = (
                f"embeddings of {fixed.embed_dim}"
                if fixed.embed_dim
                else "an image tower alone, without embeddings"
            )
            raise ConfigError(
                "The embeddings of the start cannot be preserved: the start has none of the size that is trained",
                got=f"model.embed_dim {dims.embed_dim}; the start has {has}",
                fix="Preserve the tower's features: --objective.preserve.match feature",
            )

    @classmethod
    def views_for(cls, config: Any) -> tuple[View, ...]:
        return (OTHER,) if config.pictures == "other" else (IMAGE,)

    @classmethod
    def needs_for(cls, config: Any) -> tuple[Need, ...]:
        seen = (*(view.name for view in cls.views_for(config)), *([TEXT] if config.text else []))
        return tuple(Need(name, config.match, by=by) for by in ("student", "fixed") for name in seen)

    @classmethod
    def fixed_model(cls, config: Any) -> str:
        return config.teacher  # empty: the model that the run starts from


def _fixed(objective: Matching, dims: Dims) -> Dims:
    """Return the sizes of the fixed model. Raises ConfigError if they are not known."""
    if dims.fixed is None:
        raise ConfigError(
            f"The objective {objective.name} has no fixed model to learn from",
            fix="Train it with openslip.train, which reads the model",
        )
    return dims.fixed
