"""Other people's formats, and one `load` for all of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from slip.encoder import Encoder
from slip.errors import CheckpointError

ENDINGS = (".pt", ".pth", ".tar", ".bin")
"""How the files of released checkpoints end."""


def load(path: str | Path, *, which: Literal["latest", "best"] = "latest") -> Encoder:
    """Load a run folder, one of its checkpoint folders, or a released SLIP `.pt` file; nothing in it is executed.

    `which` picks the checkpoint of a run folder: the latest, or the one with the best score during training.
    Raises CheckpointError when there is no such checkpoint, it is damaged or does not fit its configuration.
    """
    path = Path(path)
    if path.is_file() and path.suffix in ENDINGS:
        from slip.interop.reference import load_reference

        return load_reference(path)
    if (path / "config.toml").is_file():
        return _load_checkpoint(_pick(path, which))
    if (path / "state.json").is_file():
        return _load_checkpoint(Path(os.path.abspath(path)))  # its run is told by where it lies
    known = "This is neither a run folder, nor a checkpoint folder of one, nor a released .pt file"
    raise CheckpointError(
        known if path.exists() else "There is no such file or folder",
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
    """Return the model of a checkpoint, with nothing from anywhere else: neither weights nor what they are laid out in."""
    from slip.training.saving import checkpoint
    from slip.training.saving.run import RunFolder

    config = RunFolder(folder.parent.parent).config
    _check_name(config, folder.parent.parent)
    checkpoint.verify(folder, "model")
    stored = checkpoint.shapes(folder)
    _check_shapes(_skeleton(config, len(stored)), stored, folder)
    weights = checkpoint.read_tensors(folder / "model.safetensors")
    shape = replace(config, model=without_weights(config.model))
    encoder = Encoder(Encoder.from_config(shape).model, config)
    encoder.model.load_state_dict(weights)
    return encoder


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


def _skeleton(config: Config, entries: int) -> dict[str, torch.Size] | None:
    """Return the names and shapes of what the configuration's model holds, without making it.

    entries: how many there are in the checkpoint; a model of more blocks would take forever to be described.
    None for a model that can only be made.
    """
    image, text = config.model.image, config.model.text
    if max(image.depth, text.depth) > entries:
        raise _misfit(f"{entries} entries, depths {image.depth} and {text.depth}")
    shape = replace(config, model=without_weights(config.model))
    try:
        with torch.device("meta"):
            model = Encoder.from_config(shape).model
    except (RuntimeError, OverflowError, TypeError) as error:
        if image.name == "vit":
            raise _misfit(str(error)) from None
        return None
    except ConfigError as error:
        if image.name == "vit":
            raise CheckpointError("The run's configuration makes no model", cause=str(error)) from None
        return None
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _check_shapes(own: dict[str, torch.Size] | None, stored: dict[str, torch.Size], folder: Path) -> None:
    """Raise CheckpointError unless the checkpoint holds what the model does, before any memory is taken for either."""
    if own is None:
        return
    wrong = sorted(own.keys() ^ stored.keys()) or [name for name in own if own[name] != stored[name]]
    if wrong:
        raise _misfit(
            f"{len(wrong)} entries differ: {', '.join(wrong[:5])}", f"{folder} may come from another run"
        )


def _misfit(got: str, cause: str = "") -> CheckpointError:
    return CheckpointError(
        "The weights do not fit the model that the run's config.toml describes", got=got, cause=cause
    )
