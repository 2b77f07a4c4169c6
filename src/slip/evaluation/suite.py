"""Tasks by name, run together: `zeroshot:scenes`, `knn:/data/birds`, `retrieval:/data/test-*.tar`, …"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slip.errors import ConfigError, EvaluationError, did_you_mean
from slip.evaluation import Evaluator, Result, lower_is_better, note
from slip.evaluation.distinct import distinct, keys
from slip.files import read_json, write_json

if TYPE_CHECKING:
    from slip.encoder import Encoder

__all__ = ["PROTOCOLS", "check", "distinct", "keys", "parse_task", "read", "run", "save", "table"]


def _zeroshot(dataset: str, options: dict[str, Any]) -> Evaluator:
    from slip.evaluation.zeroshot import ZeroShot

    return ZeroShot(dataset, **options)


def _linear(dataset: str, options: dict[str, Any]) -> Evaluator:
    from slip.evaluation.linear import Linear

    return Linear(dataset, **options)


def _knn(dataset: str, options: dict[str, Any]) -> Evaluator:
    from slip.evaluation.knn import Knn

    return Knn(dataset, **options)


def _retrieval(dataset: str, options: dict[str, Any]) -> Evaluator:
    from slip.evaluation.retrieval import Retrieval

    return Retrieval(dataset, **options)


def _finetune(dataset: str, options: dict[str, Any]) -> Evaluator:
    from slip.evaluation.finetune import Finetune

    return Finetune(dataset, **options)


PROTOCOLS: dict[str, Callable[[str, dict[str, Any]], Evaluator]] = {
    "zeroshot": _zeroshot,
    "linear": _linear,
    "knn": _knn,
    "retrieval": _retrieval,
    "finetune": _finetune,
}


def parse_task(task: str, **options: Any) -> Evaluator:
    """Return the evaluator that `protocol:dataset` names; nothing is opened yet.

    dataset: for retrieval a captioned source (see `slip.data.sources.open_source`), else labelled images (see
    `slip.evaluation.datasets.load_labelled`). options: fields of the protocol's class, such as `templates`, `k`.

    Raises ConfigError for an unknown protocol, an unknown option or a missing dataset.
    """
    protocol, _, dataset = task.strip().partition(":")
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"There is no evaluation protocol {protocol!r}", fix=did_you_mean(protocol, PROTOCOLS)
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


def check(tasks: Sequence[Evaluator], *, text: bool, best: str = "") -> None:
    """Open the data of all tasks, so that what is wrong with one is known before any takes its time.

    text: whether the model has a text tower; tasks that need it would else be left out. best: a metric that picks the
    best checkpoint; of a task, and one of which more is better. Raises ConfigError, DataError or EvaluationError.
    """
    measured = [task for task in tasks if text or not getattr(task, "needs_text", False)]
    for evaluator in measured:
        evaluator.check()
    names = [evaluator.name for evaluator in measured]
    if best and best.rpartition("/")[0] not in names:
        raise ConfigError(
            "The metric that picks the best checkpoint is of no task that is measured",
            got=best,
            fix=f"Write TASK/METRIC, as in {names[0]}/METRIC"
            if names
            else "Name the task in --evaluation.tasks",
        )
    if lower_is_better(best):
        raise ConfigError("The best checkpoint is picked by a metric of which more is better", got=best)


def run(
    encoder: Encoder,
    tasks: Sequence[str | Evaluator],
    on_result: Callable[[Result], None] | None = None,
    *,
    progress: bool = False,
) -> list[Result]:
    """Measure `encoder` on every task, in order; image features that several tasks need are computed once.

    A task that needs a text tower is left out, and said, when the model has none. on_result: called with each result
    as soon as there is one. progress: show bars on a terminal.

    Raises ConfigError for a wrong task before anything is measured; DataError and EvaluationError as they come.
    """
    from slip.evaluation.features import has_text, session

    evaluators = [parse_task(task) if isinstance(task, str) else task for task in tasks]
    results: list[Result] = []
    with session(progress):
        for evaluator in evaluators:
            if getattr(evaluator, "needs_text", False) and not has_text(encoder):
                note(f"{evaluator.name} left out: the model has no text tower.")
                continue
            for result in evaluator.evaluate(encoder):
                results.append(result)
                if on_result is not None:
                    on_result(result)
    return results


def table(results: Sequence[Result]) -> str:
    """Return the results as aligned plain text: percent (ranks as they are), 95 % interval, samples."""
    rows = [("task", "metric", "value", "95 % interval", "samples")]
    for result in results:
        if lower_is_better(result.metric):
            value, interval = f"{result.value:.1f}", f"{result.low:.0f} – {result.high:.0f}"
        else:
            value, interval = f"{result.value:.1%}", f"{100 * result.low:.1f} – {100 * result.high:.1f}"
        skipped = f" ({result.skipped:,} skipped)" if result.skipped else ""
        rows.append((result.task, result.metric, value, interval, f"{result.count:,}{skipped}"))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def save(results: Sequence[Result], path: str | Path) -> None:
    """Write the results as a JSON list of {"task": …, "metric": …, "value": …, …}, whole or not at all.

    Raises EvaluationError when the file cannot be written.
    """
    try:
        write_json(Path(path), [result.to_dict() for result in results])
    except OSError as error:
        raise EvaluationError(
            f"The results cannot be written to {path}",
            cause=error.strerror or str(error),
            fix="Give a place in a folder that exists and has room.",
        ) from None


def read(path: str | Path) -> list[Result]:
    """Read what `save` wrote; none where there is no such file. Raises EvaluationError for anything else."""
    try:
        return [_result(entry) for entry in read_json(path)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise EvaluationError(
            "The file does not hold results",
            got=str(path),
            cause=f"{type(error).__name__}: {error}",
            fix="Remove it, or name another; `slip evaluate` measures again",
        ) from None


def _result(entry: dict[str, Any]) -> Result:
    """Return what an entry of a file says. Raises LookupError, TypeError or ValueError where it is no result."""
    value, low, high = (float(entry[name]) for name in ("value", "low", "high"))
    count, skipped = int(entry["count"]), int(entry.get("skipped", 0))
    if count < 0 or skipped < 0:
        raise ValueError(f"{entry['metric']} of {count} samples")
    return Result(str(entry["task"]), str(entry["metric"]), value, count, low, high, skipped)
