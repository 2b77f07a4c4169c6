"""The pictures that a call was given, one or many: find them, prepare them in threads, and report unusable ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from openslip.data.formats import EXTENSIONS
from openslip.data.given import Picture, check_array, not_a_picture
from openslip.data.preprocess import named, path_of
from openslip.data.storage.paths import find_paths
from openslip.data.workers import reading_threads
from openslip.errors import DataError

Given = TypeVar("Given")
Ready = TypeVar("Ready")

Images = Tensor | Picture | Iterable[Tensor | Picture]

LISTED = 5
"""How many unusable pictures an error lists; it counts the others."""
ALONE = (Tensor, np.ndarray, Image.Image, bytes, bytearray, memoryview, str, os.PathLike)
"""Types of one picture, apart from arrays and tensors that hold several, and a folder's path."""

_TURNS = tuple(threading.Lock() for _ in range(64))
"""Locks for Pillow images: their files have one position, so only one thread may read at a time."""


class Unusable(NamedTuple):
    """A picture that could not be used: its index among the given pictures, its name, and the reason."""

    index: int
    name: str
    reason: str


def find_pictures(place: str | os.PathLike[str]) -> list[str]:
    """Return the paths of the pictures in a folder and below, or those that a pattern such as `photos/*.jpg` matches.

    The order is the same every time: by name, a folder's own pictures before those of its subfolders. In folders, the
    ending of a file's name shows whether it is a picture. Hidden files and folders are ignored, and links to folders
    are not followed. `encode_image("photos/")` takes a folder's pictures in this order.

    Raises DataError if there is nothing, no picture, or a folder that cannot be read.
    """
    found: list[str] = []
    for path in find_paths(os.fspath(place)):
        found += _below(path) if os.path.isdir(path) else [path]
    if not found:
        raise DataError(
            "There is no picture in this folder",
            got=str(place),
            cause="Neither the folder nor its subfolders have a file whose name ends like a picture's",
            fix=f"Endings that count: {', '.join(sorted(EXTENSIONS))}",
        )
    return found


def _below(folder: str) -> list[str]:
    """Return the pictures in a folder and below. Raises DataError if a folder cannot be read."""

    def refuse(error: OSError) -> None:
        raise DataError(
            "The folder cannot be read", got=str(error.filename), cause=error.strerror or str(error)
        )

    found: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and os.path.splitext(name)[1][1:].lower() in EXTENSIONS
        ]
    return found


def several(images: Any) -> Iterable[Tensor | Picture]:
    """Return the pictures that a call was given, one or many. Raises DataError for anything else."""
    if isinstance(images, np.ndarray):
        return _in_array(images)
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        return find_pictures(images)
    if isinstance(images, ALONE):
        return [images]
    # Iterating over these would give names of columns, keys, or lines of a file.
    if isinstance(images, Mapping) or hasattr(images, "read") or type(images).__name__ == "DataFrame":
        raise not_a_picture(images)
    try:
        iter(images)
    except TypeError:
        raise not_a_picture(images) from None
    return images


def _in_array(images: np.ndarray) -> Iterable[Any]:
    """Return the pictures of an array: of paths, of objects, or of pixels."""
    if images.dtype.kind in "OUT":
        if images.ndim <= 1:
            return images.reshape(-1).tolist()
        fix = "Pass `array.ravel()`"
    elif images.dtype.kind in "SV":
        fix = "If these are paths, pass `array.astype(str)`; if these are files, a list of `bytes`"
    elif images.ndim == 4:
        if len(images):
            check_array(images, several=True)
        return list(images)
    else:
        return [] if images.shape == (0,) else [images]
    raise DataError(
        "An array of paths must have one dimension, and hold text or objects",
        got=f"{images.dtype}, shape {images.shape}",
        fix=fix,
    )


@contextmanager
def chunks_ahead(
    prepare: Callable[[Given], Ready], given: Iterable[Given], chunk: int, threads: int = -1
) -> Iterator[Iterator[list[Ready]]]:
    """Give an iterator over lists of `chunk` results of `prepare`, in the order of `given`.

    While a list is in use, threads prepare the next list. The caller's thread prepares a single item, unless `chunk` is
    1. threads: -1 takes one for each core, up to 8; 0 prepares everything in the caller's thread. The caller's thread
    iterates over `given`. Leaving the block, as by Ctrl-C, drops what threads have not begun.
    """
    pool: ThreadPoolExecutor | None = None
    most = reading_threads() if threads < 0 else threads

    def lists() -> Iterator[list[Ready]]:
        nonlocal pool
        items = iter(given)
        current = list(islice(items, chunk))
        if most == 0 or len(current) <= 1 < chunk:
            while current:
                yield [prepare(item) for item in current]
                current = list(islice(items, chunk))
            return
        pool = ThreadPoolExecutor(most)
        ahead = [pool.submit(prepare, item) for item in current]
        while ahead:
            ready, ahead = ahead, [pool.submit(prepare, item) for item in islice(items, chunk)]
            yield [future.result() for future in ready]

    try:
        yield lists()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


@contextmanager
def in_turn(picture: object) -> Iterator[None]:
    """Keep other threads from a Pillow image inside, because a list may hold the image twice."""
    if isinstance(picture, Image.Image):
        with _TURNS[(id(picture) >> 6) % len(_TURNS)]:
            yield
    else:
        yield


def name_of(picture: object, index: int) -> str:
    """Return the name of one picture of several: its path, else its type and index."""
    if path := path_of(picture):
        return path
    kinds = ((Image.Image, "PIL image"), (np.ndarray, "array"), (Tensor, "tensor"))
    kind = next((name for cls, name in kinds if isinstance(picture, cls)), type(picture).__name__)
    return f"the {kind} at index {index}"


def refusal(bad: Sequence[tuple[Unusable, DataError]], total: int, *, alone: bool) -> DataError:
    """Return the error about unusable pictures among `total` given pictures, or about the one given alone."""
    (first, error), *others = bad
    if alone:
        return named(error, "" if first.name.startswith("the ") else first.name)
    skip = 'pass errors="skip" to go on without'
    if not others:
        what = f"1 of {total:,} pictures cannot be used: {first.name}: {error.what}"
        fix = f"{error.fix.rstrip('.')}; or {skip} it" if error.fix else f"P{skip[1:]} it"
        return DataError(what, got=error.got, cause=error.cause, fix=fix)
    shown = [f"\n  {unusable.name}: {unusable.reason}" for unusable, _ in bad[:LISTED]]
    more = f"\n  and {len(bad) - LISTED:,} others." if len(bad) > LISTED else ""
    what = f"{len(bad):,} of {total:,} pictures cannot be used:{''.join(shown)}{more}"
    return DataError(what, fix=f"\n  P{skip[1:]} them")
