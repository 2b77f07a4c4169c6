"""A self-test of the package on this machine: draw pictures, train on them, save, load, embed, and find one again."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openslip.encoder import Encoder

PICTURES = 48
SIZE = 64
"""Side of the pictures in pixels."""
STEPS = 6


@dataclass(frozen=True)
class Step:
    """One part of the self-test. error: why it failed, "" if it did not."""

    name: str
    seconds: float
    error: str

    @property
    def passed(self) -> bool:
        return not self.error


def selftest(folder: Path | None = None, on_step: Callable[[str], None] = lambda name: None) -> list[Step]:
    """Run the self-test and return its steps. The test ends at the first step that fails.

    folder: an empty folder for all files; by default a temporary one that is removed afterwards. on_step: called with
    the name of each step before the step begins.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="openslip-doctor-") as name:
            return selftest(Path(name), on_step)
    done = list[Step]()
    for name, work in _steps(folder):
        on_step(name)
        started = time.monotonic()
        try:
            work()
            error = ""
        except Exception as problem:  # any exception is a finding of the test
            error = f"{type(problem).__name__}: {problem}".strip()
            if not str(problem):
                error = traceback.format_exception_only(problem)[-1].strip()
        done.append(Step(name, time.monotonic() - started, error))
        if error:
            break
    return done


def _steps(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    pictures, run, vectors = folder / "pictures", folder / "run", folder / "vectors"
    yield f"draw {PICTURES} pictures", lambda: _draw(pictures)
    yield f"train {STEPS} steps", lambda: _train(pictures, run)
    yield "load the checkpoint", lambda: _load(run)
    yield "embed the pictures", lambda: _embed(run, pictures, vectors)
    yield "find one of them", lambda: _search(pictures, vectors)


def _draw(folder: Path) -> None:
    """Write JPEGs, each with a text file beside it that holds the caption."""
    from PIL import Image

    from openslip.scenes import Scenes

    folder.mkdir(parents=True)
    scenes = Scenes("train", PICTURES, size=SIZE)
    for number in range(PICTURES):
        Image.fromarray(scenes.picture(number)).save(folder / f"{number:02}.jpg", quality=95)
        (folder / f"{number:02}.txt").write_text(scenes.captions(number)[0], encoding="utf-8")


def _train(pictures: Path, run: Path) -> None:
    """Train a small model with the quickstart's recipe. Raises ArithmeticError unless all losses are finite."""
    import json
    import math

    from rich.console import Console

    from openslip import recipes
    from openslip.training.train import train

    base = recipes.get("scenes-tiny")
    batch = PICTURES // 2
    config = replace(
        base,
        data=replace(base.data, train=str(pictures), workers=0),
        training=replace(
            base.training, batch=batch, epochs=STEPS * batch / PICTURES, log_every=1, precision="auto"
        ),
        evaluation=replace(base.evaluation, tasks=()),
    )
    train(config, str(pictures), run, console=Console(quiet=True))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [found["loss"] for found in map(json.loads, lines) if "loss" in found]
    if not losses or not all(map(math.isfinite, losses)):
        raise ArithmeticError(f"the losses of {STEPS} steps are {losses}")


def _load(run: Path) -> None:
    """Load the checkpoint twice. Raises ArithmeticError unless both models give the same embeddings."""
    import torch

    models: list[Encoder] = []
    for _ in range(2):
        from openslip.interop import load

        models.append(load(run))
    first, second = (model.encode_text(["a red bicycle", "a cat"]) for model in models)
    if not torch.equal(torch.as_tensor(first), torch.as_tensor(second)):
        raise ArithmeticError("two models loaded from one checkpoint give different embeddings")


def _embed(run: Path, pictures: Path, vectors: Path) -> None:
    from openslip.search.embed import embed

    done = embed(run, str(pictures), vectors, workers=0)
    if done.rows != PICTURES:
        raise ArithmeticError(f"{done.rows} of {PICTURES} pictures were embedded")


def _search(pictures: Path, vectors: Path) -> None:
    """Search by a picture of the index. Raises ArithmeticError unless this picture is the first hit."""
    from openslip.search.index import Index

    wanted = pictures / "07.jpg"
    found = Index.open(vectors).search(wanted, top=3)
    best = Path(found.paths[0]).name
    if best != wanted.name:
        raise ArithmeticError(f"searched for {wanted.name}, found {best}")
