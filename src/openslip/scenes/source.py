"""`scenes` as a source: pictures rendered when asked for, each a pure function of (seed, split, index)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openslip.data.record import Record, Source
from openslip.errors import DataError, did_you_mean
from openslip.scenes.captions import captions_of
from openslip.scenes.kinds import NAMES
from openslip.scenes.world import DETAIL, LANGUAGE, SPLITS, Dice, Scene, compose, label_of

if TYPE_CHECKING:
    import numpy as np

DEFAULT_COUNT = 10_000


class Scenes(Source):
    """Small painted scenes of 24 classes, with captions like people's. Stateless and picklable.

    split: `train`; `test` (the same distribution, other pictures); `heldout` (combinations of class and main
    colour that the other two never show). count: how many scenes there are; a smaller set is the start of a
    larger one. seed: another seed gives other pictures of the same world. size: side in pixels.
    Raises DataError on an unknown split, a count below 1, or a size below 8.
    """

    class_names: tuple[str, ...] = NAMES

    def __init__(
        self, split: str = "train", count: int = DEFAULT_COUNT, seed: int = 0, size: int = 96
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"Scenes have no split {split!r}", fix=did_you_mean(split, SPLITS))
        if count < 1:
            raise DataError("The number of scenes must be at least 1", got=count)
        if size < 8:
            raise DataError("Scenes must be at least 8 pixels wide", got=size)
        self.name = "scenes"
        self.split, self.count, self.seed, self.size = split, count, seed, size

    def __repr__(self) -> str:
        return f"Scenes(split={self.split!r}, count={self.count}, seed={self.seed}, size={self.size})"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        """Render scene `index`; raises IndexError beyond the count."""
        index = self._check(index)
        return Record(
            self.picture(index), self.captions(index), f"scenes/{self.split}/{index:06d}", self.name
        )

    def captions(self, index: int) -> tuple[str, ...]:
        """Return the captions of scene `index` without its picture."""
        return captions_of(self.describe(index), self._dice(index, LANGUAGE))

    def picture(self, index: int) -> np.ndarray:
        """Return the picture of scene `index` without its captions, (size, size, 3) uint8."""
        from openslip.scenes.render import render

        return render(self.describe(index), self.size, self._dice(index, DETAIL))

    def picture_and_mask(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the picture of scene `index`, and its mask (size, size) uint8: 1 + the class where one of the two
        things is, 0 elsewhere."""
        import numpy as np

        from openslip.scenes.render import render

        mask = np.zeros((self.size, self.size), dtype=np.uint8)
        return render(self.describe(index), self.size, self._dice(index, DETAIL), mask), mask

    def label(self, index: int) -> int:
        """Return the class of scene `index` (into `class_names`), without rendering."""
        return label_of(self.seed, self.split, self._check(index))

    def describe(self, index: int) -> Scene:
        """Return what is in scene `index`."""
        return compose(self.seed, self.split, self._check(index))

    def _check(self, index: int) -> int:
        index = int(index)
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return index % self.count

    def _dice(self, index: int, stream: int) -> Dice:
        return Dice(self.seed, SPLITS.index(self.split), self._check(index), stream)


def open_scenes(spec: str) -> Scenes:
    """Return the scenes that `scenes[:split[:count]]` names; raises DataError on anything else."""
    parts = spec.strip().split(":")
    if parts[0] != "scenes" or len(parts) > 3:
        raise DataError(
            "This is not a set of scenes",
            got=spec,
            fix="Write scenes[:split[:count]], as in scenes:test:2000.",
        )
    split = parts[1] if len(parts) > 1 and parts[1] else "train"
    text = parts[2].replace("_", "") if len(parts) > 2 else str(DEFAULT_COUNT)
    if not (text.isascii() and text.isdigit()):
        raise DataError(
            "The number of scenes is not a number",
            got=parts[2],
            fix="Write scenes[:split[:count]], as in scenes:test:2000.",
        )
    return Scenes(split, int(text))
