"""A finetuning's folder: what it is of, and a checkpoint an epoch, from which a killed one goes on.

finetune.json     recipe, data and fingerprint of the model that was started from
step-00000120/    the last epoch's weights, optimiser state and losses
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from slip.errors import CheckpointError, shortened
from slip.evaluation.finetune.recipe import FinetuneRecipe
from slip.files import read_json, write_json
from slip.training.optimizer import load_state_tensors, state_tensors
from slip.training.saving import checkpoint, lock

if TYPE_CHECKING:
    from slip.evaluation.datasets import Labelled

DESCRIPTION = "finetune.json"


def describe(
    tower: nn.Module, train: Labelled, recipe: FinetuneRecipe, size: int, seed: int
) -> dict[str, Any]:
    """Return what two finetunings must share for one to go on from the other's state: plain JSON values."""
    description = {
        "model": fingerprint(tower),
        "size": size,
        "recipe": dataclasses.asdict(recipe),
        "images": len(train.images),
        "classes": list(train.class_names),
        "labels": hashlib.sha256(np.ascontiguousarray(train.labels, dtype=np.int64).tobytes()).hexdigest()[
            :16
        ],
        "seed": seed,
    }
    return json.loads(json.dumps(description))


def fingerprint(module: nn.Module) -> str:
    """Return a short hash of a module's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process that finetunes in this folder. Raises ConfigError where another one does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.held(folder))
        except OSError as error:
            raise _unusable(folder, error) from None
        yield


def claim(folder: Path, description: dict[str, Any]) -> None:
    """Make `folder` this finetuning's own, or check that it already is.

    Raises CheckpointError when it holds another one, names a file, or cannot be written.
    """
    path = folder / DESCRIPTION
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_json(path, description)
            return
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from None
    differences = list(_differences(found, description))
    if differences:
        raise CheckpointError(
            "The folder holds the state of another finetuning",
            got=str(folder),
            cause="It differs in " + "; ".join(differences[:5]),
            fix="Name another folder for this one, or remove that one to start over",
        )


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, losses: list[float]
) -> None:
    """Write the state after an epoch; the one before it goes only when the new one is complete."""
    try:
        checkpoint.save(folder, step, model.state_dict(), state_tensors(optimizer), {"losses": losses})
    except CheckpointError as error:
        raise CheckpointError(
            error.what,
            got=error.got,
            cause=error.cause,
            fix="The last epoch's state is intact: free some space, then run the same command again to go on",
        ) from None
    checkpoint.prune(folder, keep=1)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Put back the folder's last state, if it has one; return the losses of the epochs done.

    Raises CheckpointError when the state is damaged.
    """
    checkpoints = checkpoint.list_checkpoints(folder)
    if not checkpoints:
        return []
    weights, moments, state = checkpoint.load(checkpoints[-1])
    try:
        model.load_state_dict(weights)
        load_state_tensors(optimizer, moments)
        return [float(loss) for loss in state["losses"]]
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "The finetuning's state does not fit its model",
            got=str(folder),
            cause=str(error),
            fix="Remove the folder to start over",
        ) from None


def _unusable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        "The finetuning's folder cannot be used",
        got=str(folder),
        cause=str(error),
        fix="Name another folder",
    )


def _differences(there: Any, here: Any, key: str = "") -> Any:
    """Yield `key: value there, value here` for what differs between two plain trees."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(name), here.get(name), f"{key}.{name}" if key else name)
    elif there != here:
        yield f"{key} ({_short(there)} there, {_short(here)} here)"


def _short(value: Any) -> str:
    many = isinstance(value, list) and len(value) > 4
    return f"{len(value)} entries" if many else shortened(str(value), 100)
