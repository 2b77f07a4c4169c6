"""Checkpoints: a folder each, written under a temporary name, synced and renamed; no pickle anywhere.

checkpoints/step-00001000/model.safetensors      weights
                          optimizer.safetensors  AdamW's moments, by parameter name
                          state.json             step, score and what else a run needs to go on; checksums
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from slip.errors import CheckpointError
from slip.files import TEMPORARY, sync, write_json

PREFIX = "step-"


def save(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write checkpoint `step` below `folder` and return its path: complete under its name, or not there at all.

    Raises CheckpointError when the disk is full or not writable; earlier checkpoints are untouched.
    """
    final = path_of(folder, step)
    temporary = folder / f"{TEMPORARY}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        _write_tensors(temporary / "model.safetensors", model)
        _write_tensors(temporary / "optimizer.safetensors", optimizer)
        checksums = {file.name: _checksum(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / "state.json", dict(state, step=step, checksums=checksums))
        sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint of step {step} could not be written",
            got=str(folder),
            cause=f"{error.strerror or error}",
            fix="Earlier checkpoints are intact: free some space (or lower --checkpoint.keep), "
            "then continue with --resume",
        ) from None
    return final


def path_of(folder: Path, step: int) -> Path:
    """Return where checkpoint `step` is below `folder`."""
    return folder / f"{PREFIX}{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name tells."""
    return int(checkpoint.name.removeprefix(PREFIX))


def load(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote: model tensors, optimiser tensors, state."""
    return (
        read_tensors(checkpoint / "model.safetensors"),
        read_tensors(checkpoint / "optimizer.safetensors"),
        read_state(checkpoint),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; CheckpointError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "The checkpoint cannot be read",
            got=str(path),
            cause=str(error),
            fix="Remove that checkpoint's folder to go on from the one before it",
        ) from None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's state.json."""
    try:
        return json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The checkpoint's state cannot be read", got=str(checkpoint), cause=str(error)
        ) from None


def newest_good(folder: Path, damaged: Callable[[CheckpointError], None]) -> Path | None:
    """Return the newest checkpoint that is as it was written; None if there is none.

    Those that are not are passed over, and `damaged` is told why. Raises the last one's CheckpointError when none is
    good: going back to the beginning is for people to decide.
    """
    error = None
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify(checkpoint)
            return checkpoint
        except CheckpointError as found:
            error = found
            damaged(found)
    if error is not None:
        raise error
    return None


def verify(checkpoint: Path) -> None:
    """Raise CheckpointError when a file of the checkpoint is missing, or not as it was written."""
    for name, checksum in read_state(checkpoint).get("checksums", {}).items():
        try:
            found = _checksum(checkpoint / name)
        except OSError as error:
            found = error.strerror or str(error)
        if found != checksum:
            raise CheckpointError(
                f"The checkpoint's {name} is damaged",
                got=f"{checkpoint / name}: {found}, written as {checksum}",
                fix="Remove that checkpoint's folder to go on from the one before it",
            )


class BackgroundWriter:
    """Writes one checkpoint at a time while training goes on.

    One that cannot be written is reported to `failed` and costs nothing but itself: the ones before are there.
    """

    def __init__(self, failed: Callable[[CheckpointError], None]) -> None:
        self.failed = failed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Call `write` in the background, after the writing before has ended."""
        try:
            self.finish()
        except CheckpointError as error:
            self.failed(error)
        self._writing = self._pool.submit(write)

    def finish(self) -> None:
        """Wait for what is being written. Raises its CheckpointError."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for what is being written, whatever becomes of it."""
        self._pool.shutdown()


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints below `folder`, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if (p / "state.json").is_file())


def best(checkpoints: list[Path]) -> Path | None:
    """Return the checkpoint with the highest score, the later one of equals; None if none was scored."""
    scored = [(score, p) for p in checkpoints if (score := read_state(p).get("score")) is not None]
    return max(scored)[1] if scored else None


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep` and the best."""
    checkpoints = list_checkpoints(folder)
    kept = {best(checkpoints), *checkpoints[-max(1, keep) :]}
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            # Renamed first, so that a kill in the middle leaves nothing that looks complete.
            doomed = folder / f"{TEMPORARY}{checkpoint.name}"
            os.rename(checkpoint, doomed)
            shutil.rmtree(doomed)


def _checksum(path: Path) -> str:
    """Return size and CRC-32 of a file."""
    checksum, size = 0, 0
    with open(path, "rb") as file:
        while part := file.read(2**22):
            checksum, size = zlib.crc32(part, checksum), size + len(part)
    return f"{size} bytes, crc {checksum:08x}"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # the library reports a full disk as an error of its own
        raise OSError(str(error)) from None
    sync(path)
