"""A training step on a CPU, with the memory of each step kept for the next, and without.

    python benchmarks/heap.py
    python benchmarks/heap.py --rounds 9 --steps 5

The recipe small-data, its own batch, in bf16, for CLIP, SimCLR and SLIP. In each round the same steps are taken twice,
once within `openslip.training.heap.freed_memory_kept`; the first step of each is not timed. Ratios are medians over
rounds, so that a machine that is busy for a while is busy for both. Peak memory is that of a fresh process for each.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import sys
from contextlib import nullcontext
from dataclasses import replace

import torch

from cheap import Side
from openslip import recipes
from openslip.training.heap import freed_memory_kept
from sides import child

CPU = torch.device("cpu")
LOSSES = {"CLIP": "clip", "SimCLR": "simclr", "SLIP": "clip + 1.0 * simclr"}
HEAPS = {"usual": nullcontext, "kept": lambda: freed_memory_kept(CPU)}


def side_of(loss: str) -> Side:
    """Return the step of the recipe with a loss, ready to be taken."""
    config = recipes.get("small-data")
    side = Side(replace(config, objective=replace(config.objective, loss=loss)), "cpu")
    side.prepare()
    return side


def seconds(side: Side, heap: str, steps: int) -> tuple[float, int]:
    """Return the seconds and the page faults of a step, on average."""
    with HEAPS[heap]():
        side.seconds()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        took = sum(side.seconds() for _ in range(steps)) / steps
        return took, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // steps


def peak(loss: str, heap: str) -> float:
    """Return the most memory that this process had, in GiB, after some steps."""
    seconds(side_of(loss), heap, 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each heap in a round")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(peak(*options.measure))
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| loss | step, usual heap | step, memory kept | ratio | page faults | peak memory |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, loss in LOSSES.items():
        memory = {heap: child(sys.argv[0], "--measure", loss, heap) for heap in HEAPS}
        side = side_of(loss)
        took = {heap: list[tuple[float, int]]() for heap in HEAPS}
        for number in range(options.rounds):
            for heap in list(HEAPS)[:: 1 if number % 2 else -1]:
                took[heap].append(seconds(side, heap, options.steps))
        ratios = [usual[0] / kept[0] for usual, kept in zip(took["usual"], took["kept"])]
        usual, kept = (statistics.median(one for one, _ in took[heap]) for heap in HEAPS)
        faults = (statistics.median(faults for _, faults in took[heap]) for heap in HEAPS)
        peaks = (f"{gib[-1]:.2f}" if gib else "–" for gib in memory.values())
        print(
            f"| {name} | {usual:.2f} s | {kept:.2f} s | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {' → '.join(f'{n:,.0f}' for n in faults)} | "
            f"{' → '.join(peaks)} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
