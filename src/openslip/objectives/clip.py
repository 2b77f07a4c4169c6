"""CLIP: images and texts find each other in the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.collectives import gather_rows, rank, world
from openslip.errors import ConfigError
from openslip.needs import IMAGE, LABELS, LOGIT_SCALE, RECORDS, TEXT, Need
from openslip.objectives.contrast import contrast, groups_of, unit
from openslip.objectives.estimates import averaged, gamma_at, moved
from openslip.objectives.objective import At, Curve, Dims, LogitScale, Objective, mean_over_captions
from openslip.objectives.relations import Related, numbered, packed, related
from openslip.ranges import ABOVE_0, BELOW_1, FROM_0, FROM_1, Range

if TYPE_CHECKING:
    from openslip.models import Model

IDS = Need(TEXT, "ids")
TEMPERATURES = Range("from 0.01 to 1", 0.01, 1)
"""The logit scale, 1 / the temperature, is kept from 1 to 100."""
PART = Range("above 0 and at most 1", math.nextafter(0, 1), 1)


class Clip(Objective):
    """L_clip = ½ [CE(s·I·Tᵀ) + CE(s·T·Iᵀ)], matching pairs on the diagonal (Radford et al. 2021, fig. 3).

    With `positives` of labels, the target of a row is uniform over all pairs of its class (UniCL; Yang et al. 2022).

    With `smoothing` ε the target is 1 − ε of the target above, and ε uniform over all pairs that are not ignored
    (Szegedy et al. 2016, section 7).

    With several `captions` of each image the loss is the mean of the captions' losses, see `mean_over_captions`.

    With `negatives` global, a pair is contrasted with the negatives of the whole training set. Each record has two
    running estimates of them, u of its image and u of its text (SogCLR; Yuan et al. 2022, algorithm 1. FastCLIP; Wei
    et al. 2024, algorithm 1, which has estimates of both images and texts). With z the logits, N the batch and
    γ of `gamma_at` (equation 2 there),

        g_i = mean over the negatives j of exp(z_ij − z_ii),   u_i ← (1 − γ) u_i + γ g_i,
        gradient = ½ · 1/N Σ_i ∇ g_i / (ε + u_i), of images, and the same of texts.

    This is an estimate of the gradient of ½ · 1/n Σ_i log(ε + G_i), with G_i over all n records. Where a row has
    several positives, the mean of their logits takes the place of z_ii. The value is ½ · 1/N Σ_i log(ε + u_i) + log N,
    in the units of CLIP's own loss.

    `temperature_rule` sets the temperature τ = 1/s. learned: τ follows the same gradient (FastCLIP-v0 of the
    authors' repository). fixed: τ stays (FastCLIP-v1 and SogCLR, whose factor τ on the loss is a weight). divergence:
    F = τ · ½ · 1/n Σ_i log(ε + G_i) + ρ τ is minimised (RGCL-g, FastCLIP-v3). Here F is divided by the τ of the start,
    so that the weight in a sum means the same as elsewhere. dF/dτ is 0 where the weights of the negatives, softmax
    over j of z_ij, are at a Kullback–Leibler divergence of ρ from uniform.
    """

    name = "clip"
    title = "CLIP"
    views = (IMAGE,)
    needs = (Need("image", "embedding"), Need(TEXT, "embedding"), LOGIT_SCALE)
    logit_scale = LogitScale(initial=1 / 0.07, low=1, high=100)
    curves = (
        Curve("clip_loss", "Image–text loss", "lower is better", "low", lambda batch, _: math.log(batch)),
        Curve(
            "clip_acc",
            "Image–text accuracy",
            "right caption found among the batch's",
            "high",
            lambda batch, _: 1 / batch,
        ),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        block: Annotated[int, FROM_0] = 1024
        """Rows of the similarity matrix held at a time; 0 holds it whole."""
        gradient: Literal["exact", "reference"] = "exact"
        """The gradient with several processes. exact: the gradient of one process with the whole batch. reference: the
        gradient of the reference implementation, which treats the gathered embeddings as constants."""
        positives: Literal["pairs", "labels"] = "pairs"
        """What belongs to an image besides its own caption. pairs: nothing. labels: the captions of its class. With a
        source of classes, `labels:…`, training takes labels unless you set this option."""
        equal: Literal["negative", "ignore", "positive"] = "negative"
        """How two pairs count that have equal captions, or that are one record twice in a batch. negative: as any other
        two pairs, as in the paper. ignore: neither right nor wrong. positive: right as well. Where captions
        repeat, as product titles do, negative teaches that an image does not belong to its own caption."""
        captions: Annotated[int, FROM_1] = 1
        """How many captions of each image a step takes, for pictures that have several. The image tower sees the
        picture once, and the text tower reads each caption. A picture with fewer captions has some of them twice."""
        smoothing: Annotated[float, BELOW_1] = 0.0
        """Share of the target that is spread over the whole batch: for captions that often fit other images, too."""
        negatives: Literal["batch", "global"] = "batch"
        """What a pair is told apart from. batch: the other pairs of the batch. global: the pairs of all training data,
        by two running numbers a record (FastCLIP). global is for batches that are small beside the data, and costs
        8 bytes a record."""
        gamma: Annotated[float, PART] = 0.2
        """With global: the batch's share in the running numbers of its records, at the end of the schedule."""
        gamma_schedule: Literal["cosine", "constant"] = "cosine"
        """With global: cosine falls from 1 to `gamma` in the first half of the run. constant is `gamma` throughout,
        for a run that starts from a model."""
        epsilon: Annotated[float, ABOVE_0] = 1e-14
        """With global: added to the running numbers. A pair whose negatives are all farther off than log epsilon gets
        no more gradient. In CLIP's own loss the same number is 1 / (batch - 1)."""
        temperature_rule: Literal["learned", "fixed", "divergence"] = "learned"
        """How the temperature, 1 / the logit scale, changes. learned: it follows the gradient, as in the paper.
        fixed: it stays where it starts. divergence, only with global: it settles where the negatives' weights are
        `rho` from equal (FastCLIP-v3)."""
        temperature: Annotated[float, TEMPERATURES] = 0.07
        """The temperature at the start. A run that starts from a model with a logit scale takes the model's."""
        rho: Annotated[float, FROM_0] = 6.5
        """With divergence: how far the negatives' weights are from equal, in nats. It must be below the logarithm of
        the number of records. A higher rho gives a lower temperature."""

    config: Config
    by_record = ("estimates",)

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        _check(config)
        self.context, self.bits = dims.context, dims.vocabulary.bit_length() or 32
        self.estimates: Tensor | None
        self.now: Tensor | None = None
        wanted = config.negatives == "global"
        if wanted and not dims.records:
            raise ConfigError(
                "The objective clip does not know how many records there are to keep estimates of",
                got="objective.clip.negatives global",
                fix="Train it with openslip.train, which knows the data",
            )
        if config.temperature_rule == "divergence" and config.rho >= (
            farthest := math.log(max(1, dims.records - 1))
        ):
            raise ConfigError(
                "The weights of a record's negatives cannot be that far from equal",
                got=f"objective.clip.rho {config.rho:g}, of {dims.records:,} records",
                fix=f"Choose --objective.clip.rho below {farthest:.3g}, the logarithm of the number of negatives",
            )
        self.register_buffer("estimates", torch.full((dims.records, 2), -math.inf) if wanted else None)

    @classmethod
    def needs_for(cls, config: Config) -> tuple[Need, ...]:
        equal, labels = config.equal != "negative", config.positives == "labels"
        records = equal or config.negatives == "global"
        image, text, scale = cls.needs
        text, ids = (replace(need, captions=config.captions) for need in (text, IDS))
        return (image, text, scale, *[LABELS] * labels, *[ids] * equal, *[RECORDS] * records)

    @classmethod
    def logit_scale_for(cls, config: Config) -> LogitScale:
        """Return the logit scale's limits, with `temperature` as its start."""
        return replace(cast(LogitScale, cls.logit_scale), initial=1 / config.temperature)

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return `image` and `text`, each (N, D), and `logit_scale`: all are the model's.

        If needed, also return `labels` and `records` (N,), and `captions` (N, K) int64, equal for equal captions. With
        several captions `text` is (N, captions, D), and `captions` (N, captions, K).
        """
        (image, text, scale), rest = (needs := self.needs_for(self.config))[:3], needs[3:]
        found = {"image": features[image], "text": features[text], "logit_scale": features[scale]}
        found |= {need.out: features[need] for need in rest if need.out != "ids"}
        for ids in (features[need] for need in rest if need.out == "ids"):
            # Each process has cut its ids to the longest of its rows.
            found["captions"] = packed(F.pad(ids, (0, max(0, self.context - ids.shape[-1]))), self.bits)
        return found

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `clip_loss` (detached; the same but for the rule divergence) and `clip_acc` for a batch.

        `embeddings` holds `image` and `text`, each (N, D) of any length (normalised here); row n of one is
        the match of row n of the other. It also holds `logit_scale`, the scalar s itself, and with `positives` of
        labels `labels` (N,), -1 for a row that matches itself alone. For the other options see `embed`. `clip_acc`, in
        [0, 1], is the share of images whose most similar text of the batch is their own, or is right for them too.
        """
        return mean_over_captions(lambda one: self._loss(one, at), embeddings, self.config.captions)

    def _loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return the values of `loss` for one caption of each image."""
        image, text = unit(embeddings["image"]), unit(embeddings["text"])
        scale, block = embeddings["logit_scale"], self.config.block
        if self.config.temperature_rule == "fixed":
            scale = scale.detach() + 0 * scale  # a gradient of 0, where one is waited for
        if _needs_relations(self.config):
            return self._related_loss(image, text, scale, embeddings, at)
        # The batch's pairs are spread over the processes by rank.
        first = rank() * len(image)
        match = torch.arange(first, first + len(image), device=image.device)
        groups = groups_of(embeddings["labels"]) if self.config.positives == "labels" else None
        if self.config.gradient == "reference" and world() > 1:
            by_image = contrast(image, gather_rows(text).detach(), scale, match, block=block, groups=groups)
            by_text = contrast(text, gather_rows(image).detach(), scale, match, block=block, groups=groups)
            loss = (
                (by_image.rows - by_image.positives).mean() + (by_text.rows - by_text.positives).mean()
            ) / 2
            return _values(loss, by_image.hits)
        logits = contrast(image, gather_rows(text), scale, match, columns=True, block=block, groups=groups)
        # Every process has reduced each text's logits over its own images. Row n's positive is column n's as well.
        # With groups the means over rows and over columns have the same sum, as both are as long as the group.
        columns = cast(Tensor, logits.columns)  # asked for above
        by_text = gather_rows(columns[None]).logsumexp(0) if world() > 1 else columns
        by_text = by_text[first : first + len(text)]
        loss = ((logits.rows - logits.positives).mean() + (by_text - logits.positives).mean()) / 2
        return _values(loss, logits.hits)

    def _related_loss(
        self, image: Tensor, text: Tensor, scale: Tensor, embeddings: Mapping[str, Tensor], at: At
    ) -> dict[str, Tensor]:
        """Return the values of `loss` where some other pairs are no negatives, or negatives come from all the data."""
        config = self.config
        positive = [groups_of(embeddings["labels"])] if config.positives == "labels" else []
        equal = []
        if config.equal != "negative":
            equal = [numbered(gather_rows(embeddings["captions"])), gather_rows(embeddings["records"])]
        found = related(
            image, text, scale,
            positive=positive + equal * (config.equal == "positive"),
            ignored=equal * (config.equal == "ignore"),
            negatives_alone=config.negatives == "global",
            means=config.smoothing > 0,
            block=config.block,
        )  # fmt: skip
        if config.negatives == "global":
            return self._global_loss(found, scale, embeddings["records"], at)
        target = found.positives
        if found.means is not None:
            target = (1 - config.smoothing) * target + config.smoothing * found.means
        return _values((found.softmax - target).mean(), found.hits)

    def _global_loss(self, found: Related, scale: Tensor, records: Tensor, at: At) -> dict[str, Tensor]:
        """Return the values of the global contrastive loss, and leave the records' new estimates for `after_step`."""
        config, count = self.config, len(found.hits)
        first, rows = rank() * count, world() * count
        # log g (2, N). A row without negatives has a finite number here, and its weight is 0.
        negatives = found.negatives.to(found.softmax.dtype)
        batch = found.softmax - negatives.clamp(min=1).log() - found.positives
        with torch.no_grad():
            own = batch.masked_fill(negatives == 0, -math.inf)
            now, self.touched = averaged(own.T, records, config.block)
            gamma = gamma_at(at, config.gamma, config.gamma_schedule)
            self.now = moved(cast(Tensor, self.estimates)[self.touched].to(now.dtype), now, gamma)
            mine = self.now[first : first + count].T
            below = torch.logaddexp(mine, mine.new_tensor(math.log(config.epsilon)))  # log(ε + u)
            weights, value = (own - below).exp(), below.mean()
        estimate = (weights * batch).mean()
        estimate = estimate - estimate.detach()  # its value is 0: only its gradient is wanted
        values = _values(value + math.log(rows) + estimate, found.hits)
        if config.temperature_rule == "divergence":
            tau = 1 / scale.to(estimate.dtype)
            values["loss"] = (tau.detach() * estimate + tau * (value + config.rho)) / config.temperature
        return values

    def after_step(self, model: Model, at: At) -> None:
        """Clamp the logit scale, and keep the new estimates of the batch's records."""
        super().after_step(model, at)
        if self.estimates is not None and self.touched is not None and self.now is not None:
            self.estimates[self.touched] = self.now.to(self.estimates.dtype)


def _needs_relations(config: Clip.Config) -> bool:
    """Return whether the loss is more than CLIP's own, which `contrast` computes faster."""
    return config.negatives == "global" or config.equal != "negative" or config.smoothing > 0


def _check(config: Clip.Config) -> None:
    """Raise ConfigError for options that do not go together."""
    if config.gradient == "reference" and _needs_relations(config):
        raise ConfigError(
            "The gradient of the reference implementation exists only for its own loss",
            got=f"objective.clip.gradient reference, with negatives {config.negatives}, equal {config.equal}, "
            f"smoothing {config.smoothing:g}",
            fix="Leave --objective.clip.gradient out",
        )
    if config.temperature_rule == "divergence" and config.negatives != "global":
        raise ConfigError(
            "The temperature can follow the divergence of the negatives' weights only with global negatives",
            got=f"objective.clip.temperature_rule divergence, negatives {config.negatives}",
            fix="Add --objective.clip.negatives global, or leave --objective.clip.temperature-rule out",
        )
    if config.captions > 1 and config.negatives == "global":
        raise ConfigError(
            "The running numbers of a record have room for one caption in a step",
            got=f"objective.clip.captions {config.captions}, negatives global",
            fix="Leave one of the two out",
        )
    if config.smoothing and config.negatives == "global":
        raise ConfigError(
            "The global contrastive loss has no target that could be smoothed",
            got=f"objective.clip.smoothing {config.smoothing:g}, negatives global",
            fix="Leave one of the two out",
        )


def _values(loss: Tensor, hits: Tensor) -> dict[str, Tensor]:
    return {"loss": loss, "clip_loss": loss.detach(), "clip_acc": hits.float().mean()}
