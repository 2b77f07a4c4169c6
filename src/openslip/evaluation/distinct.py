"""Short names that tell measurements apart: `knn:birds`, and `knn:A/birds` beside `knn:B/birds`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openslip.errors import shortened
from openslip.evaluation import Evaluator, Result

_FIELDS = ("data", "prompts", "settings", "checkpoint", "split", "content")
"""The fields that tell two measurements of one name apart: the first field that differs, then the next."""
_LONGEST = 60
"""The most characters of prompts or settings in a name."""

Told = tuple[str, ...]
"""The facts of a measurement, one text for each of `_FIELDS`."""


def distinct(measured: Sequence[Result | Evaluator]) -> list[str]:
    """Return a short name for each of N results or evaluators, in their order.

    The name is the task's, `protocol:dataset`. If several measurements share it, the name also says how they differ: by
    the end of the path, then in brackets by prompts, settings, checkpoint, split. Names are equal exactly if task,
    data, split, prompts, settings, checkpoint and content are equal. The metric is not part of the name. Evaluators may
    open their data to be named, and raise what their `check` raises.
    """
    told = [_told(one) for one in measured]
    names: dict[tuple[str, Told], str] = {}
    for task in dict.fromkeys(task for task, _ in told):
        group = list(dict.fromkeys(facts for name, facts in told if name == task))
        names |= {(task, facts): name for facts, name in _apart(task, [], group, 0).items()}
    taken: dict[str, tuple[str, Told]] = {}
    for one, name in names.items():
        if taken.setdefault(name, one) != one:  # a user's own task may have any name
            names[one] = f"{name} [{_digest(str(one))}]"
    return [names[one] for one in told]


def keys(results: Sequence[Result]) -> list[str]:
    """Return `name/metric` for each of N results, with distinct names. Numbers are logged under these keys."""
    return [f"{name}/{result.metric}" for name, result in zip(distinct(results), results)]


def _told(one: Result | Evaluator) -> tuple[str, Told]:
    if isinstance(one, Result):
        return one.task, tuple(getattr(one, field) for field in _FIELDS)
    about: Callable[[], Mapping[str, Any]] = getattr(one, "about", dict)
    facts = about()
    return one.name, tuple(facts.get(field, "") for field in _FIELDS)


def _apart(task: str, marks: list[str], group: list[Told], field: int) -> dict[Told, str]:
    """Return a name for each of the different facts in `group`, which agree in all fields before `field`."""
    if len(group) == 1:
        return {group[0]: f"{task} [{'; '.join(marks)}]" if marks else task}
    values = list(dict.fromkeys(facts[field] for facts in group))
    labels = {}
    if len(values) > 1:
        labels = _locations(task, values) if _FIELDS[field] == "data" else _texts(_FIELDS[field], values)
    names: dict[Told, str] = {}
    for value in values:
        label = labels.get(value, "")
        same = [facts for facts in group if facts[field] == value]
        if _FIELDS[field] == "data":
            names |= _apart(label or task, marks, same, field + 1)
        else:
            names |= _apart(task, [*marks, label] if label else marks, same, field + 1)
    return names


def _locations(task: str, locations: Sequence[str]) -> dict[str, str]:
    """Return a task's name for each of several locations, with the shortest ends of their paths that differ.

    If only one location is not known, or does not fit the name, its name stays as it is.
    """
    protocol, _, dataset = task.partition(":")
    own = [location for location in locations if not location or not _called(dataset, location)]
    kept = own[:1] if len(own) == 1 else []
    others = [location for location in locations if location not in kept]
    parts = {location: location.replace("\\", "/").rstrip("/").split("/") for location in others}
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        ends = {location: f"{protocol}:{'/'.join(words[-count:])}" for location, words in parts.items()}
        if len({*ends.values(), *([task] if kept else [])}) == len(locations):
            return ends | dict.fromkeys(kept, task)
    return {location: f"{task}-{_digest(location)}" for location in others} | dict.fromkeys(kept, task)


def _called(dataset: str, location: str) -> bool:
    """Whether `dataset` is the short name of a location."""
    from openslip.data.labelled import dataset_name

    return dataset_name(location) == dataset


def _texts(field: str, values: Sequence[str]) -> dict[str, str]:
    """Return a short mark for each of several different texts, "" for the empty text."""
    word = {"prompts": "prompts ", "content": "content "}.get(field, "")
    marks = {value: f"{word}{shortened(value, _LONGEST)}" if value else "" for value in values}
    if len(set(marks.values())) < len(marks):
        marks = {value: f"{mark} {_digest(value)}" if mark else "" for value, mark in marks.items()}
    return marks


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
