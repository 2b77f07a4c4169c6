"""The run folder: everything a run writes, and nothing else.

config.toml     the resolved configuration
data.json       the identity of the data
init.json       the weights that the run started from: which tensors they filled, and which of them were not used
objective.json  the files of a user's own objectives, if there are any
fixed.json      the fixed models that objectives learn from, if there are any
versions.json   versions of Python, torch and the other libraries that shape the numbers
metrics.jsonl   a line every few steps, and one for each evaluation
skipped.jsonl   every record that could not be used, with the reason
counts.json     how many records of each source were read, used and skipped, up to the newest checkpoint
trace.json.gz   how a few steps spent their time, with `training.profile`
lock            locked by the process that trains here
tracker_id      the run's name for trackers elsewhere
results.json    the final evaluation
outcomes/       the data behind its numbers, sample by sample (see `openslip.evaluation.kept_outcomes`)
checkpoints/    see `openslip.training.saving.checkpoint`
features/       what is computed once, with `training.keep_features` (see `openslip.training.saving.feature_files`)
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from openslip import objectives, toml
from openslip.config import Config
from openslip.data.identity import Identity, differences
from openslip.data.record import Skipped
from openslip.errors import CheckpointError, ConfigError
from openslip.files import (
    TEMPORARY,
    open_regular,
    parse_json,
    read_json,
    whole_or_not,
    write_json,
    write_text,
)
from openslip.objectives import own
from openslip.training.budget import parse_budget
from openslip.training.saving import checkpoint
from openslip.training.saving.lock import check_free, held

LIBRARIES = (
    "openslip",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "numpy",
    "Pillow",
    "simplejpeg",
    "safetensors",
)
MAY_CHANGE = (
    "data.workers", "data.prefetch", "data.max_skipped", "data.decoder", "data.val", "training.log_every",
    "training.profile", "training.max_nonfinite", "training.device", "training.parallel", "training.offload",
    "training.micro_batch", "training.checkpoint_activations", "objective.*.block", "tracking.*",
    "checkpoint.*", "evaluation.*",
)  # fmt: skip
"""Patterns of keys that may differ between a run and its continuation: but for rounding, the weights do not depend on
them. An objective's option `block` is how many rows it computes at a time."""
PLACES = (
    "data.train",
    "data.ssl",
    "data.image_root",
    "data.templates",
    "data.class_names",
    "objective.*.teacher",
)
"""Keys that may also differ if data.json shows that the data are the same and have only moved. fixed.json shows whether
a teacher is the same."""
INIT = "init.json"
"""Notes the weights that the run started from."""
FIXED = "fixed.json"
"""Notes the fixed models that objectives learn from."""
FAILED_METRICS = "metrics-of-failed-start.jsonl"
"""The log of a start that failed before its first checkpoint, or of a run whose checkpoints are gone."""
LONGEST_LINE = 1 << 20
"""Most bytes of a line of metrics.jsonl or skipped.jsonl; ours have some hundreds."""
UNWRITTEN = 10_000
"""Most lines of a file that wait in memory for the disk to take them; beyond that the oldest lines are lost."""


