"""Tasks by name, run together: `zeroshot:scenes`, `knn:/data/birds`, `retrieval:/data/test-*.tar`, …"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openslip.errors import ConfigError, EvaluationError, SlipError, did_you_mean, note
from openslip.evaluation import Evaluator, Result, lower_is_better
from openslip.evaluation.distinct import distinct, keys
from openslip.evaluation.results import keep, read, save, table

if TYPE_CHECKING:
    from openslip.encoder import Encoder

__all__ = [
    "PROTOCOLS",
    "Done",
    "check",
    "distinct",
    "keep",
    "keys",
    "parse_task",
    "read",
    "run",
    "save",
    "table",
]


def _zeroshot(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.zeroshot import ZeroShot

    return ZeroShot(dataset, **options)


def _linear(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.linear import Linear

    return Linear(dataset, **options)


def _knn(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.knn import Knn

    return Knn(dataset, **options)


def _retrieval(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.data.sources.mixture import labelled_ones
    from openslip.evaluation.retrieval import Retrieval

    if labelled_ones(dataset):
        raise ConfigError(
            "Retrieval cannot be measured where captions say the class and no more",
            got=f"retrieval:{dataset}",
            cause="Most pictures have the captions of many others",
            fix=f"Measure zeroshot:{dataset.removeprefix('labels:')}",
        )
    return Retrieval(dataset, **options)


def _pairs(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.pairs import Pairs

    return Pairs(dataset, **options)


def _segmentation(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.segmentation import Segmentation

    return Segmentation(dataset, **options)


def _zeroshot_segmentation(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.zeroshot_segmentation import ZeroShotSegmentation

    return ZeroShotSegmentation(dataset, **options)


def _finetune(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.finetune import Finetune

    return Finetune(dataset, **options)


PROTOCOLS: dict[str, Callable[[str, dict[str, Any]], Evaluator]] = {
    "zeroshot": _zeroshot,
    "linear": _linear,
    "knn": _knn,
    "retrieval": _retrieval,
    "pairs": _pairs,
    "segmentation": _segmentation,
    "zeroshot-segmentation": _zeroshot_segmentation,
    "finetune": _finetune,
}


def parse_task(task: str, **options: Any) -> Evaluator:
    """Return the evaluator that `protocol:dataset` names; nothing is opened yet.

    dataset: for retrieval a captioned source (see `openslip.data.sources.open_source`), else labelled images (see
    `openslip.data.labelled.load_labelled`). options: fields of the protocol's class, such as `templates`, `k`.

    Raises ConfigError for an unknown protocol, an unknown option or a missing dataset.
    """
    protocol, separator, dataset = task.strip().partition(":")
    if protocol not in PROTOCOLS:
        close = "" if re.search(r"[/\\.]", protocol) and not separator else did_you_mean(protocol, PROTOCOLS)
        if separator or close.startswith("Did"):
            alone = "" if separator else f" A data set stands behind one: zeroshot:{task}"
            raise ConfigError(f"There is no evaluation protocol {protocol!r}", fix=close + alone)
        raise ConfigError(
            "A task says how to measure before it says on what: PROTOCOL:DATASET",
            got=task,
            fix=f"Write zeroshot:{task}, knn:{task}, linear:{task}, finetune:{task} or retrieval:{task}.",
        )
    if not dataset:
        raise ConfigError(
            f"The task {task!r} names no data set",
            fix=f"Write {protocol}:DATASET, for example {protocol}:scenes.",
        )
    try:
        return PROTOCOLS[protocol](dataset, options)
    except TypeError as error:
        raise ConfigError(
            f"{protocol} does not take these options", got=str(options), cause=str(error)
        ) from None


def check(tasks: Sequence[Evaluator], *, text: bool, best: str = "") -> list[str]:
    """Open the data of all tasks, so that what is wrong with one is known before any takes its time.

    Each labelled set is opened once, and kept by its evaluators for the measurements to come, until they are checked
    again. text: whether the model has a text tower; tasks that need it would else be left out. best: a metric that
    picks the best checkpoint; of a task (by its name among `distinct` ones), and one of which more is better.

    Returns sentences for people about the data, each once: which classes they have, how many images, what was guessed.
    Raises ConfigError, DataError or EvaluationError.
    """
    from openslip.evaluation.opened import shared

    measured = [task for task in tasks if text or not getattr(task, "needs_text", False)]
    lines: dict[str, str] = {}
    with shared():
        for evaluator in measured:
            evaluator.check()
            location = evaluator.about().get("data", "") if hasattr(evaluator, "about") else ""
            for line in getattr(evaluator, "lines", list)():
                same = lines.setdefault(line, location) == location
                lines |= {} if same else {f"{line} ({location})": location}
    names = distinct(measured)
    if best and best.rpartition("/")[0] not in names:
        raise ConfigError(
            "The metric that picks the best checkpoint is of no task that is measured",
            got=best,
            fix=f"Write TASK/METRIC, with TASK one of {', '.join(dict.fromkeys(names))}"
            if names
            else "Name the task in --evaluation.tasks",
        )
    if lower_is_better(best):
        raise ConfigError("The best checkpoint is picked by a metric of which more is better", got=best)
    return list(lines)


@dataclass(frozen=True)
class Done:
    """A task that is through. name: among those of the suite; results, or the error that ended it; seconds it took."""

    name: str
    results: list[Result]
    error: SlipError | None
    seconds: float


def run(
    encoder: Encoder,
    tasks: Sequence[str | Evaluator],
    on_result: Callable[[Result], None] | None = None,
    *,
    on_task: Callable[[Done], None] | None = None,
    progress: bool = False,
) -> list[Result]:
    """Measure `encoder` on every task, in order; image features that several tasks need are computed once.

    A task that needs a text tower is left out, and said, when the model has none. Of equal tasks one is measured. Tasks
    that have not been checked are checked before anything is measured (see `check`).

    on_result: called with each result as soon as there is one. on_task: called with each task that is through; with it,
    a task that fails does not end the others. progress: show bars on a terminal.

    Raises ConfigError, DataError and EvaluationError for what can be known before anything is measured, and without
    on_task as they come.
    """
    from openslip.evaluation.features import has_text, session

    evaluators = [parse_task(task) if isinstance(task, str) else task for task in tasks]
    text = has_text(encoder)
    results: list[Result] = []
    with session(progress), ExitStack() as stack:
        measured = []
        for evaluator in evaluators:
            if getattr(evaluator, "needs_text", False) and not text:
                note(f"{evaluator.name} left out: the model has no text tower.")
            else:
                measured.append(evaluator)
        for evaluator in measured:
            if not getattr(evaluator, "kept", False):
                evaluator.check()
                # What an evaluator keeps is for its owner to know of: files may change before it is used again.
                stack.callback(getattr(evaluator, "forget", lambda: None))
        for name, evaluator in _once(measured).items():
            done = _measured(name, evaluator, encoder, raising=on_task is None)
            for result in done.results:
                results.append(result)
                if on_result is not None:
                    on_result(result)
            if on_task is not None:
                on_task(done)
    return results


def _once(evaluators: Sequence[Evaluator]) -> dict[str, Evaluator]:
    """Return the evaluators by their names, without those that measure what one before them does."""
    found: dict[str, Evaluator] = {}
    for name, evaluator in zip(distinct(evaluators), evaluators):
        if name in found:
            note(f"{name} is named twice, and measured once.")
        found.setdefault(name, evaluator)
    return found


def _measured(name: str, evaluator: Evaluator, encoder: Encoder, *, raising: bool) -> Done:
    """Measure one task; unless `raising`, an error of ours is part of what is returned."""
    start = time.monotonic()
    try:
        results, error = evaluator.evaluate(encoder), None
    except SlipError as failure:
        results, error = [], failure
    except RuntimeError as failure:
        if type(failure).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        results, error = (
            [],
            EvaluationError(
                f"{name} ran out of the device's memory",
                cause=str(failure).partition("\n")[0],
                fix="End what else uses the device, or measure on the CPU.",
            ),
        )
    if raising and error is not None:
        raise error
    return Done(name, results, error, time.monotonic() - start)
