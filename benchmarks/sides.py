"""The sides that step.py compares, on the same batches: the reference formulation and this project's training step."""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from loss_memory import whole
from openslip.config import (
    Config,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TextTowerConfig,
    TrainingConfig,
)
from openslip.data.tokenizer import Tokenizer
from openslip.interop.reference import to_reference
from openslip.models.inputs import Inputs
from openslip.objectives import At, parse
from openslip.training.optimizer import build_optimizer
from openslip.training.precision import autocast, choose_precision, loss_scaler
from openslip.training.prepare import prepare
from openslip.training.student import build_student, stored_parameters, stored_state
from reference import Reference, reference_optimizer

SIZE = 224
NO_GRADIENT = ("image_mlp.layer1.bias", "image_mlp.layer2.bias")
SLIP = Config(optimizer=OptimizerConfig(lr=1e-4))
MODELS = {
    "vit-s16": SLIP,
    "vit-b16": replace(SLIP, model=ModelConfig(image=ImageTowerConfig(width=768))),
    "vit-l16": replace(SLIP, model=ModelConfig(image=ImageTowerConfig(width=1024, depth=24, heads=16))),
    "tiny": replace(
        SLIP,
        model=ModelConfig(
            image=ImageTowerConfig(width=96, depth=3, heads=3),
            text=TextTowerConfig(width=96, depth=3, heads=3),
            embed_dim=64,
        ),
        objective=ObjectiveConfig(options={"simclr": {"width": 128, "dim": 32}}),
    ),
}


@dataclass(frozen=True)
class Batch:
    """Views by name, (N, 3, S, S), and token ids: as long as the longest caption, and padded to the context."""

    views: dict[str, Tensor]
    tokens: Tensor
    padded: Tensor

    def first(self, count: int) -> Batch:
        """Return the first `count` samples, at the same length of text."""
        return Batch(
            {name: view[:count] for name, view in self.views.items()},
            self.tokens[:count],
            self.padded[:count],
        )


