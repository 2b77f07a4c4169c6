"""What `slip train --resume` needs: which run to continue, and the settings that the run has itself."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from openslip import toml
from openslip.config import Config, DataConfig
from openslip.errors import ConfigError, DataError, UsageError, printable, shortened

if TYPE_CHECKING:
    from openslip.training.saving.run import RunFolder


def is_run(folder: str | Path) -> bool:
    return os.path.isfile(Path(folder) / "config.toml")


def nothing_named(resume: bool, folder: str) -> ConfigError:
    """Return the error for a command that names neither recipe, file nor run."""
    if not resume:
        return UsageError(
            "Nothing to train was named",
            fix="`slip train RECIPE` (see `slip recipes`), or `slip train --config FILE`",
        )
    if not folder:
        return UsageError(
            "The run to continue was not named",
            fix=f"`slip train --resume --out RUN` continues a run. {near('')}".strip(),
        )
    if around := next((str(path) for path in Path(folder).parents if is_run(path)), ""):
        return ConfigError(
            f"{folder} is a part of a run, not a run",
            fix=f"`slip train --resume --out {around}` continues the run",
        )
    checkpoints = os.path.join(folder, "checkpoints")
    if os.path.isdir(checkpoints) and any(Path(checkpoints).glob("step-*")):
        return ConfigError(
            f"{folder} has checkpoints, but no config.toml that describes the run",
            fix="Put the run's config.toml back to continue the run",
        )
    if os.path.isfile(folder):
        return ConfigError(
            f"{folder} is a file, not a run", fix=near(folder) or "Give the run's folder as --out"
        )
    return ConfigError(
        f"There is no run at {folder}",
        cause="The folder has no config.toml" if os.path.isdir(folder) else "There is no such folder",
        fix=f"{near(folder)} `slip train RECIPE --out {folder}` starts one".strip(),
    )


def near(folder: str, *, close: bool = False) -> str:
    """Return the sentence that lists runs which the user may mean: runs with similar names, else (unless only `close`
    ones are wanted) all runs nearby."""
    folders = dict.fromkeys([os.path.dirname(folder.rstrip("/")) or ".", "runs"] if folder else ["runs", "."])
    found = {}
    for parent in folders:
        with suppress(OSError):
            names = sorted(os.listdir(parent))[:1000]
            found |= {os.path.normpath(os.path.join(parent, name)): name for name in names}
    runs = {path: name for path, name in found.items() if is_run(path)}
    like = get_close_matches(os.path.basename(folder.rstrip("/")), runs.values(), n=3, cutoff=0.5)
    if like:
        return f"Did you mean {' or '.join(path for path, name in runs.items() if name in like)}?"
    return f"Runs: {', '.join(list(runs)[:8])}." if runs and not close else ""


def data_of(run: DataConfig, given: DataConfig) -> DataConfig:
    """Return `given`, with the run's data if it names no training data."""
    if given.train:
        return given
    unsaid = DataConfig()
    names = ("train", "ssl", "val", "image_root", "image_column", "caption_column")
    names = (*names, "label_column", "templates", "class_names")
    taken = {name: getattr(run, name) for name in names if getattr(given, name) == getattr(unsaid, name)}
    return replace(given, **taken)


def print_settings(config: Config, asked: Config, folder: str) -> None:
    """Print the settings of a continued run that differ from the recipe's.

    Settings that the recipe takes from the weights to start from do not count.
    """
    from openslip.objectives import complete

    if config.init:
        from openslip.training.start import adopted_as_in_run

        asked = replace(adopted_as_in_run(replace(asked, init=config.init), config), init=asked.init)
    recipe = toml.flat(replace(asked, objective=complete(asked.objective)))
    others = {key: value for key, value in toml.flat(config).items() if value != recipe.get(key)}
    others = {key: value for key, value in others.items() if not key.startswith("data.") and key != "name"}
    if others:
        print_line(
            shortened(
                f"{folder} goes on with its own settings, which differ from the recipe's: "
                + ", ".join(f"{key} = {value!r}" for key, value in others.items())
            )
        )


def print_line(text: str) -> None:
    """Print a line to stderr, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(text), file=sys.stderr)


@contextmanager
def as_the_run_names_it(config: Config, folder: RunFolder) -> Iterator[None]:
    """Add to the error about missing data that a run names its data relative to the folder where it was started."""
    try:
        yield
    except DataError as error:
        own = folder.exists() and folder.config.data.train == config.data.train
        if not own or not _is_relative(config.data.train):
            raise
        raise DataError(
            error.what,
            got=error.got,
            cause=error.cause,
            fix=f"{error.fix} {folder.path} names its data relative to the folder where it was started: start there, "
            "or name the data's new place with --data.train",
        ) from None


def _is_relative(spec: str) -> bool:
    spec = spec.removeprefix("labels:")
    return not (os.path.isabs(spec) or re.match(r"[\w-]+:", spec) or os.path.exists(spec))
