"""Digests of measured data: equal for the same pictures with the same names, whatever their location and order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from openslip.errors import DataError

if TYPE_CHECKING:
    from openslip.data.labelled import Labelled

CHUNK = 1024
"""Pictures that are read at a time."""


def of_picture(image: Any) -> bytes:
    """Return a digest of 16 bytes of a picture, given as the bytes of a file or as an array; b"" for anything else."""
    if isinstance(image, bytes):
        return hashlib.blake2b(image, digest_size=16).digest()
    if not hasattr(image, "tobytes"):
        return b""
    shape = repr(getattr(image, "shape", getattr(image, "size", ()))).encode()
    return hashlib.blake2b(shape + image.tobytes(), digest_size=16).digest()


def of_labelled(
    digests: Iterable[bytes], labels: Iterable[int | Sequence[int]], class_names: Sequence[str]
) -> str:
    """Return a digest of N pictures with their classes, and of all names of classes. No order matters.

    labels: the class of each picture, or for each picture 1, 0 or -1 (not known) for each class.
    """
    names = [name.encode("utf-8", "surrogatepass") for name in class_names]

    def told(label: int | Sequence[int]) -> bytes:
        if isinstance(label, int):
            return names[label]
        return b"\0".join(sorted(names[i] + b"?" * (one < 0) for i, one in enumerate(label) if one))

    return of_all([*sorted(names), *sorted(digest + told(label) for digest, label in zip(digests, labels))])


def of_all(parts: Iterable[bytes | str]) -> str:
    """Return a digest of texts or digests, in their order: 16 hexadecimal digits."""
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()


def of_samples(parts: Iterable[Sequence[bytes | str]]) -> np.ndarray:
    """Return (N,) uint64 that identify N samples, each given by its parts: picture, class, caption."""
    return np.array([int(of_all(part), 16) for part in parts], dtype=np.uint64)


def of_pictures(
    labelled: Labelled, threads: int, advance: Callable[[int], None] = lambda done: None
) -> list[bytes]:
    """Return `of_picture` for every picture of a split, reading each; b"unreadable" for one that cannot be read.

    advance: called now and then with the number of pictures read since the last call.
    """

    def digest(index: int) -> bytes:
        try:
            return of_picture(labelled.images[index])
        except DataError:
            return b"unreadable"

    digests: list[bytes] = []
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(labelled), CHUNK):  # an interruption need not wait for all pictures
            digests += pool.map(digest, range(start, min(start + CHUNK, len(labelled))))
            advance(len(digests) - start)
    return digests
