"""Checkpoints: a folder each, written under a temporary name, synced and renamed; no pickle anywhere.

checkpoints/step-00001000/model.safetensors      weights
                          optimizer.safetensors  AdamW's moments, by parameter name
                          state.json             step, score, what else a run needs to resume; checksums, also its own

If a model is spread over processes, each writes its parts of both files; see `openslip.training.saving.tensors`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from openslip.errors import CheckpointError
from openslip.files import TEMPORARY, open_regular, read_json, sync, write_json
from openslip.training.saving.tensors import Snapshot, read_tensors

PREFIX = "step-"
_NAME = re.compile(PREFIX + "[0-9]{8,18}")
_FILES = re.compile(r"(model|optimizer)(-\d{5}-of-\d{5})?\.safetensors")
"""Names of a checkpoint's files besides its state. No other file is read, wherever a name may lead."""
REPLACED = "-replaced"
"""Suffix of the temporary name of a checkpoint whose step is saved again, until the new checkpoint is in its place."""
DAMAGED = "damaged-"
"""Prefix of the names of damaged checkpoints: they no longer count, and are left to the user."""


def save(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write checkpoint `step` in `folder` and return its path: complete under its name, or not there at all.

    metadata: texts for the header of the weights.
    Raises CheckpointError if the disk is full or not writable; earlier checkpoints are untouched.
    """
    try:
        return commit(
            folder, step, state, write(folder, step, Snapshot(model, optimizer, metadata=metadata or {}))
        )
    except CheckpointError:
        discard(folder, step)
        raise


def write(folder: Path, step: int, snapshot: Snapshot) -> dict[str, str]:
    """Write one process's part of checkpoint `step` under a temporary name; return checksums by file name.

    Raises CheckpointError. `commit` or `discard` takes the files when all processes have written.
    """
    with _writing(folder, step) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        return {path.name: _checksum(path) for path in snapshot.write(temporary)}


def commit(folder: Path, step: int, state: Mapping[str, Any], checksums: Mapping[str, str]) -> Path:
    """Make a checkpoint of the files that `write` wrote, whose checksums are given; return its path.

    Raises CheckpointError.
    """
    final = path_of(folder, step)
    with _writing(folder, step) as temporary:
        missing = sorted(name for name in checksums if not (temporary / name).is_file())
        if missing:
            raise OSError(f"{missing[0]} is not there: the run folder must be one that all machines share")
        for file in temporary.iterdir():
            if file.name not in checksums:  # left by a killed run that tried this step with more processes
                file.unlink()
        told = dict(state, step=step, checksums=dict(checksums))
        write_json(temporary / "state.json", told | {"crc": _crc(told)})
        sync(temporary)
        replaced = temporary.with_name(temporary.name + REPLACED)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.rename(final, replaced)
        try:
            os.rename(temporary, final)
        except OSError:
            if replaced.exists():
                os.rename(replaced, final)
            raise
        sync(folder)
        for leftover in folder.glob(f"{TEMPORARY}{PREFIX}*"):
            if leftover.name <= replaced.name:  # those of later steps may be in the making
                shutil.rmtree(leftover, ignore_errors=True)
    return final


def discard(folder: Path, step: int) -> None:
    """Remove what was written of a checkpoint that will not be completed."""
    shutil.rmtree(_temporary(folder, step), ignore_errors=True)


def path_of(folder: Path, step: int) -> Path:
    """Return the path of checkpoint `step` in `folder`."""
    return folder / f"{PREFIX}{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix(PREFIX))


def load(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote: model tensors, optimiser tensors, state."""
    return (
        read_tensors(checkpoint / "model.safetensors"),
        read_tensors(checkpoint / "optimizer.safetensors"),
        read_state(checkpoint),
    )


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's state.json. Raises CheckpointError if it is not as it was written."""
    try:
        state = read_json(checkpoint / "state.json")
        step = state.get("step") if isinstance(state, dict) else None
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise ValueError("It is not the state of a step")
        crc = state.pop("crc", None)  # earlier versions wrote none
        if crc is not None and (crc != _crc(state) or not state.get("checksums")):
            raise ValueError("It is damaged")
        checksums = state.get("checksums", {})
        if not isinstance(checksums, dict) or not all(map(_FILES.fullmatch, checksums)):
            raise ValueError("Its checksums are damaged")
        if _NAME.fullmatch(checkpoint.name) and checkpoint.name != path_of(Path(), step).name:
            raise ValueError(f"It is the state of step {step}")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The checkpoint's state cannot be read",
            got=str(checkpoint),
            cause=str(error),
            fix="Remove that checkpoint's folder to go on from the one before it",
        ) from None
    return state


