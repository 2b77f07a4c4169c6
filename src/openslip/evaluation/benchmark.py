"""The tasks of a benchmark: those of the public data sets on disk, or those that a file lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openslip import toml
from openslip.errors import ConfigError, did_you_mean
from openslip.evaluation.datasets import Card, Kind, cards, places
from openslip.evaluation.suite import each
from openslip.files import expand, read_whole

USUAL: Mapping[Kind, Sequence[str]] = {
    "classes": ("zeroshot", "knn", "linear"),
    "captions": ("retrieval", "geometry"),
    "pairs": ("pairs",),
    "masks": ("segmentation", "zeroshot-segmentation"),
}
"""The protocols for each kind of set, unless protocols are named."""
PAPER = ("zeroshot", "linear")
"""The paper's protocols on its 26 sets, without end-to-end finetuning, which takes days."""
FITTING: Mapping[Kind, Collection[str]] = {
    **USUAL,
    "classes": ("zeroshot", "knn", "linear", "fewshot", "finetune"),
}
"""The protocols that can measure each kind of set."""
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Asked:
    """One task of a benchmark.

    options: options of `slip evaluate` for this task alone, such as `label_column`. found: the task is here because its
    set was found on disk, and not because somebody named the task.
    """

    task: str
    options: Mapping[str, Any]
    found: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Tasks, in order. missing: sets of the benchmark that are not on disk."""

    tasks: tuple[Asked, ...]
    missing: tuple[Card, ...] = ()


def of_sets(*, paper: bool, protocols: Sequence[str] = ()) -> Benchmark:
    """Return the tasks of the sets that have a card and are on disk (see `datasets.places`).

    paper: only the paper's 26 sets, by the paper's protocols, with the paper's seven prompts for ImageNet. protocols:
    protocols in place of the usual ones; each set is measured by those that fit the set.

    Raises ConfigError if there is no such protocol, or if no set is found.
    """
    from openslip.evaluation import published

    known = dict.fromkeys(name for kind in FITTING for name in FITTING[kind])
    for name in protocols:
        if name not in known:
            raise ConfigError(f"There is no protocol {name!r} for data sets", fix=did_you_mean(name, known))
    tasks: list[Asked] = []
    missing: list[Card] = []
    for card in cards().values():
        if paper and not card.paper:
            continue
        if card.name == "scenes":  # built in, and measured if a file of tasks names it
            continue
        if places.on_disk(card) is None:
            missing.append(card)
            continue
        how = protocols or (PAPER if paper else USUAL[card.kind])
        asked = {"templates": published.PROMPTS} if paper and card.name == "imagenet" else {}
        tasks += [
            Asked(f"{name}:{card.name}", asked if name == "zeroshot" else {}, True)
            for name in how
            if name in FITTING[card.kind]
        ]
    if not tasks:
        looked = ", ".join(map(str, places.roots()))
        raise ConfigError(
            "None of the data sets is on this machine"
            if not protocols
            else "No data set fits these protocols",
            got=", ".join(protocols) or None,
            cause=f"The folders searched are {looked}"
            if looked
            else f"Neither --datasets FOLDER nor the environment variable {places.ROOTS} names a folder of data sets",
            fix="`slip datasets` lists the sets, and where to get them; --sets FILE.toml names tasks of your own",
        )
    return Benchmark(tuple(tasks), tuple(missing))


def from_file(path: str | Path, options: Collection[str]) -> Benchmark:
    """Return the tasks that a TOML file lists: `tasks = ["knn:photos/", …]`, and `[[task]]` for tasks with options.

    options: the keys that a `[[task]]` may have beside `task`. Relative paths start at the working folder.

    Raises ConfigError for a file that cannot be read, or that holds anything else.
    """
    example = (
        'tasks = ["zeroshot:photos/"], and [[task]] with task = "knn:table.csv" and label_column = "kind"'
    )
    try:
        told = toml.parsed(read_whole(expand(path), MOST_BYTES).decode("utf-8-sig"), "It")
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(
            "The file of tasks cannot be read", got=str(path), cause=str(error), fix=f"It is TOML: {example}"
        ) from None
    for name in told:
        if name not in ("tasks", "task"):
            raise ConfigError(
                f"The file of tasks has a key {name!r}",
                got=str(path),
                fix=did_you_mean(name, ("tasks", "task")),
            )
    plain, tables = told.get("tasks", []), told.get("task", [])
    if not (isinstance(plain, list) and isinstance(tables, list) and (plain or tables)):
        raise ConfigError("The file of tasks lists no task", got=str(path), fix=f"Write {example}")
    asked = [_asked(table, path, options) for table in [*({"task": task} for task in plain), *tables]]
    return Benchmark(tuple(replace(one, task=task) for one in asked for task in each(one.task)))


def _asked(table: Any, path: str | Path, options: Collection[str]) -> Asked:
    if not isinstance(table, dict) or not isinstance(table.get("task"), str):
        raise ConfigError(
            "An entry of the file names no task", got=f"{path}: {table}", fix='Write task = "knn:photos/"'
        )
    given = {name.replace("-", "_"): value for name, value in table.items() if name != "task"}
    for name in given:
        if name not in options:
            raise ConfigError(
                f"No task takes {name!r}", got=f"{path}: {table['task']}", fix=did_you_mean(name, options)
            )
    return Asked(table["task"], given)
