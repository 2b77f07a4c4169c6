"""Which similarity known copies of pictures have, and the nearest other picture: what a threshold finds and mistakes.

    slip embed MODEL SOURCE --out vectors
    python benchmarks/duplicates.py vectors --pictures 300

Pictures of an index are drawn at random, and changed as copies are: a margin cut off, compressed again, halved, made
brighter, mirrored. Each change is embedded by the index's model. The table has the share, in percent, whose similarity
to the picture's own vector is the threshold or more; in the last line, that of the nearest picture of other bytes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from openslip.data.given import pixels_of
from openslip.search import exact
from openslip.search.index import Index

THRESHOLDS = (0.90, 0.95, 0.97)
NEAREST = 16
"""Rows among which the nearest of other bytes is looked for."""
Change = Callable[[Image.Image], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    index = Index.open(options.index)
    count = min(options.pictures, len(index))
    rows = np.sort(np.random.default_rng(options.seed).choice(len(index), count, replace=False))
    pictures = [Image.fromarray(pixels_of(index.picture(int(row)))) for row in rows]
    own = index.vectors[rows].astype(np.float32)
    print(f"{count} of {len(index):,} pictures\n")
    print(f"| | {' | '.join(f'{threshold:.2f}' for threshold in THRESHOLDS)} |")
    print(f"|---|{'--:|' * len(THRESHOLDS)}")
    for name, change in CHANGES.items():
        copies = index.model.encode_image([change(picture) for picture in pictures], numpy=True)
        line(name, (copies.astype(np.float16).astype(np.float32) * own).sum(axis=1))
    line("the nearest other picture", nearest_others(index, rows, own))


def line(name: str, similarity: np.ndarray) -> None:
    shares = [f"{100 * (similarity >= threshold).mean():.1f}" for threshold in THRESHOLDS]
    print(f"| {name} | {' | '.join(shares)} |", flush=True)


def nearest_others(index: Index, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the similarity of each row to the nearest picture of other bytes, (N,)."""
    digests = np.array(index.column("digest").to_pylist())
    found = exact.nearest(own, index.vectors, NEAREST)
    others = digests[found.rows] != digests[rows][:, None]
    return np.where(others, found.scores, -1).max(axis=1)


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def without_margin(share: float) -> Change:
    def cut(picture: Image.Image) -> bytes:
        x, y = (int(share * side) for side in picture.size)
        return jpeg(picture.crop((x, y, picture.width - x, picture.height - y)))

    return cut


CHANGES: dict[str, Change] = {
    "margin of 1 % cut off": without_margin(0.01),
    "margin of 3 % cut off": without_margin(0.03),
    "JPEG of quality 75": lambda picture: jpeg(picture, 75),
    "JPEG of quality 40": lambda picture: jpeg(picture, 40),
    "half the size": lambda picture: jpeg(
        picture.resize((max(8, picture.width // 2), max(8, picture.height // 2)), Image.Resampling.BICUBIC)
    ),
    "20 % brighter": lambda picture: jpeg(picture.point(lambda value: min(255, int(1.2 * value)))),
    "mirrored": lambda picture: jpeg(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}

if __name__ == "__main__":
    main()