class RunFolder:
    """A run's place on disk. inform: prints a line for the user, such as what the disk does not take."""

    def __init__(self, path: Path, inform: Callable[[str], object] = warnings.warn) -> None:
        self.path, self.inform = path, inform
        self._unwritten: dict[str, list[str]] = {}

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def skipped(self) -> Path:
        return self.path / "skipped.jsonl"

    @cached_property
    def config(self) -> Config:
        """The configuration the run was started with."""
        if not self.exists():
            raise CheckpointError(
                "This is not a run folder: it has no config.toml",
                got=str(self.path),
                fix="Give the folder that `slip train` wrote",
            )
        return toml.load(self.path / "config.toml")

    def exists(self) -> bool:
        return os.path.isfile(self.path / "config.toml")

    def begun(self) -> bool:
        """Whether there is something to lose: results, or a checkpoint of any step but step 0, good or not.

        A start that failed before that leaves nothing to lose, and the same folder can be used again.
        """
        first = checkpoint.path_of(self.checkpoints, 0).name
        for path in self.checkpoints.glob("*step-*"):
            unfinished = path.name.startswith(TEMPORARY) and not path.name.endswith(checkpoint.REPLACED)
            if not unfinished and first not in path.name:
                return True
        return (self.path / "results.json").exists()

    def check_new(self, resume: bool) -> None:
        """Raise ConfigError if the folder holds a run that has begun, unless `resume`."""
        if self.exists() and self.begun() and not resume:
            raise ConfigError(
                "The run folder already holds a run",
                got=str(self.path),
                fix=f"Continue it with `slip train --resume --out {self.path}`, or choose another folder with --out",
            )

    def check_free(self) -> None:
        """Raise ConfigError if another process trains here; nothing is written."""
        check_free(self.path, inform=self.inform)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that trains here, within the block. Raises ConfigError if another process does."""
        try:
            lock = ExitStack()
            lock.enter_context(held(self.path, inform=self.inform))
        except OSError as error:
            raise self._unwritable(error) from None
        with lock:
            yield

    def check_unused(self) -> None:
        """Raise ConfigError if there are checkpoints of a run whose configuration is gone."""
        if any(self.checkpoints.glob("step-*")):
            raise ConfigError(
                "The folder has checkpoints, and no config.toml of their run",
                got=str(self.checkpoints),
                fix="Put the run's config.toml back to continue the run, or choose another folder with --out",
            )

    def start_anew(self) -> None:
        """Make room for a run where a start has failed: remove what the run would take for its own, and print so.

        The log stays, under another name. Raises CheckpointError if that cannot be done.
        """
        words = f"{self.path} holds a start that failed before its first checkpoint, and is used again"
        try:
            checkpoint.remove(self.checkpoints, 0)
            words += self._set_log_aside()
            for name in ("skipped.jsonl", "counts.json", "tracker_id"):
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        self.inform(words)

    def create(
        self,
        config: Config,
        data: Identity,
        init: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a new run here, on data as `openslip.data.identity.identify` describes them.

        init: the note of the weights that the run starts from (`openslip.training.start.Start.to_dict`). fixed: the
        note of the fixed models (`openslip.training.fixed.FixedModels.noted`).
        """
        self.__dict__.pop("config", None)  # of a start that failed
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "versions.json", versions())
            own.write(self.path, config.objective)
            write_json(self.path / "data.json", data)
            for name, noted in ((INIT, init), (FIXED, fixed)):
                (self.path / name).unlink(missing_ok=True)  # of a start that failed
                if noted:
                    write_json(self.path / name, noted)
            # Last, because it makes the folder a run.
            write_text(self.path / "config.toml", toml.dumps(config))
        except OSError as error:
            raise self._unwritable(error) from None

    def note_start(self, init: Mapping[str, Any]) -> None:
        """Note the weights of a run that has no checkpoint yet and starts again; print it if they have changed.

        init: as for `create`. Raises CheckpointError if it cannot be written.
        """
        with suppress(OSError, ValueError):
            if read_json(self.path / INIT) == init:
                return
        self.inform(
            f"{init['spec']} has changed since the run was begun; the run starts from it as it is now"
        )
        with _writing(self.path, INIT):
            write_json(self.path / INIT, init)

    def fresh(self) -> tuple[str, ...]:
        """Return the names of the tensors that started with random weights, in a run that started from a model.

        Raises CheckpointError if the run folder does not tell.
        """
        path = self.path / INIT
        try:
            return tuple(map(str, read_json(path)["fresh"]))
        except (OSError, ValueError, LookupError, TypeError) as error:
            rates = self.config.optimizer
            if isinstance(error, FileNotFoundError) and not rates.fresh_epochs and rates.fresh_lr < 0:
                return ()  # a run of an earlier version
            raise CheckpointError(
                "The note of the weights that the run started from cannot be read",
                got=str(path),
                cause=str(error),
                fix="Put that file back",
            ) from None

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            "The run folder cannot be written",
            got=str(self.path),
            cause=str(error),
            fix="Choose another with --out",
        )

    def check_config(self, config: Config, *, moved: bool = True) -> None:
        """Raise ConfigError if `config` differs from the run's in something that the weights depend on.

        moved: whether the data may have moved.
        """
        may_change = (*MAY_CHANGE, *PLACES) if moved else MAY_CHANGE
        old, new = values_of(self.config), values_of(config)
        if own.same_loss(self.path, old["objective.loss"], new["objective.loss"]):
            old["objective.loss"] = new["objective.loss"]
        if _same_budget(old["training.budget"], new["training.budget"]):
            old["training.budget"] = new["training.budget"]
        # With another loss the options differ too: that the loss differs says it all.
        if old["init"] != new["init"]:
            raise ConfigError(
                f"The run in {self.path} goes on from its own weights",
                got=f"--init {new['init'] or '(none)'}; the run started from {old['init'] or 'random weights'}",
                fix=f"Continue the run with `slip train --resume --out {self.path}` alone, or start a new run with "
                "another --out",
            )
        changed = [
            key
            for key in old
            if key in new and old[key] != new[key] and key != "name" and not matches(key, may_change)
        ]
        if changed:
            told = [f"{key} = {new[key]!r}, was {old[key]!r}" for key in changed]
            if config.name != self.config.name:  # of another recipe all may differ
                more = f"{len(told) - 3} more" if len(told) > 3 else ""
                told = [f"recipe {config.name}, was {self.config.name}", *told[:3], *filter(None, [more])]
            raise ConfigError(
                f"The run in {self.path} was started with another configuration",
                got="; ".join(told),
                cause=f"The run's weights depend on it. On resume these may change: {', '.join(sorted(MAY_CHANGE))}",
                fix=f"Leave those options out to continue it (`slip train --resume --out {self.path}` knows them), or "
                "start a new run with another --out",
            )

    def check_same(self, config: Config, data: Identity) -> None:
        """Raise ConfigError if `config` or the data differ from the run's in something that the weights depend on."""
        known = self._data(data)
        self.check_config(config, moved=known is not None)
        changed = [] if known is None else differences(known, data)
        if changed:
            raise ConfigError(
                f"The run in {self.path} was started with other data",
                got="; ".join(changed),
                cause="The run could not continue where it was: the number and places of its records set their order",
                fix="Give the run the data that it had, which may have moved, or start a new run with another --out",
            )
        self._note_code(config)

    def noted_fixed(self) -> dict[str, Any]:
        """Return the note of the fixed models that the run began with; empty if it has none.

        Raises CheckpointError if that cannot be read.
        """
        path = self.path / FIXED
        try:
            found = read_json(path)
            if isinstance(found, dict) and all(isinstance(noted, dict) for noted in found.values()):
                return found
            reason = "It holds something else"
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            reason = str(error)
        raise CheckpointError(
            "The note of the models that the run learns from cannot be read",
            got=str(path),
            cause=reason,
            fix="Put that file back",
        )

    def _note_code(self, config: Config) -> None:
        """If the code of a user's own objective has changed since the run started, print so, and note the new code."""
        if sentences := own.changed(self.path, config.objective):
            for sentence in sentences:
                self.inform(f"warning: {sentence}")
            with _writing(self.path, own.RECORD):
                own.write(self.path, config.objective)

    def _data(self, now: Identity) -> Identity | None:
        """Return the identity of the run's data, to be compared with `now`.

        None for a run of an earlier version, which did not note it; also None, with a warning, if it cannot be read.
        """
        path = self.path / "data.json"
        try:
            known = read_json(path)
            differences(known, now)
            return known
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            self.inform(
                f"warning: whether these are the run's data is not known, because {path} cannot be read: {error}"
            )
            return None

    def warn_no_checkpoint(self) -> None:
        """Warn that a run with a log and no checkpoint begins again; the log stays."""
        try:
            aside = self._set_log_aside()
        except OSError as error:
            raise self._unwritable(error) from None
        if aside:
            self.inform(f"warning: {self.path} has no checkpoint to continue from, and begins again{aside}")

    def _set_log_aside(self) -> str:
        """Rename metrics.jsonl if it is not empty, and return words that say so."""
        log = self.path / "metrics.jsonl"
        if not (log.exists() and log.stat().st_size):
            return ""
        os.replace(log, self.path / FAILED_METRICS)
        return f"; its old log is in {FAILED_METRICS}"

    def rewind(self, step: int, *, measured: bool) -> None:
        """Drop what was written after checkpoint `step`, so that a resumed run's files equal an uninterrupted run's.

        measured: whether the checkpoint has its scores; otherwise that step is measured again.
        """
        self._unwritten.clear()
        for name in ("metrics.jsonl", "skipped.jsonl"):
            path = self.path / name
            if not path.exists():
                continue
            with _writing(self.path, name), open_regular(path) as file, whole_or_not(path) as kept:
                others = _copy(file, kept, lambda line: _is_before(line, step, measured))
            if others:
                self.inform(f"warning: lines of {name} that are not those of a run are left out: {others:,}")

    def append_metrics(self, line: dict[str, Any]) -> None:
        self._append("metrics.jsonl", [line])

    def append_skipped(self, step: int, skipped: list[Skipped]) -> None:
        if skipped:
            self._append("skipped.jsonl", [{"step": step, **asdict(s)} for s in skipped])

    def write_counts(self, counts: dict[str, Any]) -> None:
        with _writing(self.path, "counts.json"):
            write_json(self.path / "counts.json", counts)

    def flush(self) -> None:
        """Try once more to write the lines that the disk did not take."""
        for name in list(self._unwritten):
            self._append(name, [])

    def _append(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Add lines to a file. Lines that the disk does not take wait for the next call; nothing is raised."""
        path, waiting = self.path / name, self._unwritten.pop(name, [])
        texts = [*waiting, *(json.dumps(line) + "\n" for line in lines)]
        size = None
        try:
            with open(path, "ab") as file:
                size = file.tell()
                file.write("".join(texts).encode())
        except OSError as error:
            if size is not None:  # half a line may have been written
                with suppress(OSError):
                    os.truncate(path, size)
            self._unwritten[name] = texts[-UNWRITTEN:]
            if not waiting:
                self.inform(
                    f"warning: {name} cannot be written ({error.strerror}); its lines wait until it can be"
                )


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Return whether a key, such as `checkpoint.keep`, matches one of the patterns."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def values_of(config: Config) -> dict[str, Any]:
    """Return the values of a configuration by key, with all options of its loss's terms as far as these are known."""
    with suppress(ConfigError):  # a user's own objective, or one of another version
        config = replace(config, objective=objectives.complete(config.objective))
    return toml.flat(config)


def _same_budget(one: str, other: str) -> bool:
    """Whether two texts are the same budget, such as `2h` and `120 minutes`."""
    try:
        return parse_budget(one) == parse_budget(other)
    except ConfigError:  # the plan raises it
        return False


@contextmanager
def _writing(folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{name} cannot be written",
            got=str(folder),
            cause=str(error),
            fix="Free some space, then continue with --resume",
        ) from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a .jsonl file without lines that are no JSON object, such as a kill or a power failure leaves."""
    with open_regular(path) as file:
        return [line for text in lines_of(file) if (line := parse_line(text)) is not None]


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file, longer ones than LONGEST_LINE in pieces."""
    while text := file.readline(LONGEST_LINE):
        yield text


def parse_line(text: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line; None if the line is none."""
    try:
        line = parse_json(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _copy(file: IO[bytes], kept: IO[bytes], wanted: Callable[[dict[str, Any]], bool]) -> int:
    """Copy the lines that are `wanted`; return how many were not those of a run, besides an unfinished last line."""
    others = 0
    for text in lines_of(file):
        line = parse_line(text)
        if line is None or not is_number(line.get("step")):
            others += bool(text.strip()) and text.endswith(b"\n")
        elif wanted(line):
            kept.write(text.rstrip(b"\n") + b"\n")
    return others


def _is_before(line: dict[str, Any], step: int, measured: bool) -> bool:
    """Whether a line was written before checkpoint `step`; see `RunFolder.rewind`."""
    return line["step"] < step + (measured or "evaluation" not in line)


def is_number(value: object) -> bool:
    """Return whether a value read from JSON is a usable number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape a run's numbers."""
    import platform

    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
