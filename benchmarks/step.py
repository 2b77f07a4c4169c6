"""One SLIP training step, ours against the reference formulation, side by side in one run.

    python benchmarks/step.py
    python benchmarks/step.py --precision bf16 --compile
    python benchmarks/step.py --device cuda --compile

The reference formulation (reference.py) is plain PyTorch: three image passes through timm's vision transformer,
CLIP's text transformer on captions padded to 77 tokens, whole similarity matrices, per-tensor AdamW, eager, in fp32 on
a CPU and in fp16 with a scaled loss on a GPU. It is timed twice: with attention multiplied out, as the libraries of its
time did, and with today's fused kernel. On a GPU our step with CLIP alone is timed too.
Losses and gradients from the same weights are compared in fp32 before anything is timed.
Steps are interleaved (A B C A B C …) on the same batches, new captions in each; ratios are medians over rounds, so
that a machine that is busy for a while is busy for all. Peak memory is that of a fresh process for each.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time

import torch

from sides import (
    MODELS,
    SIDES,
    SIZE,
    Batch,
    ReferenceSide,
    Side,
    batches,
    check_same,
    child,
    flops,
    measure_memory,
)
from step_cuda import compare_on_gpu

ON_A_CPU = tuple(SIDES)[:3]


def timed(side: Side, batch: Batch) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    side.step(batch)
    return time.perf_counter() - start


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", help="16 on a CPU; 64 and 256 on a GPU")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16", "fp8"),
        help="of ours; fp32 on a CPU, where the reference is fp32; bf16 on a GPU, where it is fp16",
    )
    parser.add_argument("--compile", action="store_true", help="compile our towers")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--model", choices=sorted(MODELS), nargs="+", help="vit-s16; on a GPU also vit-b16")
    parser.add_argument("--measure", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    gpu = options.device == "cuda"
    options.batch = options.batch or ([64, 256] if gpu else [16])
    options.model = options.model or (["vit-s16", "vit-b16"] if gpu else ["vit-s16"])
    options.precision = options.precision or ("bf16" if gpu else "fp32")
    return options


def main() -> None:
    options = parse_options()
    torch.manual_seed(0)
    if options.measure:
        return measure_memory(options)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("This machine has no CUDA device that PyTorch can use.")
    for model in options.model:
        for batch in options.batch:
            compare = compare_on_gpu if options.device == "cuda" else compare_on_cpu
            own = ("--model", model, "--batch", batch)  # the last of equal options counts
            memory = {}
            for name in SIDES if options.device == "cuda" else ON_A_CPU:
                gib = child(__file__, "--measure", name, *sys.argv[1:], *own)
                memory[name] = gib[-1] if gib else None
            compare(options, model, batch, memory)


def compare_on_cpu(
    options: argparse.Namespace, model: str, count: int, memory: dict[str, float | None]
) -> None:
    """Compare the sides' results, then their times, and print the table."""
    peaks = [gib for gib in memory.values() if gib is not None]
    if len(peaks) < len(memory):
        raise SystemExit("A side could not make two steps on its own; see its message above.")
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    config, device = MODELS[model], torch.device("cpu")
    draw = batches(count, config.model.text.context, device=device)
    reference, fused, ours = sides = [SIDES[name](config, device) for name in ON_A_CPU]
    assert isinstance(reference, ReferenceSide)
    first = draw()
    check_same(reference, [fused, ours], first)
    work = [flops(side, first) for side in sides]
    ours.speed_up(options)
    for _ in range(3):  # caches, optimiser state, compilation
        warm = draw()
        for side in sides:
            side.step(warm)
    lengths, seconds = [], []
    for _ in range(options.steps):
        batch = draw()
        lengths.append(batch.tokens.shape[1])
        seconds.append([timed(side, batch) for side in sides])
    how = f"{options.precision}{', compiled' if options.compile else ''}"
    print(f"{model}, {SIZE} px, batch {count}; the reference in fp32, ours in {how}")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads{load}")
    print(
        f"captions: longest of a batch {statistics.mean(lengths):.0f} tokens in the mean of {len(lengths)} batches\n"
    )
    table(work, peaks, seconds)


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
