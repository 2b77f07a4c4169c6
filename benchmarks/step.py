"""One SLIP training step, ours against the reference formulation, side by side in one run.

    python benchmarks/step.py
    python benchmarks/step.py --precision bf16 --compile

The reference formulation is written here in plain PyTorch: three image passes through timm's vision transformer,
CLIP's text transformer on captions padded to 77 tokens, whole similarity matrices, per-tensor AdamW, eager, fp32.
Both start from the same weights, and their losses and gradients are compared in fp32 before anything is timed.
Steps are interleaved (A B A B …) on the same batches, new captions in each; the ratio is the median over pairs, so
that a machine that is busy for a while is busy for both. Peak memory is that of a fresh process for each.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from loss_memory import whole
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from captions import CAPTIONS
from slip.config import ImageTowerConfig, ModelConfig, OptimizerConfig, SslHeadConfig, TextTowerConfig
from slip.data.tokenizer import Tokenizer
from slip.interop.reference import to_reference
from slip.models import build
from slip.objectives import parse
from slip.training.optimizer import build_optimizer
from slip.training.parallel import compile_towers

SIZE = 224
MODELS = {
    "vit-s16": ModelConfig(),
    "vit-b16": ModelConfig(image=ImageTowerConfig(width=768)),
    "vit-l16": ModelConfig(image=ImageTowerConfig(width=1024, depth=24, heads=16)),
    "tiny": ModelConfig(
        image=ImageTowerConfig(width=96, depth=3, heads=3),
        text=TextTowerConfig(width=96, depth=3, heads=3),
        ssl=SslHeadConfig(width=128, dim=32),
        embed_dim=64,
    ),
}


@dataclass(frozen=True)
class Batch:
    """Views by name, (N, 3, 224, 224), and token ids: as long as the longest caption, and padded to the context."""

    views: dict[str, Tensor]
    tokens: Tensor
    padded: Tensor


def batches(size: int, context: int, seed: int = 0) -> Callable[[], Batch]:
    """Return a function that gives a new batch at each call: random images (the same ones), captions drawn anew."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    tokenizer = Tokenizer(context)
    views = {name: torch.randn(size, 3, SIZE, SIZE, generator=generator) for name in ("image", "ssl_1", "ssl_2")}

    def draw() -> Batch:
        tokens = tokenizer(rng.choices(CAPTIONS, k=size))
        return Batch(views, tokens, F.pad(tokens, (0, context - tokens.shape[1])))

    return draw


