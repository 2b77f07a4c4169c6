"""Weights that other programs wrote, as tensors by name: safetensors, whole or sharded, and what torch saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from openslip.errors import CheckpointError, did_you_mean
from openslip.files import open_regular, read_json
from openslip.interop import torch_files

INDEX = ".index.json"
"""The ending of an index's name. An index says in which of several files each tensor is."""


def is_safetensors(path: Path) -> bool:
    """Say whether a file begins as safetensors files do: with the length of a header, which is a JSON object."""
    try:
        with open_regular(path) as file:
            start = file.read(9)
            return path.suffix == ".safetensors" or (
                start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The checkpoint cannot be read", got=str(path), cause=str(error), fix="Check the path."
        ) from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """Return the tensors of a file by their plain names, and the files that were read.

    path: a safetensors file, the index of several (`model.safetensors.index.json`), or a file that torch saved.
    Raises CheckpointError for a file that is missing, cut off, damaged, or would have to be run.
    """
    if path.name.endswith(INDEX):
        return _sharded(path)
    if is_safetensors(path):
        return torch_files.plain_names(_safetensors(path)), [path]
    return torch_files.plain_names(torch_files.read_checkpoint(path)["state_dict"]), [path]


def read_config(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file. Raises CheckpointError if the file holds none."""
    try:
        config = read_json(path)
        if not isinstance(config, dict):
            raise ValueError("It holds no table")
        return config
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The model's configuration cannot be read",
            got=str(path),
            cause=str(error),
            fix="Copy or download the file anew",
        ) from None


def as_scalar(value: Tensor) -> Tensor:
    """Return a tensor of one number without dimensions, and any other tensor as it is."""
    return value.reshape(()) if value.numel() == 1 else value


@contextmanager
def described_by(spec: str) -> Iterator[None]:
    """Turn errors about missing values, or values of the wrong kind, into a CheckpointError that names the model.
    Anybody may have written the configuration."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The configuration of {spec} does not describe a model",
            cause=f"A value is missing, or of another kind ({type(error).__name__}: {error})",
            fix="Copy or download the configuration anew",
        ) from error


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the sentence that names what is close to an unknown `name`; `otherwise` if nothing is close.

    The libraries know hundreds of names: too many for a message.
    """
    told = did_you_mean(name, known)
    return told if told.startswith("Did") else otherwise


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        open_regular(path).close()
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            "The weights cannot be read: the file is cut off, damaged, or no safetensors file",
            got=str(path),
            cause=str(error),
            fix="Copy or download the file anew, and compare the sizes",
        ) from None


def parts_of(index: Path) -> list[str]:
    """Return the names of the files that hold the weights of an index. Raises CheckpointError if it names none."""
    return sorted(set(_places(index).values()))


def _places(index: Path) -> dict[str, str]:
    """Return which file each weight is in, by its name."""
    places = read_config(index).get("weight_map")
    if not (
        isinstance(places, dict)
        and places
        and all(isinstance(place, str) and _is_part(place) for place in places.values())
    ):
        raise CheckpointError(
            "The index of a model's files does not say where its weights are",
            got=str(index),
            fix="Download it anew",
        )
    return places


def _is_part(name: str) -> bool:
    """Whether a name can be that of a file of weights beside an index. An index of indices might have no end."""
    return (
        Path(name).name == name
        and 0 < len(name.encode()) <= 255
        and name != ".."
        and "\0" not in name
        and not name.endswith(INDEX)
    )


def _sharded(index: Path) -> tuple[dict[str, Tensor], list[Path]]:
    places = _places(index)
    files = [index.with_name(name) for name in sorted(set(places.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"The weights are in {len(files)} files, and {len(missing)} of them "
            f"{'is' if len(missing) == 1 else 'are'} missing",
            got=", ".join(missing[:3]),
            fix=f"Copy or download what is missing into {index.parent}",
        )
    found: dict[str, Tensor] = {}
    for file in files:
        found |= read_weights(file)[0]
    lost = sorted(places.keys() - found.keys())
    if lost:
        raise CheckpointError(
            f"{len(lost)} of the {len(places)} weights that the index names "
            f"{'is' if len(lost) == 1 else 'are'} in none of the files",
            got=", ".join(lost[:3]),
            fix="Copy or download the files anew: they are not of one version",
        )
    return found, [index, *files]
