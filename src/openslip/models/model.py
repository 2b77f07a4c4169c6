"""The model that ships: towers, projections into the space that images and texts share, logit scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from openslip.config import ModelConfig, ViewConfig
from openslip.errors import ConfigError
from openslip.models.dropping import laid_out
from openslip.models.inputs import Inputs
from openslip.models.text import TextTower
from openslip.models.vision import build_image_tower
from openslip.needs import LABELS, OF_RECORDS, RECORDS, TEXT, Need

Part = TypeVar("Part")
Mask = tuple[Tensor, Tensor]
"""The hidden patches of a view, (N, T) bool, and the token that replaces their embeddings, (width,)."""


class Model(nn.Module):
    """An image tower, and optionally a text tower, projections and a logit scale.

    If the configuration says `unprojected`, an image's feature is its embedding, and there is no image projection.

    `features` returns the outputs of the towers for a batch. If memory is short, the towers run on parts of a batch. So
    `project` is a separate step: everything computed from features sees the whole batch. Views of one size and one
    share of dropped tokens go through the image tower as one tensor.

    text: whether there are a text tower, its projection and a logit scale. shared: whether there is an image
    projection. views: name of each view that the model is trained on → how it is drawn, sizes filled in; weights and
    outputs in evaluation do not depend on it. logit_scale: the initial factor on cosine similarities.
    """

    def __init__(
        self,
        config: ModelConfig,
        size: int,
        *,
        text: bool = False,
        shared: bool = False,
        views: Mapping[str, ViewConfig] | None = None,
        logit_scale: float = 1 / 0.07,
    ) -> None:
        super().__init__()
        kinds = views or {}
        self.image_tower = build_image_tower(config.image, size, kinds.values())
        self.drop_tokens = {name: kind.drop_tokens for name, kind in kinds.items()}
        self.text_tower = TextTower(config.text) if text else None
        self.unprojected = config.image.unprojected
        if self.unprojected and (shared or text) and self.image_tower.width != config.embed_dim:
            raise ConfigError(
                "The image tower's feature is to be the embedding, but texts' embeddings have another dimension",
                got=f"feature {self.image_tower.width}, model.embed_dim {config.embed_dim}",
                fix=f"Set model.embed_dim to {self.image_tower.width}, or model.image.unprojected to false.",
            )
        projected = shared and not self.unprojected
        self.image_projection = _projection(self.image_tower.width, config.embed_dim) if projected else None
        biased = projected and config.image.projection_bias
        self.image_projection_bias = nn.Parameter(torch.zeros(config.embed_dim)) if biased else None
        self.text_projection = self.text_projection_bias = self.logit_scale = None
        if self.text_tower is not None:
            self.text_projection = _projection(self.text_tower.width, config.embed_dim)
            if config.text.projection_bias:
                self.text_projection_bias = nn.Parameter(torch.zeros(config.embed_dim))
            self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    @property
    def towers(self) -> list[nn.Module]:
        """The image tower, and the text tower if there is one."""
        return [tower for tower in (self.image_tower, self.text_tower) if tower is not None]

    def only(self, needs: Collection[Need]) -> Model:
        """Return a model with only the parts that the needs require. It shares this model's modules."""
        text = _text_tower(needs)
        embedding = {need.view == TEXT for need in needs if need.out == "embedding"}
        part = Model.__new__(Model)
        nn.Module.__init__(part)
        part.image_tower, part.drop_tokens = self.image_tower, {}
        part.text_tower = self.text_tower if text else None
        part.image_projection = self.image_projection if False in embedding else None
        part.image_projection_bias = self.image_projection_bias if False in embedding else None
        part.unprojected = self.unprojected
        part.text_projection = self.text_projection if True in embedding else None
        part.text_projection_bias = self.text_projection_bias if True in embedding else None
        part.logit_scale = None
        return part

    def forward(self, inputs: Inputs, needs: Collection[Need]) -> dict[Need, Tensor]:
        """Return the outputs that `needs` name: `features`, then `project`."""
        return self.project(self.features(inputs, needs), needs)

    def features(
        self, inputs: Inputs, needs: Collection[Need], masks: Mapping[str, Mask] | None = None
    ) -> dict[Need, Tensor]:
        """Return the outputs of the towers for a batch, as far as `needs` are computed from them.

        The keys are needs of `feature`, `tokens`, `ids`, `labels` and `records`; `project` makes an `embedding` of a
        feature. masks: of each view that is needed masked. Raises ConfigError if the batch lacks a view, a mask, the
        captions, the labels or the records' numbers, or if a tower has no patch tokens.
        """
        missing = [need for need in needs if not _is_in(inputs, need)]
        if missing:
            names = dict.fromkeys(need.out if need in OF_RECORDS else need.view for need in needs)
            raise ConfigError(
                "The model was called without an input that it needs",
                got=f"views {', '.join(inputs.views) or 'none'}; {'no tokens' if inputs.tokens is None else 'tokens'}",
                fix=f"It needs {', '.join(names)}.",
            )
        found: dict[Need, Tensor] = {}
        masks = masks or {}
        for (drop, _, tokens, token), names in self._groups(inputs, needs, masks).items():
            parts = [inputs.views[name] for name in names]
            images = parts[0] if len(parts) == 1 else torch.cat(parts)
            hidden = (
                {}
                if token is None
                else {"masked": torch.cat([masks[n][0] for n in names]), "mask_token": token}
            )
            with laid_out([inputs.rows[name] for name in names], images.device):
                joint = self.image_tower(images, drop, tokens=tokens, **hidden)
            outputs: dict[Literal["feature", "tokens"], Tensor] = (
                {"feature": joint[0], "tokens": joint[1]} if tokens else {"feature": joint}
            )
            for out, rows in outputs.items():
                pieces = rows.split([len(part) for part in parts])
                found |= {
                    Need(name, out, masked=token is not None): piece for name, piece in zip(names, pieces)
                }
        of_text = {need.out for need in needs if need.view == TEXT}
        if inputs.tokens is not None:
            found |= self._text_features(inputs.tokens, [need for need in needs if need.view == TEXT])
        if inputs.labels is not None and "labels" in of_text:
            found[LABELS] = inputs.labels
        if inputs.records is not None and "records" in of_text:
            found[RECORDS] = inputs.records
        return found

    def _text_features(self, tokens: Tensor, needs: Collection[Need]) -> dict[Need, Tensor]:
        """Return the needs of text from the tokens of captions, (N, L) or (N, captions, L): ids, and features.

        Raises ConfigError if a row has fewer captions than are needed.
        """
        every = tokens if tokens.ndim == 3 else tokens[:, None]
        most = max((need.captions for need in needs), default=1)
        if most > every.shape[1]:
            raise ConfigError(
                "The model was called with fewer captions of each row than it needs",
                got=f"tokens {tuple(tokens.shape)}",
                fix=f"It needs {most} of each row: tokens ({len(tokens)}, {most}, L).",
            )
        found: dict[Need, Tensor] = {}
        pooled = [need.captions for need in needs if need.out in ("feature", "embedding")]
        if pooled:
            some = every[:, : max(pooled)]
            features = _need(self.text_tower)(some.flatten(0, 1)).unflatten(0, some.shape[:2])
            found |= {Need(TEXT, captions=n): _first(features, n) for n in dict.fromkeys(pooled)}
        return found | {need: _first(every, need.captions) for need in needs if need.out == "ids"}

    def _groups(
        self, inputs: Inputs, needs: Collection[Need], masks: Mapping[str, Mask]
    ) -> dict[tuple[float, torch.Size, bool, Tensor | None], list[str]]:
        """Return the views that can pass the tower as one tensor, by what they have in common.

        The key is the share of tokens to drop, the size, whether patch tokens are needed, and the token of a mask.
        Views without a row stay in their group, so that the group's draws are those of the whole batch.
        """
        groups: dict[tuple[float, torch.Size, bool, Tensor | None], list[str]] = {}
        for name, view in inputs.views.items():
            for masked in (False, True):
                outs = {need.out for need in needs if (need.view, need.masked) == (name, masked)}
                if outs:
                    token = masks[name][1] if masked else None
                    key = (self.drop_tokens.get(name, 0.0), view.shape[1:], "tokens" in outs, token)
                    groups.setdefault(key, []).append(name)
        return {key: names for key, names in groups.items() if any(len(inputs.views[name]) for name in names)}

    def project(self, features: Mapping[Need, Tensor], needs: Collection[Need]) -> dict[Need, Tensor]:
        """Return the needs that follow from these features: embeddings (not normalised), and the logit scale."""
        found = {need: features[need] for need in needs if need in features}
        for need in needs:
            source = replace(need, out="feature")
            if need.out == "embedding" and source in features:
                embed = self._embed_text if need.view == TEXT else self._embed_image
                found[need] = embed(features[source])
            elif need.out == "logit_scale":
                found[need] = _need(self.logit_scale).exp()
        return found

    def image_features(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, S, S) to the image tower's features (N, width)."""
        return self.image_tower(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """Map normalised images to the space shared with text (N, embed_dim), or without one to features (N, width)."""
        return self.project_image(self.image_tower(images))

    def project_image(self, features: Tensor) -> Tensor:
        """Map features (N, width) to the space shared with text (N, embed_dim). Without one, return the features."""
        return features if self.image_projection is None else self._embed_image(features)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, L) to the space shared with images (N, embed_dim)."""
        return self._embed_text(_need(self.text_tower)(tokens))

    def _embed_image(self, features: Tensor) -> Tensor:
        if self.unprojected:
            return features
        embeddings = features @ _need(self.image_projection)
        return embeddings if self.image_projection_bias is None else embeddings + self.image_projection_bias

    def _embed_text(self, features: Tensor) -> Tensor:
        embeddings = features @ _need(self.text_projection)
        return embeddings if self.text_projection_bias is None else embeddings + self.text_projection_bias


def build(
    config: ModelConfig,
    size: int,
    needs: Collection[Need],
    views: Mapping[str, ViewConfig] | None = None,
    logit_scale: float = 1 / 0.07,
) -> Model:
    """Build the model that can compute an objective's needs, for images of `size` pixels a side.

    Weights are initialised as in the reference implementation, from torch's global generator. views, logit_scale: see
    `Model`. Raises ConfigError for a model that cannot be made, or that cannot compute the needs.
    """
    needs = [need for need in needs if need.by != "fixed"]  # another model computes these
    model = Model(
        config,
        size,
        text=_text_tower(needs),
        shared=any(need.view != TEXT and need.out == "embedding" for need in needs),
        views=views,
        logit_scale=logit_scale,
    )
    for need in needs:
        if need.masked or (need.out == "tokens" and need.view != TEXT):
            dropped = model.drop_tokens.get(need.view, 0.0)
            model.image_tower.check_use(dropped, tokens=need.out == "tokens", masked=need.masked)
    return model


def _text_tower(needs: Collection[Need]) -> bool:
    """Return whether the needs require the text tower or its logit scale; ids, labels and records do not."""
    return any(need.view == TEXT and need.out != "ids" and need not in OF_RECORDS for need in needs)


def _projection(width: int, dim: int) -> nn.Parameter:
    """Return a (width, dim) matrix for `features @ projection`, drawn as in CLIP: normal, std width^-½."""
    return nn.Parameter(torch.randn(width, dim) * width**-0.5)


def _first(rows: Tensor, captions: int) -> Tensor:
    """Return the rows of the first captions, (N, captions, ·); of one caption (N, ·)."""
    return rows[:, 0] if captions == 1 else rows[:, :captions]


def _is_in(inputs: Inputs, need: Need) -> bool:
    if need in OF_RECORDS:
        return (inputs.labels if need == LABELS else inputs.records) is not None
    if need.out == "logit_scale":
        return True
    return inputs.tokens is not None if need.view == TEXT else need.view in inputs.views


def _need(part: Part | None) -> Part:
    if part is None:
        raise ConfigError(
            "The model was asked for an embedding that it was not built for",
            fix="Train it with an objective that needs this embedding, for example 'clip + 1.0 * simclr'.",
        )
    return part
