"""The image tower: timm's models. The last block computes only the token that is used."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.weight_init import trunc_normal_
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from openslip.config import Config, ImageTowerConfig, ViewConfig
from openslip.errors import ConfigError, did_you_mean
from openslip.models.blank import forget_weights, on_meta, without_initialising
from openslip.models.dropping import leave_out_tokens, replace_drop_path
from openslip.models.lora import split_linear
from openslip.models.text import ACTIVATIONS

POOLS = {"token": "token", "mean": "avg", "attention": "map"}
"""timm's names of the poolings of a vision transformer, by our names."""

# Shapes: N images, T tokens (class token first), D width, H heads, K width of a head.


class ImageTower(nn.Module):
    """A timm model without classifier: maps each image to a feature, and to patch tokens if the model has them.

    `trunk` is the timm module, `width` the dimension of the feature. If a plain vision transformer's feature is its
    class token, the trunk's last block is a `ClassTokenBlock`: same parameters and names, same result, less work. Only
    timm's VisionTransformer has patch tokens (`has_tokens`) that can be returned, left out, or hidden.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.width = width
        # A subclass that overrides forward is called as it is.
        self.has_tokens = isinstance(trunk, VisionTransformer) and all(
            getattr(type(trunk), name) is getattr(VisionTransformer, name)
            for name in ("forward", "forward_features")
        )
        replace_drop_path(trunk)
        if _ends_in_class_token(trunk):
            trunk = cast(VisionTransformer, trunk)
            trunk.blocks[-1] = ClassTokenBlock(cast(Block, trunk.blocks[-1]))

    def forward(
        self,
        images: Tensor,
        drop_tokens: float = 0.0,
        *,
        tokens: bool = False,
        masked: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Map normalised images (N, 3, S, S) to features (N, width); with `tokens`, to a pair.

        The pair is the features and the patch tokens (N, T, width): timm's `forward_features` without class and
        register tokens. The tokens have passed the trunk's last norm, unless the trunk norms its pooled feature.

        In training, a share `drop_tokens` of each image's patch tokens, drawn at random, does not enter the blocks
        (FLIP; Li et al. 2023, section 3). T · (1 - drop_tokens) tokens are kept, rounded down, but at least one.

        Where `masked` (N, T) is True, `mask_token` (width,) replaces the patch's embedding, in training or not, and the
        patch's position is added to it (BEiT; Bao et al. 2022, section 2.3). T counts the patches of `grid` row by row.
        The mask token is the caller's parameter, and gets its gradient.

        Raises ConfigError if a tower without patch tokens is asked for any of this, if left-out tokens are masked or
        returned, and if `masked` or `mask_token` has another shape.
        """
        if drop_tokens or tokens or masked is not None:
            self.check_use(drop_tokens, tokens=tokens, masked=masked is not None)
        if not self.has_tokens:
            return self.trunk(images)
        # timm's forward and forward_features, with what they do not offer.
        trunk = cast(VisionTransformer, self.trunk)
        x = trunk.patch_embed(images)
        if masked is not None:
            x = _hide(x, masked, mask_token)
        x = trunk._pos_embed(x)
        if self.training and drop_tokens:
            x = leave_out_tokens(x, drop_tokens, prefix=trunk.num_prefix_tokens)
        x = trunk.norm_pre(x)
        blocks: list[Callable[[Tensor], Tensor]] = list(trunk.blocks)
        if tokens and isinstance(blocks[-1], ClassTokenBlock):
            blocks[-1] = partial(blocks[-1], tokens=True)
        if trunk.grad_checkpointing:
            x = checkpoint_seq(blocks, x)
        else:
            for block in blocks:
                x = block(x)
        x = trunk.norm(x)
        feature = trunk.forward_head(x)
        return (feature, x[:, trunk.num_prefix_tokens :]) if tokens else feature

    def grid(self, size: int) -> tuple[int, int]:
        """Return the rows and columns of patches in images of `size` pixels a side; their product is T.

        Raises ConfigError if the tower has no patch tokens.
        """
        if not self.has_tokens:
            raise self._without_tokens()
        rows, columns = cast(Any, self.trunk).patch_embed.dynamic_feat_size((size, size))
        return int(rows), int(columns)

    def check_use(self, drop_tokens: float, *, tokens: bool, masked: bool) -> None:
        """Raise ConfigError, as `forward` does, if a view's patch tokens cannot be left out, returned or masked."""
        if not self.has_tokens and (self.training or tokens or masked):
            raise self._without_tokens()
        if drop_tokens and (tokens or masked):
            raise ConfigError(
                f"Patch tokens cannot be left out of a view whose patch tokens are {'used' if tokens else 'masked'}",
                got=f"a share of {drop_tokens:g} to leave out",
                fix="Set drop_tokens of this view to 0 (views.image.drop_tokens, views.ssl.drop_tokens).",
            )

    def _without_tokens(self) -> ConfigError:
        return ConfigError(
            "The image tower has no patch tokens that could be used, masked or left out",
            got=type(self.trunk).__name__,
            fix="Use 'vit', or a model that timm builds as a VisionTransformer, for example 'vit_small_patch16_224'.",
        )


