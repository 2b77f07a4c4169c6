"""Runs that have been measured, and what they were measured in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from openslip import toml
from openslip.config import Config, DataConfig, TrainingConfig
from openslip.evaluation import Result, results
from openslip.evaluation.classification import Samples, classification, softmax

TOP1 = Result("knn:birds", "top1", 0.5, 100, 0.4, 0.6, data="/d", content="c", checkpoint="step-00000020")


def run_folder(folder, seed=0, found=(TOP1,), data="birds.csv", **training):
    """Write as much of a run as is read of one."""
    folder.mkdir(parents=True)
    options: dict[str, Any] = {"epochs": 2, "batch": 8, "seed": seed, **training}
    plan = TrainingConfig(**options)
    config = replace(Config(name=folder.name), data=DataConfig(train=data), training=plan)
    (folder / "config.toml").write_text(toml.dumps(config))
    if found:
        results.save(found, folder / "results.json")
    return folder


def measured(seed=0, count=60, task="zeroshot:birds", gain=0.0, **about):
    """Return the results of a classifier of 7 classes; one with a gain is better."""
    fields: dict[str, Any] = {"content": "same", "data": "/d", **about}
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    scores = rng.normal(size=(count, 7)).astype(np.float32) + (2 + gain) * np.eye(7, dtype=np.float32)[labels]
    return classification(
        task,
        scores,
        labels,
        probabilities=softmax(scores),
        samples=Samples(
            np.arange(count),
            tuple((i + 1).to_bytes(16, "little") for i in range(count)),
            tuple("abcdefg"),
        ),
        **fields,
    )
