"""The contract of a format: what is going to be written, and how the format's own library reads it."""

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
"""Short and long, odd, and none."""


Gives = Literal["embeddings", "features", "logits", "probabilities"]
"""What a model makes of pictures: embeddings, the tower's features where the format has no space that images share with
texts, or what a classifier gives of each class."""


@dataclass(frozen=True)
class Consumer:
    """What a library makes of pictures and texts with a model that was exported for it.

    image: preprocessed pictures (N, 3, S, S) float32 → what the plan says that the library gives, (N, D). text: texts →
    embeddings (N, D). picture: a picture → (3, S, S), as the export tells the library to prepare pictures. None: the
    format has no such thing.
    """

    image: Callable[[Tensor], Tensor]
    text: Callable[[list[str]], Tensor] | None = None
    picture: Callable[[Image.Image], Tensor] | None = None


@dataclass(frozen=True)
class Plan:
    """An export that can be made.

    write: writes it at a place where nothing is, a file or a folder. load: the library's own reading of that place.
    nbytes: about what it takes on the disk. library: the distribution that reads it, and the major versions that this
    was written for. notes: what people should know. usage: lines of Python that load it, with PLACE for the place.
    texts: those that are tried. ending: of the file's name; empty for a folder. gives: what the library makes of
    pictures. tolerance: the largest difference that is let through, of vectors of length 1; of a classifier's
    probabilities, or of its logits as a share of the largest.
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
        """Return a sentence where the installed library is of another major version than those this is for."""
        installed = version_of(self.library)
        if int(installed.partition(".")[0]) in self.majors:
            return ()
        known = " and ".join(map(str, self.majors))
        return (f"{self.library} {installed} is installed, and this was written for version {known}",)


def version_of(library: str) -> str:
    """Return the version of an installed distribution. Raises ExportError where there is none."""
    try:
        return version(library)
    except PackageNotFoundError:
        raise ExportError(
            "The format's own library is not installed, and without it nothing can be tried",
            got=library,
            fix=f"Run `pip install {library}`",
        ) from None


def cannot(to: str, what: str, fix: str = "") -> ExportError:
    """Return the error for a model that a format has no place for."""
    return ExportError(f"The format {to} cannot hold this model: {what}", fix=fix)
