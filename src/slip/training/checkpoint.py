"""Checkpoints: a folder each, written under a temporary name, synced and renamed; no pickle anywhere.

checkpoints/step-00001000/model.safetensors      weights
                          optimizer.safetensors  AdamW's moments, by parameter name
                          state.json             step, score and what else a run needs to go on
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
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
    final = folder / f"{PREFIX}{step:08d}"
    temporary = folder / f"{TEMPORARY}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        _write_tensors(temporary / "model.safetensors", model)
        _write_tensors(temporary / "optimizer.safetensors", optimizer)
        write_json(temporary / "state.json", dict(state, step=step))
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


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # the library reports a full disk as an error of its own
        raise OSError(str(error)) from None
    sync(path)
