"""Maps of where a model sees a caption in a picture: the similarity of the caption to each patch, drawn over it.

Patches are embedded as in zero-shot segmentation (see `openslip.models.dense`). A caption of another picture is drawn
on the same scale. Where both maps are alike, the model shows what stands out, and not what the words say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openslip.errors import DataError, EvaluationError
from openslip.report.gallery import Picture

if TYPE_CHECKING:
    from openslip.encoder import Encoder

MOST = 4
"""Pictures that are shown."""
SIDE = 160
"""Side of a picture with a map over it, in pixels."""
_WARM = np.array((255.0, 106.0, 20.0))
"""The colour that similarity is drawn in, over the picture in grey."""
_VERTICAL, _HORIZONTAL = ("top", "middle", "bottom"), ("left", "middle", "right")


@dataclass(frozen=True)
class Heat:
    """A map over a picture. caption: the caption whose similarity is drawn. own: whether it is the picture's caption.
    picture: with the map in its pixels. strongest: the place of the largest similarity, in words."""

    caption: str
    own: bool
    picture: Picture
    strongest: str


@dataclass(frozen=True)
class Heats:
    """A picture as the model gets it, with the map of its own caption and that of another picture."""

    picture: Picture
    maps: Sequence[Heat]


def similarity_maps(
    encoder: Encoder, pictures: Sequence[Picture], captions: Sequence[str]
) -> tuple[Heats, ...]:
    """Return maps of up to MOST pictures, each for its own caption and for the caption of the next picture.

    There are none for fewer than two pictures, or for a model without patches in the space shared with text.
    """
    pictures, captions = pictures[:MOST], captions[:MOST]
    if len(pictures) < 2:
        return ()
    try:
        seen, grids = patches(encoder, pictures)
        texts = encoder.encode_text(list(captions)).float().cpu().numpy()
    except (EvaluationError, DataError):
        return ()
    found = []
    for i, (pixels, grid) in enumerate(zip(seen, grids)):
        both = [i, (i + 1) % len(captions)]
        levels = np.stack([grid @ texts[j] for j in both])
        low, high = levels.min(), levels.max()
        if not np.isfinite(levels).all() or captions[both[0]] == captions[both[1]]:
            continue
        shares = (levels - low) / max(high - low, 1e-12)
        maps = [
            Heat(captions[j], j == i, _over(pixels, share, captions[j]), place(share))
            for j, share in zip(both, shares)
        ]
        found.append(Heats(Picture(pixels, (captions[i],), pictures[i].label, SIDE), maps))
    return tuple(found)


def patches(encoder: Encoder, pictures: Sequence[Picture]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return N pictures as the model gets them, (S, S, 3) uint8, and their patches' embeddings of length 1, float32
    (N, R, C, D). Raises EvaluationError for a tower without patches."""
    import torch
    from torch.nn import functional as F

    from openslip.models.dense import patch_embeddings

    preprocess = encoder.preprocess
    pixels = torch.stack([preprocess.pixels(picture.pixels) for picture in pictures])
    with torch.no_grad():
        found = patch_embeddings(
            encoder.model, preprocess.normalised(pixels).to(encoder.device, encoder.dtype)
        )
    grids = F.normalize(found.float(), dim=-1).cpu().numpy()
    return [one.permute(1, 2, 0).numpy() for one in pixels], grids


def place(shares: np.ndarray) -> str:
    """Return where the largest of some numbers (R, C) lies: `top left`, `middle`."""
    row, column = np.unravel_index(int(shares.argmax()), shares.shape)
    vertical, horizontal = (
        names[min(2, int(3 * (index + 0.5) / size))]
        for names, index, size in ((_VERTICAL, row, shares.shape[0]), (_HORIZONTAL, column, shares.shape[1]))
    )
    return vertical if vertical == horizontal else f"{vertical} {horizontal}".replace("middle ", "")


def _over(pixels: np.ndarray, shares: np.ndarray, caption: str) -> Picture:
    """Return a picture in grey with a map of shares (R, C) in [0, 1] over it, in colour where they are large."""
    from PIL import Image

    square = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(square.convert("L"), np.float64)[..., None]
    smooth = Image.fromarray(shares.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    level = np.asarray(smooth, np.float64)[..., None]
    mixed = (1 - 0.75 * level) * grey + 0.75 * level * _WARM
    said = f"Similarity to “{caption}”, strongest at the {place(shares)}"
    return Picture(mixed.round().astype(np.uint8), (said,), None, SIDE)
