"""Tasks by name, run together: `zeroshot:scenes`, `knn:/data/birds`, `retrieval:/data/test-*.tar`, …"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from openslip.errors import ConfigError, EvaluationError, SlipError, did_you_mean, note, unsaid
from openslip.evaluation import Evaluator, Result, lower_is_better
from openslip.evaluation.datasets import Kind, places
from openslip.evaluation.distinct import distinct, keys
from openslip.evaluation.results import keep, read, save, table
from openslip.processes import Processes

if TYPE_CHECKING:
    import torch

    from openslip.encoder import Encoder
    from openslip.evaluation.feature_cache import FeatureCache

T = TypeVar("T")
Precision = Literal["auto", "fp32", "bf16", "fp16"]

__all__ = [
    "PROTOCOLS",
    "Done",
    "Suite",
    "check",
    "distinct",
    "each",
    "keep",
    "keys",
    "parse_cadence",
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

    if options.pop("preset", "auto") != "paper":
        return Linear(dataset, **options)
    from openslip.evaluation.finetune import LinearBySgd

    return LinearBySgd(dataset, **options)


def _fewshot(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.fewshot import FewShot

    return FewShot(dataset, **options)


def _knn(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.knn import Knn

    return Knn(dataset, **options)


def _retrieval(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.retrieval import Retrieval

    _require_own_captions("retrieval", dataset)
    return Retrieval(dataset, **options)


def _geometry(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.geometry import Geometry

    _require_own_captions("geometry", dataset)
    return Geometry(dataset, **options)


def _require_own_captions(protocol: str, dataset: str) -> None:
    from openslip.data.sources.mixture import labelled_ones

    if labelled_ones(dataset):
        raise ConfigError(
            f"{protocol.capitalize()} cannot be measured on captions that only name the class",
            got=f"{protocol}:{dataset}",
            cause="Most pictures share their captions with many others",
            fix=f"Measure zeroshot:{dataset.removeprefix('labels:')}",
        )


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


def _mieb(dataset: str, options: dict[str, Any]) -> Evaluator:
    from openslip.evaluation.mieb import Mieb

    return Mieb(dataset, **options)


PROTOCOLS: dict[str, Callable[[str, dict[str, Any]], Evaluator]] = {
    "zeroshot": _zeroshot,
    "linear": _linear,
    "fewshot": _fewshot,
    "knn": _knn,
    "retrieval": _retrieval,
    "pairs": _pairs,
    "segmentation": _segmentation,
    "zeroshot-segmentation": _zeroshot_segmentation,
    "finetune": _finetune,
    "geometry": _geometry,
    "mieb": _mieb,
}


KINDS: dict[str, Kind] = {
    "retrieval": "captions",
    "geometry": "captions",
    "pairs": "pairs",
    "segmentation": "masks",
    "zeroshot-segmentation": "masks",
}
"""The kind of data set that a protocol takes, for protocols that take no classes."""


def each(task: str) -> list[str]:
    """Return the tasks that one text names: several for `mieb:lite`, one for every other protocol.

    Raises ConfigError if mteb, which knows the tasks of MIEB, is not installed.
    """
    protocol, _, dataset = task.strip().partition(":")
    if protocol != "mieb" or not dataset:
        return [task]
    from openslip.evaluation.mieb import tasks_of

    return [f"{protocol}:{name}" for name in tasks_of(dataset)]


def parse_task(task: str, **options: Any) -> Evaluator:
    """Return the evaluator that `protocol:dataset` names; nothing is opened yet.

    dataset: for retrieval and geometry a captioned source (see `openslip.data.sources.open_source`), else labelled
    images (see `openslip.data.labelled.load_labelled`); or the name of a set with a card (see
    `openslip.evaluation.datasets`). options: fields of the protocol's class, such as `templates` or `k`.

    Raises ConfigError for an unknown protocol, an unknown option or a missing dataset.
    """
    protocol, separator, dataset = task.strip().partition(":")
    if protocol not in PROTOCOLS:
        close = "" if re.search(r"[/\\.]", protocol) and not separator else did_you_mean(protocol, PROTOCOLS)
        if separator or close.startswith("Did"):
            alone = "" if separator else f" Before a data set, write a protocol: zeroshot:{task}"
            raise ConfigError(f"There is no evaluation protocol {protocol!r}", fix=close + alone)
        if task.strip() == "suite":
            raise ConfigError(
                "`suite` is not a task", fix="Put it before the models: slip evaluate suite MODEL …"
            )
        raise ConfigError(
            "A task names a protocol and a data set: PROTOCOL:DATASET",
            got=task,
            fix=f"Write zeroshot:{task}, knn:{task}, linear:{task}, fewshot:{task}, finetune:{task}, "
            f"retrieval:{task} or geometry:{task}.",
        )
    if not dataset:
        raise ConfigError(
            f"The task {protocol!r} names no data set",
            fix=f"Write {protocol}:DATASET, for example {protocol}:scenes.",
        )
    if protocol in KINDS and places.named(dataset):
        dataset = places.place_of(dataset, KINDS[protocol])
    try:
        return PROTOCOLS[protocol](dataset, options)
    except TypeError as error:
        raise ConfigError(
            f"{protocol} does not take these options", got=str(options), cause=str(error)
        ) from None


def check(tasks: Sequence[Evaluator], *, text: bool, best: str = "") -> list[str]:
    """Open the data of all tasks, so that problems show before any task takes its time.

    Each labelled set is opened once. Its evaluators keep the set for the measurements to come, until the next check.
    text: whether the model has a text tower; without one, tasks that need it are left out. best: the metric that picks
    the best checkpoint, as TASK/METRIC with a name of `distinct`; higher must be better.

    Returns sentences about the data for the user, each once: their classes, how many images, what was guessed.
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
            "The metric that picks the best checkpoint belongs to no task that is measured",
            got=best,
            fix=f"Write TASK/METRIC, with TASK one of {', '.join(dict.fromkeys(names))}"
            if names
            else "Name the task in --evaluation.tasks",
        )
    if lower_is_better(best):
        raise ConfigError("The best checkpoint is picked by a metric for which higher is better", got=best)
    return list(lines)


