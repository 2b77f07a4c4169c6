"""Memory and time of one process's share of a global contrastive loss: row blocks against whole logits.

    python benchmarks/global_loss.py 8192 16384 32768 65536

Of R processes, each holds N / R pairs of the batch and the gathered embeddings of all N (512 dimensions, fp32, random):
CLIP's logits are N / R × N numbers, SimCLR's 2N / R × 2N. One process stands for all of them: it computes the first
one's rows, forward and backward, with the objectives' own code, and constants stand for what the others would send. The
exchange itself is not timed. Memory is the growth of the peak resident set of a fresh process, gathered embeddings and
their gradients included; whole logits (block 0) are left out where they would take more than --most GiB. Time is
that of the processor, which a busy machine stretches less than the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.objectives import REGISTRY, At, Dims
from sides import child

GIB = 2**30
DIM = 512
LOSSES = {"clip": 1, "simclr": 2}
"""Losses, and the views a sample has in their logits."""
COPIES = 2
"""Matrices that whole logits take at once, forward and backward, by what this script measures."""


@contextlib.contextmanager
def one_of(ranks: int) -> Iterator[None]:
    """Within, the objectives take this process for the first of so many."""

    def gather_rows(rows: Tensor) -> Tensor:
        others = torch.randn((ranks - 1) * len(rows), *rows.shape[1:])
        return torch.cat((rows, F.normalize(others, dim=-1)))

    with contextlib.ExitStack() as stack:
        for module, names in (
            ("clip", ("gather_rows", "rank", "world")),
            ("simclr", ("gather_rows", "rank")),
        ):
            fakes: dict[str, Any] = {"gather_rows": gather_rows, "rank": lambda: 0, "world": lambda: ranks}
            stack.enter_context(
                patch.multiple(f"openslip.objectives.{module}", **{name: fakes[name] for name in names})
            )
        yield


def embeddings(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(rows, DIM, generator=generator) for name in ("image", "text", "ssl_1", "ssl_2")}
    return {
        name: tensor.requires_grad_() for name, tensor in {**made, "logit_scale": torch.tensor(30.0)}.items()
    }


def measure(loss: str, n: int, ranks: int, block: int) -> None:
    """In a fresh process: print the growth of its peak in GiB and the CPU seconds of one forward and backward."""
    kind = REGISTRY[loss]
    with torch.device("meta"):  # its heads, which are not used
        objective = kind(kind.Config(block=block), Dims(width=1))
    unit = 1 if sys.platform == "darwin" else 1024
    with one_of(ranks):
        objective.loss(embeddings(8), At())["loss"].backward()  # libraries and thread pools do not count
        mine = embeddings(n // ranks)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        objective.loss(mine, At())["loss"].backward()
        seconds = time.process_time() - start
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / GIB, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("n", type=int, nargs="+", help="samples in the batch of all processes")
    parser.add_argument("--ranks", type=int, default=32, help="processes; each has N / ranks rows")
    parser.add_argument(
        "--block", type=int, nargs="+", default=[0, 1024, 256], help="rows held at a time; 0: all"
    )
    parser.add_argument("--loss", choices=sorted(LOSSES), nargs="+", default=sorted(LOSSES))
    parser.add_argument("--most", type=float, default=6.0, help="GiB that whole logits may take")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.loss[0], options.n[0], options.ranks, options.block[0])

    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"the share of one of {options.ranks} processes, forward and backward, {DIM} dimensions, fp32")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}{load}\n")
    names = [f"block {block}" if block else "whole" for block in options.block]
    columns = [f"{name}, {unit}" for name in names for unit in ("GiB", "CPU s")]
    print("| loss | N | logits | one matrix, GiB | " + " | ".join(columns) + " |")
    print("|---|--:|--:|--:|" + "--:|" * len(columns))
    for loss in options.loss:
        for n in options.n:
            rows, width = (LOSSES[loss] * count for count in (n // options.ranks, n))
            matrix = rows * width * 4 / GIB
            cells = [loss, f"{n:,}", f"{rows:,} × {width:,}", f"{matrix:.2f}"]
            for block in options.block:
                if not block and COPIES * matrix > options.most:
                    cells += [f"about {COPIES * matrix:.0f}", "not run"]
                    continue
                numbers = child(
                    __file__, n, "--ranks", options.ranks, "--block", block, "--loss", loss, "--measure"
                )
                cells += [f"{x:.2f}" for x in numbers] if numbers else ["out of memory", "–"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
