"""Outcomes and answers on disk, beside the results that were computed from them, to compare models sample by sample.

RUN/results.json has its outcomes in RUN/outcomes/, another FILE.json in FILE.outcomes/. Each measurement has one file:
`Result.identity` without the metric identifies a measurement. The file's name is the task and a digest of that
identity. The file is a compressed .npz without pickle: each different array once, and `about`, a JSON text that names
the arrays.

A file notes the numbers that it belongs to. If these differ from the results beside it, as after a killed process or an
edit, the file is not used. 50,000 samples in 1,000 classes take 2.9 MB, mostly digests of pictures and probabilities.
"""

from __future__ import annotations

import json
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np

from openslip.errors import EvaluationError
from openslip.evaluation import Result
from openslip.evaluation.fingerprint import of_all
from openslip.evaluation.outcomes import BEST, Answers, Outcomes, Statistic
from openslip.files import TEMPORARY, open_regular, parse_json, whole_or_not

FOLDER = "outcomes"
FORMAT = 1
LARGEST = 4 << 30
"""The most bytes of a file's arrays: a few bytes of a compressed file could expand to any size."""
_NUMBERS = ("value", "count", "low", "high")
_ARRAYS = ("values", "classes", "groups", "samples")
_NAME = re.compile(r".+-[0-9a-f]{16}\.npz")
CLASSES = 1 << 24
"""Numbers of classes are below this limit: a count is kept for each number."""
DAMAGED = (
    OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError, RuntimeError, SyntaxError,
    zipfile.BadZipFile, zlib.error, MemoryError, tokenize.TokenError, EvaluationError,
)  # fmt: skip
"""The exceptions from reading a file that is not a file of ours, or only half of one."""
_AXES = {"ece": 2, "mean_iou": 3, "pixel_accuracy": 3, "mean_average_precision": 2, "mean_roc_auc": 2}
"""The number of axes of a statistic's values; 1 for other statistics."""

Arrays = dict[str, np.ndarray]


def folder_of(path: str | Path) -> Path:
    """Return the folder for the outcomes of a file of results."""
    path = Path(path)
    return path.with_name(FOLDER if path.name == "results.json" else f"{path.stem}.{FOLDER}")


def file_of(result: Result, path: str | Path) -> Path:
    """Return the file for the outcomes of a measurement, given one of its results and the file of results."""
    task = re.sub(r"[^A-Za-z0-9._]+", "-", result.task).strip("-.")[:60] or "task"
    return folder_of(path) / f"{task}-{of_all(_measurement(result))}.npz"


def keep(results: Sequence[Result], path: str | Path) -> None:
    """Write the outcomes and answers of some results in `path`.

    Outcomes of an earlier, equal measurement are removed, even if the later one has none. A file that already has the
    same arrays stays as it is. If a file cannot be written, the other files are written before EvaluationError is
    raised.
    """
    failed: tuple[Path, OSError] | None = None
    for measured in _measurements(results):
        file = file_of(measured[0], path)
        try:
            about, arrays = _packed(measured)
            if not about["metrics"]:
                file.unlink(missing_ok=True)
            elif _header(file) != about:
                file.parent.mkdir(exist_ok=True)
                text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
                with whole_or_not(file) as opened:
                    np.savez_compressed(opened, about=text, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            failed = file, error
    if failed is not None:
        file, error = failed
        raise EvaluationError(
            f"The outcomes behind the results cannot be written to {file}",
            cause=error.strerror or str(error),
            fix="The results themselves are kept. To compare sample by sample, free some space and measure again.",
        )


def prune(results: Sequence[Result], path: str | Path) -> None:
    """Remove the files of measurements that `path` has no results of, and the remains of killed writes."""
    wanted = {file_of(measured[0], path).name for measured in _measurements(results)}
    with suppress(OSError):
        for name in os.listdir(folder_of(path)):
            if name not in wanted and (_NAME.fullmatch(name) or name.startswith(TEMPORARY)):
                os.unlink(folder_of(path) / name)
        os.rmdir(folder_of(path))  # if it is empty


def recall(results: Sequence[Result], path: str | Path) -> tuple[list[Result], list[str]]:
    """Return results that were read from `path`, with their outcomes and answers as far as these are kept and usable,
    and a sentence for each file that cannot be used."""
    found = {result.identity: result for result in results}
    troubles = []
    for measured in _measurements(results):
        file = file_of(measured[0], path)
        try:
            with open_regular(file) as opened:
                for result in _recalled(measured, *_arrays(opened)):
                    found[result.identity] = result
        except FileNotFoundError:
            pass
        except _Other as error:
            troubles.append(f"{file} is not used: {error}")
        except DAMAGED as error:
            troubles.append(
                f"{file} is not used: it is damaged, or not a file of outcomes ({type(error).__name__}: {error})"
            )
    return list(found.values()), troubles


class _Other(Exception):
    """A file is sound, but belongs to other results."""


def _measurement(result: Result) -> tuple[str, ...]:
    """Return the identity of a result without its metric."""
    return replace(result, metric="").identity


def _measurements(results: Iterable[Result]) -> list[list[Result]]:
    """Return the results by measurement."""
    found: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        found.setdefault(_measurement(result), []).append(result)
    return list(found.values())


def _packed(results: Sequence[Result]) -> tuple[dict[str, Any], Arrays]:
    """Return the `about` of a file, and its arrays: each different array once, named by its digest."""
    arrays: Arrays = {}

    def put(array: np.ndarray | None) -> str | None:
        if array is None:
            return None
        array = np.ascontiguousarray(array)
        name = of_all([array.dtype.str, repr(array.shape), array.tobytes()])
        arrays[name] = array
        return name

    metrics = {
        result.metric: {
            **{name: getattr(result, name) for name in _NUMBERS},
            "statistic": result.outcomes.statistic,
            **{name: put(getattr(result.outcomes, name)) for name in _ARRAYS},
        }
        for result in results
        if result.outcomes is not None
    }
    about: dict[str, Any] = {"format": FORMAT, "task": results[0].task, "metrics": metrics, "answers": None}
    said = next((result for result in results if result.answers is not None), None)
    if said is not None and said.answers is not None and metrics:
        known = said.answers
        digests = b"".join(digest.ljust(16, b"\0") for digest in known.digests)
        about["answers"] = {
            "metric": said.metric,
            "class_names": list(known.class_names),
            "digests": put(np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)),
            **{
                name: put(getattr(known, name))
                for name in ("labels", "ranks", "best", "probabilities", "rows")
            },
        }
    return json.loads(json.dumps(about)), arrays


