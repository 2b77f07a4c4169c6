"""Turn a picture into what a model takes: a square of normalised numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, Self

import torch
from PIL import Image
from torch import Tensor

from openslip.config import ViewsConfig
from openslip.data.given import Picture, pixels_of
from openslip.data.views import center
from openslip.errors import DataError


@dataclass(frozen=True)
class Preprocess:
    """Turn one picture into the (3, S, S) float32 tensor that a model takes.

    The picture is decoded to RGB; its short side is resized to S and its centre cropped, or it is squashed to a square;
    then it is normalised by mean and deviation. A `Preprocess` holds no weights: a data set with
    `transform=model.preprocess` goes to the worker processes of a `DataLoader` with no more than these numbers.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]
    fit: Literal["crop", "squash"]

    @classmethod
    def of(cls, views: ViewsConfig) -> Self:
        """Return the preprocessing of a configuration."""
        return cls(views.size, views.mean, views.std, views.interpolation, views.fit)

    def __call__(self, image: Picture) -> Tensor:
        """Return a path, the bytes of a file, a PIL image or an RGB uint8 array (H, W, 3) as (3, S, S) float32.

        Raises DataError on a picture that cannot be used; the error names its path, where there is one.
        """
        try:
            return self.unnamed(image)
        except DataError as error:
            raise named(error, path_of(image)) from None

    def unnamed(self, image: Picture) -> Tensor:
        """Do the same, with an error that does not name the picture."""
        return self.normalised(self.pixels(image))

    def pixels(self, image: Picture) -> Tensor:
        """Return one picture as (3, S, S) uint8: a quarter of the memory. Raises DataError, which does not name it."""
        return torch.from_numpy(
            center(pixels_of(image, min_side=self.size), self.size, self.interpolation, self.fit)
        )

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return what `pixels` gave, (..., 3, S, S) uint8 on any device, as the float32 that a model takes."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


def path_of(picture: object) -> str:
    """Return the path that a picture comes from, "" if it is not known."""
    if isinstance(picture, str | os.PathLike):
        return str(picture)
    return str(getattr(picture, "filename", "")) if isinstance(picture, Image.Image) else ""


def named(error: DataError, name: str) -> DataError:
    """Return an error about a picture that names it."""
    what = f"{name}: {error.what}" if name else error.what
    return DataError(what, got=error.got, cause=error.cause, fix=error.fix)
