"""Peak memory and time of one SLIP step: the whole batch, exact micro-batches, plain accumulation.

    python benchmarks/memory.py
    python benchmarks/memory.py --device cuda --size 224 --batch 1024 --micro-batch 128 --precision bf16

Each with activations kept, and recomputed in backward selectively or in full, in a fresh process of its own. The whole
batch and the exact micro-batches (`training.micro_batch`: towers on a part at a time, heads and losses on all) have
the same loss and gradient. Plain accumulation, which adds up the gradients of a separate loss for each part, has not:
each sample has only the micro-batch's others as negatives. It stands here for what its memory and time are.
Memory is the process's peak, resident on a CPU and allocated on a GPU, with weights, gradients and optimiser state in
it. Time is that of the steps after a small first one: on a GPU the clock's, on a CPU the processor's (of all threads
together), which a busy machine stretches less.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from dataclasses import replace

import torch

from openslip.config import TrainingConfig, ViewsConfig
from openslip.models.inputs import Inputs
from openslip.objectives import At, parse
from openslip.training.optimizer import build_optimizer
from openslip.training.parallel import Parallel
from openslip.training.precision import choose_precision
from openslip.training.prepare import prepare
from openslip.training.step import backward
from openslip.training.student import build_student, stored_parameters
from sides import MODELS, Batch, batches, child, peak

FORMS = ("whole batch", "exact micro-batches", "plain accumulation")
CHECKPOINTING = ("none", "selective", "full")


class Step:
    """A model, its optimiser, and a training step in one of the forms."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.form, self.micro_batch = options.form, options.micro_batch
        self.device = torch.device(options.device)
        self.dtype = choose_precision(options.precision, self.device)
        config = replace(MODELS[options.model], views=ViewsConfig(size=options.size))
        student = build_student(config, parse(config.objective)).to(self.device).train()
        training = TrainingConfig(
            precision=options.precision,
            checkpoint_activations=options.checkpoint_activations,
            compile=options.compile,
        )
        prepare(student.model, self.device, self.dtype, training)
        self.parallel = Parallel(student)
        self.optimizer = build_optimizer(stored_parameters(student), config.optimizer)

    def __call__(self, batch: Batch) -> None:
        inputs = Inputs(batch.views, batch.tokens)
        parts = inputs.split(self.micro_batch) if self.form == "plain accumulation" else [inputs]
        micro_batch = self.micro_batch if self.form == "exact micro-batches" else 0
        for part in parts:
            backward(self.parallel, part, At(), dtype=self.dtype, micro_batch=micro_batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(options: argparse.Namespace) -> None:
    """In a fresh process: print the peak in GiB and the median seconds of a step."""
    step = Step(options)
    clock = time.perf_counter if step.device.type == "cuda" else time.process_time
    context = MODELS[options.model].model.text.context
    draw = batches(options.batch, context, size=options.size, device=step.device)
    step(draw().first(max(2, options.micro_batch // 2)))  # libraries, optimiser state
    seconds = []
    for _ in range(options.steps):
        batch = draw()
        synchronize(step.device)
        start = clock()
        step(batch)
        synchronize(step.device)
        seconds.append(clock() - start)
    print(peak(step.device), statistics.median(seconds))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=sorted(MODELS), default="vit-s16")
    parser.add_argument("--size", type=int, default=96, help="side of the views in pixels, a multiple of 16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="compile the towers' blocks")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of each")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--checkpoint-activations", choices=CHECKPOINTING, default="none", help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.form:
        return measure(options)

    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    where = f"{torch.get_num_threads()} threads, {platform.machine()}{load}"
    if options.device == "cuda":
        where = torch.cuda.get_device_name()
    print(
        f"{options.model}, {options.size} px, batch {options.batch}, micro-batch {options.micro_batch}, ",
        end="",
    )
    print(
        f"{options.precision}{', compiled' if options.compile else ''}; torch {torch.__version__}, {where}\n"
    )
    unit = "seconds" if options.device == "cuda" else "CPU seconds"
    print(f"| step | activations recomputed | peak memory, GiB | {unit} a step |")
    print("|---|---|--:|--:|")
    for form in FORMS:
        for kind in CHECKPOINTING:
            numbers = child(__file__, *sys.argv[1:], "--form", form, "--checkpoint-activations", kind)
            memory, seconds = (f"{x:.2f}" for x in numbers) if numbers else ("out of memory", "–")
            print(f"| {form} | {kind} | {memory} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
