"""Memory and time of SLIP's losses: row blocks against whole matrices, forward and backward.

    python benchmarks/loss_memory.py 4096 8192

Embeddings are random, 512 dimensions for image and text and 256 for the self-supervised views, fp32, on the
CPU. Memory is the growth of the peak resident set of a fresh process during one forward and backward; time is
the median over interleaved repetitions in one process, in which the two losses and gradients are compared too.
The whole-matrix form is the reference formulation: two cross-entropies for CLIP; for SimCLR the four N × N
quarters of the similarities, joined in pairs.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.objectives import At, Clip, Dims, SimClr

GIB = 2**30


def whole(embeddings: dict[str, Tensor]) -> Tensor:
    """The reference formulation of clip + simclr (temperature 0.1)."""
    image, text, one, two = (F.normalize(embeddings[k], dim=-1) for k in ("image", "text", "ssl_1", "ssl_2"))
    n = len(image)
    labels = torch.arange(n, device=image.device)
    per_image = embeddings["logit_scale"] * image @ text.T
    per_text = embeddings["logit_scale"] * text @ image.T
    clip = (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2
    masks = torch.eye(n, device=image.device) * 1e9
    first = torch.cat((one @ two.T / 0.1, one @ one.T / 0.1 - masks), dim=1)
    second = torch.cat((two @ one.T / 0.1, two @ two.T / 0.1 - masks), dim=1)
    return clip + (F.cross_entropy(first, labels) + F.cross_entropy(second, labels)) / 2


def batch(n: int) -> dict[str, Tensor]:
    """Random embeddings, pairs nearer to each other than to the rest."""
    generator = torch.Generator().manual_seed(0)

    def pair(dim: int) -> tuple[Tensor, Tensor]:
        one = torch.randn(n, dim, generator=generator)
        return one, one + 2 * torch.randn(n, dim, generator=generator)

    (image, text), (one, two) = pair(512), pair(256)
    embeddings = {"image": image, "text": text, "ssl_1": one, "ssl_2": two, "logit_scale": torch.tensor(30.0)}
    return {name: tensor.requires_grad_() for name, tensor in embeddings.items()}


def forms(block: int) -> dict[str, Callable[[dict[str, Tensor]], Tensor]]:
    """The two ways to the same loss."""
    clip = Clip(Clip.Config(block=block), Dims(width=1))
    simclr = SimClr(SimClr.Config(temperature=0.1, block=block, width=1, dim=1), Dims(width=1))

    def blocked(embeddings: dict[str, Tensor]) -> Tensor:
        return clip.loss(embeddings, At())["loss"] + simclr.loss(embeddings, At())["loss"]

    return {"whole": whole, "blocked": blocked}


def gradients(loss: Callable[[dict[str, Tensor]], Tensor], embeddings: dict[str, Tensor]) -> list[Tensor]:
    """The loss, and its gradient with respect to every embedding and the logit scale."""
    value = loss(embeddings)
    return [value.detach(), *torch.autograd.grad(value, list(embeddings.values()))]


def measure_memory(n: int, block: int, form: str) -> None:
    """Print by how many GiB one forward and backward raises this process's peak resident set."""
    loss = forms(block)[form]
    gradients(loss, batch(64))  # libraries and thread pools do not count
    embeddings = batch(n)
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradients(loss, embeddings)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / GIB)


def measure_time(n: int, block: int, repetitions: int) -> None:
    """Print the median seconds of both forms, the median of their ratio, and the largest relative difference."""
    embeddings = batch(n)
    seconds: dict[str, list[float]] = {"whole": [], "blocked": []}
    results = {}
    for _ in range(repetitions):
        for form, loss in forms(block).items():
            start = time.perf_counter()
            results[form] = gradients(loss, embeddings)
            seconds[form].append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(seconds["whole"], seconds["blocked"]))
    pairs = zip(results["whole"], results["blocked"])
    difference = max(((a - b).norm() / a.norm()).item() for a, b in pairs)
    print(statistics.median(seconds["whole"]), statistics.median(seconds["blocked"]), ratio, difference)


def child(*arguments: object) -> list[float] | None:
    """Run this script on itself in a fresh process; None when it died, as for want of memory."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return [float(x) for x in done.stdout.split()] if done.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("n", type=int, nargs="+", help="batch sizes")
    parser.add_argument("--block", type=int, default=1024, help="rows held at a time")
    parser.add_argument("--repetitions", type=int, default=3, help="timed repetitions")
    parser.add_argument("--measure", choices=("time", "whole", "blocked"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == "time":
        return measure_time(options.n[0], options.block, options.repetitions)
    if options.measure:
        return measure_memory(options.n[0], options.block, options.measure)

    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"clip + 1.0 * simclr, forward and backward, fp32, blocks of {options.block} rows")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}{load}\n")
    print(
        "|      N | whole, GiB | blocked, GiB | whole, s | blocked, s | time whole / blocked | difference |"
    )
    print(
        "|-------:|-----------:|-------------:|---------:|-----------:|---------------------:|-----------:|"
    )
    for n in options.n:
        fixed = ("--block", options.block, "--repetitions", options.repetitions, "--measure")
        cells = [f"{n:6,}"]
        for form in ("whole", "blocked"):
            memory = child(n, *fixed, form)
            cells.append("out of memory" if memory is None else f"{memory[0]:.2f}")
        times = child(n, *fixed, "time")
        formats = ("{:.2f}", "{:.2f}", "{:.2f}", "{:.0e}")
        cells += [f.format(x) for f, x in zip(formats, times)] if times else ["–"] * len(formats)
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