def newest_good(folder: Path, damaged: Callable[[CheckpointError], None]) -> Path | None:
    """Return the newest checkpoint that is as it was written; None if there are no checkpoints.

    Damaged checkpoints are passed over and renamed, and `damaged` gets the reason. Raises the newest checkpoint's
    CheckpointError if none is good: the user decides whether to begin again.
    """
    put_back(folder)
    passed: list[tuple[Path, CheckpointError]] = []
    for checkpoint in sorted((p for p in folder.glob(f"{PREFIX}*") if _NAME.fullmatch(p.name)), reverse=True):
        try:
            verify(checkpoint)
        except CheckpointError as error:
            passed.append((checkpoint, error))
        else:
            for other, error in passed:
                fix = f"The run continues from {checkpoint.name}{_set_aside(other)}"
                damaged(CheckpointError(error.what, got=error.got, cause=error.cause, fix=fix))
            return checkpoint
    if passed:
        error = passed[0][1]
        fix = "No other checkpoint is good. Put a copy in its place, or start a new run with another --out"
        raise CheckpointError(error.what, got=error.got, cause=error.cause, fix=fix)
    return None


def put_back(folder: Path) -> None:
    """Put back checkpoints that a process was replacing when it was killed. Raises CheckpointError."""
    for replaced in folder.glob(f"{TEMPORARY}{PREFIX}*{REPLACED}"):
        final = folder / replaced.name.removeprefix(TEMPORARY).removesuffix(REPLACED)
        if _NAME.fullmatch(final.name) and not final.exists():
            with _writing(folder, step_of(final)):
                os.rename(replaced, final)


def any_there(folder: Path) -> bool:
    """Return whether a run that resumes in `folder` takes its weights from a checkpoint."""
    put_back(folder)
    return bool(list_checkpoints(folder))


