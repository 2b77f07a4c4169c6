"""Other people's formats, and one `load` for all of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from torch import Tensor

from openslip.config import TextTowerConfig
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError, did_you_mean
from openslip.files import expand, open_regular
from openslip.interop import foreign, ours, reference, torch_files

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
    if which not in WHICH:
        raise ConfigError(
            "There is no such checkpoint to pick", got=which, fix=did_you_mean(str(which), WHICH)
        )
    path = expand(path)
    if os.path.isdir(path):
        return ours.load_folder(path, which)
    if not os.path.exists(path):
        raise CheckpointError(
            "There is no such file or folder",
            got=str(path),
            fix="Give the folder that `slip train` wrote, a file that `slip consolidate` wrote, or a released .pt file",
        )
    ours.check_alone(path, which)
    if _is_safetensors(path):
        return ours.load_file(path)
    if path.name in ("config.toml", "state.json"):
        raise CheckpointError(
            "This file holds no weights", got=str(path), fix=f"Give the folder it lies in: {path.parent}"
        )
    return _of_torch(path)


def _pick(run: Path, which: str) -> Path:
    """Return the checkpoint of a run folder that `load` takes. Raises CheckpointError where there is none."""
    if found := ours.pick(run, which):
        return found
    raise CheckpointError(
        "The run has no checkpoint yet", got=str(run), fix="Let it train until its first one"
    )


def _is_safetensors(path: Path) -> bool:
    """Say whether a file begins as safetensors files do: with the length of a header, which is a JSON object."""
    try:
        with open_regular(path) as file:
            start = file.read(9)
            return path.suffix == ".safetensors" or (
                start[8:] == b"{" and int.from_bytes(start[:8], "little") < os.stat(path).st_size
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The checkpoint cannot be read", got=str(path), cause=str(error), fix="Check the path."
        ) from None


def _of_torch(path: Path) -> Encoder:
    """Return the model of weights that torch saved: with the reference's names, or with ours."""
    state = torch_files.plain_names(torch_files.read_checkpoint(path)["state_dict"])
    if reference.is_reference(state):
        return reference.encoder_of(state, str(path))
    if not ours.is_ours(state):
        raise foreign.unknown(path, state)
    if settings := ours.settings_beside(path.parent):
        return ours.encoder_of(ours.read_settings(settings, str(settings)), state, str(path))
    return _without_settings(path, state)


def _without_settings(path: Path, state: dict[str, Tensor]) -> Encoder:
    """Return the model of weights with our names that come without a configuration.

    Shapes tell all of it only where they are those of the reference's models, which have a known number of heads.
    """
    try:
        encoder = reference.encoder_of(
            {reference.to_reference(name): value for name, value in state.items()}, str(path)
        )
    except CheckpointError:
        raise ours.no_settings(path, state) from None
    text = encoder.model.text_tower
    if text is not None and text.width != TextTowerConfig().width:
        raise ours.no_settings(path, state)
    ours.note(
        f"{path} does not say how its pictures were normalised, nor how many attention heads it has: these are taken "
        "from the paper's recipes. A config.toml beside it would tell"
    )
    return encoder
