"""What `torch.save` wrote, read without running any of it: tensors, plain containers, and `argparse.Namespace`."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openslip.errors import CheckpointError
from openslip.files import open_regular
from openslip.interop.foreign import torchscript

HOLDERS = ("state_dict", "model_state_dict", "model")
"""Names under which programs keep the weights in a checkpoint, if they do not save the weights alone."""
REPEATED = 1 << 24
"""Numbers that a tensor may have if the file holds fewer numbers, and says to repeat them."""
UNPACKED = 4
"""How many times as large as the file its records may be. Real weights hardly compress."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and the compiler put before the names of all weights."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `.pt` file: a dict with the weights under `state_dict`, and what else the file holds; on the CPU.

    Weights that were saved alone, or under another usual name, are put under `state_dict`.

    The file is a pickle inside a zip. It is parsed by torch's restricted reader, which builds tensors, plain
    containers and `argparse.Namespace`, and runs nothing; a file that asks for any other type is refused
    whole.

    Raises CheckpointError: no such file, not a zip (saved before torch 1.6, or something else), a TorchScript archive,
    cut off or damaged, a type that is not allowed, no weights; records that are far larger than the
    file, a tensor of far more numbers than it holds.
    """
    path = Path(path)
    _check_is_zip(path)
    if _is_torchscript(path):
        raise torchscript(path)
    _check_unpacked(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; every one means that the file was not loaded
        raise _unreadable(path, error) from None
    if isinstance(content, dict):
        for holder in HOLDERS:
            if _are_weights(content.get(holder)):
                _check_held(content[holder], path)
                return content | {"state_dict": content[holder]}
        if _are_weights(content):
            _check_held(content, path)
            return {"state_dict": content}
    found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(
        f"The checkpoint {path} holds no weights: neither a 'state_dict' of tensors, nor tensors by name",
        got=found[:200],
        fix="Check which file it is.",
    )


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names that they have in the model itself."""
    names = {*state}
    for prefix in PREFIXES * 2:  # one may come within the other
        if names and all(name.startswith(prefix) for name in names):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            names = {*state}
    return dict(state)


def _are_weights(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _check_unpacked(path: Path) -> None:
    """Raise CheckpointError if a file would be far larger in memory: torch's own writer compresses nothing."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
    except Exception:  # reading the file tells what is wrong with it
        return
    size = path.stat().st_size
    if unpacked > UNPACKED * size:
        raise CheckpointError(
            f"The checkpoint {path} is compressed, and was not loaded: it would take far more memory than its size",
            got=f"{size:,} bytes, {unpacked:,} unpacked",
            fix="Check which file it is; torch.save compresses nothing.",
        )


def _check_held(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError if a tensor repeats few numbers so often that a copy of it could take all memory."""
    for name, tensor in state.items():
        if tensor.numel() <= REPEATED or tensor.layout != torch.strided:
            continue
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"The checkpoint {path} was not loaded: a tensor has far more numbers than the file holds",
                got=f"{name} {tuple(tensor.shape)}",
                fix="Check which file it is; in the program that made it, save `tensor.contiguous()`.",
            )


def _check_is_zip(path: Path) -> None:
    try:
        with open_regular(path) as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(
            "The checkpoint cannot be read", got=str(path), cause=str(error.strerror), fix="Check the path."
        ) from None
    if start == b"PK\x03\x04":
        return
    old = start[:1] == b"\x80"  # a bare pickle
    raise CheckpointError(
        f"The file {path} is not a checkpoint in torch's zip format and was not loaded",
        got=f"a file that starts with {start!r}" if start else "an empty file",
        cause="It was saved by torch before 1.6, as a bare pickle"
        if old
        else "It is something else, or a broken download",
        fix="If you trust it, load it in the program that made it and save it again with torch 1.6 or later."
        if old
        else "Download it again, or check which file it is.",
    )


def _is_torchscript(path: Path) -> bool:
    """Say whether a file in torch's zip format is a program, which `torch.load` warns of at length."""
    try:
        return "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records()
    except Exception:  # reading the file tells what is wrong with it
        return False


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for what torch's restricted reader said about `path`."""
    refused = re.search(r"GLOBAL ([\w.]+)|[Cc]an only build [^,]*?(?:got|type) ([\w.]+)", str(error))
    name = next(filter(None, refused.groups()), "") if refused else ""
    if name:
        return CheckpointError(
            f"The checkpoint {path} was not loaded: it asks for '{name}', which is not on the list of harmless types",
            cause="Building such an object can run any code on this machine",
            fix="Do not trust the file unless you know who made it; then save its 'state_dict' alone and load that.",
        )
    if "TorchScript" in str(error):
        return torchscript(path)
    if "not in a subdirectory" in str(error):
        return CheckpointError(
            f"The file {path} is a zip, but none that torch wrote, and was not loaded",
            fix="Check which file it is.",
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"The checkpoint {path} is damaged and was not loaded",
        cause=f"The file was cut off or changed (torch says: {first[:200]})",
        fix="Download or copy it again and compare the sizes.",
    )
