"""The contract of a format: what will be written, and how the format's own library reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor

from openslip.errors import ExportError

TEXTS = (
    "a photo of a dog",
    "A blue T-shirt,  size 40 &amp; more — ünïcode 🙂",
    "",
    "one more word " * 60,
)
"""Texts that are tried: short and long, odd, and empty."""


Gives = Literal["embeddings", "features", "logits", "probabilities"]
"""What a model gives for pictures: embeddings; the tower's features, if the format has no space that images and texts
share; or a classifier's number for each class."""


@dataclass(frozen=True)
class Consumer:
    """What a library makes of pictures and texts with a model that was exported for the library.

    image: preprocessed pictures (N, 3, S, S) float32 → what the plan `gives`, (N, D). text: texts → embeddings (N, D).
    picture: a picture → (3, S, S), as the export tells the library to prepare pictures. None: the format has no such
    thing.
    """

    image: Callable[[Tensor], Tensor]
    text: Callable[[list[str]], Tensor] | None = None
    picture: Callable[[Image.Image], Tensor] | None = None


@dataclass(frozen=True)
class Plan:
    """An export that can be made.

    write: writes the export, a file or a folder, at a free place. load: reads that place with the format's own library.
    nbytes: about what the export takes on the disk. library: the distribution that reads the export. majors: the major
    versions of it that the code was written for. usage: lines of Python that load the export, with PLACE for the place.
    notes: what users should know. texts: the texts that are tried. ending: of the file's name; empty for a folder.
    gives: what the library gives for pictures. tolerance: the largest difference that passes: of vectors of length 1;
    of a classifier's probabilities; or of its logits, as a share of the largest.
    """

    write: Callable[[Path], None]
    load: Callable[[Path], Consumer]
    nbytes: int
    library: str
    majors: tuple[int, ...]
    usage: str
    notes: tuple[str, ...] = ()
    texts: tuple[str, ...] = TEXTS
    ending: str = ""
    gives: Gives = "embeddings"
    tolerance: float = 1e-5

    def of_version(self) -> tuple[str, ...]:
        """Return a sentence if the installed library has another major version than `majors`; else nothing."""
        installed = version_of(self.library)
        if int(installed.partition(".")[0]) in self.majors:
            return ()
        known = " and ".join(map(str, self.majors))
        return (f"{self.library} {installed} is installed, but the export was written for version {known}",)


def version_of(library: str) -> str:
    """Return the version of an installed distribution. Raises ExportError if there is none."""
    try:
        return version(library)
    except PackageNotFoundError:
        raise ExportError(
            "The format's own library is not installed, and the export cannot be tried without it",
            got=library,
            fix=f"Run `pip install {library}`",
        ) from None


def cannot(to: str, what: str, fix: str = "") -> ExportError:
    """Return the error for a model that a format cannot hold."""
    return ExportError(f"The format {to} cannot hold this model: {what}", fix=fix)
