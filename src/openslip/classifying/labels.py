"""What a classifier says of the pictures of a source, a batch at a time: memory does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from openslip.classifier import Classifier
from openslip.data.record import Source
from openslip.data.sources.image_files import ImageFiles
from openslip.errors import ConfigError, DataError, EvaluationError, printable
from openslip.pictures import chunks_ahead

BATCH = 64
"""Pictures that go through the model at a time; as many more are read meanwhile."""
NONE = "none"
"""What a picture is called that is none of the classes."""

Image = bytes | np.ndarray


@dataclass(frozen=True)
class Rule:
    """How logits become an answer.

    temperature: what logits are divided by, above 0; more makes probabilities less sure, and changes no order.
    threshold: the answer is `none` where the highest probability is below it, in [0, 1]. none: what that is called.
    Raises ConfigError for others.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    none: str = NONE

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            got = f"{self.threshold:g}"
            raise ConfigError("A threshold is a probability", got=got, fix="Give one from 0 to 1")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError("A temperature is a number above 0", got=f"{self.temperature:g}")
        if not self.none.strip():
            raise ConfigError("Pictures of no class need a name", got=repr(self.none))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities (N, C) of logits (N, C)."""
        return (logits.float() / self.temperature).softmax(dim=-1)


class Label(NamedTuple):
    """What became of one picture.

    picture: its path, else its key. answer: the name of a class, what the rule calls none of them, or "" for a picture
    that cannot be used. top: the most probable classes with their probabilities, best first. error: why the picture
    cannot be used. index: its place in the source.
    """

    picture: str
    answer: str
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    index: int = -1


class Seen(NamedTuple):
    """A picture that has been through the model, or that cannot be used: then there is no `logits`, but an `error`.

    logits: (C,) float32 on the CPU. image: as it was read, where it is asked for.
    """

    index: int
    name: str
    logits: Tensor | None
    error: str = ""
    image: Image | None = None


def label_pictures(
    classifier: Classifier,
    source: Source,
    rule: Rule | None = None,
    *,
    top: int = 3,
    spec: str = "",
    batch: int = BATCH,
    workers: int = -1,
    images: bool = False,
) -> Iterator[list[tuple[Label, Image | None]]]:
    """Yield what a classifier says of each picture, in the order of the source, about `batch` at a time.

    rule: how logits become an answer. top: how many classes are told of each. spec: what the source was named, which
    says whether paths are shown from the working folder. images: whether each comes along as it was read. Pictures that
    cannot be used come as labels with an `error`.

    Raises EvaluationError where what the model gives is not finite.
    """
    rule, names = rule or Rule(), classifier.names
    called = Names(source, spec)

    def read(index: int) -> tuple[str, Image]:
        record = source[index]
        return called(index, record.key), record.image

    for seen in go_through(
        classifier, read, called, len(source), batch=batch, workers=workers, images=images
    ):
        good = [one.logits for one in seen if one.logits is not None]
        rows = iter(_tops(rule.probabilities(torch.stack(good)), top) if good else ())
        labels: list[tuple[Label, Image | None]] = []
        for one in seen:
            if one.logits is None:
                labels.append((Label(one.name, "", error=one.error, index=one.index), None))
                continue
            best = tuple((names[label], probability) for label, probability in next(rows))
            answer = best[0][0] if best[0][1] >= rule.threshold else rule.none
            labels.append((Label(one.name, answer, best, index=one.index), one.image))
        yield labels


def go_through(
    classifier: Classifier,
    read: Callable[[int], tuple[str, Image]],
    called: Callable[[int], str],
    count: int,
    *,
    batch: int = BATCH,
    workers: int = -1,
    images: bool = False,
) -> Iterator[list[Seen]]:
    """Yield what the model makes of `count` pictures, in order. Threads read and decode while the model computes.

    read: returns the name and the picture at an index, or raises DataError. called: what to call one that raised.
    """
    prepared = classifier.model.preprocess

    def prepare(index: int) -> tuple[int, str, Tensor | str, Image | None]:
        name = ""
        try:
            name, image = read(index)
            return index, name, prepared.unnamed(image), image if images else None
        except DataError as error:
            return index, name or called(index), " ".join(printable(str(error)).split()), None

    with chunks_ahead(prepare, range(count), batch, workers) as chunks:
        for chunk in chunks:
            pixels = [made for _, _, made, _ in chunk if isinstance(made, Tensor)]
            logits = iter(
                _finite(classifier.logits(torch.stack(pixels), batch=batch).cpu()) if pixels else ()
            )
            yield [
                Seen(index, name, next(logits), image=image)
                if isinstance(made, Tensor)
                else Seen(index, name, None, made)
                for index, name, made, image in chunk
            ]


class Names:
    """What the pictures of a source are called: by their paths where they are files, else by their keys.

    Paths are as the source spells them; below the working folder they are relative to it, if `spec` is.
    """

    def __init__(self, source: Source, spec: str = "") -> None:
        self.source, self.home = source, "" if os.path.isabs(spec) else os.getcwd() + os.sep

    def __call__(self, index: int, key: str = "") -> str:
        """Return the name of a picture. key: of its record, where that could be read."""
        if path := self.path(index):
            inside = self.home and path.startswith(self.home)
            return path_shown(path[len(self.home) :] if inside else path)
        if key:
            return key
        origin, own = self.source.origin(index)
        beside: Any = getattr(origin, "beside_image", None)
        try:
            return beside(own)[0] if beside else f"record {own} of {origin.name}"
        except (DataError, OSError):
            return f"record {own} of {origin.name}"

    def path(self, index: int) -> str:
        """Return the path of the file that a picture is, "" where it is none."""
        origin, own = self.source.origin(index)
        try:
            return origin.path(own) if isinstance(origin, ImageFiles) else ""
        except DataError:  # a row that names no image
            return ""

    def within(self, index: int, name: str) -> str:
        """Return what tells a picture from the others of its source, wherever the source lies and however it is named:
        the path below its folder, else its key, which is its `name`."""
        origin, _ = self.source.origin(index)
        path = self.path(index)
        return os.path.relpath(path, origin.root) if path and isinstance(origin, ImageFiles) else name

    def file(self, index: int) -> str:
        """Return the path of the file, also where it is spelled otherwise than the source has it."""
        path = self.path(index)
        origin, _ = self.source.origin(index)
        if not path or os.path.exists(path) or not isinstance(origin, ImageFiles):
            return path
        found = origin.spelling.find(origin.root, os.path.relpath(path, origin.root))
        return found.path if found else path


def path_shown(path: str) -> str:
    """Return a path that no spreadsheet takes for a formula, and no command for an option: `./-a.jpg` of `-a.jpg`."""
    return f"./{path}" if path.startswith(("=", "+", "-", "@")) else path


def _tops(probabilities: Tensor, top: int) -> list[list[tuple[int, float]]]:
    """Return the indices and probabilities of the `top` most probable classes of each row, equal ones in order."""
    values, order = probabilities.sort(dim=1, descending=True, stable=True)
    return [
        list(zip(indices, row)) for indices, row in zip(order[:, :top].tolist(), values[:, :top].tolist())
    ]


def _finite(logits: Tensor) -> Sequence[Tensor]:
    if not bool(torch.isfinite(logits).all()):
        raise EvaluationError(
            "What the model makes of a picture is not finite",
            cause="Its weights diverged in training, or are damaged",
            fix="Take an earlier checkpoint",
        )
    return list(logits)
