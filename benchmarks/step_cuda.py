"""step.py's comparison on a GPU: speed, memory and arithmetic of each side, against the device's own matrix peak.

A step is that of `sides.py`: views that are on the device already, forward, losses, backward, optimiser. What a run
does besides, augmentation, the gradient's norm, numbers read for its log, is in no side's.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from sides import MODELS, SIDES, SIZE, Batch, ReferenceSide, Side, batches, check_same, flops

COUNTED = 16
"""Samples on which results are compared and operations counted: attention multiplied out for more may not fit."""
WARM_UP = 5


def compare_on_gpu(
    options: argparse.Namespace, model: str, count: int, memory: dict[str, float | None]
) -> None:
    """Compare the sides' results, then time those that fit in memory, and print the table."""
    config, device = MODELS[model], torch.device("cuda")
    draw = batches(count, config.model.text.context, device=device)
    first = draw().first(COUNTED)
    scale = count / len(first.tokens)
    sides = {name: make(config, device) for name, make in SIDES.items()}
    reference, fused, ours, _ = sides.values()
    assert isinstance(reference, ReferenceSide)
    with exact_fp32():
        check_same(reference, [fused, ours], first)
    work = {name: flops(side, first) * scale for name, side in sides.items()}
    for side in sides.values():
        side.speed_up(options)
    sides = {name: side for name, side in sides.items() if memory[name] is not None}
    torch.cuda.empty_cache()
    for _ in range(WARM_UP):  # libraries choose kernels, memory is taken, blocks are compiled
        warm = draw()
        for side in sides.values():
            side.step(warm)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.steps):
        batch = draw()
        for name, side in sides.items():
            seconds[name].append(timed(side, batch))
    how = f"{options.precision}{', compiled' if options.compile else ''}"
    print(f"\n{model}, {SIZE} px, batch {count}; the reference in fp16, ours in {how}")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}, ", end="")
    print(f"bf16 matrix peak measured here {matrix_peak() / 1e12:,.0f} TFLOP/s\n")
    table(count, work, memory, seconds)
    del sides, reference, fused, ours, side
    gc.collect()  # compiled blocks refer to each other
    torch.cuda.empty_cache()  # the next ones' memory is measured by other processes


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Within, fp32 is fp32, and not TF32, which cuDNN may choose for one side's convolution and not for another's."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def timed(side: Side, batch: Batch) -> float:
    """Seconds of one step, its kernels included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    side.step(batch)
    torch.cuda.synchronize()
    return time.perf_counter() - start


@cache
def matrix_peak(side: int = 8192, repetitions: int = 50) -> float:
    """Operations a second of a large square bf16 matrix product, the best of five rounds."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(6):  # the first round warms up
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repetitions):
            a @ b
        torch.cuda.synchronize()
        best = max(best, repetitions * 2 * side**3 / (time.perf_counter() - start))
    return best


def table(
    count: int,
    work: dict[str, float],
    memory: dict[str, float | None],
    seconds: dict[str, list[float]],
) -> None:
    """Print every side, and the ratios of times that matter: medians over rounds, with the quartiles."""

    def row(title: str, cell: Callable[[str], str]) -> None:
        print(f"| {title} | {' | '.join(cell(name) if name in seconds else '–' for name in work)} |")

    def speed(name: str) -> float:
        return work[name] / statistics.median(seconds[name])

    print(f"| | {' | '.join(work)} |")
    print(f"|---|{'--:|' * len(work)}")
    row("arithmetic, TFLOP a step", lambda name: f"{work[name] / 1e12:,.1f}")
    row("milliseconds a step, median", lambda name: f"{1e3 * statistics.median(seconds[name]):,.1f}")
    row("samples/s", lambda name: f"{count / statistics.median(seconds[name]):,.0f}")
    row("TFLOP/s", lambda name: f"{speed(name) / 1e12:,.0f}")
    row("share of the matrix peak", lambda name: f"{speed(name) / matrix_peak():.0%}")
    memories = (f"{gib:.1f}" if gib is not None else "out of memory" for gib in memory.values())
    print(f"| peak memory, GiB | {' | '.join(memories)} |\n")
    for name, other in (
        ("reference", "ours"), ("reference, fused", "ours"), ("ours", "ours, CLIP alone")
    ):  # fmt: skip
        if name in seconds and other in seconds:
            ratios = [a / b for a, b in zip(seconds[name], seconds[other])]
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            print(f"{name} / {other}: **{statistics.median(ratios):.2f}** ({low:.2f}–{high:.2f})")
