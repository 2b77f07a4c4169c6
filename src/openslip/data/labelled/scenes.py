"""The embedded scenes as labelled images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from openslip.data.labelled.labelled_set import Image, Labelled, LabelledSet
from openslip.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from openslip.scenes import Scenes

SEEDS = {"val": 1, "test": 2**40, "heldout": 2**40}
"""Seeds of scenes to measure on. Scenes for choosing settings and scenes for reporting share no picture. Scenes for
reporting share none with the training scenes of any usual seed."""
COUNTS = {"train": 4_000, "test": 2_000}
KEPT = 10_000
"""Sets of at most so many scenes are kept in memory once drawn: 27 kB a scene."""


@lru_cache(maxsize=4)
def open_scenes(spec: str, name: str) -> LabelledSet:
    """Open `scenes[:test|heldout|val[:count]]`. Raises DataError for another spec.

    The train split has its own seed: a model was not trained on these pictures.
    """
    from openslip.scenes import Scenes

    kind, _, count = spec.removeprefix("scenes").removeprefix(":").partition(":")
    kind = kind or "test"
    if kind not in SEEDS:
        fix = did_you_mean(kind, SEEDS)
        raise DataError("There are no such scenes to measure on", got=spec, fix=fix)
    if count and not re.fullmatch(r"[1-9]\d*", count):
        raise DataError("Scenes to measure on are written scenes[:test|heldout|val[:count]]", got=spec)
    counts = {"test": int(count), "train": 2 * int(count)} if count else COUNTS
    made, class_names = {}, ()
    for split in ("train", "test"):
        drawn = "train" if split == "train" else "heldout" if kind == "heldout" else "test"
        scenes = Scenes(drawn, counts[split], seed=SEEDS[kind])
        labels = np.array([scenes.label(i) for i in range(len(scenes))], dtype=np.int64)
        class_names = tuple(scenes.class_names)
        made[split] = Labelled(name, split, _Rendered(scenes), labels, class_names, location=spec)
    return LabelledSet(name, spec, class_names, True, made)


class _Rendered(Sequence[Image]):
    """Rendered scenes, each kept once drawn: several models are measured on the same scenes."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        if index in self.drawn:
            return self.drawn[index]
        image = self.scenes[index].image
        if len(self) <= KEPT and not isinstance(image, bytes):
            self.drawn[index] = image
        return image

    def __getstate__(self) -> dict[str, object]:
        return {"scenes": self.scenes, "drawn": {}}
