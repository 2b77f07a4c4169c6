"""The reference formulation of SLIP in plain PyTorch: what the benchmarks compare with.

Three image passes through timm's vision transformer, CLIP's text transformer on captions padded to the whole
context, BatchNorm head per view, whole similarity matrices, per-tensor AdamW. Parameter names are those of the
reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from openslip.config import Config, OptimizerConfig
from openslip.objectives import parse

VOCABULARY = 49_408


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ReferenceBlock(nn.Module):
    """CLIP's residual attention block, sequence first."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGelu())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.ln_1(x)
        # Asked for its weights, today's module multiplies attention out, as PyTorch 1.10's did always.
        x = x + self.attn(y, y, y, need_weights=not self.fused, average_attn_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Reference(nn.Module):
    """SLIP as its authors' code computes it; parameter names are that code's.

    fused: attention in PyTorch's fused kernel; without it multiplied out, as the timm 0.5 and PyTorch 1.10 of the
    authors had it.
    """

    def __init__(self, config: Config, fused: bool = False) -> None:
        super().__init__()
        image, text, dim = config.model.image, config.model.text, config.model.embed_dim
        head = parse(config.objective).options["simclr"]
        self.visual = VisionTransformer(
            img_size=config.views.size,
            patch_size=image.patch,
            embed_dim=image.width,
            depth=image.depth,
            num_heads=image.heads,
            num_classes=0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]
        )
        for block in cast(Any, self.visual.blocks):
            block.attn.fused_attn = fused
        self.token_embedding = nn.Embedding(VOCABULARY, text.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(text.context, text.width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            ReferenceBlock(text.width, text.heads, fused) for _ in range(text.depth)
        )
        self.ln_final = nn.LayerNorm(text.width)
        self.image_projection = nn.Parameter(torch.randn(image.width, dim) * image.width**-0.5)
        self.text_projection = nn.Parameter(torch.randn(text.width, dim) * text.width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.image_mlp = nn.Sequential()
        for name, module in {
            "layer1": nn.Linear(image.width, head["width"]),
            "bn1": nn.BatchNorm1d(head["width"]),
            "relu1": nn.ReLU(),
            "layer2": nn.Linear(head["width"], head["width"]),
            "bn2": nn.BatchNorm1d(head["width"]),
            "relu2": nn.ReLU(),
            "layer3": nn.Linear(head["width"], head["dim"]),
        }.items():
            self.image_mlp.add_module(name, module)
        mask = torch.full((text.context, text.context), -torch.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def encode_text(self, tokens: Tensor) -> Tensor:
        x = (self.token_embedding(tokens) + self.positional_embedding).permute(1, 0, 2)
        for block in cast(Any, self.transformer.resblocks):
            x = block(x, self.mask)
        x = self.ln_final(x.permute(1, 0, 2))
        return x[torch.arange(len(x)), tokens.argmax(-1)] @ self.text_projection

    def forward(self, views: Mapping[str, Tensor], padded: Tensor) -> dict[str, Tensor]:
        """Map views (name → (N, 3, S, S)) and token ids padded to the context to embeddings, as ours does."""
        return {
            "ssl_1": self.image_mlp(self.visual(views["ssl_1"])),
            "ssl_2": self.image_mlp(self.visual(views["ssl_2"])),
            "image": self.visual(views["image"]) @ self.image_projection,
            "text": self.encode_text(padded),
            "logit_scale": self.logit_scale.exp(),
        }


def reference_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW one tensor at a time, with the reference's decay groups."""
    named = list(model.named_parameters())
    plain = [name for name, p in named if p.ndim < 2 or any(part in name for part in ("bias", "ln", "bn"))]
    groups = [
        {"params": [p for name, p in named if name not in plain], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if name in plain], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, foreach=False, fused=False
    )
