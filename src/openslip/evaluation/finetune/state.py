"""A finetuning's folder: its description, and a checkpoint after each epoch, from which a killed finetuning goes on.

finetune.json     recipe, data and fingerprint of the model at the start
step-00000120/    the last epoch's weights, optimiser state and losses
results.json      the results of the finished classifier

The header of the weights has the same description, so `openslip.interop.finetuned` reads them without the run.

Finetunings with different descriptions keep their states side by side: the second folder has the name of the first
folder with a digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from openslip.errors import CheckpointError, ConfigError, note, shortened
from openslip.evaluation import fingerprint as fingerprints
from openslip.evaluation.finetune.recipe import FinetuneRecipe
from openslip.files import TEMPORARY, read_json, write_json
from openslip.models.weights import digest
from openslip.training.optimizer import load_state_tensors, state_tensors
from openslip.training.saving import checkpoint, lock, metadata

if TYPE_CHECKING:
    from openslip.config import Config, ViewsConfig
    from openslip.data.labelled import Labelled

DESCRIPTION = "finetune.json"


@dataclass(frozen=True)
class Kept:
    """The folder of a finetuning's state, and its description (see `describe`). writable: whether the folder can be
    written, or is only read."""

    folder: Path
    writable: bool
    description: dict[str, Any]


def describe(
    tower: nn.Module, train: Labelled, pictures: str, recipe: FinetuneRecipe, views: ViewsConfig, seed: int
) -> dict[str, Any]:
    """Return the description that two finetunings must share to go on from each other's state: plain JSON values.

    pictures: a digest of the training images (see `openslip.evaluation.fingerprint.of_labelled`).
    """
    description = {
        "model": fingerprint(tower),
        "size": views.size,
        "mean": views.mean,
        "std": views.std,
        **({} if views.fit == "crop" else {"fit": views.fit}),
        "recipe": dataclasses.asdict(recipe),
        "pictures": pictures,
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
    return digest(module)[:16]


@contextmanager
def claimed(folder: Path, description: dict[str, Any], name: str) -> Iterator[Kept | None]:
    """Lock the folder for this finetuning's state, and yield it: `folder`, or `folder-DIGEST` if `folder` holds the
    state of another finetuning. Yield None, with a note, if nothing can be kept.

    name: the task's name, for messages. Raises ConfigError if another process works on the same finetuning,
    CheckpointError if the folder's description is missing or damaged.
    """
    own = folder.with_name(
        f"{folder.name}-{fingerprints.of_all([json.dumps(description, sort_keys=True)])[:8]}"
    )
    with ExitStack() as stack:
        try:
            kept = _claim(folder, description, name, stack, last=False)
            kept = kept or _claim(own, description, name, stack, last=True)
        except OSError as error:
            note(
                f"{name}: the state of the finetuning is not kept, because {folder} cannot be written "
                f"({error.strerror or error}). If the finetuning is interrupted, it starts anew."
            )
            kept = None
        yield kept


def _claim(
    folder: Path, description: dict[str, Any], name: str, stack: ExitStack, *, last: bool
) -> Kept | None:
    """Lock `folder` until the stack is left, and return it, if it belongs to this finetuning or to none; None if it
    belongs to another. last: there is no other folder to try. Raises OSError if the folder cannot be created."""
    path = folder / DESCRIPTION
    if not last and _another(path, description, name):
        return None
    before = list(os.listdir(folder)) if folder.is_dir() else []
    try:
        stack.enter_context(lock.held(folder))
    except ConfigError:
        raise ConfigError(
            f"Another process works on {name} with this model",
            got=str(folder),
            fix="Wait until it has ended; then the same command goes on from its state",
        ) from None
    if not last and _another(path, description, name):  # another process may have written it meanwhile
        return None
    if path.exists():
        if differences := _read_differences(path, description):
            raise CheckpointError(
                "The folder holds the state of another finetuning",
                got=str(folder),
                cause=differences,
                fix=_REMOVE,
            )
        return Kept(folder, _writable(folder), description)
    if any(name.startswith(checkpoint.PREFIX) for name in before):
        raise CheckpointError(
            "The folder holds a finetuning's state, but no finetune.json", got=str(folder), fix=_REMOVE
        )
    write_json(path, description)
    return Kept(folder, True, description)


_REMOVE = "Remove the folder; the same command then starts over"


def _another(path: Path, description: dict[str, Any], name: str) -> bool:
    """Whether the folder of `path` holds the state of another finetuning. If so, a note says so."""
    if path.exists() and (differences := _read_differences(path, description)):
        note(
            f"{name}: {path.parent} keeps the state of another finetuning. {differences}. The new state goes beside it."
        )
        return True
    return False


def _read_differences(path: Path, description: dict[str, Any]) -> str:
    """Return in words how the finetuning of a folder differs from this one; "" if it is this one."""
    try:
        found = read_json(path)
    except ValueError as error:
        return f"Its description cannot be read ({error})"
    if isinstance(found, dict) and "pictures" not in found:
        return "An earlier version wrote it, which did not note the pictures"
    differences = list(_differences(found, description))
    return "It differs in " + "; ".join(differences[:5]) if differences else ""


def _writable(folder: Path) -> bool:
    probe = folder / f"{TEMPORARY}probe-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def header(config: Config, description: dict[str, Any], epochs: int) -> dict[str, str]:
    """Return the header for a classifier's weights: the configuration of its model, and the finetuning's description.

    description: as `describe` gives it. epochs: the number of epochs that the weights were trained for.
    """
    about = {**description, "epochs": epochs, "config": metadata.describe(config)[metadata.KEY]}
    return {metadata.CLASSIFIER: json.dumps(about, sort_keys=True)}


def save(
    kept: Kept,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    losses: list[float],
) -> None:
    """Write the state after an epoch. The state before it is removed only when the new state is complete.

    config: the configuration of the model at the start.
    """
    folder, texts = kept.folder, header(config, kept.description, len(losses))
    try:
        checkpoint.save(folder, step, model.state_dict(), state_tensors(optimizer), {"losses": losses}, texts)
    except CheckpointError as error:
        raise CheckpointError(
            error.what,
            got=error.got,
            cause=error.cause,
            fix="The last epoch's state is intact: free some space, then run the same command again to go on",
        ) from None
    checkpoint.prune(folder, keep=1)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Restore the folder's last state, if it has one. Return the losses of the finished epochs.

    Raises CheckpointError if the state is damaged.
    """
    checkpoints = checkpoint.list_checkpoints(folder)
    if not checkpoints:
        return []
    try:
        weights, moments, state = checkpoint.load(checkpoints[-1])
    except CheckpointError as error:
        raise CheckpointError(
            error.what, got=error.got, cause=error.cause, fix=f"{_REMOVE}: {folder}"
        ) from None
    try:
        model.load_state_dict(weights)
        load_state_tensors(optimizer, moments)
        return [float(loss) for loss in state["losses"]]
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "The finetuning's state does not fit its model",
            got=str(folder),
            cause=str(error),
            fix=_REMOVE,
        ) from None


def _differences(there: Any, here: Any, key: str = "") -> Any:
    """Yield `key (value there, value here)` for each difference between two plain trees."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(name), here.get(name), f"{key}.{name}" if key else name)
    elif there != here:
        yield f"{key} ({_short(there)} there, {_short(here)} here)"


def _short(value: Any) -> str:
    many = isinstance(value, list) and len(value) > 4
    return f"{len(value)} entries" if many else shortened(str(value), 100)
