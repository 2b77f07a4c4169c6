"""Other people's formats, and one `load` for all of them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import timm
import torch
from torch import Tensor

from slip.config import Config
from slip.encoder import Encoder
from slip.errors import CheckpointError, ConfigError
from slip.models import Model, without_weights

ENDINGS = (".pt", ".pth", ".tar", ".bin")
"""How the files of released checkpoints end."""


def load(path: str | Path, *, which: Literal["latest", "best"] = "latest") -> Encoder:
    """Load a run folder, one of its checkpoint folders, or a released SLIP `.pt` file; nothing in it is executed.

    `which` picks the checkpoint of a run folder: the latest, or the one with the best score during training.
    Raises CheckpointError when there is no such checkpoint, it is damaged or does not fit its configuration.
    """
    path = Path(path)
    if os.path.isfile(path) and path.suffix in ENDINGS:
        from slip.interop.reference import load_reference

        return load_reference(path)
    if os.path.isfile(path / "config.toml"):
        return _load_checkpoint(_pick(path, which))
    if os.path.isfile(path / "state.json"):
        return _load_checkpoint(Path(os.path.abspath(path)))  # its run is told by where it lies
    known = "This is neither a run folder, nor a checkpoint folder of one, nor a released .pt file"
    raise CheckpointError(
        known if os.path.exists(path) else "There is no such file or folder",
        got=str(path), fix="Give the folder that `slip train` wrote, or a .pt file",
    )  # fmt: skip


def _pick(run: Path, which: str) -> Path:
    from slip.training.saving import checkpoint

    checkpoints = checkpoint.list_checkpoints(run / "checkpoints")
    if not checkpoints:
        raise CheckpointError(
            "The run has no checkpoint yet", got=str(run), fix="Let it train until its first checkpoint"
        )
    return (checkpoint.best(checkpoints) or checkpoints[-1]) if which == "best" else checkpoints[-1]


def _load_checkpoint(folder: Path) -> Encoder:
    """Return the model of a checkpoint; nothing is taken from anywhere else, neither weights nor their layout."""
    from slip.training.saving import checkpoint
    from slip.training.saving.run import RunFolder

    config = RunFolder(folder.parent.parent).config
    _check_name(config, folder.parent.parent)
    checkpoint.verify(folder, "model")
    weights = checkpoint.read_tensors(folder / "model.safetensors")
    model = _model_for(config, weights, folder)
    model.load_state_dict(weights)
    return Encoder(model, config)


def _check_name(config: Config, run: Path) -> None:
    """Raise CheckpointError where the image tower's name is that of a place, which would be asked for its layout."""
    name = config.model.image.name
    if name == "vit" or timm.is_model(name):
        return
    raise CheckpointError(
        "The run's image tower is none that timm knows by this name",
        got=name,
        cause="It names a place, and what a run folder names is not fetched on loading it"
        if re.search("[:/]", name)
        else "Another version of timm may know it",
        fix=f"If you trust the run, write the name that timm has for its architecture into {run / 'config.toml'} "
        "(model.image.name; `timm.list_models()` lists them)",
    )


def _model_for(config: Config, weights: dict[str, Tensor], folder: Path) -> Model:
    """Return a model that these weights fit, its own not yet made. Raises CheckpointError where they fit none.

    It is described first, on no device, so that a configuration of another model takes neither memory nor time.
    """
    image, text = config.model.image, config.model.text
    if max(image.depth, text.depth) > len(weights):  # a description of a billion blocks takes time, too
        raise _misfit(f"{len(weights)} entries for towers of {image.depth} and {text.depth} blocks")
    shape = replace(config, model=without_weights(config.model))
    try:
        with torch.device("meta"):
            described = Encoder.from_config(shape).model
    except ConfigError as error:
        raise CheckpointError("The run's configuration makes no model", cause=str(error)) from None
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise _misfit(f"config.toml ({str(error).splitlines()[0]})") from None
    own = described.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [n for n in own if own[n].shape != weights[n].shape]
    if wrong:
        raise _misfit(
            f"{len(wrong)} entries differ: {', '.join(wrong[:5])}", f"{folder} may come from another run"
        )
    if image.name == "vit":  # all that it computes with is among the weights
        return described.to_empty(device="cpu")
    return Encoder.from_config(shape).model


def _misfit(got: str, cause: str = "") -> CheckpointError:
    return CheckpointError(
        "The weights do not fit the model that the run's config.toml describes", got=got, cause=cause
    )
