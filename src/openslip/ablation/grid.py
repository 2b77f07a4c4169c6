"""The grid file: what all runs share, the variants, and the seeds.

```toml
recipe = "small-data"                        # or config = "mine.toml"
seeds = [0, 1, 2]                            # or 3
tasks = ["zeroshot:photos", "knn:photos"]    # measured at the end of every run

[shared]                                     # any values of a configuration, as `slip train` takes them
data.train = "pairs.csv"
training.epochs = 20

[variants.slip]                              # the recipe as it is

[variants.clip]                              # with these changes
objective.loss = "clip"

[variants.clip-equal]
objective.loss = "clip"
equal_compute = "slip"                       # as many epochs as cost what `slip` costs

[variants.warm.grid]                         # a product: one variant for each combination
objective.simclr.temperature = [0.1, 0.2]
```
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from openslip import objectives, recipes, toml
from openslip.config import Config
from openslip.errors import ConfigError, SlipError, did_you_mean
from openslip.evaluation.suite import Suite
from openslip.files import LARGEST
from openslip.objectives import own
from openslip.ranges import check_ranges

KEYS = ("recipe", "config", "seeds", "tasks", "out", "shared", "variants", "grid")
"""The keys that a grid file may have."""
OF_VARIANT = ("recipe", "equal_compute", "grid")
"""The keys that a variant may have beside changes."""
MOST = 10_000
"""The most runs that a grid may have."""
_NAME = re.compile(r"[A-Za-z0-9][\w.+,-]*")


@dataclass(frozen=True)
class Variant:
    """One configuration of the grid, which all seeds share.

    changes: the variant's own values beside the shared ones, by full key. equal_compute: the variant whose compute
    this variant is trained to, "" for none; `openslip.ablation.compute` then works out the epochs.
    """

    name: str
    config: Config
    changes: Mapping[str, Any]
    equal_compute: str = ""


@dataclass(frozen=True)
class GridRun:
    """One variant with one seed."""

    variant: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.variant}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """What is trained: each variant with each seed. out: the folder of the runs."""

    path: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    out: Path

    @property
    def runs(self) -> list[GridRun]:
        """All runs, seed by seed: a grid that is stopped early has already compared variants.

        The position in this list is the run's number, which `--index` takes. Seeds that are added come last.
        """
        return [self.run(variant, seed) for seed in self.seeds for variant in self.variants]

    def run(self, variant: Variant, seed: int) -> GridRun:
        """Return the run of a variant with a seed."""
        training = replace(variant.config.training, seed=seed)
        return GridRun(variant.name, seed, replace(variant.config, training=training))


def shipped() -> list[str]:
    """Return the names of the grids that come with the package."""
    folder = resources.files("openslip.ablation") / "grids"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def shipped_text(name: str) -> str:
    """Return a grid that comes with the package, as TOML. Raises ConfigError if there is no grid of that name."""
    if name not in shipped():
        raise ConfigError(f"There is no grid {name!r}", fix=did_you_mean(name, shipped()))
    return (resources.files("openslip.ablation") / "grids" / f"{name}.toml").read_text(encoding="utf-8")


def load(path: str | Path, out: str | Path = "") -> Grid:
    """Read a grid file. out: the folder of the runs, in place of the file's own `out` and of `runs/NAME`.

    Raises ConfigError, which suggests the closest known name for an unknown one.
    """
    path = Path(path)
    try:
        return parse(toml.read(path), path, out)
    except ConfigError as error:
        raise ConfigError(f"In {path}: {error}") from None


def parse(text: str, path: Path, out: str | Path = "") -> Grid:
    """Return the grid that a text describes. `load` adds the path to errors."""
    data = toml.parsed(text, "The grid")
    _check_keys(data)
    base = _base(data)
    shared = _flat(data.get("shared", {}), "shared")
    if "tasks" in data:
        if "evaluation.tasks" in shared:
            raise ConfigError(
                "Tasks are given twice", got="tasks, and evaluation.tasks in [shared]", fix="Leave one out"
            )
        shared["evaluation.tasks"] = data["tasks"]
    for key in shared:
        _check_change(key, "[shared]")
    variants = tuple(_variants(data, base, shared))
    _check_variants(variants)
    seeds = _seeds(data.get("seeds", 1))
    _check_count(len(variants) * len(seeds))
    if not isinstance(data.get("out", ""), str) or "\0" in data.get("out", ""):
        raise ConfigError(
            "'out' is the folder of the runs", got=data["out"], fix='Write it as in out = "runs/mine"'
        )
    return Grid(path, variants, seeds, Path(out or data.get("out", "") or f"runs/{path.stem}"))


def _check_count(runs: int) -> None:
    if runs > MOST:
        raise ConfigError(f"The grid has {runs:,} runs, and {MOST:,} are the most")


def _check_keys(data: Mapping[str, Any]) -> None:
    for key in data:
        if key in KEYS:
            continue
        if key in toml.to_dict(Config()):
            raise ConfigError(
                f"'{key}' stands outside the sections of the grid",
                fix=f"Put a value of all runs under [shared], and one variant's value under [variants.NAME], "
                f"with its whole key, {key}… = …",
            )
        raise ConfigError(f"A grid has no key '{key}'", fix=did_you_mean(key, KEYS))
    for key in ("shared", "variants", "grid"):
        if not isinstance(data.get(key, {}), dict):
            raise ConfigError(f"'{key}' is a section, not a value", got=data[key], fix=f"Write [{key}]")
    if not (data.get("variants") or data.get("grid")):
        raise ConfigError(
            "The grid has no variants",
            fix="Add [variants.NAME] with the values it changes, or [grid] with a list of values for a key",
        )


def _base(data: Mapping[str, Any]) -> Config | None:
    """Return the configuration that the grid names, None if each variant has its own recipe."""
    if "recipe" in data and "config" in data:
        raise ConfigError("Give a recipe or a config, not both", got=f"{data['recipe']} and {data['config']}")
    if "config" in data:
        if not isinstance(data["config"], str):
            raise ConfigError("'config' is the path of a configuration file", got=data["config"])
        return toml.load(data["config"])
    return _recipe(data["recipe"]) if "recipe" in data else None


def _recipe(name: Any) -> Config:
    if not isinstance(name, str):
        raise ConfigError("'recipe' is the name of a recipe", got=name, fix="`slip recipes` lists them")
    return recipes.get(name)


def _seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds. value: a list of seeds, or how many there are from 0 on."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
        return tuple(range(value))
    whole = isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < LARGEST for n in value
    )
    if not whole or not value or len({*value}) < len(value):
        raise ConfigError(
            f"'seeds' is the number of seeds, up to {MOST:,}, or a list of different ones from 0 on",
            got=value,
            fix="Write them as in seeds = [0, 1, 2]",
        )
    return tuple(value)


def _variants(data: Mapping[str, Any], base: Config | None, shared: Mapping[str, Any]) -> Iterator[Variant]:
    """Yield the variants in the order of the file, each with every combination of its products."""
    everywhere = _product(data.get("grid", {}), "[grid]")
    for name, section in data.get("variants", {"": {}}).items():
        where = f"[variants.{name}]"
        if not isinstance(section, dict):
            raise ConfigError(
                f"'variants.{name}' is a section, not a value", got=section, fix=f"Write {where}"
            )
        if name and not _NAME.fullmatch(name):
            raise ConfigError(
                f"The variant's name {name!r} cannot be that of a folder",
                fix="Use letters, digits and . _ - + , for the name of a variant",
            )
        equal = section.get("equal_compute", "")
        if not isinstance(equal, str):
            raise ConfigError(
                f"'equal_compute' of {where} names a variant", got=equal, fix='Write equal_compute = "slip"'
            )
        own_base = _recipe(section["recipe"]) if "recipe" in section else base
        if own_base is None:
            raise ConfigError(
                f"{where} has no configuration to change",
                fix='Add recipe = "small-data" at the top of the file',
            )
        changes = _flat({k: v for k, v in section.items() if k not in OF_VARIANT}, f"variants.{name}")
        grid = section.get("grid", {})
        if not isinstance(grid, dict):
            raise ConfigError(f"'variants.{name}.grid' is a section, not a value", got=grid)
        product = {**everywhere, **_product(grid, f"[variants.{name}.grid]")}
        _check_count(math.prod(map(len, product.values())))
        ends = _ends([*product])
        for key in changes:
            _check_change(key, where, {*product})
        for values in itertools.product(*product.values()):
            chosen = dict(zip(product, values))
            suffix = "-".join(f"{ends[key]}-{_as_name(value)}" for key, value in chosen.items())
            called = "-".join(filter(None, (name, suffix)))
            every = {**changes, **chosen}
            config = _changed(own_base, {**shared, **every}, f"variant {called}")
            if equal and every.keys() & {"training.epochs", "training.budget"}:
                raise ConfigError(
                    f"The length of {called} is given twice",
                    got=f"equal_compute = {equal!r}, and training.epochs or training.budget",
                    fix="Leave one of them out: with equal_compute the epochs follow from the compute",
                )
            yield Variant(called, config, every, equal)


def _product(section: Any, where: str) -> dict[str, list[Any]]:
    """Return the values of each key of a product."""
    product = _flat(section, where)
    for key, values in product.items():
        _check_change(key, where)
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"'{key}' of {where} takes a list of values", got=values, fix=f"Write {key} = [{values!r}]"
            )
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"'{key}' of {where} has a value twice", got=values)
    return product


def _ends(keys: list[str]) -> dict[str, str]:
    """Return short names of keys: as many of the last parts as tell the keys apart."""
    short = {}
    for key in keys:
        parts = key.split(".")
        short[key] = next(
            end
            for count in range(1, len(parts) + 1)
            for end in [".".join(parts[-count:])]
            if sum(f".{other}".endswith(f".{end}") for other in keys) == 1
        )
    return short


def _as_name(value: Any) -> str:
    """Return a value as a part of a folder's name: `0.1`, `clip+0.5_simclr`."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.+,-]+", "_", text.replace(" ", "")).strip("_") or "none"


