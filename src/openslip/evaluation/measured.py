"""Models that have been measured: runs and files of results, one by one or as the seeds of one configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any

from openslip import toml
from openslip.config import Config
from openslip.data.identity import Identity, differences
from openslip.errors import ConfigError, shortened
from openslip.evaluation import Result
from openslip.evaluation.kept_outcomes import recall
from openslip.evaluation.results import FILE, read
from openslip.files import expand, read_json
from openslip.training.saving.run import MAY_CHANGE, PLACES, matches, values_of

_FEW = 4
"""The most differences between two configurations that a message names."""


Training = tuple[Config, Identity | None]
"""The configuration of a run, and its data as far as they are known. Seeds of one configuration agree in both."""


@dataclass(frozen=True)
class Measured:
    """A run, or a file of results, that has been measured.

    path: the file of results. training: the configuration and data of a run. results: each measurement, of the newest
    checkpoint that has it. older: the number of results of earlier checkpoints.
    """

    name: str
    path: Path
    results: tuple[Result, ...]
    older: int = 0
    training: Training | None = None

    @property
    def seed(self) -> int | None:
        return None if self.training is None else self.training[0].training.seed

    def with_outcomes(self, results: Sequence[Result]) -> tuple[list[Result], list[str]]:
        """Return some of the results with their outcomes, as far as these are kept, and sentences on outcomes that
        cannot be used."""
        return recall(results, self.path)


@dataclass(frozen=True)
class Model:
    """One side of a comparison: a run or a file of results, or several that are seeds of one configuration."""

    name: str
    runs: tuple[Measured, ...]

    @property
    def seeds(self) -> list[int | None]:
        return [run.seed for run in self.runs]

    def describe(self) -> str:
        """Return the paths of the results, and their seeds."""
        if len(self.runs) == 1:
            return str(self.runs[0].path)
        known = [str(seed) for seed in self.seeds if seed is not None]
        of = f" {', '.join(known)}" if len(known) == len(self.runs) else ""
        return f"{len(self.runs)} seeds{of}: {' '.join(str(run.path) for run in self.runs)}"


# Runs and files of results


def open_models(words: Sequence[str]) -> tuple[list[Model], list[str]]:
    """Return the models that words name, and notes for the user.

    A word is a run folder, one of its checkpoint folders, a file of results, or a pattern of these. With `NAME=` in
    front, all words of that name are one model. The runs of a pattern or a name are seeds of one configuration.

    Raises ConfigError for a word that names nothing, and for a run that is named twice;
    EvaluationError for a file that does not hold results.
    """
    named: dict[tuple[str, int], list[str]] = {}
    for number, word in enumerate(words):
        name, place = name_and_place(word)
        named.setdefault((name, -1 if name else number), []).append(place)
    found: list[tuple[str, str, list[Measured]]] = []
    notes: list[str] = []
    for (name, _), places in named.items():
        runs, unmeasured = _opened(places)
        notes += [f"{path} is left out: it has not been measured." for path in unmeasured]
        found.append((name or name_of([run.name for run in runs]), name or places[0].rstrip("/"), runs))
    every = [run for *_, runs in found for run in runs]
    _check_once(every)
    for _, name, runs in found:
        notes += _check_seeds(name, runs)
    notes += _may_be_seeds([runs[0] for *_, runs in found if len(runs) == 1])
    short = [name for name, *_ in found]
    names = short if len({*short}) == len(short) else [name for _, name, _ in found]
    return [Model(name, tuple(runs)) for name, (*_, runs) in zip(names, found)], notes


def name_and_place(word: str) -> tuple[str, str]:
    """Return NAME and PLACE of `NAME=PLACE`; the name is empty if there is none, as for a path that contains `=`."""
    name, separator, place = word.partition("=")
    if not separator or not name or os.sep in name or os.path.lexists(expand(word)):
        return "", word
    return name, place


def _opened(places: Sequence[str]) -> tuple[list[Measured], list[Path]]:
    """Return the measured runs and files at some places, and the paths that patterns match without measurements."""
    runs, unmeasured = [], []
    for place in places:
        several = has_magic(place) and not os.path.lexists(expand(place))
        for path in _matching(place) if several else [expand(place)]:
            run = open_measured(path)
            if run.results or not several:
                runs.append(run)
            else:
                unmeasured.append(path)
    if not runs:
        raise ConfigError("No run of the pattern has been measured", got=" ".join(places))
    return runs, unmeasured


def open_measured(path: Path) -> Measured:
    """Return the measurements of a run, of one of its checkpoint folders, or of a file of results.

    Raises ConfigError if the path is none of these, EvaluationError for a file that does not hold results.
    """
    run = path.absolute().parent.parent
    if _STEP.fullmatch(path.name) and path.is_dir() and os.path.isfile(run / "config.toml"):
        of = tuple(result for result in read(run / FILE) if result.checkpoint == path.name)
        return Measured(f"{run.name}/{path.name}", run / FILE, of, 0, _training(run))
    if os.path.isfile(path / "config.toml"):
        steps = [int(found[1]) for name in _names(path / "checkpoints") if (found := _STEP.fullmatch(name))]
        file, training, last = path / FILE, _training(path), max(steps, default=None)
    elif os.path.isfile(path / FILE) or os.path.isfile(path):
        file, training, last = path / FILE if path.is_dir() else path, None, None
    else:
        inside = [name for name in _names(path) if os.path.isfile(path / name / "config.toml")]
        raise ConfigError(
            "This is neither a run folder nor a file of results",
            got=str(path),
            cause="" if os.path.lexists(path) else "There is nothing of that name",
            fix=f"The folder holds runs. If they are seeds of one configuration, write '{path / '*'}', in quotes"
            if inside
            else "Name a folder that `slip train` wrote, or a file that `slip evaluate --out FILE.json` wrote",
        )
    aged = _by_age(read(file), last)
    latest = tuple(result for result, _, new in aged if new)
    called = path.parent if path.name == FILE else path.with_suffix("") if path.suffix == ".json" else path
    name = os.path.basename(os.path.abspath(called))
    return Measured(name, file, latest, len(aged) - len(latest), training)


def _training(run: Path) -> Training:
    return toml.load(run / "config.toml"), noted_data(run)


_STEP = re.compile(r"step-(\d+)")


def _matching(pattern: str) -> list[Path]:
    """Return the runs that a pattern matches; if there are none, the files of results."""
    paths = sorted(map(Path, glob(str(expand(pattern)))), key=_by_number)
    runs = [
        path
        for path in paths
        if os.path.isfile(path / "config.toml") or os.path.isfile(path / FILE) or _STEP.fullmatch(path.name)
    ]
    files = [path for path in paths if path.suffix == ".json" and path.is_file()]
    if not (runs or files):
        raise ConfigError(
            "The pattern matches no run, and no file of results",
            got=pattern,
            cause=f"It matches {len(paths)} other paths" if paths else "It matches nothing",
        )
    return runs or files


def _by_number(path: Path) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def noted_data(folder: Path) -> Identity | None:
    """Return the identity of a run's data; None for a run of an earlier version, or if data.json cannot be used."""
    try:
        data = read_json(folder / "data.json")
        differences(data, data)
        return data
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


