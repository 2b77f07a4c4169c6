"""A map of pictures, in which pictures that a model finds alike are close together: thumbnails as far as they fit, and
dots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openslip.report.gallery import Picture

FEWEST = 20
"""The fewest pictures of a map."""
FEWEST_FOR_UMAP = 300
"""From so many pictures on, UMAP shows neighbours better than two principal components. UMAP takes some seconds."""
MOST = 80
"""The most thumbnails of a map."""
SIDE = 72
"""Side of a thumbnail in the file, in pixels: about 2 kB. It is shown at 54, or larger when it is chosen."""
_WIDTH, _HEIGHT = 5.2, 8.3
"""A thumbnail's size in percent of the map, which is wider than high."""
_MARGIN = 5.0


@dataclass(frozen=True)
class Place:
    """A picture on the map, and the place of its middle in percent from the left and the top."""

    picture: Picture
    left: float
    top: float


@dataclass(frozen=True)
class PictureMap:
    """Thumbnails, the places (left, top) of the other pictures, and the method that laid them out."""

    thumbnails: Sequence[Place]
    dots: Sequence[tuple[float, float]]
    method: str

    @property
    def count(self) -> int:
        """How many pictures are on the map."""
        return len(self.thumbnails) + len(self.dots)


def picture_map(pictures: Sequence[Picture], vectors: np.ndarray) -> PictureMap | None:
    """Lay out pictures with their embeddings (N, D) of length 1: by UMAP for FEWEST_FOR_UMAP pictures or more if the
    library is installed, else by PCA.

    None for fewer than FEWEST pictures. Thumbnails are chosen in the order of the pictures, so pictures in random order
    give a random choice. A picture that would hide part of a thumbnail is a dot.
    """
    from openslip.search.map import make_map, principal

    if len(pictures) < FEWEST:
        return None
    umap = len(pictures) >= FEWEST_FOR_UMAP and find_spec("umap") is not None
    places = make_map(vectors).places if umap else principal(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = _MARGIN + (100 - 2 * _MARGIN) * (places - low) / np.maximum(high - low, 1e-12)
    thumbnails: list[Place] = []
    dots = []
    for picture, (left, top) in zip(pictures, scaled.tolist()):
        hides = any(abs(left - one.left) < _WIDTH and abs(top - one.top) < _HEIGHT for one in thumbnails)
        if hides or len(thumbnails) == MOST:
            dots.append((left, top))
        else:
            thumbnails.append(Place(replace(picture, side=SIDE), left, top))
    # In reading order, for people who go through the thumbnails one by one.
    thumbnails.sort(key=lambda one: (round(one.top / _HEIGHT), one.left))
    return PictureMap(thumbnails, dots, "UMAP" if umap else "PCA")
