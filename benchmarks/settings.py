"""Which settings suit each method of the quickstart? Judged on `scenes:val`, which no reported number uses.

    python benchmarks/settings.py                      # the whole grid, results kept in settings/results.jsonl
    python benchmarks/settings.py --methods clip       # one method; several can run side by side
    python benchmarks/settings.py --seeds 1 --only 0.003:64:0.5

A setting is LEARNING RATE:BATCH:SMALLEST SSL CROP. Every run sees the same number of samples. What is done already is
not done again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from openslip import recipes
from openslip.config import Config
from openslip.data.sources import open_source
from openslip.evaluation import suite
from openslip.quickstart import METHODS, method_config, paint
from openslip.training.train import train

RATES_AND_BATCHES = [
    *("0.0015:64:0.5", "0.003:64:0.5", "0.006:64:0.5", "0.0015:128:0.5", "0.003:128:0.5", "0.006:128:0.5")
]
GRID = {
    "clip": RATES_AND_BATCHES,
    "simclr": ["0.0015:64:0.5", "0.003:64:0.5", "0.006:64:0.5", "0.003:128:0.5", "0.003:64:0.2"],
    "slip": [*RATES_AND_BATCHES, "0.003:64:0.2", "0.003:128:0.2"],
}
NAMES = {name.lower(): name for name in METHODS}
TASKS = ("zeroshot:scenes:val:2000", "linear:scenes:val:2000", "knn:scenes:val:2000")


def apply(setting: str, base: Config) -> Config:
    """Return `base` with the learning rate, batch and smallest crop of a setting."""
    lr, batch, crop = setting.split(":")
    return replace(
        base,
        optimizer=replace(base.optimizer, lr=float(lr)),
        training=replace(base.training, batch=int(batch)),
        views=replace(base.views, ssl=replace(base.views.ssl, scale=(float(crop), 1.0))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", default=None, help="these settings instead of the grid's")
    parser.add_argument("--out", type=Path, default=Path("settings"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source, log = open_source(str(paint(options.out / "scenes", 4000, 0))), options.out / "results.jsonl"
    evaluate = partial(suite.run, tasks=[suite.parse_task(task) for task in TASKS])
    for seed in options.seeds:
        for method in options.methods:
            for setting in options.only or GRID[method]:
                config = apply(setting, method_config(NAMES[method], recipes.get("scenes-tiny"), seed))
                folder = options.out / f"{method}-{setting.replace(':', '-')}-{seed}"
                if not (folder / "results.json").is_file():
                    train(config, source, folder, evaluate=evaluate, resume=True)
                scores = {r.task: round(100 * r.value, 1) for r in suite.read(folder / "results.json")}
                line = {"method": method, "setting": setting, "seed": seed} | scores
                print(json.dumps(line), flush=True)
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