def _hide(x: Tensor, masked: Tensor, mask_token: Tensor | None) -> Tensor:
    """Replace masked embeddings of x, (N, T, D) or (N, rows, columns, D), by the mask token."""
    n, *grid, width = x.shape
    shape = None if mask_token is None else tuple(mask_token.shape)
    if masked.shape != (n, math.prod(grid)) or mask_token is None or shape != (width,):
        raise ConfigError(
            "The mask does not fit the image tower's patches",
            got=f"masked {tuple(masked.shape)}, mask token {shape}; the patches' embeddings are {(n, *grid, width)}",
            fix="Draw one value for each patch of `ImageTower.grid(size)`, and pass a token of the tower's width.",
        )
    return torch.where(masked.view(n, *grid, 1), mask_token.to(x.dtype), x)


class ClassTokenBlock(Block):
    """A timm `Block` that returns the class token alone: (N, T, D) to (N, 1, D); with `tokens`, all tokens.

    Keys and values still come from all tokens. Queries, attention output and MLP are computed for the first token
    only, which is exact if nothing after the last block uses the others. The submodules are the block's own, so
    parameter names, weight decay rules and stochastic depth stay as in timm. The trunk's `forward_features` therefore
    returns the class token alone too.
    """

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)  # timm's would make the submodules
        self.norm1, self.attn = block.norm1, block.attn
        self.ls1, self.drop_path1 = block.ls1, block.drop_path1
        self.norm2, self.mlp = block.norm2, block.mlp
        self.ls2, self.drop_path2 = block.ls2, block.drop_path2

    def forward(self, x_NTD: Tensor, *, tokens: bool = False) -> Tensor:  # type: ignore[bad-override]
        if tokens:
            return super().forward(x_NTD)
        x_N1D = x_NTD[:, :1]
        x_N1D = x_N1D + self.drop_path1(self.ls1(self._attend(self.norm1(x_NTD))))
        return x_N1D + self.drop_path2(self.ls2(self.mlp(self.norm2(x_N1D))))

    def _attend(self, x_NTD: Tensor) -> Tensor:
        """Apply the block's attention with the class token as the only query: (N, T, D) to (N, 1, D)."""
        attn = cast(Any, self.attn)
        n, t, _ = x_NTD.shape
        heads, total = attn.num_heads, attn.qkv.out_features // 3
        query, key_value = split_linear(attn.qkv, [total, 2 * total])
        q_NH1K = query(x_NTD[:, :1]).view(n, 1, heads, -1).transpose(1, 2)
        kv = key_value(x_NTD).view(n, t, 2, heads, -1).permute(2, 0, 3, 1, 4)
        k_NHTK, v_NHTK = kv.unbind(0)
        dropout = attn.attn_drop.p if self.training else 0.0
        q_NH1K, k_NHTK = attn.q_norm(q_NH1K), attn.k_norm(k_NHTK)
        y_NH1K = F.scaled_dot_product_attention(q_NH1K, k_NHTK, v_NHTK, dropout_p=dropout)
        return attn.proj_drop(attn.proj(attn.norm(y_NH1K.transpose(1, 2).reshape(n, 1, total))))


def build_image_tower(config: ImageTowerConfig, size: int, views: Collection[ViewConfig] = ()) -> ImageTower:
    """Build the image tower for images of `size` pixels a side.

    `vit` is timm's vision transformer (learned positions, pre-norm blocks) as the configuration describes it; by
    default the reference's, with a class token and GELU. Any other name is a timm model as timm defines it.
    views: the views to train on, sizes filled in; by default images of `size` with all their tokens. For other sizes
    position embeddings are resampled (bicubic, antialiased); convolutions take images of any size.

    Under `torch.device("meta")` parameters take no memory, and `blank.fill` gives the tower its weights.

    Raises ConfigError for an unknown name, or a combination of values that makes no model.
    """
    others = {view.size for view in views} - {size}
    if config.name == "vit":
        tower = ImageTower(_vit(config, size, others), config.width)
    else:
        trunk = _timm_model(config, size, others)
        tower = ImageTower(trunk, getattr(trunk, "head_hidden_size", None) or cast(int, trunk.num_features))
    if any(view.drop_tokens for view in views) and not tower.has_tokens:
        raise ConfigError(
            f"The image tower '{config.name}' has no patch tokens to leave out",
            fix="Set views.image.drop_tokens and views.ssl.drop_tokens to 0, or use a vision transformer.",
        )
    _try_sizes(tower, others, config.name)
    return tower


