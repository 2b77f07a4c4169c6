"""One SLIP training step, ours against the reference formulation, side by side in one run.

    python benchmarks/step.py
    python benchmarks/step.py --precision bf16 --compile

The reference formulation (reference.py) is plain PyTorch: three image passes through timm's vision transformer,
CLIP's text transformer on captions padded to 77 tokens, whole similarity matrices, per-tensor AdamW, eager, fp32. It
is timed twice: with attention multiplied out, as the libraries of its time did, and with today's fused kernel.
Losses and gradients from the same weights are compared in fp32 before anything is timed.
Steps are interleaved (A B C A B C …) on the same batches, new captions in each; ratios are medians over rounds, so
that a machine that is busy for a while is busy for all. Peak memory is that of a fresh process for each.
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
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from loss_memory import whole
from reference import Reference, reference_optimizer
from slip.config import ImageTowerConfig, ModelConfig, OptimizerConfig, SslHeadConfig, TextTowerConfig
from slip.data.tokenizer import Tokenizer
from slip.interop.reference import to_reference
from slip.models import build
from slip.objectives import parse
from slip.training.optimizer import build_optimizer
from slip.training.parallel import prepare

SIZE = 224
NO_GRADIENT = ("image_mlp.layer1.bias", "image_mlp.layer2.bias")
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
    captions = Path(__file__).with_name("captions.txt").read_text(encoding="utf-8").splitlines()
    views = {
        name: torch.randn(size, 3, SIZE, SIZE, generator=generator) for name in ("image", "ssl_1", "ssl_2")
    }

    def draw() -> Batch:
        tokens = tokenizer(rng.choices(captions, k=size))
        return Batch(views, tokens, F.pad(tokens, (0, context - tokens.shape[1])))

    return draw


class ReferenceSide:
    """The reference formulation's training step; fused: with today's attention kernel."""

    def __init__(self, config: ModelConfig, optimizer: OptimizerConfig, fused: bool = False) -> None:
        self.model = Reference(config, SIZE, fused).train()
        self.optimizer = reference_optimizer(self.model, optimizer)

    def loss(self, batch: Batch) -> Tensor:
        return whole(self.model(batch.views, batch.padded))

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
        prepare(self.model, torch.device("cpu"), self.dtype, compiled=options.compile)


SIDES: dict[str, Callable[[ModelConfig, OptimizerConfig], ReferenceSide | OurSide]] = {
    "reference": ReferenceSide,
    "reference, fused": partial(ReferenceSide, fused=True),
    "ours": OurSide,
}


def compare(reference: ReferenceSide, other: ReferenceSide | OurSide, batch: Batch) -> tuple[float, float]:
    """Give both the same weights; return the relative differences of the loss and of the worst gradient.

    Left out are the biases before a BatchNorm, whose gradient is zero but for rounding.
    """
    name_of = to_reference if isinstance(other, OurSide) else str
    reference.model.load_state_dict(
        {name_of(name): value for name, value in other.model.state_dict().items()}
    )
    losses = reference.loss(batch), other.loss(batch)
    for loss in losses:
        loss.backward()
    expected = {name: p.grad for name, p in reference.model.named_parameters() if p.grad is not None}
    found = {name_of(name): p.grad for name, p in other.model.named_parameters() if p.grad is not None}
    if expected.keys() != found.keys():
        raise SystemExit(f"Gradients of one side only: {sorted(expected.keys() ^ found.keys())}")
    compared = [name for name in expected if name not in NO_GRADIENT]
    worst = max(((found[k] - expected[k]).norm() / expected[k].norm()).item() for k in compared)
    for side in (reference, other):
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


def peak_memory(side: str) -> float:
    """Peak resident GiB of a fresh process that makes two steps."""
    command = [sys.executable, __file__, "--measure", side, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_memory(options: argparse.Namespace, optimizer: OptimizerConfig) -> None:
    """In the fresh process: make two steps of one side and print the peak."""
    config = MODELS[options.model]
    side = SIDES[options.measure](config, optimizer)
    if isinstance(side, OurSide):
        side.speed_up(options)
    draw = batches(options.batch, config.text.context)
    for _ in range(2):
        side.step(draw())
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of ours; the reference is fp32"
    )
    parser.add_argument("--compile", action="store_true", help="compile our towers")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--model", choices=sorted(MODELS), default="vit-s16")
    parser.add_argument("--measure", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    optimizer = OptimizerConfig(lr=1e-4)
    if options.measure:
        return measure_memory(options, optimizer)
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    memory = [peak_memory(name) for name in SIDES]

    config = MODELS[options.model]
    draw = batches(options.batch, config.text.context)
    reference, fused, ours = sides = [make(config, optimizer) for make in SIDES.values()]
    first = draw()
    for other in (fused, ours):
        loss_difference, gradient_difference = compare(reference, other, first)
        print(f"fp32: loss differs by {loss_difference:.0e}, worst gradient by {gradient_difference:.0e}")
        if not (loss_difference < 1e-5 and gradient_difference < 1e-3):
            raise SystemExit("The two do not compute the same thing; their times are not comparable.")
    work = [flops(side, first) for side in sides]
    ours.speed_up(options)
    for _ in range(3):  # caches, optimiser state, compilation for a first and for any length of text
        warm = draw()
        for side in sides:
            side.step(warm)
    lengths, seconds = [], []
    for _ in range(options.steps):
        batch = draw()
        lengths.append(batch.tokens.shape[1])
        seconds.append([timed(side, batch) for side in sides])
    how = f"{options.precision}{', compiled' if options.compile else ''}"
    print(f"{options.model}, {SIZE} px, batch {options.batch}; the reference in fp32, ours in {how}")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads{load}")
    print(
        f"captions: longest of a batch {statistics.mean(lengths):.0f} tokens in the mean of {len(lengths)} batches\n"
    )
    table(work, memory, seconds)


def table(work: list[int], memory: list[float], seconds: list[list[float]]) -> None:
    """Print all sides, and ours against the references; for time the median over rounds, with the quartiles."""

    def ratio(other: int) -> str:
        ratios = [row[other] / row[-1] for row in seconds]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return f"**{statistics.median(ratios):.2f}** ({low:.2f}–{high:.2f})"

    medians = [statistics.median(side) for side in zip(*seconds)]
    rows = [
        (
            "arithmetic, GFLOP a step",
            *(f"{w / 1e9:,.0f}" for w in work),
            *(f"{w / work[-1]:.2f}" for w in work[:-1]),
        ),
        ("seconds a step, median", *(f"{m:.3f}" for m in medians), ratio(0), ratio(1)),
        ("peak memory, GiB", *(f"{m:.2f}" for m in memory), *(f"{m / memory[-1]:.2f}" for m in memory[:-1])),
    ]
    print("| | reference | with fused attention | ours | reference / ours | fused / ours |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
