"""Classification of a source's pictures, a batch at a time: memory does not grow with the number of pictures."""

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
"""The answer for a picture that belongs to none of the classes."""

Image = bytes | np.ndarray


@dataclass(frozen=True)
class Rule:
    """How logits become an answer.

    temperature: divides the logits, above 0; a higher temperature makes probabilities less sure, and changes no order.
    threshold: in [0, 1]; the answer is `none` if the highest probability is below the threshold. none: the name of that
    answer. Raises ConfigError for other values.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    none: str = NONE

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            got = f"{self.threshold:g}"
            raise ConfigError("A threshold is a probability", got=got, fix="Give a number from 0 to 1")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError("A temperature is a number above 0", got=f"{self.temperature:g}")
        if not self.none.strip():
            raise ConfigError("Pictures of no class need a name", got=repr(self.none))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities (N, C) of logits (N, C)."""
        return (logits.float() / self.temperature).softmax(dim=-1)


class Label(NamedTuple):
    """The answer for one picture.

    picture: its path, else its key. answer: the name of a class, `Rule.none`, or "" for a picture that cannot be used.
    top: the most probable classes with their probabilities, best first. error: why the picture cannot be used. index:
    its index in the source.
    """

    picture: str
    answer: str
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    index: int = -1


class Seen(NamedTuple):
    """The logits of one picture, or the `error` of a picture that cannot be used.

    logits: (C,) float32 on the CPU, or None. image: the picture as it was read, if images were asked for.
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
    """Yield the label of each picture, in the order of the source, about `batch` at a time.

    rule: how logits become an answer. top: how many classes each label lists. spec: the spec that named the source; if
    the spec is relative, paths are shown relative to the working folder. images: whether to yield each picture as read.
    A picture that cannot be used gets a label with an `error`.

    Raises EvaluationError if logits are not finite.
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
    """Yield the logits of `count` pictures, in order. Threads read and decode while the model computes.

    read: returns the name and the picture at an index, or raises DataError. called: returns the name of a picture for
    which `read` raised.
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
    """The names of a source's pictures: paths for pictures that are files, else keys.

    Paths are spelled as in the source. If `spec` is relative, paths below the working folder are relative to it.
    """

    def __init__(self, source: Source, spec: str = "") -> None:
        self.source, self.home = source, "" if os.path.isabs(spec) else os.getcwd() + os.sep

    def __call__(self, index: int, key: str = "") -> str:
        """Return the name of a picture. key: the key of its record, if the record could be read."""
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
        """Return the path of a picture's file, or "" for a picture that is not a file."""
        origin, own = self.source.origin(index)
        try:
            return origin.path(own) if isinstance(origin, ImageFiles) else ""
        except DataError:  # a row that names no image
            return ""

    def within(self, index: int, name: str) -> str:
        """Return the path of a picture below its source's folder, or its key (`name`) for a picture that is not a file.

        This text identifies the picture within its source, even if the source moves or is named otherwise.
        """
        origin, _ = self.source.origin(index)
        path = self.path(index)
        return os.path.relpath(path, origin.root) if path and isinstance(origin, ImageFiles) else name

    def file(self, index: int) -> str:
        """Return the path of the file on disk, even if the source spells the path otherwise."""
        path = self.path(index)
        origin, _ = self.source.origin(index)
        if not path or os.path.exists(path) or not isinstance(origin, ImageFiles):
            return path
        found = origin.spelling.find(origin.root, os.path.relpath(path, origin.root))
        return found.path if found else path


def path_shown(path: str) -> str:
    """Return a path that no spreadsheet reads as a formula and no command as an option: `./-a.jpg` for `-a.jpg`."""
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
            "The model's logits of a picture are not finite",
            cause="The weights diverged in training, or are damaged",
            fix="Take an earlier checkpoint",
        )
    return list(logits)
