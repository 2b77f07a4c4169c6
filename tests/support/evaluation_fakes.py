"""A small world for evaluation tests: pictures of one colour, an encoder that sees it and reads its name."""

from __future__ import annotations

import io
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from openslip.data.record import Record, Source
from openslip.errors import DataError

COLORS = {"red": (220, 30, 40), "green": (30, 200, 60), "blue": (40, 60, 220), "gold": (230, 190, 20)}


def picture(color: str, rng: np.random.Generator, noise: float = 20.0) -> np.ndarray:
    """Return an RGB uint8 array (8, 8, 3), `color` with noise."""
    return np.clip(rng.normal(COLORS[color], noise, size=(8, 8, 3)), 0, 255).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def tokens_of(texts: list[str]) -> torch.Tensor:
    """Return a token for each word, zero-padded."""
    words = [[1] * len(text.split()) for text in texts]
    return torch.tensor([row + [0] * (max(map(len, words)) - len(row)) for row in words])


@dataclass(frozen=True)
class ColorPreprocess:
    """Decodes, and resizes nothing."""

    def pixels(self, image: object) -> torch.Tensor:
        if isinstance(image, bytes):
            try:
                image = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
            except OSError:
                raise DataError("The image is damaged") from None
        return torch.tensor(image).permute(2, 0, 1)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float() / 255 - 0.5

    def __call__(self, image: object) -> torch.Tensor:
        return self.normalised(self.pixels(image))


STAND_IN: Any = object
"""The base of what stands in for one of our classes: the type checker takes it for any class."""


class ColorEncoder(STAND_IN):
    """Has the encoder's calls; embeds pictures by their mean colour, texts by the first colour word."""

    logit_scale = 100.0

    def __init__(self, embeddings: tuple[str, ...] = ("image", "text")) -> None:
        self.model = SimpleNamespace(text_tower="text" in embeddings or None)
        self.device = torch.device("cpu")
        self.encoded = 0

    @property
    def preprocess(self) -> ColorPreprocess:
        return ColorPreprocess()

    def image_features(
        self, images: torch.Tensor, *, numpy: bool = True, autocast: str | None = None
    ) -> np.ndarray:
        self.encoded += len(images)
        return images.flatten(1).numpy()

    def project(self, features: torch.Tensor, *, normalize: bool = True) -> torch.Tensor:
        embeddings = features.unflatten(1, (3, -1)).mean(dim=2)
        return torch.nn.functional.normalize(embeddings, dim=1) if normalize else embeddings

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        return tokens_of(texts)

    def encode_text(self, texts: list[str], *, normalize: bool = True) -> torch.Tensor:
        rows = []
        for text in texts:
            named = [color for color in COLORS if color in text.split()]
            rows.append(np.array(COLORS[named[0]]) / 255 - 0.5 if named else np.ones(3))
        embeddings = torch.tensor(np.array(rows), dtype=torch.float32)
        return torch.nn.functional.normalize(embeddings, dim=1) if normalize else embeddings


class Captioned(Source):
    """A source of given (image, captions)."""

    name = "given"

    def __init__(self, records: list[tuple[bytes | np.ndarray, tuple[str, ...]]]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        image, captions = self.records[index]
        return Record(image, captions, str(index), self.name)


def color_folder(root, counts: dict[str, int], splits: tuple[str, ...] = ("train", "test"), seed: int = 0):
    """Write `<split>/<color>/<i>.png`, or `<color>/<i>.png` without splits; return `root`."""
    rng = np.random.default_rng(seed)
    for split in splits or ("",):
        for color, count in counts.items():
            folder = root / split / color
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:03d}.png").write_bytes(png(picture(color, rng)))
    return root
