"""Sets whose pictures are arrays in HDF5 files: PatchCamelyon. Reading them needs h5py, an extra."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openslip.data.labelled.labelled_set import Image, Part
from openslip.data.labelled.published.archive import Archive, Contents, first_of, numbered, part_of
from openslip.errors import DataError

_LOCK = threading.Lock()
"""Files of HDF5 are read by one thread at a time."""
TISSUES = numbered(("lymph node", "lymph node containing metastatic tumor tissue"))
"""PatchCamelyon's classes, in the order of its labels."""


def _pcam(root: Path) -> Contents:
    """`camelyonpatch_level_2_split_test_x.h5`: x, (N, 96, 96, 3) uint8; `…_y.h5`: y, (N, 1, 1, 1), 0 or 1."""
    parts: dict[str, Part] = {}
    for split, called in (("train", "train"), ("val", "valid"), ("test", "test")):
        pictures, labels = (first_of(root, _PCAM.format(called, what)) for what in "xy")
        if pictures is None or labels is None:
            continue
        images = H5Images(str(pictures), "x")
        values = _opened(str(labels), "y")[:].ravel().astype(np.int64).tolist()
        if len(values) != len(images):
            raise DataError(
                "There are not as many labels as pictures",
                got=f"{len(values):,} labels for {len(images):,} pictures of {pictures.name}",
            )
        parts[split] = part_of(images, values)
    return Contents(parts, TISSUES)


class H5Images(Sequence[Image]):
    """The pictures in an array (N, height, width, 3) of uint8 in an HDF5 file, read one by one. Picklable."""

    def __init__(self, path: str, array: str) -> None:
        self.path, self.array = path, array
        self._array: Any = None
        shape, kind = self._opened().shape, self._opened().dtype
        if len(shape) != 4 or shape[3] != 3 or kind != np.uint8:
            raise DataError(f"{path} holds no pictures", got=f"an array {shape} of {kind}")
        self.length = int(shape[0])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        index = range(self.length)[index]
        try:
            with _LOCK:
                return np.asarray(self._opened()[index])
        except OSError as error:
            raise DataError("A picture cannot be read", got=self.key(index), cause=str(error)) from None

    def key(self, index: int) -> str:
        """Return the name of a picture: its file and its number."""
        return f"{os.path.basename(self.path)} #{index}"

    def _opened(self) -> Any:
        if self._array is None:
            self._array = _opened(self.path, self.array)
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}


def _opened(path: str, array: str) -> Any:
    """Return an array in an HDF5 file, not read yet. Raises DataError if h5py or the array is missing."""
    try:
        library: Any = importlib.import_module("h5py")
    except ImportError:
        raise DataError(
            "Reading HDF5 files needs h5py, which is not installed",
            got=path,
            fix="Install it: pip install 'openslip[hdf5]'",
        ) from None
    try:
        return library.File(path, "r")[array]
    except (OSError, KeyError) as error:
        raise DataError(
            f"The HDF5 file has no array {array!r} that can be read",
            got=path,
            cause=str(error),
            fix="If it was cut off, or is still compressed, fetch or unpack it again.",
        ) from None


_PCAM = "camelyonpatch_level_2_split_{0}_{1}.h5"

ARCHIVES = (Archive("PatchCamelyon", tuple(_PCAM.format("test", what) for what in "xy"), _pcam),)
