"""Turn what a program passes to `train`, such as names of recipes and paths of data, into what training takes."""

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
    """End a loader process if it imports the script that started it, and that script trains when imported.

    The process that trains says what to do about it. Here, every loader process would print a page of traceback.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)


def config_of(config: object) -> Config:
    """Return a configuration, given as a Config, the name of a recipe, or the path of a TOML file.

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
        "This is no configuration",
        got=_kind(config),
        fix="Give an openslip.Config (as openslip.recipes.get('small-data') returns), a recipe's name or a .toml file",
    )


def with_init(config: Config, init: object) -> tuple[Config, Pretrained | None]:
    """Return the configuration, with the model to start from if `init` names one; and the weights if `init` is these.

    Raises ConfigError if `init` is neither.
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
    """Return the error for a file or folder given in place of the configuration."""
    own = os.path.join(path, "config.toml")
    if os.path.isfile(own):
        return ConfigError(
            "This is a run folder, and no configuration", got=path, fix=f"Give its configuration, {own!r}"
        )
    return ConfigError(
        "This is no configuration",
        got=path,
        cause="It is a file or folder, as data are",
        fix="Give the configuration first, then the data: `openslip.train('small-data', 'pairs.csv', 'runs/mine')`",
    )


def data_of(source: Any, ssl: Any, config: Config, *, captioned: bool) -> tuple[Data, tuple[str, str]]:
    """Return the data, and the texts that name them ("" for a source given open). Each is open, or for `open_source`.

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
    what = "`ssl`" if ssl else "`source`"
    if not _is_source(source):
        raise ConfigError(
            f"{what} is no source of records",
            got=_kind(source),
            cause="Several sources are one text, 'a.tar + b.csv'" if isinstance(source, list | tuple) else "",
            fix="Give a path, as for `--data.train`, or what openslip.open_source returns. A source of your own has a "
            "`name` and a length, and gives an openslip.data.record.Record for each index",
        )
    return as_source(source), ""


def with_positives(config: Config, *, classes: bool) -> Config:
    """Return the configuration with `positives` "labels" for objectives whose option `positives` is not set.

    classes: whether captions say no more than the class; if not, nothing changes.
    """
    options = {name: dict(own) for name, own in config.objective.options.items()}
    for term in parse(config.objective).terms if classes else ():
        said = options.get(term.kind.name, {})
        if getattr(term.config, "positives", "") == "pairs" and "positives" not in said:
            options[term.kind.name] = said | {"positives": "labels"}
    return replace(config, objective=replace(config.objective, options=options))


def check_labels(loss: Loss, data: Data) -> None:
    """Raise ConfigError if an objective needs classes and the data have none."""
    if loss.labelled and not data.train.class_names:
        terms = [term.kind.name for term in loss.terms if LABELS in term.kind.needs_for(term.config)]
        raise ConfigError(
            f"The objective {terms[0]} needs the classes of records, and {data.train.name} has none",
            fix=f"Leave --objective.{terms[0]}.positives out, or name labelled images: --data.train labels:FOLDER",
        )


def out_of(out: object, config: Config) -> Path:
    """Return the run folder; without a name, the folder that `slip train` takes."""
    if not isinstance(out, str | os.PathLike):
        raise ConfigError("The run folder is no path", got=_kind(out), fix="Give `out` as in out='runs/mine'")
    return Path(os.fsdecode(out) or f"runs/{config.name}")


def check_evaluate(evaluate: object) -> None:
    """Raise ConfigError if `evaluate` is neither None nor a function."""
    if evaluate is not None and not isinstance(evaluate, Callable):
        raise ConfigError(
            "`evaluate` is no function",
            got=_kind(evaluate),
            fix="Give `evaluate` a function that takes the model and returns results, for example "
            "openslip.evaluation.suite.Suite(['knn:photos/'])",
        )


def results_of(returned: Any) -> list[Any]:
    """Return what `evaluate` returned as a list of results. Raises EvaluationError if it is no such list."""
    several = isinstance(returned, Iterable) and not isinstance(returned, str | bytes | Mapping)
    results = list(returned) if several else [returned]
    if not several or not all(
        hasattr(result, name) for result in results for name in ("task", "metric", "value")
    ):
        raise EvaluationError(
            "`evaluate` returned no list of results",
            got=_kind(returned),
            fix="Return a list of openslip.evaluation.Result, as openslip.evaluation.suite.run does, and an empty list "
            "if nothing was measured. The weights are saved; run again with resume=True to measure them",
        )
    return results


def recorded(config: Config, train: str, ssl: str) -> Config:
    """Return the configuration with the names of the data, from which a resumed run finds them."""
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
    except (AttributeError, LookupError, TypeError):  # such as a table of columns, which takes names
        return False
    except Exception:  # this record is damaged; others may be whole
        return True
    return record is None or all(hasattr(record, name) for name in ("image", "captions", "key"))


def _kind(value: object) -> str:
    """Return the type of a value as text, with the value itself if it is short."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    text = (
        repr(value)
        if isinstance(value, str | bytes | int | float | bool | list | tuple | dict | type(None))
        else ""
    )
    return f"{kind}: {text}" if text and len(text) <= 60 else kind
