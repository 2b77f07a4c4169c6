"""Other people's formats, and one `load` for all of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from openslip.config import TextTowerConfig
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError, did_you_mean
from openslip.files import expand
from openslip.interop import foreign, ours, reference, torch_files
from openslip.interop.filling import encoder_of
from openslip.interop.others import is_safetensors
from openslip.models.weights import Pretrained

WHICH = ("latest", "best")


def load(path: str | Path, *, which: Literal["latest", "best"] = "latest") -> Encoder:
    """Load a model, in evaluation mode; nothing that is read is executed, and nothing is fetched.

    path: a run folder, one of its checkpoint folders, what `slip consolidate` wrote, or copies of these: a checkpoint's
    folder alone, `config.toml` beside `model.safetensors`, or `model.safetensors` alone. Also a released SLIP `.pt`
    file, and weights with its names or ours that `torch.save` wrote.

    which: which checkpoint of a run folder, the latest or the one with the best score during training; where none has a
    score the latest is taken, which is said.

    The optimiser's state and the objective are for training: neither needs to be there, or known.

    Raises CheckpointError where a file is missing, which it names, is damaged, does not fit the configuration, or is
    another project's; ConfigError for another `which`, or one that has no effect.
    """
    return encoder_of(read(path, which))


def read(spec: str | Path, which: Literal["latest", "best"] = "latest") -> Pretrained:
    """Return configuration and weights of a model that somebody has trained: of all that `load` takes, which raises
    the same errors. No model is built."""
    if which not in WHICH:
        raise ConfigError(
            "There is no such checkpoint to pick", got=which, fix=did_you_mean(str(which), WHICH)
        )
    path = expand(spec)
    if os.path.isdir(path):
        return ours.read_folder(path, which)
    if not os.path.exists(path):
        raise CheckpointError(
            "There is no such file or folder",
            got=str(path),
            fix="Give the folder that `slip train` wrote, a file that `slip consolidate` wrote, or a released .pt file",
        )
    ours.check_alone(path, which)
    if is_safetensors(path):
        return ours.read_file(path)
    if path.name in ("config.toml", "state.json"):
        raise CheckpointError(
            "This file holds no weights", got=str(path), fix=f"Give the folder it lies in: {path.parent}"
        )
    return _of_torch(path)


def _of_torch(path: Path) -> Pretrained:
    """Return the model of weights that torch saved: with the reference's names, or with ours."""
    state = torch_files.plain_names(torch_files.read_checkpoint(path)["state_dict"])
    if reference.is_reference(state):
        return reference.read(state, path)
    if not ours.is_ours(state):
        raise foreign.unknown(path, state)
    if settings := ours.settings_beside(path.parent):
        notes: list[str] = []
        config = ours.read_settings(settings, str(settings), notes.append)
        return ours.pretrained_of(config, state, path, files=[path, settings], notes=notes)
    return _without_settings(path, state)


def _without_settings(path: Path, state: dict[str, Tensor]) -> Pretrained:
    """Return the model of weights with our names that come without a configuration.

    Shapes tell all of it only where they are those of the reference's models, which have a known number of heads.
    """
    try:
        found = reference.read({reference.to_reference(name): value for name, value in state.items()}, path)
    except CheckpointError:
        raise ours.no_settings(path, state) from None
    if found.has_text and found.config.model.text.width != TextTowerConfig().width:
        raise ours.no_settings(path, state)
    told = (
        f"{path} does not say how its pictures were normalised, nor how many attention heads it has: these are taken "
        "from the paper's recipes. A config.toml beside it would tell"
    )
    return replace(found, origin=replace(found.origin, format="openslip"), notes=(told,))
