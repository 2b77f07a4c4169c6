"""What evaluators measure on, opened once for all of them, and kept from their check to their measurements."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from openslip.addresses import is_url, shown
from openslip.data.labelled import LabelledSet, open_labelled
from openslip.data.labelled.prompts import HasClasses
from openslip.data.sources.karpathy import split_of
from openslip.evaluation import datasets, measure
from openslip.evaluation.datasets import Card, places
from openslip.files import expand

if TYPE_CHECKING:
    from openslip.encoder import Encoder

T = TypeVar("T")
NOTHING_ASKED: Mapping[str, str] = MappingProxyType({})
"""Every column is guessed."""

_memory: ContextVar[dict[tuple[object, ...], Any] | None] = ContextVar("slip_evaluation_opened", default=None)


@contextmanager
def shared() -> Iterator[None]:
    """Open each labelled set and each captioned source once for all that ask for it within."""
    if _memory.get() is not None:
        yield
        return
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def labelled_set(spec: str, columns: Mapping[str, str] = NOTHING_ASKED) -> LabelledSet:
    """Return `open_labelled(spec, **columns)`, also of several labels an image; within `shared` one opened before."""
    key = ("labelled", spec, *sorted(columns.items()))
    return opened_once(key, lambda: open_labelled(spec, **columns, several=True))


def opened_once(key: tuple[object, ...], open_it: Callable[[], T]) -> T:
    """Return what `open_it` gives, within `shared` what it gave for this key before."""
    memory = _memory.get()
    if memory is None:
        return open_it()
    if key not in memory:
        memory[key] = open_it()
    return memory[key]


class Kept(Generic[T]):
    """An evaluator's data: `keep` opens them for the measurements that follow, until the next `keep` or `forget`.

    Without it each measurement opens them anew, because files may have changed. Class of evaluators, which say by
    `open` how.
    """

    def open(self) -> T:
        """Open the data."""
        raise NotImplementedError

    @property
    def kept(self) -> bool:
        return "_data" in self.__dict__

    def opened(self) -> T:
        """Return the data that are kept, else open them."""
        return self.__dict__["_data"] if self.kept else self.open()

    def keep(self) -> T:
        """Open the data anew and keep them."""
        data = self.__dict__["_data"] = self.open()
        return data

    def forget(self) -> None:
        """Let go of the data."""
        self.__dict__.pop("_data", None)


class OnLabelled(Kept[LabelledSet]):
    """An evaluator of the labelled images at `dataset`. protocol: the first half of its name. several: whether it
    measures several labels an image. columns: what is asked of tables, as `open_labelled` takes it (`label_column`, …).
    measured_on: the splits whose features it asks for."""

    protocol = ""
    several = False
    measured_on: tuple[str, ...] = ()
    if TYPE_CHECKING:

        @property
        def batch_size(self) -> int: ...

        @property
        def dataset(self) -> str: ...

        @property
        def columns(self) -> Mapping[str, str]: ...

    def open(self) -> LabelledSet:
        place, card = places.place_of(self.dataset, "classes"), places.named(self.dataset)
        found = labelled_set(place, self.columns)
        if not self.several:
            found.require_single()
        if card and card.name == "objectnet":
            from openslip.evaluation.datasets.objectnet import shared_with_imagenet

            return shared_with_imagenet(found, expand(place))
        return found

    @property
    def name(self) -> str:
        """The protocol and the data set's short name."""
        return f"{self.protocol}:{places.short_name(self.dataset)}"

    def card(self, data: HasClasses) -> Card | None:
        """Return the card of the set: the one that is named, else the one that its classes tell; None where none is."""
        return places.named(self.dataset) or datasets.told(data.class_names)

    def metric(self, data: HasClasses) -> str:
        """Return the metric that comes first among the results: its card's, else top1."""
        card = self.card(data)
        return card.metric if card else "top1"

    def share(self, encoder: Encoder) -> None:
        """Have all processes compute the features that `evaluate` asks for; all must call it."""
        from openslip.evaluation.features import share

        if self.measured_on:
            share(encoder, self.opened(), self.measured_on, self.batch_size)

    def lines(self) -> list[str]:
        """Return sentences for people about what is measured on."""
        data = self.opened()
        card = self.card(data)
        return [data.describe(), *data.notes, *(about_card(data, card) if card else ())]


def about_card(data: LabelledSet, card: Card) -> list[str]:
    """Return sentences about how labelled images and the card that they are measured by agree."""
    lines, classes = [], len(data.class_names)
    # Scenes are rendered here: how many there are is what the task says, and nobody publishes numbers.
    if card.name == "scenes":
        return []
    if card.metric != "top1" or datasets.short(card.name) != datasets.short(data.name):
        lines.append(
            f"{data.name} is measured as {card.title}, by {measure(card.metric).title} "
            f"(slip datasets show {card.name})."
        )
    if classes != card.classes and (told := datasets.told(data.class_names)) is not card and card.classes:
        lines.append(
            f"{data.name} has {classes:,} classes, and {card.title} has {card.classes:,}"
            + (f": the classes are those of {told.title}." if told else ".")
        )
    for split in ("test", "val"):
        here, published = data.splits.get(split), card.splits.get(split, 0)
        if here and published and len(here) != published and abs(classes - card.classes) <= 2:
            lines.append(
                f"Published numbers of {card.title} use {published:,} {split} images, and {data.name} has "
                f"{len(here):,}."
            )
            break
    return lines


def location(source: Any) -> str:
    """Return where captioned images lie, given as what `open_source` takes or opened; without what opens addresses.

    A path is absolute, without links. Of a mixture and other sources without a path it is what they are called.
    """
    spec = source if isinstance(source, str) else str(source.name)
    if is_url(spec) or re.match(r"(hf|hf-stream|scenes)\b", spec) or re.search(r"\s\+\s", spec):
        return shown(spec)
    file, split = split_of(spec)
    if split and os.path.isfile(expand(file)):
        return f"{os.path.realpath(expand(file))}:{split}"
    if not (isinstance(source, str) or os.path.exists(spec)):  # a name, which need not be one of a file
        return shown(spec)
    return shown(os.path.realpath(expand(spec)))
