"""Metadata in pickles and in .npy files that hold them, element by element; reading them runs no code."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from openslip.data.containers.pickle_machine import Machine
from openslip.errors import DataError
from openslip.files import open_regular

_HEADS = {
    b"\x1f\x8b": "compressed with gzip: unpack it with gunzip",
    b"BZh": "compressed with bzip2: unpack it with bunzip2",
    b"\xfd7zXZ": "compressed with xz: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it with unzstd",
    b"PK\x03\x04": "a zip file: unpack it with unzip",
    b"PAR1": "a Parquet file: let its name end in .parquet",
    b"SQLite format": "an SQLite database",
    b"\x93NUMPY": "a numpy file: let its name end in .npy",
    b"<": "a web page or XML",
}


def read_list(path: str | Path) -> Iterator[Any]:
    """Yield the elements of the list, or numpy object array, that the pickle at `path` holds, one after the other.

    Elements are made of tuple, list, dict, str, bytes, int, float, bool and None; numpy's numbers and strings come as
    Python's. Protocols 0 to 5. Raises DataError when the file cannot be read, is damaged, is no pickle, holds
    something else than one list, or asks for anything but plain data: nothing of it is executed.
    """
    with _Mapped(path, "pickle") as data:
        head = bytes(data[:16])
        for magic, what in _HEADS.items():
            if head.startswith(magic):
                raise DataError("The file is not a pickle", got=str(path), cause=f"It is {what}")
        yield from Machine(data, str(path)).items()


def read_object_array(path: str | Path) -> Iterator[Any]:
    """Yield the elements of the object array in the .npy file at `path`, one after the other, as `read_list` does.

    Raises DataError as `read_list` does, and when the file is no .npy file or holds numbers instead of objects.
    """
    with _Mapped(path, ".npy file") as data:
        shape, dtype = _npy_header(data, path)
        if dtype != np.dtype(object):
            raise DataError(
                "The .npy file holds no object array",
                got=f"{path}, an array of {dtype}",
                fix="Captions are kept as an array of dicts, each with the image and its captions",
            )
        machine = Machine(data, str(path))
        yield from machine.items()
        if machine.count != prod(shape):
            announced = f"{prod(shape):,}" if prod(shape) < 10**18 else "countless"
            raise DataError(
                f"The .npy file announces {announced} entries and holds {machine.count:,}", got=str(path)
            )


def _npy_header(data: mmap.mmap, path: str | Path) -> tuple[tuple[int, ...], np.dtype]:
    """Read the header, which leaves `data` at the pickle behind it, and return the array's shape and type."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(data)  # type: ignore[arg-type]
        if version not in readers:
            raise ValueError(f"version {version} of the format")
        shape, _, dtype = readers[version](data)  # type: ignore[arg-type]
    except Exception as error:  # whatever numpy's parser of hostile text raises
        raise DataError(
            "The file is not a .npy file",
            got=str(path),
            cause=str(error),
            fix="If it was cut off, fetch it again",
        ) from None
    return shape, dtype


class _Mapped:
    """A file as read-only memory, for a `with` block."""

    def __init__(self, path: str | Path, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> mmap.mmap:
        try:
            with open_regular(self._path) as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise DataError(
                f"The {self._what} cannot be read", got=str(self._path), cause=str(error)
            ) from None
        return self._data

    def __exit__(self, *_: object) -> None:
        self._data.close()