def _header(file: Path) -> dict[str, Any] | None:
    """Return the `about` of a file; None if the file cannot be read."""
    try:
        with open_regular(file) as opened:
            return _arrays(opened, only="about")[0]
    except DAMAGED:
        return None


def _arrays(opened: IO[bytes], only: str = "") -> tuple[dict[str, Any], Arrays]:
    """Return the `about` and the arrays of an open file. Raises one of DAMAGED."""
    with zipfile.ZipFile(opened) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
            raise ValueError(f"its arrays have more than {LARGEST / 1e9:,.0f} GB")
    opened.seek(0)
    with np.load(opened, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if not only or name == only}
    text = arrays.pop("about")
    about = parse_json(text.tobytes())
    if about["format"] != FORMAT:
        raise ValueError(f"it has format {about['format']}, and this version reads {FORMAT}")
    return about, arrays


def _recalled(results: Sequence[Result], about: dict[str, Any], arrays: Arrays) -> list[Result]:
    """Return results with the outcomes and answers of a file. Raises one of DAMAGED, or _Other."""
    found = []
    for result in results:
        facts = about["metrics"].get(result.metric)
        if facts is None:
            continue
        if not all(_same(facts[name], getattr(result, name)) for name in _NUMBERS):
            raise _Other("it belongs to another measurement than the results beside it")
        found.append(replace(result, outcomes=_outcomes(facts, arrays, result)))
    said = about["answers"]
    if said is None:
        return found
    known = _answers(said, arrays)
    return [replace(one, answers=known) if one.metric == said["metric"] else one for one in found]


def _outcomes(facts: dict[str, Any], arrays: Arrays, result: Result) -> Outcomes:
    if facts["statistic"] not in get_args(Statistic):
        raise ValueError(f"there is no statistic {facts['statistic']!r}")
    values, *others = (None if facts[name] is None else arrays[facts[name]] for name in _ARRAYS)
    statistic = facts["statistic"]
    if (
        values is None
        or values.ndim != _AXES.get(statistic, 1)
        or not len(values)
        or values.dtype.kind not in "buif"
        or ((values.ndim == 3 or statistic == "ece") and values.shape[1] != 2)
    ):
        raise ValueError(f"{result.metric} has no numbers")
    several = statistic in ("mean_average_precision", "mean_roc_auc")
    classes = others[0]
    if classes is None and (several or statistic in ("mean_per_class", "roc_auc")):
        raise ValueError(f"{result.metric} has no classes")
    if classes is not None and classes.size and not -several <= classes.min() <= classes.max() < CLASSES:
        raise ValueError(f"{result.metric} has classes without end")
    shapes = (values.shape if several else values.shape[:1], values.shape[:1], values.shape[:1])
    if any(
        other is not None and (other.shape != shape or other.dtype.kind not in "biu")
        for other, shape in zip(others, shapes)
    ):
        raise ValueError(f"the arrays of {result.metric} do not fit each other")
    outcomes = Outcomes(values, statistic, *others)
    if not _same(outcomes.value(), result.value, within=1e-5):
        raise _Other(f"{result.metric} of its samples is {outcomes.value():.4g}, and not {result.value:.4g}")
    return outcomes


def _answers(said: dict[str, Any], arrays: Arrays) -> Answers:
    labels, ranks, best, probabilities, rows, digests = (
        arrays[said[name]] for name in ("labels", "ranks", "best", "probabilities", "rows", "digests")
    )
    names, count = tuple(map(str, said["class_names"])), len(labels)
    whole = (labels, ranks, best, rows)
    if (
        any(array.dtype.kind not in "iu" for array in whole)
        or probabilities.dtype.kind != "f"
        or any(array.shape != (count,) for array in (labels, ranks, rows))
        or best.ndim != 2
        or not 1 <= best.shape[1] <= BEST
        or best.shape != (count, best.shape[1])
        or probabilities.shape != best.shape
        or (digests.shape, digests.dtype) != ((count, 16), np.uint8)
        or any(array.size and not 0 <= array.min() <= array.max() < len(names) for array in (labels, best))
    ):
        raise ValueError("the arrays of its answers do not fit each other")
    told = tuple(bytes(row) if row.any() else b"" for row in digests)
    return Answers(labels, ranks, best, probabilities, rows, told, names)


def _same(one: float, other: float, within: float = 0.0) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other)) or abs(one - other) <= within * abs(other)