# Seeds of one configuration


def differing(one: Training, other: Training) -> list[str]:
    """Return in words how two runs differ, apart from the seed, the name and options that do not change weights."""
    (_, data), (_, others) = one, other
    if bool(data) != bool(others):
        return ["what is known of their data"]
    # data.json counts more than the names of the data. Without it, the held-out share may be another.
    free = ("training.seed", "name", *(key for key in MAY_CHANGE if data or key != "data.val"))
    free += PLACES if data else ()
    values = [
        {key: value for key, value in values_of(config).items() if not matches(key, free)}
        for config, _ in (one, other)
    ]
    keys = [key for key in {**values[0], **values[1]} if values[0].get(key) != values[1].get(key)]
    told = [f"{key} {values[0].get(key)!r}, {values[1].get(key)!r}" for key in keys]
    if data and others:
        try:
            told += differences(data, others)
        except (LookupError, TypeError, ValueError):  # a file that somebody has changed
            told.append("data.json, which cannot be used")
    return told


def name_of(names: Sequence[str]) -> str:
    """Return a common name for runs: the common beginning of their names, without "seed"."""
    if len(names) == 1:
        return names[0]
    begin = common(names)
    if any(name[len(begin) :][:1].isdigit() for name in names):
        begin = begin.rstrip("0123456789")  # part of the seeds, as in `run10` and `run11`
    begin = re.sub(r"((^|[\s\-_.=]+)(seed|s))?[\s\-_.=]*$", "", begin, flags=re.IGNORECASE)
    return begin or names[0]


