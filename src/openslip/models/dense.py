"""Patches in place of whole images: features of each patch, and embeddings in the space shared with text.

A model is trained to embed whole images. How to embed a patch follows from the pooling (`patch_embeddings`). Each patch
passes the rest of the tower as a sequence of one token, so attention returns the patch's own value:
- class token: the last block sees each patch alone. This is MaskCLIP (Zhou, Loy and Dai 2022, section 3.2): the value
  projection of the last attention, without query and key, then its output projection, residual, MLP and norm.
- attention pooling: the pool sees each patch token alone, so the pool's attention does the same.
- mean: the tokens as they are, since the mean of projected tokens is the projected mean. Each token passes a norm after
  the mean, if there is one.
- towers that end in a feature map (convolutions) with mean pooling: each place of the map is a map of one place.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from openslip.errors import EvaluationError
from openslip.models.model import Model
from openslip.models.vision import ImageTower
from openslip.needs import Need

# Shapes: N images, R rows and C columns of patches, D width.


def patch_features(tower: ImageTower, images: Tensor) -> Tensor:
    """Map normalised images (N, 3, S, S) to features of their patches (N, R, C, D).

    For a vision transformer these are the last patch tokens, after the last norm if it comes before pooling. For other
    towers they are the last feature map. Raises EvaluationError for a tower that has neither.
    """
    if tower.has_tokens:
        _, tokens = tower(images, tokens=True)
        return tokens.unflatten(1, tower.grid(images.shape[-1]))
    return _feature_map(tower.trunk, images)


def patch_embeddings(model: Model, images: Tensor) -> Tensor:
    """Map normalised images (N, 3, S, S) to embeddings of their patches (N, R, C, embed_dim), not normalised.

    Raises EvaluationError for a tower whose pooling does not define the embedding of a single patch.
    """
    tower = model.image_tower
    features = _pooled_tokens(tower, images) if tower.has_tokens else _pooled_map(tower, images)
    grid = features.shape[:3]
    need = Need("image", "embedding")
    return model.project({Need("image"): features.flatten(0, 2)}, [need])[need].unflatten(0, grid)


def check_patches(model: Model, *, embeddings: bool) -> None:
    """Raise EvaluationError for a tower without features of patches, or without `embeddings` of patches if asked for.

    Tries an image of the tower's own size, or of 64 pixels if the tower has no fixed size.
    """
    parameter = next(model.parameters())
    side = _side(model.image_tower)
    image = torch.zeros(1, 3, side, side, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        patch_embeddings(model, image) if embeddings else patch_features(model.image_tower, image)


def _pooled_tokens(tower: ImageTower, images: Tensor) -> Tensor:
    """Return the pooled feature of each single patch of a vision transformer, (N, R, C, D)."""
    trunk = cast(VisionTransformer, tower.trunk)
    grid = tower.grid(images.shape[-1])
    if trunk.attn_pool is None and trunk.global_pool == "token":
        x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
        for block in trunk.blocks[:-1]:
            x = block(x)
        patches = x[:, trunk.num_prefix_tokens :]
        pooled = trunk.norm(trunk.blocks[-1](_alone(patches)))[:, 0]
    elif trunk.attn_pool is not None and getattr(trunk.attn_pool, "pos_embed", None) is None:
        _, patches = tower(images, tokens=True)
        pooled = trunk.attn_pool(_alone(patches))
    elif trunk.attn_pool is None and trunk.global_pool == "avg":
        _, patches = tower(images, tokens=True)
        pooled = _alone(patches)[:, 0]
    else:
        raise _unpoolable(trunk)
    return trunk.fc_norm(pooled).unflatten(0, (len(images), *grid))


def _alone(tokens: Tensor) -> Tensor:
    """Return (N, T, D) as sequences of one token, (N T, 1, D)."""
    return tokens.reshape(-1, 1, tokens.shape[-1])


def _pooled_map(tower: ImageTower, images: Tensor) -> Tensor:
    """Return the pooled feature of each single place of a feature map, (N, R, C, D)."""
    trunk = cast(Any, tower.trunk)
    if not hasattr(trunk, "forward_head") or any("Attention" in type(m).__name__ for m in _head(trunk)):
        raise _unpoolable(trunk)
    found = trunk.forward_features(images)
    if found.ndim != 4:
        raise _unpoolable(trunk)
    last = _channels_last(trunk)
    places = _feature_map(trunk, images, found)
    shape = (1, 1, places.shape[-1]) if last else (places.shape[-1], 1, 1)
    pooled = trunk.forward_head(places.reshape(-1, *shape))
    if pooled.ndim != 2:
        raise _unpoolable(trunk)
    return pooled.unflatten(0, places.shape[:3])


def _feature_map(trunk: nn.Module, images: Tensor, found: Tensor | None = None) -> Tensor:
    """Return the last feature map of a timm model that is not a plain vision transformer, (N, R, C, D)."""
    model = cast(Any, trunk)
    if not hasattr(model, "forward_features"):
        raise _without_patches(trunk)
    found = model.forward_features(images) if found is None else found
    if isinstance(found, Tensor) and found.ndim == 4:
        return found if _channels_last(trunk) else found.permute(0, 2, 3, 1)
    if isinstance(found, Tensor) and found.ndim == 3:
        tokens = found[:, getattr(model, "num_prefix_tokens", 0) :]
        side = round(tokens.shape[1] ** 0.5)
        if side * side == tokens.shape[1]:
            return tokens.unflatten(1, (side, side))
    raise _without_patches(trunk)


def _channels_last(trunk: nn.Module) -> bool:
    """Return whether timm's model has feature maps (N, R, C, D); most have (N, D, R, C)."""
    return str(getattr(trunk, "output_fmt", "NCHW")).upper().endswith("NHWC")


def _head(trunk: nn.Module) -> list[nn.Module]:
    """Return the modules after the features, by timm's names for them."""
    names = ("head", "global_pool", "fc", "classifier", "attn_pool")
    parts = [part for name in names if isinstance(part := getattr(trunk, name, None), nn.Module)]
    return [module for part in parts for module in part.modules()]


def _side(tower: ImageTower) -> int:
    size = getattr(getattr(tower.trunk, "patch_embed", None), "img_size", None)
    return int(size[0]) if isinstance(size, tuple) else 64


def _without_patches(trunk: nn.Module) -> EvaluationError:
    return EvaluationError(
        "The image tower has neither patch tokens nor a feature map, so segmentation cannot be measured",
        got=type(trunk).__name__,
        fix="Measure it with zeroshot, linear, knn or finetune.",
    )


def _unpoolable(trunk: nn.Module) -> EvaluationError:
    return EvaluationError(
        "Zero-shot segmentation cannot embed a single patch of this tower in the space shared with text",
        got=f"{type(trunk).__name__}, pooling {getattr(trunk, 'global_pool', 'unknown')!s:.60}",
        cause="It supports class tokens and attention pooling of vision transformers, and means",
        fix="Measure the tower with segmentation, which trains a linear layer on its patches.",
    )