@dataclass(frozen=True)
class Done:
    """A task that has ended. name: its name in the suite; results, or the error that ended it; seconds it took."""

    name: str
    results: list[Result]
    error: SlipError | None
    seconds: float


def run(
    encoder: Encoder,
    tasks: Sequence[str | Evaluator],
    *,
    on_task: Callable[[Done], None] | None = None,
    progress: bool = False,
    precision: Precision = "auto",
    cache: FeatureCache | None = None,
    ranks: Processes | None = None,
    interrupts: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Result]:
    """Measure `encoder` on every task, in order. Image features that several tasks need are computed once.

    If the model has no text tower, tasks that need one are left out with a note. Equal tasks are measured once. Tasks
    that have not been checked are checked before anything is measured (see `check`).

    on_task: called with each task that has ended; with `on_task`, a failed task does not end the others. progress: show
    bars on a terminal. precision: the precision of the image tower; `auto` is float32 on a CPU, elsewhere the precision
    of the training, or float32 if that is not known. cache: a folder that keeps features. ranks: the processes that
    share the work; every process must call this function, and rank 0 has the results. interrupts: a context that is
    entered around everything that takes long, for a caller who must not be interrupted elsewhere.

    Raises ConfigError, DataError and EvaluationError for problems that show before anything is measured, and without
    `on_task` for failed tasks; ProcessError if another process has failed.
    """
    from openslip.evaluation.features import has_text, session

    ranks = ranks or Processes()
    evaluators = [
        parse_task(one) if isinstance(one, str) else one
        for task in tasks
        for one in (each(task) if isinstance(task, str) else [task])
    ]
    results: list[Result] = []
    dtype = chosen_precision(precision, encoder)
    with (
        session(progress and ranks.first, precision=dtype, cache=cache),
        nullcontext() if ranks.first else unsaid(),
        _checked(evaluators, text=has_text(encoder)) as measured,
    ):
        for name, evaluator in _once(measured).items():
            start = time.monotonic()
            done, error = _measured(name, evaluator, encoder, ranks, interrupts)
            done = [replace(one, settings=with_precision(one.settings, evaluator, dtype)) for one in done]
            if error is not None and on_task is None:
                raise error
            results += done
            if on_task is not None and ranks.first:
                on_task(Done(name, done, error, time.monotonic() - start))
    return results