def common(names: Sequence[str]) -> str:
    """Return the common beginning of all names."""
    letters = takewhile(lambda letters: len(set(letters)) == 1, zip(*names))
    return "".join(letter for letter, *_ in letters)


def _check_seeds(name: str, runs: Sequence[Measured]) -> list[str]:
    """Return notes on the runs that are taken for seeds of one model.

    Raises ConfigError for two runs that are equal in their seed and all else: the second adds no measurement.
    """
    if len(runs) == 1:
        return []
    notes, told = [], dict[str, None]()
    known = [(run, run.training) for run in runs if run.training is not None]
    if len(known) < len(runs):
        notes.append(
            f"{name}: files of results do not name their model; they are taken for seeds of one model."
        )
    for number, (run, training) in enumerate(known):
        told |= dict.fromkeys(differing(known[0][1], training))
        for other, others in known[:number]:
            if run.seed == other.seed and not differing(others, training):
                raise ConfigError(
                    f"Two runs of {name} have the same seed, so the second adds no measurement",
                    got=f"training.seed {run.seed} of {other.path.parent} and {run.path.parent}",
                    fix="Leave one out",
                )
    if told:
        few = "; ".join(shortened(one, 120) for one in [*told][:_FEW])
        more = f", and {len(told) - _FEW} more" if len(told) > _FEW else ""
        notes.append(f"warning: the runs of {name} differ in more than their seeds: {few}{more}.")
    ends = {result.checkpoint for run in runs for result in run.results if result.checkpoint}
    if len(ends) > 1:
        notes.append(f"{name}: not all seeds were measured at the same step ({', '.join(sorted(ends))}).")
    return notes


def _check_once(runs: Sequence[Measured]) -> None:
    """Raise ConfigError if a run is named twice."""
    places = [(os.path.realpath(run.path), {result.checkpoint for result in run.results}) for run in runs]
    if twice := [run for run, place in zip(runs, places) if places.count(place) > 1]:
        raise ConfigError(
            "The same run is named twice", got=str(twice[0].path), fix="Name another run to compare"
        )


def _may_be_seeds(runs: Sequence[Measured]) -> list[str]:
    """Return a note if runs that are compared one by one are seeds of one model: a shell may have listed them."""
    for number, run in enumerate(runs):
        for other in runs[:number]:
            if not (run.training and other.training) or run.seed == other.seed:
                continue
            if not differing(other.training, run.training):
                return [
                    f"{other.name} and {run.name} differ in their seeds alone. To compare seeds as one model, pass a "
                    "pattern in quotes, 'runs/slip-*', or put one name in front: slip=runs/a slip=runs/b."
                ]
    return []


# Measurements


def what_of(result: Result) -> tuple[str, ...]:
    """Return the identity of a measurement. If the content is known, the location of the data does not matter.

    If the content is not known, as for results of earlier versions, the number of samples is part of the identity.
    """
    if result.content:
        return replace(result, data="").identity
    return (*result.identity, f"{result.count + result.skipped}")


def newest(results: Sequence[Result], last: object = None) -> list[Result]:
    """Return results, each measurement of a checkpoint once. The newest checkpoint of a measurement is not named.

    last: the last step of the run, if it is known: earlier versions measured the last step without naming it.
    """
    return [
        replace(result, checkpoint="" if new else checkpoint)
        for result, checkpoint, new in _by_age(results, last)
    ]


def _by_age(results: Sequence[Result], last: object) -> list[tuple[Result, str, bool]]:
    """Return each measurement once, with its checkpoint, and whether no newer checkpoint has the measurement."""
    of: dict[tuple[str, ...], dict[str, Result]] = {}
    for result in results:
        checkpoint = result.checkpoint or (f"step-{last:08}" if isinstance(last, int) else "")
        each = of.setdefault(what_of(replace(result, checkpoint="")), {})
        each[checkpoint] = result  # the later one counts
    found = []
    for each in of.values():
        latest = max(
            each,
            key=lambda checkpoint: [int(digits) for digits in re.findall(r"\d{1,4000}", checkpoint)][-1:],
        )
        found += [(result, checkpoint, checkpoint == latest) for checkpoint, result in each.items()]
    return found
