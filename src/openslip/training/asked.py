"""What a program hands to `train`, made what training takes: names of recipes, paths of data."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openslip import toml
from openslip.config import Config
from openslip.data.data import Data
from openslip.data.record import Source, as_source
from openslip.errors import ConfigError, EvaluationError
from openslip.models.weights import Pretrained
from openslip.needs import LABELS
from openslip.objectives import Loss, own, parse


def leave_if_imported() -> None:
    """End a loader process that imports the script which started it, where that script trains as it is imported.

    The process that trains says what to do about it; here it would be a page of traceback for each of them.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)


def config_of(config: object) -> Config:
    """Return a configuration that is given as such, by the name of a recipe, or as a TOML file's path.

    Raises ConfigError, also for a value of another type than its field's: Python lets one build such a configuration.
    """
    if isinstance(config, Config):
        return toml.from_dict(toml.to_dict(config))
    if isinstance(config, str | os.PathLike):
        from openslip import recipes

        text = os.fspath(config)
        if isinstance(text, str):
            if text.lower().endswith(".toml"):
                found = toml.load(text)
                folder = os.path.dirname(os.path.abspath(text))
                is_run = os.path.isfile(os.path.join(folder, "versions.json"))
                own.load(found.objective.loss, outside=Path(folder) if is_run else None)
                return found
            if text not in recipes.RECIPES and os.path.exists(text):
                raise _no_configuration(text)
            return recipes.get(text)
    raise ConfigError(
        "The configuration is none",
        got=_kind(config),
        fix="Give an openslip.Config, as openslip.recipes.get('small-data') returns, a recipe's name or a .toml file",
    )


def with_init(config: Config, init: object) -> tuple[Config, Pretrained | None]:
    """Return the configuration, with what to start from if `init` names it, and the weights if `init` is weights.

    Raises ConfigError where it is neither.
    """
    if init is None or isinstance(init, Pretrained):
        return config, init
    if isinstance(init, str | os.PathLike):
        return replace(config, init=os.fspath(init)), None
    raise ConfigError(
        "`init` is neither the name of a model nor weights that were read",
        got=type(init).__name__,
        fix="Give what `openslip.load` takes, such as a run folder, not what it returns",
    )


def with_objective(config: Config, objective: object) -> Config:
    """Return the configuration with the loss that a program asks for: an objective's class, or a text.

    Raises ConfigError for what is neither, and for a class that is no objective.
    """
    if objective is None:
        return config
    if isinstance(objective, str):
        own.load(objective)
        loss = objective
    elif isinstance(objective, type):
        loss = own.register(objective)
    else:
        raise ConfigError(
            "The objective is neither a class nor a loss",
            got=_kind(objective),
            fix="Give a class derived from openslip.objectives.Objective, or a text as in 'clip + 1.0 * simclr'",
        )
    return replace(config, objective=replace(config.objective, loss=loss))


def _no_configuration(path: str) -> ConfigError:
    """Return the error for a file or folder in the place of the configuration."""
    own = os.path.join(path, "config.toml")
    if os.path.isfile(own):
        return ConfigError(
            "That is a run, and no configuration", got=path, fix=f"Its configuration is {own!r}"
        )
    return ConfigError(
        "The configuration is none",
        got=path,
        cause="It is a file or folder, as data are",
        fix="The configuration comes first, then the data: `openslip.train('small-data', 'pairs.csv', 'runs/mine')`",
    )


def data_of(source: Any, ssl: Any, config: Config, *, captioned: bool) -> tuple[Data, tuple[str, str]]:
    """Return the data, each given open or as what `open_source` takes; and these texts, "" where they were open.

    ssl: where the images of the self-supervised views come from, if not None. captioned: whether captions are read.
    Raises ConfigError for what is no source.
    """
    opened, named = _source_of(source, config, captioned=captioned)
    if ssl is None:
        return Data(opened), (named, "")
    images, ssl_named = _source_of(ssl, config, captioned=False, ssl=True)
    return Data(opened, images), (named, ssl_named)


