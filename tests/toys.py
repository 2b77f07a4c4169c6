"""A small source and a small configuration, shared by several rooms' tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from openslip.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TextTowerConfig,
    TrainingConfig,
    ViewsConfig,
)
from openslip.data.record import Record
from openslip.errors import DataError

COLOURS = ("red", "green", "blue", "grey")


@dataclass(frozen=True)
class ToySource:
    """Noisy coloured squares; records in `broken` cannot be read, records in `silent` have no caption."""

    count: int = 64
    broken: frozenset[int] = frozenset()
    silent: frozenset[int] = frozenset()
    name: str = "toy"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if index in self.broken:
            raise DataError("The image is damaged", got=f"record {index}")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 80, (24, 20, 3), dtype=np.uint8)
        colour = index % len(COLOURS)
        if colour < 3:
            image[4:20, 4:16, colour] = 255
        captions = (
            ("", " ")
            if index in self.silent
            else (f"a {COLOURS[colour]} square", f"{COLOURS[colour]}, mostly")
        )
        return Record(image, captions, f"toy/{index:03d}", self.name)


def make_tiny_config(**training: object) -> Config:
    """Return a SLIP configuration that trains a step in milliseconds; fp32, so that results are exact."""
    return Config(
        name="tiny",
        data=DataConfig(train="toy", workers=0),
        views=ViewsConfig(size=16),
        model=ModelConfig(
            image=ImageTowerConfig(patch=8, width=16, depth=2, heads=2, drop_path=0.2),
            text=TextTowerConfig(width=16, depth=2, heads=2, context=12),
            embed_dim=8,
        ),
        objective=ObjectiveConfig(
            options={"clip": {"block": 4}, "simclr": {"block": 4, "width": 16, "dim": 8}}
        ),
        optimizer=OptimizerConfig(lr=3e-3),
        training=replace(
            TrainingConfig(epochs=2, batch=8, precision="fp32", device="cpu", log_every=3), **training
        ),
        checkpoint=CheckpointConfig(every_steps=5, every_minutes=0, keep=2),
    )
