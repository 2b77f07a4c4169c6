"""A small source and a small configuration, shared by tests of several folders."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from openslip import toml
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
from openslip.data.record import Record, Source
from openslip.errors import DataError
from openslip.models import Model, build
from openslip.models.inputs import Inputs
from openslip.models.tuning import tune
from openslip.objectives import REGISTRY, Loss, parse
from openslip.processes import Processes
from openslip.training.fixed import read_fixed
from openslip.training.plan import Plan, make_plan
from openslip.training.student import Student, build_student

COLOURS = ("red", "green", "blue", "grey")
LOSSES = (*REGISTRY, ObjectiveConfig().loss, "clip + byol", "clip + dino + ibot")
"""What the tests of exactness train: every objective alone, and sums. A new objective comes in by its registry line."""
TUNED: tuple[dict[str, Any], ...] = (
    {"image": "all"},
    {"image": "1", "text": "-1"},
    {"image": "all", "text": "all"},
    {"lora": (4, 2)},
    {"image": "1", "text": "all", "lora": (4, 0)},
    {"statistics": True},
)
"""What `tuned` makes of the runs that tests of exactness train."""
BY_CLASS = {"positives": "labels"}
"""The option of objectives whose positives are the rows of a class."""
LABELLED = tuple(
    name for name, kind in REGISTRY.items() if any(field.name in BY_CLASS for field in fields(kind.Config))
)
"""Those that have it."""
VARIANTS: dict[str, dict[str, Any]] = {
    "clip, global": {"negatives": "global"},
    "clip, global, by divergence": {
        "negatives": "global",
        "temperature_rule": "divergence",
        "equal": "ignore",
        "epsilon": 0.01,
        "rho": 1.0,
    },
    "clip, equal captions": {"equal": "positive", "smoothing": 0.1},
    "clip, two captions": {"captions": 2},
    "siglip, two captions": {"captions": 2},
}
"""Options that make an objective another one, by what the tests call that: the objective's name comes first."""
CASES = (
    *((loss, {"positives": "pairs"}) for loss in LOSSES),
    *((loss, BY_CLASS) for loss in LABELLED),
    *((name.partition(",")[0], options) for name, options in VARIANTS.items()),
)
"""Every loss, with options that decide what belongs together in it and what is told apart."""


def case_name(value: object) -> str:
    """Return what the tests call one half of a case."""
    return "-".join(map(str, value.values())) if isinstance(value, dict) else str(value)


RECORDS = 6
"""Records that the batches of `make_inputs` are of; larger ones have some of them twice."""
TEACHER = "toy"
"""Names what `toy_model` gives, as a spec names a model on a disk."""
SMALL = {
    "block": 4,
    "width": 16,
    "dim": 8,
    "teacher": TEACHER,
    "text": True,
    "kl": 0.5,
    "prototypes": 6,
    "local": 2,
}
"""Options of any objective, by the name that they have wherever there are some."""


def small_loss(loss: str, **options: object) -> Loss:
    """Return a loss of small heads and blocks of few rows; of `options`, each term gets those that it has.

    `preserve` stays near what the run starts from.
    """
    wanted = {
        term.kind.name: {
            field.name: (SMALL | options)[field.name]
            for field in fields(term.kind.Config)
            if field.name in SMALL | options and (term.kind.name, field.name) != ("preserve", "teacher")
        }
        for term in parse(ObjectiveConfig(loss=loss)).terms
    }
    return parse(ObjectiveConfig(loss=loss, options=wanted))


def small_options(loss: str, **options: object) -> dict[str, dict[str, object]]:
    """Return all options of `small_loss`, as a run folder has them."""
    return small_loss(loss, **options).options


@dataclass(eq=False)
class ToySource(Source):
    """Noisy coloured squares; records in `broken` cannot be read, records in `silent` have no caption.

    The class is the colour, but of every fifth record there is none.
    """

    count: int = 64
    broken: frozenset[int] = frozenset()
    silent: frozenset[int] = frozenset()
    name: str = "toy"
    class_names = COLOURS

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int | None:
        return index % len(COLOURS) if index % 5 else None

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


def make_tiny_config(**training: Any) -> Config:
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
        objective=ObjectiveConfig(options=small_options(ObjectiveConfig().loss)),
        optimizer=OptimizerConfig(lr=3e-3),
        training=replace(
            TrainingConfig(epochs=2, batch=8, precision="fp32", device="cpu", log_every=3), **training
        ),
        checkpoint=CheckpointConfig(every_steps=5, every_minutes=0, keep=2),
    )


def with_loss(config: Config, loss: str, **options: object) -> Config:
    """Return the configuration of a run that minimises another loss; of `options`, each term gets those it has.

    A run that preserves what it starts from starts from TEACHER. Views whose patch tokens the loss takes keep them all.
    """
    small = small_loss(loss, **options)
    read = {need.view for need in small.needs if need.out == "tokens"}
    kinds = {view.kind for view in small.views if view.name in read}
    whole = {kind: replace(getattr(config.views, kind), drop_tokens=0.0) for kind in kinds}
    return replace(
        config,
        init=TEACHER if "preserve" in loss else config.init,
        views=replace(config.views, **whole),
        objective=replace(config.objective, loss=loss, options=small.options),
    )