def chosen_precision(name: Precision, encoder: Encoder) -> torch.dtype:
    """Return the precision in which an image tower computes.

    `auto` is the precision of the training, as far as the device has it. On a CPU, `auto` is float32: not all CPUs
    compute in bfloat16, so numbers would differ between CPUs. Raises ConfigError for fp16 on a CPU.
    """
    import torch

    from openslip.training.precision import choose_precision

    if name != "auto":
        return choose_precision(name, encoder.device)
    config = getattr(encoder, "config", None)
    trained = config.training.precision if config else "fp32"
    if encoder.device.type == "cpu":
        return torch.float32
    return choose_precision("bf16" if trained == "fp8" else trained, encoder.device)


def with_precision(settings: str, evaluator: Evaluator, dtype: torch.dtype) -> str:
    """Return a result's settings, with the precision of the features if it is lower than float32. A measurement in
    another precision is another measurement."""
    name = str(dtype).removeprefix("torch.")
    of_features = hasattr(evaluator, "share") and getattr(evaluator, "measured_on", True)
    if name == "float32" or not of_features:
        return settings
    return ", ".join(filter(None, (settings, f"precision={name}")))


@contextmanager
def _checked(evaluators: Sequence[Evaluator], *, text: bool) -> Iterator[list[Evaluator]]:
    """Yield the evaluators, all checked, without those that need a text tower if the model has none."""
    measured = []
    for evaluator in evaluators:
        if getattr(evaluator, "needs_text", False) and not text:
            note(f"{evaluator.name} is left out: the model has no text tower.")
        else:
            measured.append(evaluator)
    with ExitStack() as stack:
        for evaluator in measured:
            if not getattr(evaluator, "kept", False):
                evaluator.check()
                # An evaluator keeps its data only if its owner checked it: files may change before it is used again.
                stack.callback(getattr(evaluator, "forget", lambda: None))
        yield measured


def _once(evaluators: Sequence[Evaluator]) -> dict[str, Evaluator]:
    """Return the evaluators by their names, without those that repeat an earlier measurement."""
    found: dict[str, Evaluator] = {}
    for name, evaluator in zip(distinct(evaluators), evaluators):
        if name in found:
            note(f"{name} is named twice, and measured once.")
        found.setdefault(name, evaluator)
    return found


def _measured(
    name: str,
    evaluator: Evaluator,
    encoder: Encoder,
    ranks: Processes,
    interrupts: Callable[[], AbstractContextManager[None]],
) -> tuple[list[Result], SlipError | None]:
    """Measure one task, with its images shared between processes. Return its results, or the error that ended it."""
    share = getattr(evaluator, "share", None)
    if ranks.world > 1 and share is not None:
        error = _shared(name, partial(share, encoder), ranks, interrupts)
        if error is not None:
            return [], error
    results, error = [], None
    with ranks.together():
        if ranks.first:
            with interrupts():
                try:
                    results = _without_memory(name, partial(evaluator.evaluate, encoder))
                except SlipError as failure:
                    error = failure
    (failed,) = ranks.any(error is not None)
    if failed and error is None:
        error = EvaluationError(f"{name} has failed on the first process")
    return results, error


