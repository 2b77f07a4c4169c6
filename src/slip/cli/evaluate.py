"""slip evaluate RUN_OR_CHECKPOINT TASK [TASK ...]"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from slip.cli.arguments import parse
from slip.cli.source import ColumnOptions

if TYPE_CHECKING:
    from slip.evaluation import Evaluator

DESCRIPTION = """Measure a run folder, a checkpoint folder of one, a file of weights, or a released SLIP .pt file.

A task is PROTOCOL:DATASET. Protocols: zeroshot, linear, knn, finetune (DATASET is a folder of images by class, Parquet
files, or `scenes`), retrieval (DATASET is what `slip train` reads). A run keeps its results in results.json."""


@dataclass(frozen=True)
class Options(ColumnOptions):
    """What to measure, and how."""

    model: Annotated[Path, tyro.conf.Positional]
    """Run folder, checkpoint folder, file that `slip consolidate` wrote, or .pt file."""
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """PROTOCOL:DATASET, for example zeroshot:/data/birds; or PROTOCOL alone with --data."""
    data: str = ""
    """Data set of the tasks that name none."""
    which: Literal["latest", "best"] = "latest"
    """Checkpoint of a run folder."""
    templates: tuple[str, ...] = ()
    """Zero-shot prompts, each with {} for the class name; by default those that suit the data set."""
    preset: Literal["auto", "paper", "small-data"] = "auto"
    """Finetuning recipe."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    out: Path | None = None
    """Also write the results to this JSON file."""


def main(argv: list[str]) -> None:
    """Load, measure, print and keep."""
    options = parse(Options, argv, prog="slip evaluate", description=DESCRIPTION)

    from slip.errors import ConfigError, printable
    from slip.evaluation import suite
    from slip.interop import load
    from slip.training.precision import choose_device

    if not options.tasks:
        raise ConfigError("No task was named", fix="For example `slip evaluate RUN zeroshot:scenes`")
    is_run = os.path.isfile(options.model / "config.toml")
    tasks = [_evaluator(task, options, is_run) for task in options.tasks]
    encoder = load(options.model, which=options.which).to(choose_device(options.device))
    suite.check(tasks, text=encoder.model.text_tower is not None)
    results = suite.run(encoder, tasks, progress=True)
    print(printable(suite.table(results)))
    if options.out:
        suite.save(results, options.out)
    if is_run:
        path = options.model / "results.json"
        measured = {result.key for result in results}
        suite.save([r for r in suite.read(path) if r.key not in measured] + results, path)


def _evaluator(task: str, options: Options, is_run: bool) -> Evaluator:
    from slip.evaluation import suite
    from slip.evaluation.datasets import dataset_name

    protocol, _, dataset = task.partition(":")
    dataset = dataset or options.data
    task = f"{protocol}:{dataset}"
    if protocol == "zeroshot" and options.templates:
        return suite.parse_task(task, templates=options.templates)
    if protocol == "finetune":
        # A run keeps the state of its finetuning, so that the same command goes on after an interruption.
        folder = options.model / "finetune" / dataset_name(dataset).replace(":", "-") if is_run else None
        return suite.parse_task(task, preset=options.preset, folder=folder)
    if protocol == "retrieval":
        return suite.parse_task(task, **options.columns)
    return suite.parse_task(task)