def tuned(
    config: Config,
    image: str = "none",
    text: str = "none",
    lora: tuple[int, int] = (0, 0),
    statistics: bool = False,
) -> Config:
    """Return the configuration of a run that freezes so much of its towers, and has adapters of these ranks.

    statistics: the image tower has BatchNorm, and keeps the statistics.
    """
    model, (of_image, of_text) = config.model, lora
    kept: dict[str, Any] = {"name": "test_resnet", "batchnorm": "kept"} if statistics else {}
    towers = {
        "image": replace(model.image, freeze=image, lora=of_image, **kept),
        "text": replace(model.text, freeze=text, lora=of_text),
    }
    views = config.views
    if statistics:  # a tower without patch tokens, so that there are none to leave out
        whole = {kind: replace(getattr(views, kind), drop_tokens=0.0) for kind in ("image", "ssl")}
        views = replace(views, **whole)
    return replace(config, model=replace(model, **towers), views=views)


def make_student(config: Config, dtype: torch.dtype = torch.float64) -> Student:
    """Return what a run with this configuration trains, in training mode, its weights drawn from seed 0.

    What it learns from is `toy_model`.
    """
    loss = parse(config.objective)
    fixed = read_fixed(config, loss, Processes(), toy_model).to(dtype)
    torch.manual_seed(0)
    student = build_student(config, loss, fixed=fixed, records=RECORDS)
    tune(student.model, config.model, config.views.size)
    return student.to(dtype).add_teachers().train()


def toy_model(spec: str = TEACHER) -> tuple[Model, Config]:
    """Return a model of images and texts that differs from that of `make_tiny_config` in size and normalisation."""
    tiny = make_tiny_config()
    image = replace(tiny.model.image, width=12, depth=1, drop_path=0.0)
    config = Config(
        name="toy",
        views=replace(tiny.views, size=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        model=replace(tiny.model, image=image, text=replace(tiny.model.text, width=12, depth=1)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build(config.model, config.views.size, parse(config.objective).needs).eval()
    return model, config


def save_toy_model(folder: Path) -> str:
    """Write `toy_model` to a folder, unless it is there, and return the folder's path, which names it."""
    if (folder / "model.safetensors").exists():
        return str(folder)
    model, config = toy_model()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(toml.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return str(folder)


def with_saved_teacher(config: Config, folder: Path) -> Config:
    """Return the configuration of a run that finds TEACHER in a folder, where it learns from it or starts from it."""
    options = {name: dict(values) for name, values in config.objective.options.items()}
    learners = [values for values in options.values() if values.get("teacher") == TEACHER]
    if not learners and config.init != TEACHER:
        return config
    path = save_toy_model(folder)
    for values in learners:
        values["teacher"] = path
    init = path if config.init == TEACHER else config.init
    return replace(config, init=init, objective=replace(config.objective, options=options))


def save_photos(folder: Path, *, test: int) -> Path:
    """Write pictures of two classes that differ in colour, 12 to train on and `test` of each; return the folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", test)):
        for channel, name in ((0, "red"), (2, "blue")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
                pixels[..., channel] = 250
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def make_inputs(
    config: Config, rows: int = 10, scheduled: int | None = None, dtype: torch.dtype = torch.float64
) -> Inputs:
    """Return a random batch for that student, of so many rows; of the scheduled views so many, or none.

    Captions are of 3 to 9 tokens, and every fourth is the one before; of several a row, the others are so as well.
    """
    loss, generator = parse(config.objective), torch.Generator().manual_seed(1)
    views = {}
    drawn = read_fixed(config, loss, Processes(), toy_model).views
    for view in (*loss.views, *drawn):
        count = rows if scheduled is None or not view.scheduled else scheduled
        size = config.views.of(view.kind, view.size).size
        if count:
            views[view.name] = torch.randn(count, 3, size, size, generator=generator, dtype=dtype)
    each = max(1, loss.captions)
    tokens = torch.zeros(each * rows, 12, dtype=torch.long)
    for row in range(each * rows):
        length = 3 + row % 7
        tokens[row, :length] = torch.randint(1, 400, (length,), generator=generator)
        tokens[row, 0], tokens[row, length - 1] = 49406, 49407
        if row % 4 == 3:
            tokens[row] = tokens[row - 1]
    if each > 1:
        tokens = tokens.view(each, rows, 12).transpose(0, 1)
    labels = torch.arange(rows) % 7 % 4 - 1 if loss.labelled else None  # of some classes, and of none
    records = torch.arange(rows) % RECORDS
    return Inputs(views, tokens if loss.captioned else None, labels=labels, records=records)


def plan_of(config: Config, records: int, processes: int = 1) -> Plan:
    """Return the plan of a run with this configuration on so many records."""
    return make_plan(config, parse(config.objective), records, processes)
