"""Complete configurations by name: the paper's, and ours for small data. `dataclasses.replace` makes variants."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openslip.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TextTowerConfig,
    TowerRateConfig,
    TrainingConfig,
    ViewsConfig,
)
from openslip.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Recipe:
    """A named configuration and what it is for, in one line."""

    summary: str
    config: Config


def get(name: str) -> Config:
    """Return the configuration of recipe `name`. Raises ConfigError with the closest names for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(
            f"There is no recipe {name!r}", fix=did_you_mean(name, RECIPES) + " `slip recipes` lists them"
        )
    return RECIPES[name].config


LOSSES = {"slip": "clip + 1.0 * simclr", "clip": "clip", "simclr": "simclr"}


def _paper(method: str, size: str) -> Config:
    """SLIP paper, section 4 and appendix: YFCC15M, batch 4096, 25 epochs."""
    towers = {
        "s": ImageTowerConfig(width=384, depth=12, heads=12),
        "b": ImageTowerConfig(width=768, depth=12, heads=12),
        "l": ImageTowerConfig(width=1024, depth=24, heads=16),
    }
    lr, weight_decay = {"slip": (3e-3, 0.1), "clip": (5e-4, 0.5), "simclr": (3.2e-3, 0.1)}[method]
    return Config(
        name=f"{method}-vit-{size}16-yfcc15m",
        model=ModelConfig(image=towers[size]),
        objective=ObjectiveConfig(loss=LOSSES[method]),
        optimizer=OptimizerConfig(lr=lr, weight_decay=weight_decay),
    )


SMALL_DATA = Config(
    name="small-data",
    views=ViewsConfig(
        size=64,
        # Blur is in pixels: 2 px of a 224 px view are 0.6 px of a 64 px one.
        ssl=replace(ViewsConfig().ssl, scale=(0.2, 1.0), blur_sigma=(0.1, 0.8)),
    ),
    model=ModelConfig(
        image=ImageTowerConfig(patch=8, width=192, depth=6, heads=6),
        text=TextTowerConfig(width=192, depth=3, heads=6),
        embed_dim=192,
    ),
    objective=ObjectiveConfig(options={"simclr": {"width": 1024, "dim": 256}}),
    optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.1),
    training=TrainingConfig(epochs=20, batch=128),
    checkpoint=CheckpointConfig(every_minutes=5),
    evaluation=EvaluationConfig(every_epochs=5),
)


def _fast(config: Config, name: str) -> Config:
    """Return a recipe of cheaper steps: self-supervised views of 5/8 the side, half of the image view's tokens dropped.

    docs/cheaper.md measures the cost of such a step, its quality beside SLIP's, and other ways to save cost.
    """
    views, patch = config.views, config.model.image.patch
    low, high = views.ssl.blur_sigma  # in pixels of the view
    ssl = replace(views.ssl, size=round(views.size * 5 / 8 / patch) * patch, blur_sigma=(low, high / 2))
    image = replace(views.image, drop_tokens=0.5)
    return replace(config, name=name, views=replace(views, image=image, ssl=ssl))


SCENES_TINY = replace(
    SMALL_DATA,
    name="scenes-tiny",
    data=DataConfig(train="scenes:train:4000"),
    views=ViewsConfig(
        size=48,
        # Picked with the batch of 64 among six settings, on scenes that nothing reports: see docs/results/history.md.
        ssl=replace(SMALL_DATA.views.ssl, scale=(0.5, 1.0), blur_sigma=(0.1, 0.6)),
    ),
    model=ModelConfig(
        # A residual network of 0.4 M parameters, which learned most from so few pictures of all towers tried.
        image=ImageTowerConfig(name="test_resnet"),
        text=TextTowerConfig(width=128, depth=2, heads=4, context=32),
        embed_dim=128,
    ),
    objective=ObjectiveConfig(options={"simclr": {"width": 512, "dim": 128}}),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1),
    training=TrainingConfig(epochs=6, batch=64, precision="fp32"),
    evaluation=EvaluationConfig(
        every_epochs=0,
        tasks=(
            "zeroshot:scenes:test:1000",
            "zeroshot:scenes:heldout:4000",
            "linear:scenes:test:1000",
            "knn:scenes:test:1000",
        ),
    ),
)

FINETUNE = Config(
    name="finetune",
    views=ViewsConfig(size=0),
    # Of towers that the weights do not bring: a text tower for those of timm.
    # BatchNorm over a batch of one's own undoes in an epoch what the weights have learned (docs/results.md).
    model=ModelConfig(image=ImageTowerConfig(batchnorm="kept"), text=SMALL_DATA.model.text, embed_dim=256),
    objective=ObjectiveConfig(loss="clip + 0.3 * simclr", options={"simclr": {"width": 1024, "dim": 256}}),
    optimizer=OptimizerConfig(
        lr=1e-5,
        lr_start=0.0,
        lr_end=0.0,
        fresh_lr=1e-3,
        image=TowerRateConfig(layer_decay=0.7),
        text=TowerRateConfig(layer_decay=0.7),
    ),
    training=TrainingConfig(epochs=10, batch=128),
    checkpoint=CheckpointConfig(every_minutes=5),
    evaluation=EvaluationConfig(every_epochs=1),
)
"""Small learning rates and layer decay as in FLYP and BEiT; the strong views of SimCLR at a lower weight."""

LIT = replace(
    FINETUNE,
    name="lit",
    model=replace(FINETUNE.model, image=ImageTowerConfig(freeze="all")),
    objective=ObjectiveConfig(loss="clip"),
    optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.1),
    training=TrainingConfig(epochs=20, batch=128, keep_features=1),
)
"""Zhai et al. 2022, "LiT: zero-shot transfer with locked-image text tuning"."""

RECIPES: dict[str, Recipe] = (
    {
        "scenes-tiny": Recipe(
            "a first run in about a minute on two CPU cores, on the embedded scenes", SCENES_TINY
        ),
        "small-data": Recipe(
            "10 thousand to 1 million pairs of your own; one GPU or a patient CPU", SMALL_DATA
        ),
        "small-data-fast": Recipe(
            "small-data with self-supervision at a fraction of its cost", _fast(SMALL_DATA, "small-data-fast")
        ),
        "finetune": Recipe("a model that --init names, trained further on pairs of your own", FINETUNE),
        "lit": Recipe("a text tower for a frozen image tower that --init names; seconds an epoch", LIT),
    }
    | {
        f"{method}-vit-{size}16-yfcc15m": Recipe(
            f"the paper's {title} ViT-{size.upper()}/16: YFCC15M, batch 4096, 25 epochs", _paper(method, size)
        )
        for method, title in (("slip", "SLIP"), ("clip", "CLIP"), ("simclr", "SimCLR"))
        for size in "sbl"
    }
    | {
        name: Recipe(
            f"SLIP ViT-{size.upper()}/16 on YFCC15M with self-supervision at a fraction of its cost; not in the paper",
            _fast(_paper("slip", size), name),
        )
        for size in "sbl"
        for name in [f"slip-fast-vit-{size}16-yfcc15m"]
    }
)
