"""The model as composition: the towers and heads that an objective's embeddings ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from openslip.config import EMBEDDINGS, ModelConfig, ViewsConfig
from openslip.errors import ConfigError, did_you_mean
from openslip.models.dropping import Rows, laid_out
from openslip.models.heads import SslHead, projection
from openslip.models.text import TextTower
from openslip.models.vision import build_image_tower
from openslip.needs import IMAGE, SSL_VIEWS

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
LARGEST_LOGIT_SCALE = math.log(100)

Part = TypeVar("Part")


class Model(nn.Module):
    """Image tower, and as far as `embeddings` needs them: text tower, projections, logit scale, self-supervised head.

    One without embeddings, to encode and not to train, is the image tower alone.

    `features` are the towers' outputs, `heads` turns them into embeddings, calling the model does both. They
    are apart so that the towers can run on parts of a batch while heads and losses see all of it. Embeddings
    are not normalised. Views of one size and one share of dropped tokens go through the image tower as one tensor.
    """

    def __init__(
        self, config: ModelConfig, size: int, embeddings: tuple[str, ...], views: ViewsConfig | None = None
    ) -> None:
        super().__init__()
        self.embeddings = _in_order(embeddings)
        self.views = tuple(name for name in self.embeddings if name != "text")
        drawn = [view for view in (IMAGE, *SSL_VIEWS) if view.name in self.views]
        kinds = {view.name: views.of(view.kind) for view in drawn} if views else {}
        self.image_tower = build_image_tower(config.image, size, kinds.values())
        self.drop_tokens = {name: kind.drop_tokens for name, kind in kinds.items()}
        self.text_tower = TextTower(config.text) if "text" in self.embeddings else None
        width = self.image_tower.width
        self.image_projection = projection(width, config.embed_dim) if "image" in self.embeddings else None
        self.text_projection = self.logit_scale = None
        if self.text_tower is not None:
            self.text_projection = projection(self.text_tower.width, config.embed_dim)
            self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        has_ssl = any(name.startswith("ssl") for name in self.embeddings)
        self.ssl_head = SslHead(width, config.ssl) if has_ssl else None

    @property
    def towers(self) -> list[nn.Module]:
        """The image tower, and the text tower if there is one."""
        return [tower for tower in (self.image_tower, self.text_tower) if tower is not None]

    def forward(
        self,
        views: Mapping[str, Tensor],
        tokens: Tensor | None = None,
        rows: Mapping[str, Rows] | None = None,
    ) -> dict[str, Tensor]:
        """Map views (name → (N, 3, S, S) float, normalised) and tokens (N, L) to embeddings (name → (N, D)).

        Besides one entry per name of `embeddings` there is `logit_scale`, the factor exp(s) itself, where the
        model has text. The self-supervised views may be left out, and may be of another number of rows; the
        embeddings are then without them, or of theirs. `rows`: which rows of the whole batch each view holds, where
        it is not all of them. Raises ConfigError when another input is missing.
        """
        return self.heads(self.features(views, tokens, rows))

    def features(
        self,
        views: Mapping[str, Tensor],
        tokens: Tensor | None = None,
        rows: Mapping[str, Rows] | None = None,
    ) -> dict[str, Tensor]:
        """Return the towers' features, keyed like the embeddings; views are left out as in `forward`."""
        missing, ssl = (
            tuple(name for name in self.views if name not in views),
            tuple(v.name for v in SSL_VIEWS),
        )
        unsupervised = missing == ssl != self.views  # a step without self-supervision
        if (missing and not unsupervised) or (tokens is None and self.text_tower is not None):
            raise ConfigError(
                "The model was called without an input that its embeddings need",
                got=f"views {', '.join(views) or 'none'}; {'no tokens' if tokens is None else 'tokens'}",
                fix=f"This model needs {', '.join(self.embeddings)}.",
            )
        features: dict[str, Tensor] = {}
        for drop, names in self._groups(views):
            parts = [views[name] for name in names]
            images = parts[0] if len(parts) == 1 else torch.cat(parts)
            with laid_out([rows[name] for name in names] if rows else None, images.device):
                joint = self.image_tower(images, drop)
            features.update(zip(names, joint.split([len(part) for part in parts])))
        if self.text_tower is not None and tokens is not None:
            features["text"] = self.text_tower(tokens)
        return {name: features[name] for name in self.embeddings if name in features}

    def _groups(self, views: Mapping[str, Tensor]) -> list[tuple[float, list[str]]]:
        """Return the views that can pass the tower as one tensor, with the share of their tokens to drop.

        Views without a row stay with the others of their group, whose draws then are those of the whole batch.
        """
        groups: dict[tuple[float, torch.Size], list[str]] = {}
        for name in self.views:
            if name in views:
                groups.setdefault((self.drop_tokens.get(name, 0.0), views[name].shape[1:]), []).append(name)
        return [
            (drop, names) for (drop, _), names in groups.items() if any(len(views[name]) for name in names)
        ]

    def heads(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the embeddings of the towers' features, not normalised, and `logit_scale` where there is text.

        The two self-supervised views pass their head one after the other, as in the reference: in training
        each is normalised by its own batch statistics.
        """
        embeddings: dict[str, Tensor] = {}
        for name, feature in features.items():
            if name == "image":
                embeddings[name] = feature @ _need(self.image_projection)
            elif name == "text":
                embeddings[name] = feature @ _need(self.text_projection)
            else:
                embeddings[name] = _need(self.ssl_head)(feature)
        if self.logit_scale is not None:
            embeddings["logit_scale"] = self.logit_scale.exp()
        return embeddings

    def image_features(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, S, S) to the image tower's features (N, width)."""
        return self.image_tower(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """Map images to the space shared with text (N, embed_dim); without one, to the tower's features."""
        features = self.image_tower(images)
        return features if self.image_projection is None else features @ self.image_projection

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, L) to the space shared with images (N, embed_dim)."""
        return _need(self.text_tower)(tokens) @ _need(self.text_projection)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the logit scale's logarithm in [0, ln 100], as after each step of the reference."""
        if self.logit_scale is not None:
            self.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)


def build(
    config: ModelConfig, size: int, embeddings: tuple[str, ...], views: ViewsConfig | None = None
) -> Model:
    """Build the model for images of `size` pixels a side that gives the `embeddings` an objective needs.

    `embeddings` is a subset of image, text, ssl_1, ssl_2. Weights are initialised as in the reference
    implementation, from torch's global generator. `views`: what it is trained on, where that is not all of `size`
    with all tokens; weights and what it gives in evaluation do not depend on it. Raises
    ConfigError on an unknown embedding or a model that cannot be made.
    """
    if not embeddings:
        raise ConfigError("A model needs at least one embedding", fix=f"Known: {', '.join(EMBEDDINGS)}.")
    return Model(config, size, embeddings, views)


def without_weights(config: ModelConfig) -> ModelConfig:
    """Return the same model to be built for weights that are put in afterwards: none are fetched for it."""
    return replace(config, image=replace(config.image, pretrained=False))


def _need(part: Part | None) -> Part:
    if part is None:
        raise ConfigError(
            "The model was asked for an embedding that it was not built for",
            fix="Train it with an objective that needs this embedding, for example 'clip + 1.0 * simclr'.",
        )
    return part


def _in_order(embeddings: tuple[str, ...]) -> tuple[str, ...]:
    for name in embeddings:
        if name not in EMBEDDINGS:
            raise ConfigError(f"There is no embedding '{name}'", fix=did_you_mean(name, EMBEDDINGS))
    return tuple(name for name in EMBEDDINGS if name in embeddings)