def _try_sizes(tower: ImageTower, sizes: Collection[int], name: str) -> None:
    """Raise ConfigError if the tower does not take images of these sizes."""
    if not sizes:
        return
    tried = copy.deepcopy(tower).to("meta") if on_meta() else tower
    for side in sizes:
        try:
            with torch.no_grad():
                tried.eval()(torch.zeros(1, 3, side, side))
        except (AssertionError, TypeError, ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, NotImplementedError) and on_meta():
                continue  # the tower reads values, and has none yet
            raise ConfigError(
                f"The image tower '{name}' does not take views of {side} pixels beside those of views.size",
                cause=f"timm says: {str(error) or type(error).__name__}",
                fix="Leave views.image.size and views.ssl.size at 0, or choose another tower.",
            ) from error
    tower.train()


def _vit(config: ImageTowerConfig, size: int, others: Collection[int]) -> VisionTransformer:
    if config.depth < 1 or config.heads < 1 or config.width < 1 or config.width % config.heads:
        raise ConfigError(
            "The image tower needs a depth of at least 1 and a width that its heads divide",
            got=f"width {config.width}, depth {config.depth}, heads {config.heads}",
            fix="Change model.image.width, model.image.depth or model.image.heads.",
        )
    if config.pool == "token" and not config.class_tokens:
        raise ConfigError(
            "The image tower's feature is to be its class token, but the tower has none",
            got="model.image.pool token, model.image.class_tokens 0",
            fix="Set model.image.class_tokens to 1, or model.image.pool to mean or attention.",
        )
    for side in (size, *others):
        if config.patch < 1 or side < config.patch or side % config.patch:
            raise ConfigError(
                "The side of the views is not a multiple of the image tower's patch",
                got=f"views of {side} pixels, model.image.patch {config.patch}",
                fix="Change views.size, views.image.size, views.ssl.size or model.image.patch.",
            )
    vit = VisionTransformer(
        img_size=size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        # timm rounds width times ratio down. Half a unit more keeps the result right.
        mlp_ratio=(config.mlp + 0.5) / config.width if config.mlp else 4.0,
        num_classes=0,
        global_pool=cast(Any, POOLS[config.pool]),
        class_token=bool(config.class_tokens),
        pre_norm=config.pre_norm,
        drop_path_rate=config.drop_path,
        norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
        act_layer=ACTIVATIONS[config.activation],
        dynamic_img_size=bool(others),
    )
    if vit.cls_token is not None:
        # The reference's timm (0.5) drew the class token like the positions; timm's present version starts near zero.
        trunc_normal_(vit.cls_token, std=0.02)
    return vit


def _timm_model(config: ImageTowerConfig, size: int, others: Collection[int]) -> nn.Module:
    if not (config.name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or timm.is_model(config.name)):
        known = ["vit", *timm.list_models()]
        raise ConfigError(f"timm has no image tower '{config.name}'", fix=did_you_mean(config.name, known))
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    if config.drop_path > 0:
        options["drop_path_rate"] = config.drop_path
    # Convolutional towers take images of any size, and have no option img_size.
    attempts: list[dict[str, Any]] = [{"img_size": size}, {}]
    if others:
        attempts.insert(0, {"img_size": size, "dynamic_img_size": True})
    try:
        while True:
            sized = attempts.pop(0)
            try:
                if not on_meta():
                    return timm.create_model(config.name, **sized, **options)
                with without_initialising():
                    trunk = timm.create_model(config.name, **sized, **options)
                forget_weights(trunk)
                return trunk
            except TypeError as error:
                if "img_size" not in str(error) or not attempts:
                    raise
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"timm cannot make the image tower '{config.name}' for views of {size} pixels",
            got=f"drop_path {config.drop_path}",
            cause=f"timm says: {str(error) or type(error).__name__}",
            fix="Change model.image or views.size",
        ) from error


def names_a_place(name: str) -> bool:
    """Return whether an image tower's name is a place, on a disk or on the hub, that timm reads the model from."""
    return re.search("[:/]", name) is not None


def with_known_name(config: Config, image_tower: nn.Module) -> Config:
    """Return the configuration with timm's name of the tower's architecture, if its name is that of a place.

    Weights that came from the place then load without it.
    """
    image = config.model.image
    stated = getattr(getattr(image_tower, "trunk", None), "pretrained_cfg", None) or {}
    name = stated.get("architecture") or ""
    if not names_a_place(image.name) or not timm.is_model(name):
        return config
    return replace(config, model=replace(config.model, image=replace(image, name=name)))


def _ends_in_class_token(trunk: nn.Module) -> bool:
    """Return whether `trunk` is a plain vision transformer whose feature is its class token."""
    if type(trunk) is not VisionTransformer or trunk.global_pool != "token" or not trunk.has_class_token:
        return False
    block = trunk.blocks[-1]
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
        and all(hasattr(block.attn, name) for name in ("norm", "q_norm", "k_norm", "proj_drop"))
        and type(block.mlp) in (Mlp, GluMlp, SwiGLU)
    )
