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
    from slip.training.saving import checkpoint
    from slip.training.saving.run import RunFolder

    config = RunFolder(folder.parent.parent).config
    encoder = Encoder.from_config(config)
    checkpoint.verify(folder, "model")
    weights = checkpoint.read_tensors(folder / "model.safetensors")
    own = encoder.model.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [n for n in own if own[n].shape != weights[n].shape]
    if wrong:
        raise CheckpointError(
            "The weights do not fit the model that the run's config.toml describes",
            got=f"{len(wrong)} entries differ: {', '.join(wrong[:5])}",
            cause=f"{folder} may come from another run",
        )
    encoder.model.load_state_dict(weights)
    return encoder
