"""A small finetuning, complete, in the folder of a run; for tests of what reads and exports one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import openslip
from openslip import toml
from openslip.config import Config
from openslip.evaluation.finetune import Finetune, FinetuneRecipe
from toys import make_tiny_config

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "dark_blue": (20, 30, 180)}
RECIPE = FinetuneRecipe(name="test", epochs=2, warmup_epochs=1, batch=8, lr=0.2, layer_decay=0.9, crop=0.8)


def config_of(**image) -> Config:
    """Return the configuration of a small model with a text tower, with these options of its image tower."""
    config = make_tiny_config()
    model = replace(config.model, image=replace(config.model.image, drop_path=0.0, **image))
    return replace(config, views=replace(config.views, size=32), model=model)


def pictures(folder: Path) -> Path:
    """Write noisy pictures of one colour a class: 8 to train, 3 to test of each of three."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name, colour in COLOURS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                noisy = np.array(colour) + rng.integers(-90, 90, (40 + i, 56, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{i}.png")
    return folder


def finetuned(folder: Path, config: Config | None = None, recipe: FinetuneRecipe = RECIPE) -> Path:
    """Finetune a model with random weights on `pictures`; return the folder that keeps the state, in that of a run."""
    data = folder / "colours"
    if not data.exists():
        pictures(data)
    config = config or config_of()
    run = folder / "run"
    run.mkdir()
    (run / "config.toml").write_text(toml.dumps(config))
    torch.manual_seed(0)
    kept = run / "finetune" / "colours"
    Finetune(str(data), folder=kept, recipe=recipe, precision="fp32").evaluate(openslip.create(config))
    return kept


def without_header(kept: Path) -> Path:
    """Make of a state one as an earlier version wrote it, whose weights do not say what they are of."""
    (step,) = kept.glob("step-*")
    weights = load_file(step / "model.safetensors")
    save_file(weights, step / "model.safetensors", metadata={"format": "pt"})
    state = json.loads((step / "state.json").read_text())
    for name in ("crc", "checksums"):
        del state[name]
    (step / "state.json").write_text(json.dumps(state))
    return kept
