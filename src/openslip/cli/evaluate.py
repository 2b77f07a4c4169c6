"""slip evaluate RUN_OR_CHECKPOINT TASK [TASK ...]"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from openslip.cli import hints, idle
from openslip.cli.arguments import given, parse
from openslip.cli.source import ColumnOptions
from openslip.errors import UsageError

if TYPE_CHECKING:
    import torch

    from openslip.evaluation import Evaluator, Result

DESCRIPTION = """Measure a run folder, a checkpoint folder of one, a file of weights, or a released SLIP .pt file.

A task is PROTOCOL:DATASET. Protocols: zeroshot, linear, knn, finetune (DATASET is a folder of images by class, Parquet
files, a table of images and classes, tar shards with classes, or `scenes`), retrieval (DATASET is what `slip train`
reads). A run keeps its results in results.json: those of the same model, data and settings are replaced, all others
stay."""


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
    """Also write the results to this file: as CSV where its name ends in .csv, else as JSON."""


def main(argv: list[str]) -> int:
    """Check, load, measure, keep and print; return the exit status."""
    _refuse_several_processes()
    options = parse(Options, argv, prog="slip evaluate", description=DESCRIPTION)
    hints.check_evaluate(str(options.model), options.tasks)
    idle.evaluate(given(Options, argv), options.model, options.tasks, options.data)

    from openslip.errors import printable
    from openslip.evaluation import suite
    from openslip.evaluation.ledger import Ledger
    from openslip.interop import load

    tasks = _tasks(options)
    device = _device(options)
    model, run = _checkpoint(options)
    ledger = Ledger(run, options.out)
    for note in ledger.notes:
        _print(note)
    encoder = load(model, which=options.which if model == run else "latest").to(device)
    text = encoder.model.text_tower is not None
    _refuse_nothing(tasks, text=text)
    name = os.path.basename(os.path.abspath(model))
    checkpoint = name if name.startswith("step-") else ""
    _print(f"Measuring {options.model}{f', {checkpoint},' if run and checkpoint else ''} on {device}.")
    if not run and any(task.name.startswith("finetune:") for task in tasks):
        _print("A finetuning keeps its state in a run folder, and this is none: interrupted, it starts anew.")
    for line in suite.check(tasks, text=text):
        _print(line)
    wanted = {*suite.distinct([task for task in tasks if text or not getattr(task, "needs_text", False)])}

    done, failed = 0, 0

    def through(task: suite.Done) -> None:
        nonlocal done, failed
        errors = ledger.add([replace(result, checkpoint=checkpoint) for result in task.results])
        for error in filter(None, (task.error, *errors)):
            failed += 1
            _print(f"slip: {task.name}: {error}")
        if task.results:
            done += 1
            _print(f"{task.name}: {_main_number(task.results)}, {task.seconds:,.0f} s")

    try:
        suite.run(encoder, tasks, on_task=through, progress=True)
    finally:  # also when it is interrupted
        if ledger.results:
            print(printable(suite.table(ledger.results)))
            many = "" if done == len(wanted) else f"{done} of {len(wanted)} tasks measured. "
            files = " and ".join(map(str, ledger.files))
            _print(many + (f"Results kept in {files}." if files else "No file keeps the results."))
    return 1 if failed else 0


def _refuse_several_processes() -> None:
    """Raise ConfigError under torchrun with several processes, on the first of them: each would measure everything."""
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return
    from openslip.errors import ConfigError

    if os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # without a word
        time.sleep(10)  # torchrun ends all when one has ended: the first, which says why
        sys.exit(1)
    raise ConfigError(
        "`slip evaluate` measures in one process",
        got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
        cause="Several would measure the same things, and write over each other's results",
        fix="Start it without torchrun; it reads what any number of processes have trained",
    )


def _tasks(options: Options) -> list[Evaluator]:
    if not options.tasks:
        raise UsageError("No task was named", fix="For example `slip evaluate RUN zeroshot:scenes`")
    run = options.model if os.path.isfile(options.model / "config.toml") else None
    return [_evaluator(task, options, run) for task in options.tasks]


def _evaluator(task: str, options: Options, run: Path | None) -> Evaluator:
    from openslip.data.labelled import dataset_name
    from openslip.evaluation import suite

    protocol, separator, dataset = task.partition(":")
    dataset = dataset or options.data
    if protocol in suite.PROTOCOLS or separator:
        task = f"{protocol}:{dataset}"
    columns = {
        name: value
        for name in ("image_root", "image_column", "label_column")
        if (value := getattr(options, name))
    }
    if protocol == "zeroshot" and options.templates:
        return suite.parse_task(task, templates=options.templates, columns=columns)
    if protocol == "finetune" and dataset:
        # A run keeps the state of its finetuning, so that the same command goes on after an interruption.
        folder = run / "finetune" / dataset_name(dataset).replace(":", "-") if run else None
        return suite.parse_task(task, preset=options.preset, folder=folder, columns=columns)
    if protocol == "retrieval":
        names = ("image_root", "image_column", "caption_column")
        captioned = {name: options.columns[name] for name in names}
        return suite.parse_task(task, **captioned, leave_broken=options.leave_broken)
    if protocol in suite.PROTOCOLS:
        return suite.parse_task(task, columns=columns)
    return suite.parse_task(task)


def _device(options: Options) -> torch.device:
    from openslip.errors import ConfigError
    from openslip.training.precision import choose_device

    try:
        return choose_device(options.device)
    except ConfigError as error:
        raise ConfigError(error.what, got=f"--device {options.device}", fix="Use --device auto") from None


def _checkpoint(options: Options) -> tuple[Path, Path | None]:
    """Return what to load, of a run the checkpoint that is meant, and the run, if it is one.

    A run that trains meanwhile writes further ones: that which is named is that which is measured.
    """
    from openslip.interop.ours import pick

    if not os.path.isfile(options.model / "config.toml"):
        return options.model, None
    return pick(options.model, options.which) or options.model, options.model


def _refuse_nothing(tasks: Sequence[Evaluator], *, text: bool) -> None:
    """Raise EvaluationError where every task would be left out."""
    from openslip.errors import EvaluationError

    if not text and all(getattr(task, "needs_text", False) for task in tasks):
        raise EvaluationError(
            "Nothing can be measured: the model has no text tower, which every task needs",
            got=", ".join(task.name for task in tasks),
            cause="It was trained with an image-only objective such as SimCLR",
            fix="Measure it with knn, linear or finetune",
        )


def _main_number(results: Sequence[Result]) -> str:
    from openslip.evaluation import lower_is_better

    first = results[0]
    value = f"{first.value:.1f}" if lower_is_better(first.metric) else f"{first.value:.1%}"
    return f"{first.metric} {value} of {first.count:,}"


def _print(text: str) -> None:
    from openslip.errors import printable

    print(printable(text), file=sys.stderr, flush=True)
