"""Tensors on disk, whole or in parts: safetensors files, without a pickle or anything else that could run.

model.safetensors                    whole tensors by name
model-00001-of-00004.safetensors     instead, the slices that the first of four processes holds

The header of a part says where in the whole tensors its slices begin, in the form that the HuggingFaceStorageWriter of
`torch.distributed.checkpoint` writes. Its HuggingFaceStorageReader reads both forms, in any number of processes: each
process reads the slices that it keeps, and nothing is exchanged.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from openslip.errors import CheckpointError
from openslip.files import open_regular, sync, usual_permissions


@dataclass(frozen=True)
class Snapshot:
    """The weights and optimiser state that one process writes: part number `part` of `parts`, or everything."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    offsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Where in the whole tensor the slice begins, by name; the other tensors are whole."""
    part: int = 0
    parts: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    """More texts for the header of the weights; see `openslip.training.saving.metadata`."""

    def write(self, folder: Path) -> list[Path]:
        """Write the snapshot's files and force them to disk. Raises OSError."""
        of = f"-{self.part + 1:05d}-of-{self.parts:05d}" if self.parts > 1 else ""
        paths = [folder / f"{name}{of}.safetensors" for name in ("model", "optimizer")]
        for path, tensors, metadata in zip(paths, (self.model, self.optimizer), (self.metadata, {})):
            write_tensors(path, tensors, self.offsets if of else None, metadata)
        return paths


def slice_of(tensor: Tensor, *, first: bool) -> tuple[Tensor, tuple[int, ...]] | None:
    """Return a copy in CPU memory of the slice of a tensor that this process writes, and its offset; None for nothing.

    A process writes its own slice of a tensor that is spread over the processes. The `first` process writes the others.
    """
    offset = (0,) * tensor.ndim
    if isinstance(tensor, DTensor):
        (chunk,) = tensor.__create_chunk_list__()
        tensor, offset = tensor.to_local(), tuple(chunk.offsets)
        first = tensor.numel() > 0
    return (tensor.detach().to("cpu", copy=True), offset) if first else None


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    offsets: Mapping[str, tuple[int, ...]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file and force it to disk; with `offsets`, as a part. Raises OSError.

    metadata: more texts for the header. The library writes several texts in any order, so give at most one if files of
    equal weights should be equal.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = dict(metadata or {})
    if offsets is not None:
        slices = {name: {"saved_offsets": offsets.get(name, (0,) * t.ndim)} for name, t in tensors.items()}
        header |= {"format": "pt", "DCP_SHARDING_INFO": json.dumps(slices)}
    try:
        with usual_permissions(path):
            save_file(
                {name: t.detach().contiguous().cpu() for name, t in tensors.items()}, path, header or None
            )
    except SafetensorError as error:  # the library reports a full disk as an error of its own
        raise OSError(str(error)) from None
    sync(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or join its parts. Raises CheckpointError if anything is missing or damaged."""
    from safetensors.torch import load_file

    with _reading(path):
        files = {str(file) for file in _files(path)}
        if str(path) in files:
            return load_file(path)
        stored, storage = _metadata(path.parent)
        wanted = {index.fqn for index, where in storage.items() if where.relative_path in files}
        tensors = {
            name: torch.empty(stored[name].size, dtype=stored[name].properties.dtype) for name in wanted
        }
    read_into(path.parent, tensors)
    return tensors


def stored_like(checkpoint: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by name, with shape and dtype but without content."""
    with _reading(checkpoint):
        for name in ("model", "optimizer"):
            _files(checkpoint / f"{name}.safetensors")
        return {
            name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for name, entry in _metadata(checkpoint)[0].items()
        }


def read_into(checkpoint: Path, places: Mapping[str, Tensor]) -> None:
    """Fill tensors, whole or spread over processes, from a checkpoint with the same names, shapes and dtypes."""
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, load

    with _reading(checkpoint), warnings.catch_warnings():
        # Each process reads for itself, even among several, so the warning that it is alone is no news.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            load(dict(places), storage_reader=HuggingFaceStorageReader(str(checkpoint)), no_dist=True)
        except CheckpointException as error:
            raise OSError("; ".join(str(failure) for failure, _ in error.failures.values())) from None


def files_of(path: Path) -> list[Path]:
    """Return the file of that name, or all its parts. Raises CheckpointError if one cannot be read."""
    with _reading(path):
        return _files(path)


def _files(path: Path) -> list[Path]:
    """Return the file of that name, or all its parts. Raises OSError if one cannot be read."""
    if path.exists():
        open_regular(path).close()
        return [path]
    parts = sorted(path.parent.glob(f"{path.stem}-*-of-*.safetensors"))
    if not parts:
        raise FileNotFoundError("There is no such file")
    number = parts[0].stem.rpartition("-")[2]
    if number != f"{len(parts):05}":
        raise FileNotFoundError(f"It should have {number.lstrip('0')} parts, found: {len(parts)}")
    for part in parts:
        open_regular(part).close()
    return parts


def _metadata(folder: Path) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Return what a folder's files say of tensors, by name, and which file each slice is in.

    Raises ValueError if the files do not say it as they should, or slices do not add up to their tensor.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    try:
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    except (AttributeError, OverflowError, TypeError) as error:
        raise ValueError(f"A file does not say where its slices belong: {error}") from None
    stored: dict[str, Any] = metadata.state_dict_metadata
    for name, entry in stored.items():
        if sum(chunk.sizes.numel() for chunk in entry.chunks) != entry.size.numel():
            raise ValueError(
                f"The slices of {name} do not add up to its {entry.size.numel()} numbers; "
                "is there a file in the folder that does not belong to the checkpoint?"
            )
    return stored, metadata.storage_data


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise CheckpointError(
            "The checkpoint cannot be read",
            got=str(path),
            cause=str(error),
            fix="Copy the file again, or remove that checkpoint's folder to go on from the one before it",
        ) from None
