"""The pictures that a call was given, one or many: told apart, made ready by threads, and those that cannot be used."""

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
"""Unusable pictures that an error shows; the others are counted."""
ALONE = (Tensor, np.ndarray, Image.Image, bytes, bytearray, memoryview, str, os.PathLike)
"""What one picture can be, apart from arrays and tensors that hold several, and a folder's path."""

_TURNS = tuple(threading.Lock() for _ in range(64))
"""Of a Pillow image's file, which is where its last reader left it: one thread at a time."""


class Unusable(NamedTuple):
    """A picture that could not be used: its place among those that were given, what to call it, and why."""

    index: int
    name: str
    reason: str


def find_pictures(place: str | os.PathLike[str]) -> list[str]:
    """Return the paths of the pictures in a folder and below, or those that a pattern such as `photos/*.jpg` matches.

    The order is the same every time: by name, a folder's own pictures before those of its subfolders. What is a picture
    is told by the ending of its name. Hidden files and folders are passed over; links to folders are not followed.
    `encode_image("photos/")` takes a folder's pictures in this order.

    Raises DataError where there is nothing, no picture, or a folder that cannot be read.
    """
    found: list[str] = []
    for path in find_paths(os.fspath(place)):
        found += _below(path) if os.path.isdir(path) else [path]
    if not found:
        raise DataError(
            "There is no picture in this folder",
            got=str(place),
            cause="Pictures are files whose names end as those of pictures do, in the folder or below",
            fix=f"Endings that count: {', '.join(sorted(EXTENSIONS))}",
        )
    return found


def _below(folder: str) -> list[str]:
    """Return the pictures in a folder and below. Raises DataError where a folder cannot be read."""

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
    """Return the pictures in what a call was given, one or many. Raises DataError for what is neither."""
    if isinstance(images, np.ndarray):
        return _in_array(images)
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        return find_pictures(images)
    if isinstance(images, ALONE):
        return [images]
    # Going through these would give names of columns, keys, or lines of a file.
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
    """Give an iterator of lists: what `prepare` makes of each, `chunk` at a time, in their order.

    While a list is in use, threads prepare the next one. A single item is prepared where it is asked for, unless
    `chunk` is 1. threads: -1 takes one for each core, up to 8; 0 prepares all where it is asked for. `given` is gone
    through by the caller's thread. What threads have not begun is dropped when the block is left, as by Ctrl-C.
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
    """Keep other threads from a Pillow image meanwhile, which a list may hold twice."""
    if isinstance(picture, Image.Image):
        with _TURNS[(id(picture) >> 6) % len(_TURNS)]:
            yield
    else:
        yield


def name_of(picture: object, index: int) -> str:
    """Return what to call one picture of several: its path, else what and where it is."""
    if path := path_of(picture):
        return path
    kinds = ((Image.Image, "PIL image"), (np.ndarray, "array"), (Tensor, "tensor"))
    kind = next((name for cls, name in kinds if isinstance(picture, cls)), type(picture).__name__)
    return f"the {kind} at index {index}"


def refusal(bad: Sequence[tuple[Unusable, DataError]], total: int, *, alone: bool) -> DataError:
    """Return the error about pictures that cannot be used: of `total` that were given, or of the one given alone."""
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