def _source_of(source: Any, config: Config, *, captioned: bool, ssl: bool = False) -> tuple[Source, str]:
    if isinstance(source, str | os.PathLike) and isinstance(text := os.fspath(source), str):
        from openslip.data.sources import open_source

        data = config.data
        opened = open_source(
            text,
            image_root=data.image_root,
            image_column=data.image_column,
            caption_column="" if ssl else data.caption_column,
            label_column=data.label_column,
            templates=data.templates,
            class_names=data.class_names,
            captions_required=captioned,
            must_fit=not ssl,
            leave_broken=data.leave_broken,
        )
        return opened, text
    what = "Where the self-supervised views come from" if ssl else "What is trained on"
    if not _is_source(source):
        raise ConfigError(
            f"{what} is no source of records",
            got=_kind(source),
            cause="Several sources are one text, 'a.tar + b.csv'" if isinstance(source, list | tuple) else "",
            fix="Give a path, as to `--data.train`, or what openslip.open_source returns. A source of your own has a "
            "`name` and a length, and gives an openslip.data.record.Record for each index",
        )
    return as_source(source), ""


def with_positives(config: Config, *, classes: bool) -> Config:
    """Return the configuration whose objectives take pairs of one class for positives where nothing is said of that.

    classes: whether captions say no more than the class. An objective has a say by its option `positives`.
    """
    options = {name: dict(own) for name, own in config.objective.options.items()}
    for term in parse(config.objective).terms if classes else ():
        said = options.get(term.kind.name, {})
        if getattr(term.config, "positives", "") == "pairs" and "positives" not in said:
            options[term.kind.name] = said | {"positives": "labels"}
    return replace(config, objective=replace(config.objective, options=options))


def check_labels(loss: Loss, data: Data) -> None:
    """Raise ConfigError where an objective needs classes, and the data have none."""
    if loss.labelled and not data.train.class_names:
        terms = [term.kind.name for term in loss.terms if LABELS in term.kind.needs_for(term.config)]
        raise ConfigError(
            f"The objective {terms[0]} needs the classes of records, and {data.train.name} has none",
            fix=f"Leave --objective.{terms[0]}.positives out, or name labelled images, --data.train labels:FOLDER",
        )


def out_of(out: object, config: Config) -> Path:
    """Return the run folder; where none is named the one that `slip train` takes."""
    if not isinstance(out, str | os.PathLike):
        raise ConfigError("The run folder is no path", got=_kind(out), fix="Give `out` as in out='runs/mine'")
    return Path(os.fsdecode(out) or f"runs/{config.name}")


def check_evaluate(evaluate: object) -> None:
    """Raise ConfigError for what does not measure."""
    if evaluate is not None and not isinstance(evaluate, Callable):
        raise ConfigError(
            "What measures the model is no function",
            got=_kind(evaluate),
            fix="Give `evaluate` a function that takes the model and returns results, for example "
            "openslip.evaluation.suite.Suite(['knn:photos/'])",
        )


def results_of(returned: Any) -> list[Any]:
    """Return what `evaluate` returned as a list of results. Raises EvaluationError where it is none."""
    several = isinstance(returned, Iterable) and not isinstance(returned, str | bytes | Mapping)
    results = list(returned) if several else [returned]
    if not several or not all(
        hasattr(result, name) for result in results for name in ("task", "metric", "value")
    ):
        raise EvaluationError(
            "What `evaluate` returned are no results",
            got=_kind(returned),
            fix="It returns a list of openslip.evaluation.Result, as openslip.evaluation.suite.run does, an empty one "
            "where nothing was measured. The weights are saved; with resume=True they are measured",
        )
    return results


def recorded(config: Config, train: str, ssl: str) -> Config:
    """Return the configuration with the data that were named: a run that goes on knows them by it."""
    data = config.data
    return replace(config, data=replace(data, train=train or data.train, ssl=ssl or data.ssl))


def _is_source(source: Any) -> bool:
    """Whether an object is a source, as far as its first record tells."""
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        return False
    if not isinstance(getattr(source, "name", None), str):
        return False
    try:
        record = source[0] if len(source) else None
    except (AttributeError, LookupError, TypeError):  # what others make of an index, as a table of columns
        return False
    except Exception:  # this record is damaged, which others need not be
        return True
    return record is None or all(hasattr(record, name) for name in ("image", "captions", "key"))


def _kind(value: object) -> str:
    """Return what kind of thing a value is, and the value where that is short."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    text = (
        repr(value)
        if isinstance(value, str | bytes | int | float | bool | list | tuple | dict | type(None))
        else ""
    )
    return f"{kind}: {text}" if text and len(text) <= 60 else kind