def verify(checkpoint: Path, of: str = "") -> None:
    """Raise CheckpointError if a file of the checkpoint is missing, or not as it was written.

    of: check only the files whose names begin so, such as "model".
    """
    for name, checksum in read_state(checkpoint).get("checksums", {}).items():
        if not name.startswith(of):
            continue
        try:
            found = _checksum(checkpoint / name)
        except FileNotFoundError:
            raise CheckpointError(
                f"The checkpoint's {name} is damaged: it is not there",
                got=str(checkpoint / name),
                fix="Copy that file as well, or remove the checkpoint's folder to go on from the one before it",
            ) from None
        except OSError as error:
            found = error.strerror or str(error)
        if found != checksum:
            raise CheckpointError(
                f"The checkpoint's {name} is damaged",
                got=f"{checkpoint / name}: {found}, written as {checksum}",
                fix="Remove that checkpoint's folder to go on from the one before it",
            )


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first; other files and folders there do not count."""
    return sorted(
        p for p in folder.glob(f"{PREFIX}*") if _NAME.fullmatch(p.name) and (p / "state.json").is_file()
    )


def best(checkpoints: list[Path]) -> Path | None:
    """Return the checkpoint with the highest score, the later of equals; None if no readable checkpoint has a score.

    The scores compared are of one metric on the same data: the one that chose the newest measured checkpoint, as far as
    the others have it. Scores of earlier versions do not say what they measure, and are compared only with each other.
    """
    return next(iter(bests(checkpoints)), None)


def bests(checkpoints: list[Path]) -> list[Path]:
    """Return `best`, and the best of each group of checkpoints whose scores cannot be compared with it, because they
    were measured on other data, or by an earlier version before the run was resumed."""
    scored = []
    for checkpoint in checkpoints:
        with suppress(CheckpointError):
            if (score := Score.of(read_state(checkpoint))) is not None:
                scored.append((score, checkpoint))
    groups: dict[str, list[tuple[float, Path]]] = {}
    chosen_by = scored[-1][0].chosen_by if scored else ""
    for score, checkpoint in reversed(scored):  # the newest one's group comes first
        what, value = score.by(chosen_by)
        groups.setdefault(what, []).append((value, checkpoint))
    return [max(group)[1] for group in groups.values()]


@dataclass(frozen=True)
class Score:
    """A checkpoint's score: the measurement that it was chosen by, and its values by exact measurement."""

    chosen_by: str
    """The measurement that picked the best checkpoint; empty if an earlier version has not noted it."""
    value: float
    values: Mapping[str, float]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Score | None:
        """Return the score of a checkpoint's state; None if it was not measured, or its score is no number."""
        score, told = state.get("score"), state.get("score_of")
        if not _is_score(score):
            return None
        measured, scores = state.get("measured"), state.get("scores")
        found: dict[str, Any] = {}
        if isinstance(measured, dict) and isinstance(scores, dict):
            found = {str(what): scores.get(name) for name, what in measured.items()}
        values = {what: float(value) for what, value in found.items() if _is_score(value)}
        return cls(told if isinstance(told, str) else "", float(score), values)

    def by(self, what: str) -> tuple[str, float]:
        """Return a measurement and its value: `what`, which chose another checkpoint, if known here; else its own."""
        return (what, self.values[what]) if what in self.values else (self.chosen_by, self.value)


def _is_score(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep` and the best (see `bests`).

    Raises CheckpointError if one cannot be removed; the others are then removed already.
    """
    checkpoints = list_checkpoints(folder)
    kept = {*bests(checkpoints), *checkpoints[-max(1, keep) :]}
    stays = None
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            try:
                remove(folder, step_of(checkpoint))
            except OSError as error:
                stays = CheckpointError(
                    "An old checkpoint cannot be removed",
                    got=str(checkpoint),
                    cause=error.strerror or str(error),
                )
    if stays is not None:
        raise stays


def remove(folder: Path, step: int) -> None:
    """Remove checkpoint `step`, if it is there. Raises OSError if it cannot be removed.

    The checkpoint is renamed first, so that a kill in the middle leaves nothing that looks complete. The next `commit`
    deletes what is left.
    """
    doomed = _temporary(folder, step)
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.rename(path_of(folder, step), doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _set_aside(checkpoint: Path) -> str:
    """Rename a damaged checkpoint, so that it is not kept in place of a good one; return words that say so."""
    aside = checkpoint.with_name(DAMAGED + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(checkpoint, aside)
    except OSError:  # a process that cannot rename cannot remove a good checkpoint either
        return ""
    return f"; the damaged one is now {aside.name}"


def _checksum(path: Path) -> str:
    """Return size and CRC-32 of a file."""
    checksum, size = 0, 0
    with open_regular(path) as file:
        while part := file.read(2**22):
            checksum, size = zlib.crc32(part, checksum), size + len(part)
    return f"{size} bytes, crc {checksum:08x}"


def _crc(state: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a state's JSON, the same before and after it is written and read."""
    return f"{zlib.crc32(json.dumps(state).encode()):08x}"


def _temporary(folder: Path, step: int) -> Path:
    return folder / f"{TEMPORARY}{path_of(folder, step).name}"


@contextmanager
def _writing(folder: Path, step: int) -> Iterator[Path]:
    """Yield the folder to write checkpoint `step` in; an OSError of the disk becomes a CheckpointError."""
    try:
        yield _temporary(folder, step)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint of step {step} could not be written",
            got=str(folder),
            cause=f"{error.strerror or error}",
            fix="Earlier checkpoints are intact: free some space (or lower --checkpoint.keep), "
            "then continue with --resume",
        ) from None