def _flat(section: Any, where: str, prefix: str = "") -> dict[str, Any]:
    """Return the values of a section by full key, whether written as `a.b = 1` or as `"a.b" = 1`."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        inner = _flat(value, where, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        if twice := values.keys() & inner.keys():
            raise ConfigError(f"'{min(twice)}' is given twice in {where}", fix="Leave one out")
        values |= inner
    return values


def _check_change(key: str, where: str, product: set[str] | None = None) -> None:
    """Raise ConfigError for a key that no change may have."""
    if key == "training.seed":
        raise ConfigError(
            f"{where} sets training.seed", fix="Put seeds at the top of the file: seeds = [0, 1, 2]"
        )
    if key == "name":
        raise ConfigError(
            f"{where} sets a name", fix="Leave it out: a variant has the name of its section, [variants.NAME]"
        )
    if product and key in product:
        raise ConfigError(f"{where} sets '{key}', and so does a product", fix="Leave one out")
    if "." not in key and key in (*OF_VARIANT, *KEYS):
        raise ConfigError(f"'{key}' has no meaning in {where}", fix=f"Move it to {_place_of(key)}")


def _place_of(key: str) -> str:
    return "[variants.NAME]" if key == "equal_compute" else "the first lines of the file, before all sections"


def _changed(base: Config, changes: Mapping[str, Any], who: str) -> Config:
    """Return a configuration with changes by full key. Raises ConfigError for a change that is not possible."""
    nested: dict[str, Any] = {}
    try:
        for key, value in changes.items():
            *sections, last = key.split(".")
            inner = nested
            for section in sections:
                inner = inner.setdefault(section, {})
                if not isinstance(inner, dict):
                    raise ConfigError(f"'{key}' and '{section}' do not go together")
            inner[last] = value
        config = toml.from_dict(nested, Config, base)
        own.load(config.objective.loss)
        loss = objectives.parse(config.objective)
        check_ranges(config)
        Suite(config.evaluation.tasks).check_cadences()
    except SlipError as error:
        raise ConfigError(f"{who}: {error}") from None
    if not config.data.train:
        raise ConfigError("No training data was named", fix='Add data.train = "pairs.csv" to [shared]')
    terms = {term.kind.name for term in loss.terms}
    options = {name: given for name, given in config.objective.options.items() if name in terms}
    return replace(config, objective=replace(config.objective, options=options))


def _check_variants(variants: tuple[Variant, ...]) -> None:
    """Raise ConfigError if two variants are the same, or `equal_compute` names no variant that it can follow."""
    names: dict[str, str] = {}
    same: dict[tuple[Config, str], str] = {}
    for variant in variants:
        if before := names.get(variant.name.lower()):
            raise ConfigError(
                f"Two variants have the name {variant.name}",
                cause="" if before == variant.name else "Some disks do not tell small letters from capitals",
                fix="Give one of them another name",
            )
        names[variant.name.lower()] = variant.name
        told = replace(variant.config, name=""), variant.equal_compute
        if twin := same.get(told):
            raise ConfigError(
                f"{twin} and {variant.name} are the same configuration",
                cause="Their changes have no effect, such as options of an objective that is not part of the loss",
                fix="Leave one of them out",
            )
        same[told] = variant.name
    by_name = {variant.name: variant for variant in variants}
    for variant in variants:
        if not (other := variant.equal_compute):
            continue
        if other not in by_name or other == variant.name:
            raise ConfigError(
                f"{variant.name} is to have the compute of {other!r}, which is no other variant",
                fix=did_you_mean(other, by_name.keys() - {variant.name}),
            )
        if by_name[other].equal_compute:
            raise ConfigError(
                f"{variant.name} is to have the compute of {other}, whose length follows from another variant",
                fix=f'Name that variant: equal_compute = "{by_name[other].equal_compute}"',
            )