def _shared(
    name: str,
    work: Callable[[], None],
    ranks: Processes,
    interrupts: Callable[[], AbstractContextManager[None]],
) -> SlipError | None:
    """Have the processes compute features together. On every process, return an error if any process had one.

    Anything but a SlipError, such as a request to stop, ends all processes.
    """
    from openslip.evaluation.features import gather, sharing

    error: SlipError | None = None
    with ranks.together(), interrupts(), sharing(ranks):
        try:
            _without_memory(name, work)
        except SlipError as failure:
            error = failure
    (failed,) = ranks.any(error is not None)
    if not failed:
        try:
            gather(ranks)
        except SlipError as failure:
            error = failure
        (failed,) = ranks.any(error is not None)
    if failed and error is None:
        error = EvaluationError(f"{name} has failed on another process", fix="Look at what it has printed")
    return error


def _without_memory(name: str, work: Callable[[], T]) -> T:
    """Do the work. Raises EvaluationError if the device's memory is too small."""
    try:
        return work()
    except RuntimeError as failure:
        if type(failure).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        raise EvaluationError(
            f"{name} ran out of the device's memory",
            cause=str(failure).partition("\n")[0],
            fix="End other programs that use the device, or measure on the CPU.",
        ) from None


class Suite:
    """The tasks that a run measures while it trains, and when. Called with a model, a suite measures all tasks.

    tasks: evaluators, or texts as `parse_task` takes them, perhaps with a cadence: `linear:photos every 5` is measured
    every fifth epoch. Tasks without a cadence follow `evaluation.every_epochs`. At the end all tasks are measured.
    """

    def __init__(self, tasks: Sequence[str | Evaluator], progress: bool = False) -> None:
        self.progress = progress
        self.tasks: list[Evaluator] = []
        self.every: list[float | None] = []
        """Epochs between two measurements of each task; None to follow `evaluation.every_epochs`."""
        for task in tasks:
            name, every = parse_cadence(task) if isinstance(task, str) else (task, None)
            for one in each(name) if isinstance(name, str) else [name]:
                self.tasks.append(parse_task(one) if isinstance(one, str) else one)
                self.every.append(every)

    def after(self, tasks: Sequence[Evaluator]) -> Suite:
        """Return a suite that measures some other tasks first, whenever the run measures."""
        suite = Suite([*tasks, *self.tasks], self.progress)
        suite.every = [*[None] * len(tasks), *self.every]
        return suite

    def only(self, indices: Sequence[int]) -> Suite:
        """Return a suite of some of the tasks."""
        return Suite([self.tasks[index] for index in indices], self.progress)

    def __call__(self, encoder: Encoder, **how: Any) -> list[Result]:
        """Measure all tasks. how: `ranks` and `interrupts`, as `run` takes them."""
        return run(encoder, self.tasks, progress=self.progress, **how)

    def check_cadences(self) -> None:
        """Raise ConfigError if tasks of the same name have different cadences: their curves would mix."""
        times: dict[str, float | None] = {}
        for task, every in zip(self.tasks, self.every):
            if times.setdefault(task.name, every) != every:
                raise ConfigError(
                    "Tasks with the same name must be measured at the same times",
                    got=f"{task.name} every {every or 'evaluation.every_epochs'} and "
                    f"{times[task.name] or 'evaluation.every_epochs'} epochs",
                    fix="Give both the same `every N`, or name the data sets' folders differently",
                )


def parse_cadence(task: str) -> tuple[str, float | None]:
    """Return the task and N of `TASK every N`; N is None if the text has no `every`, and 0 for the end alone.

    Raises ConfigError if N is not a number from 0 on.
    """
    found = re.fullmatch(r"(.*\S)\s+every\s+(\S+)", task.strip(), re.DOTALL)
    if not found:
        return task, None
    try:
        every = float(found[2])
    except ValueError:
        every = -1.0
    if not 0 <= every < math.inf:
        raise ConfigError(
            "After `every`, a task has a number of epochs, 0 or more",
            got=task,
            fix=f"Write `{found[1]} every 5`; 0 measures the task at the end alone",
        )
    return found[1], every