# --- the reference formulation --------------------------------------------------------------------------------


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ReferenceBlock(nn.Module):
    """CLIP's residual attention block, sequence first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGelu())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Reference(nn.Module):
    """SLIP as its authors' code computes it; parameter names are that code's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        image, text, ssl = config.image, config.text, config.ssl
        self.visual = VisionTransformer(
            img_size=SIZE,
            patch_size=image.patch,
            embed_dim=image.width,
            depth=image.depth,
            num_heads=image.heads,
            num_classes=0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]
        )
        self.token_embedding = nn.Embedding(Tokenizer.vocabulary_size, text.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(text.context, text.width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            ReferenceBlock(text.width, text.heads) for _ in range(text.depth)
        )
        self.ln_final = nn.LayerNorm(text.width)
        self.image_projection = nn.Parameter(torch.randn(image.width, config.embed_dim) * image.width**-0.5)
        self.text_projection = nn.Parameter(torch.randn(text.width, config.embed_dim) * text.width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.image_mlp = nn.Sequential()
        for name, module in {
            "layer1": nn.Linear(image.width, ssl.width),
            "bn1": nn.BatchNorm1d(ssl.width),
            "relu1": nn.ReLU(),
            "layer2": nn.Linear(ssl.width, ssl.width),
            "bn2": nn.BatchNorm1d(ssl.width),
            "relu2": nn.ReLU(),
            "layer3": nn.Linear(ssl.width, ssl.dim),
        }.items():
            self.image_mlp.add_module(name, module)
        mask = torch.full((text.context, text.context), -torch.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def encode_text(self, tokens: Tensor) -> Tensor:
        x = (self.token_embedding(tokens) + self.positional_embedding).permute(1, 0, 2)
        for block in self.transformer.resblocks:  # type: ignore[union-attr]
            x = block(x, self.mask)
        x = self.ln_final(x.permute(1, 0, 2))
        return x[torch.arange(len(x)), tokens.argmax(-1)] @ self.text_projection

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {
            "ssl_1": self.image_mlp(self.visual(batch.views["ssl_1"])),
            "ssl_2": self.image_mlp(self.visual(batch.views["ssl_2"])),
            "image": self.visual(batch.views["image"]) @ self.image_projection,
            "text": self.encode_text(batch.padded),
            "logit_scale": self.logit_scale.exp(),
        }


def reference_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW one tensor at a time, with the reference's decay groups."""
    named = list(model.named_parameters())
    plain = [p for name, p in named if p.ndim < 2 or "bias" in name or "ln" in name or "bn" in name]
    decayed = [p for _, p in named if all(p is not q for q in plain)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, foreach=False, fused=False
    )


# --- the two sides --------------------------------------------------------------------------------------------


class ReferenceSide:
    """The reference formulation's training step."""

    def __init__(self, config: ModelConfig, optimizer: OptimizerConfig) -> None:
        self.model = Reference(config).train()
        self.optimizer = reference_optimizer(self.model, optimizer)

    def loss(self, batch: Batch) -> Tensor:
        return whole(self.model(batch))

    def step(self, batch: Batch) -> None:
        self.loss(batch).backward()
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.model.logit_scale.data.clamp_(0, 4.6052)


class OurSide:
    """This project's training step."""

    def __init__(self, config: ModelConfig, optimizer: OptimizerConfig) -> None:
        self.objective = parse("clip + 1.0 * simclr")
        self.model = build(config, SIZE, self.objective.needs).train()
        self.optimizer = build_optimizer(self.model, optimizer)
        self.dtype = torch.float32

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.objective(self.model(batch.views, batch.tokens))["loss"]

    def step(self, batch: Batch) -> None:
        self.loss(batch).backward()
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.model.clamp_logit_scale()

    def speed_up(self, options: argparse.Namespace) -> None:
        """Apply the options that the fp32 comparison is made without."""
        self.dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        if options.compile:
            compile_towers(self.model)


def compare(reference: ReferenceSide, ours: OurSide, batch: Batch) -> tuple[float, float]:
    """Give both the same weights; return the relative differences of the loss and of the worst gradient.

    A gradient's difference is relative to its own norm, or to a thousandth of the typical parameter's where its
    own is smaller: some gradients are zero but for rounding (biases before BatchNorm, biases of attention's keys).
    """
    state = {to_reference(name): value for name, value in ours.model.state_dict().items()}
    reference.model.load_state_dict(state)
    losses = reference.loss(batch), ours.loss(batch)
    for loss in losses:
        loss.backward()
    expected = {name: p.grad for name, p in reference.model.named_parameters() if p.grad is not None}
    found = {to_reference(name): p.grad for name, p in ours.model.named_parameters() if p.grad is not None}
    if expected.keys() != found.keys():
        raise SystemExit(f"Other parameters have a gradient: {sorted(expected.keys() ^ found.keys())}")
    floor = statistics.median(g.norm().item() for g in expected.values()) / 1000
    worst = max((found[k] - g).norm().item() / max(g.norm().item(), floor) for k, g in expected.items())
    for side in (reference, ours):
        side.model.zero_grad(set_to_none=True)
    return abs(losses[1].item() / losses[0].item() - 1), worst


def flops(side: ReferenceSide | OurSide, batch: Batch) -> int:
    """Operations of the matrix products in one forward and backward (attention written out, so that it counts)."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        side.loss(batch).backward()
    side.model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def timed(side: ReferenceSide | OurSide, batch: Batch) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    side.step(batch)
    return time.perf_counter() - start


def peak_memory(options: argparse.Namespace, side: str) -> float:
    """Peak resident GiB of a fresh process that makes two steps."""
    command = [sys.executable, __file__, "--measure", side, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_memory(options: argparse.Namespace, optimizer: OptimizerConfig) -> None:
    """In the fresh process: make two steps of one side and print the peak."""
    config = MODELS[options.model]
    side = {"reference": ReferenceSide, "ours": OurSide}[options.measure](config, optimizer)
    if isinstance(side, OurSide):
        side.speed_up(options)
    draw = batches(options.batch, config.text.context)
    for _ in range(2):
        side.step(draw())
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours; the reference is fp32")
    parser.add_argument("--compile", action="store_true", help="compile our towers")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--model", choices=sorted(MODELS), default="vit-s16")
    parser.add_argument("--measure", choices=("reference", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    optimizer = OptimizerConfig(lr=1e-4)
    if options.measure:
        return measure_memory(options, optimizer)
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    memory = {side: peak_memory(options, side) for side in ("reference", "ours")}

    config = MODELS[options.model]
    draw = batches(options.batch, config.text.context)
    reference, ours = ReferenceSide(config, optimizer), OurSide(config, optimizer)
    first = draw()
    loss_difference, gradient_difference = compare(reference, ours, first)
    print(f"same weights, fp32: loss differs by {loss_difference:.0e}, worst gradient by {gradient_difference:.0e}")
    if not (loss_difference < 1e-5 and gradient_difference < 1e-2):
        raise SystemExit("The two do not compute the same thing; their times are not comparable.")
    work = flops(reference, first), flops(ours, first)
    ours.speed_up(options)
    for _ in range(3):  # caches, optimiser state, compilation for a first and for any length of text
        warm = draw()
        reference.step(warm), ours.step(warm)
    lengths, seconds = [], ([], [])
    for _ in range(options.steps):
        batch = draw()
        lengths.append(batch.tokens.shape[1])
        seconds[0].append(timed(reference, batch))
        seconds[1].append(timed(ours, batch))
    ratios = [a / b for a, b in zip(*seconds)]
    report(options, load, work, memory, seconds, ratios, lengths)


def report(options, load, work, memory, seconds, ratios, lengths) -> None:
    """Print the table."""
