"""Run folders and a model, small and made up."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openslip import toml
from openslip.config import Config, ObjectiveConfig, TrainingConfig
from openslip.data.labelled import Labelled
from openslip.data.record import Record, Source
from openslip.errors import DataError, EvaluationError
from openslip.evaluation import results
from openslip.evaluation.classification import Samples, classification, softmax
from openslip.evaluation.fingerprint import of_picture
from openslip.evaluation.outcomes import Answers
from openslip.report.charts import Chart
from openslip.report.histogram import Histogram
from openslip.report.render import render

CLASSES = ("fish", "owl", "tent")


def make_config(loss: str = "clip + 1.0 * simclr", **training: Any) -> Config:
    plan = TrainingConfig(epochs=2, batch=8, **training)
    return replace(Config(name="tiny"), objective=ObjectiveConfig(loss=loss), training=plan)


def result(key: str, value: float, half: float = 0.01, count: int = 100, **what: str) -> dict[str, Any]:
    """A result as results.json holds it; what: further fields, such as `data`."""
    task, _, metric = key.rpartition("/")
    place = {"task": task, "metric": metric, "count": count, "skipped": 0} | what
    return place | {"value": value, "low": value - half, "high": value + half}


def write_run(
    folder: Path,
    loss: str = "clip + 1.0 * simclr",
    results: list[dict[str, Any]] | None = None,
    steps: int = 20,
    config: Config | None = None,
    **training: Any,
) -> Path:
    """Write a run folder as training does: 20 steps of 8 samples are the 2 epochs planned."""
    folder.mkdir()
    (folder / "config.toml").write_text(toml.dumps(config or make_config(loss, **training)))
    (folder / "versions.json").write_text(json.dumps({"python": "3.12.1", "torch": "2.99"}))
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        place = {"step": step, "position": step * 8, "epoch": step / 10}
        losses = {"loss": 3.0 / step, "clip_loss": 2.0 / step, "clip_acc": step / 40}
        lines.append(
            place | losses | {"samples_per_second": 100.0, "data_wait": 0.25, "skipped": 3, "nonfinite": 0}
        )
        if step % 10 == 0:
            lines.append(place | {"evaluation": {"zeroshot:scenes/top1": step / 40}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def measure(
    folder: Path,
    seed: int = 0,
    *,
    task: str = "zeroshot:birds",
    classes: int = 3,
    count: int = 60,
    sure: bool = True,
    data: Labelled | None = None,
) -> Answers:
    """Give a run folder the results of a classifier that is right more often than not, with its answers; return these.

    data: labelled pictures that it is asked about; else some that are nowhere.
    """
    rng = np.random.default_rng(seed)
    labels, names = np.arange(count) % classes, tuple(f"kind {k}" for k in range(classes))
    digests = tuple(of_picture(b"%d" % k) for k in range(count))
    if data is not None:
        labels, names, count = data.labels, data.class_names, len(data)
        digests = tuple(of_picture(image) for image in data.images)
    scores = rng.normal(size=(count, len(names))) + 1.2 * np.eye(len(names))[labels]
    found = classification(
        task,
        scores,
        labels,
        probabilities=softmax(scores) if sure else None,
        samples=Samples(np.arange(count), digests, names),
        data=data.location if data else "",
        split=data.split if data else "test",
        content="c",
    )
    results.keep(found, folder / "results.json")
    assert found[0].answers is not None
    return found[0].answers


def drawn(chart: Chart | Histogram) -> str:
    """Return the HTML of a chart."""
    return render("figure.html.j2", figure=chart.figure())


class Pictures(Source):
    """A source whose pictures are one flat colour each; every seventh cannot be read."""

    name = "flat"

    def __init__(
        self, count: int = 40, caption: str = "a {name} number {index} here", broken: bool = True
    ) -> None:
        self.count, self.caption, self.broken = count, caption, broken

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        return index % len(CLASSES)

    def __getitem__(self, index: int) -> Record:
        if self.broken and index % 7 == 3:
            raise DataError("This picture is damaged")
        pixels = np.full((20, 30, 3), (index * 5, self.label(index) * 100, 90), np.uint8)
        caption = self.caption.format(name=CLASSES[self.label(index)], index=index)
        return Record(pixels, (caption, "untitled", ""), f"flat/{index}", self.name)


class FakeEncoder:
    """A model that sees a picture's class in its green channel and reads it in a text, plus a little else."""

    def __init__(self, text: bool = True) -> None:
        self.config, self.text, self.logit_scale = make_config(), text, torch.tensor(10.0)
        self.model = None  # nothing to put into evaluation mode

    @property
    def preprocess(self) -> None:
        raise EvaluationError("This model has no patches")

    def encode_image(self, images: list[np.ndarray]) -> torch.Tensor:
        vectors = np.zeros((len(images), 8))
        for row, image in zip(vectors, images):
            row[image[0, 0, 1] // 100] = 1
            row[4] = image[0, 0, 0] / 1000
        return torch.nn.functional.normalize(torch.tensor(vectors), dim=1)

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        return torch.ones(len(texts), 1, dtype=torch.int64)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        if not self.text:
            raise EvaluationError("This model has no text tower")
        vectors = np.zeros((len(texts), 8))
        for row, text in zip(vectors, texts):
            for k, name in enumerate(CLASSES):
                row[k] = float(name in text)
            row[5] = 0.1 + zlib.crc32(text.encode(errors="replace")) % 100 / 1000
        return torch.nn.functional.normalize(torch.tensor(vectors), dim=1)
