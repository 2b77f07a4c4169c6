"""What a training step takes in another version of this project and in this one: both train, in turns.

    python benchmarks/versions.py OTHER/src -- scenes-tiny --data.train shards --training.budget '150 steps'
    python benchmarks/versions.py OTHER/src --processes 2 -- scenes-tiny --data.train shards

After `--` stand the arguments of `slip train`, which both versions take. A turn is ten steps of the one run while the
other run stands still, so that a machine that is busy for a while is busy for both. Data are loaded by the training
processes themselves, and no run saves or measures before its end. Ratios are other / this, medians over pairs of turns
with quartiles: of the clock, and of the first process's processor time.
"""

from __future__ import annotations

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

STEPS = 10
"""Optimiser steps of a turn."""
WARM_UP = 2
"""Turns that do not count."""
FIXED = (
    *("--data.workers", "0", "--checkpoint.every-steps", "0", "--checkpoint.every-minutes", "0"),
    *("--training.log-every", str(STEPS), "--evaluation.tasks"),
)


class Turns:
    """Counts the optimiser's steps; after each turn, its times are noted and the other run goes on."""

    def __init__(self, folder: Path, name: str, other: str) -> None:
        # Opened for both ends, a pipe lets nobody wait for the opening.
        self.mine, self.others = (os.open(folder / each, os.O_RDWR) for each in (name, other))
        self.times, self.count, self.start = folder / f"{name}.txt", 0, (0.0, 0.0)

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count % STEPS == 0:
            if self.count > STEPS:
                clock, processor = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
                with self.times.open("a") as file:
                    file.write(f"{clock / STEPS} {processor / STEPS}\n")
                os.write(self.others, b".")
            os.read(self.mine, 1)
            self.start = time.perf_counter(), time.process_time()


def train(folder: Path, name: str, other: str, arguments: list[str]) -> None:
    """In a process of its own: run `slip train` of the version that can be imported here."""
    turns = Turns(folder, name, other)
    if os.environ.get("RANK", "0") == "0":
        register_optimizer_step_post_hook(turns)
    module = "openslip" if any(Path(path, "openslip").is_dir() for path in sys.path) else "slip"
    sys.argv = [module, "train", *arguments, *FIXED, "--out", str(folder / f"run-{name}")]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        os.write(turns.others, b"." * 1000)  # the other run need not wait any more


def start(src: Path, folder: Path, name: str, other: str, options: argparse.Namespace) -> subprocess.Popen:
    launch = [sys.executable]
    if options.processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
    command = [*launch, __file__, str(folder), name, other, *options.arguments]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(src), "TURNS": "1"}
        )


def summary(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"**{middle:.3f}** ({low:.3f}–{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="folder with the other version's package: its src")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("arguments", nargs="+", help="of `slip train`, after --")
    options = parser.parse_args()
    this = Path(__file__).parents[1] / "src"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("other", "this"):
            os.mkfifo(folder / name)
        running = [
            start(options.other.resolve(), folder, "other", "this", options),
            start(this, folder, "this", "other", options),
        ]
        turn = os.open(folder / "other", os.O_RDWR)
        os.write(turn, b".")
        statuses = [process.wait() for process in running]
        if any(statuses):
            logs = (folder / f"{name}.log" for name in ("other", "this"))
            raise SystemExit("\n".join(log.read_text()[:2000] for log in logs))
        others, own = (
            [tuple(map(float, line.split())) for line in (folder / f"{name}.txt").read_text().splitlines()]
            for name in ("other", "this")
        )
        os.close(turn)
    pairs = list(zip(others, own))[WARM_UP:]
    clock, processor = ([a[kind] / b[kind] for a, b in pairs] for kind in (0, 1))
    load = f", load average {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    print(f"{options.processes} process(es), {len(pairs)} pairs of turns of {STEPS} steps{load}")
    other_ms, own_ms = (
        1000 * statistics.median(times[0] for times in side[WARM_UP:]) for side in (others, own)
    )
    print(f"milliseconds a step, medians: other {other_ms:.1f}, this {own_ms:.1f}")
    print(f"other / this: {summary(clock)} by the clock, {summary(processor)} by the processor")


if __name__ == "__main__":
    if os.environ.get("TURNS"):
        folder, name, other, *rest = sys.argv[1:]
        train(Path(folder), name, other, rest)
    else:
        main()