def batches(
    count: int, context: int, *, size: int = SIZE, device: torch.device, seed: int = 0
) -> Callable[[], Batch]:
    """Return a function that gives a new batch at each call: random images (the same ones), captions drawn anew."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    tokenizer = Tokenizer(context)
    captions = Path(__file__).with_name("captions.txt").read_text(encoding="utf-8").splitlines()
    views = {
        name: torch.randn(count, 3, size, size, generator=generator).to(device)
        for name in ("image", "ssl_1", "ssl_2")
    }

    def draw() -> Batch:
        tokens = tokenizer(rng.choices(captions, k=count)).to(device)
        return Batch(views, tokens, F.pad(tokens, (0, context - tokens.shape[1])))

    return draw


class ReferenceSide:
    """The reference formulation's training step; fused: with today's attention kernel.

    In fp32 on a CPU; on a GPU, once sped up, in fp16 with a scaled loss, as its authors ran it.
    """

    def __init__(self, config: Config, device: torch.device, fused: bool = False) -> None:
        self.device, self.dtype = device, torch.float32
        self.model = Reference(config, fused).to(device).train()
        self.optimizer = reference_optimizer(self.model, config.optimizer)
        self.scaler = loss_scaler(device, self.dtype)

    def loss(self, batch: Batch) -> Tensor:
        with autocast(self.device, self.dtype):
            return whole(self.model(batch.views, batch.padded))

    def weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def step(self, batch: Batch) -> None:
        self.scaler.scale(self.loss(batch)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.logit_scale.data.clamp_(0, 4.6052)

    def speed_up(self, options: argparse.Namespace) -> None:
        """Apply what the fp32 comparison is made without."""
        if self.device.type == "cuda":
            self.dtype = torch.float16
            self.scaler = loss_scaler(self.device, self.dtype)


class OurSide:
    """This project's training step."""

    def __init__(self, config: Config, device: torch.device, loss: str = "clip + 1.0 * simclr") -> None:
        self.device, self.dtype = device, torch.float32
        self.student = build_student(config, parse(replace(config.objective, loss=loss))).to(device).train()
        self.optimizer = build_optimizer(stored_parameters(self.student), config.optimizer)
        self.scaler, self.taken = (
            loss_scaler(device, self.dtype),
            torch.ones((), dtype=torch.bool, device=device),
        )

    def loss(self, batch: Batch) -> Tensor:
        with autocast(self.device, self.dtype):
            return self.student(Inputs(batch.views, batch.tokens), At())["loss"]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by the reference's names."""
        return {to_reference(name): tensor for name, tensor in stored_state(self.student).items()}

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients by the reference's names."""
        parameters = stored_parameters(self.student)
        return {to_reference(name): p.grad for name, p in parameters if p.grad is not None}

    def step(self, batch: Batch) -> None:
        self.scaler.scale(self.loss(batch)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.student.after_step(At(), self.taken)

    def speed_up(self, options: argparse.Namespace) -> None:
        """Apply the options that the fp32 comparison is made without."""
        self.dtype = choose_precision(options.precision, self.device)
        self.scaler = loss_scaler(self.device, self.dtype)
        training = TrainingConfig(precision=options.precision, compile=options.compile)
        prepare(self.student.model, self.device, self.dtype, training)


Side = ReferenceSide | OurSide
SIDES: dict[str, Callable[[Config, torch.device], Side]] = {
    "reference": ReferenceSide,
    "reference, fused": partial(ReferenceSide, fused=True),
    "ours": OurSide,
    "ours, CLIP alone": partial(OurSide, loss="clip"),
}


def compare(reference: ReferenceSide, other: Side, batch: Batch) -> tuple[float, float]:
    """Give both the same weights; return the relative differences of the loss and of the worst gradient.

    Left out are the biases before a BatchNorm, whose gradient is zero but for rounding.
    """
    reference.model.load_state_dict(other.weights())
    losses = reference.loss(batch), other.loss(batch)
    for loss in losses:
        loss.backward()
    expected, found = reference.gradients(), other.gradients()
    if expected.keys() != found.keys():
        raise SystemExit(f"Gradients of one side only: {sorted(expected.keys() ^ found.keys())}")
    compared = [name for name in expected if name not in NO_GRADIENT]
    worst = max(((found[k] - expected[k]).norm() / expected[k].norm()).item() for k in compared)
    for side in (reference, other):
        side.optimizer.zero_grad(set_to_none=True)
    return abs(losses[1].item() / losses[0].item() - 1), worst


def check_same(reference: ReferenceSide, others: list[Side], batch: Batch) -> None:
    """Say how far the others' losses and gradients are from the reference's in fp32; stop where that is too far."""
    for other in others:
        loss_difference, gradient_difference = compare(reference, other, batch)
        print(f"fp32: loss differs by {loss_difference:.0e}, worst gradient by {gradient_difference:.0e}")
        if not (loss_difference < 1e-5 and gradient_difference < 1e-3):
            raise SystemExit("The two do not compute the same thing; their times are not comparable.")


def flops(side: Side, batch: Batch) -> int:
    """Operations of the matrix products in one forward and backward (attention written out, so that it counts)."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        side.loss(batch).backward()
    side.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def measure_memory(options: argparse.Namespace) -> None:
    """In a fresh process: make two steps of one side and print the peak in GiB, resident or on the GPU."""
    config, device = MODELS[options.model[0]], torch.device(options.device)
    side = SIDES[options.measure](config, device)
    side.speed_up(options)
    draw = batches(options.batch[0], config.model.text.context, device=device)
    for _ in range(2):
        side.step(draw())
    print(peak(device))


def peak(device: torch.device) -> float:
    """GiB that this process had in use at the most: on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def child(script: str, *arguments: object) -> list[float] | None:
    """Run a script in a fresh process and return the numbers it printed; None when it died, as for want of memory."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return [float(word) for word in done.stdout.split()] if done.returncode == 0 else None
