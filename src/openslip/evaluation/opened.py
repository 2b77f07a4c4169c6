"""The data of evaluators, opened once for all evaluators, and kept from their check to their measurements."""

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
    """Within this context, open each labelled set and each captioned source once, for all evaluators that use it."""
    if _memory.get() is not None:
        yield
        return
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def labelled_set(spec: str, columns: Mapping[str, str] = NOTHING_ASKED) -> LabelledSet:
    """Return `open_labelled(spec, **columns, several=True)`. Within `shared`, return a set that is open already."""
    key = ("labelled", spec, *sorted(columns.items()))
    return opened_once(key, lambda: open_labelled(spec, **columns, several=True))


def opened_once(key: tuple[object, ...], open_it: Callable[[], T]) -> T:
    """Return the result of `open_it`. Within `shared`, return an earlier result for the same key."""
    memory = _memory.get()
    if memory is None:
        return open_it()
    if key not in memory:
        memory[key] = open_it()
    return memory[key]


class Kept(Generic[T]):
    """A base class of evaluators that keep their data open.

    `keep` opens the data for the measurements that follow, until the next `keep` or `forget`. Without `keep`, each
    measurement opens the data anew, because files may have changed. A subclass defines `open`.
    """

    def open(self) -> T:
        """Open the data."""
        raise NotImplementedError

    @property
    def kept(self) -> bool:
        return "_data" in self.__dict__

    def opened(self) -> T:
        """Return the data that are kept, or open the data."""
        return self.__dict__["_data"] if self.kept else self.open()

    def keep(self) -> T:
        """Open the data anew and keep them."""
        data = self.__dict__["_data"] = self.open()
        return data

    def forget(self) -> None:
        """Let go of the data."""
        self.__dict__.pop("_data", None)


class OnLabelled(Kept[LabelledSet]):
    """An evaluator of the labelled images at `dataset`.

    protocol: the first half of its name. several: whether it measures several labels an image. columns: columns of
    tables, as `open_labelled` takes them (`label_column`, …). measured_on: the splits whose features it needs.
    """

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
        """Return the card of the set: the card that the task names, else the card that fits the classes, or None."""
        return places.named(self.dataset) or datasets.told(data.class_names)

    def metric(self, data: HasClasses) -> str:
        """Return the metric that comes first among the results: its card's, else top1."""
        card = self.card(data)
        return card.metric if card else "top1"

    def share(self, encoder: Encoder) -> None:
        """Have all processes compute the features that `evaluate` needs. Every process must call this method."""
        from openslip.evaluation.features import share

        if self.measured_on:
            share(encoder, self.opened(), self.measured_on, self.batch_size)

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        data = self.opened()
        card = self.card(data)
        return [data.describe(), *data.notes, *(about_card(data, card) if card else ())]


def about_card(data: LabelledSet, card: Card) -> list[str]:
    """Return sentences on the card by which labelled images are measured, and on where the two differ."""
    lines, classes = [], len(data.class_names)
    # Scenes are rendered here: the task says how many there are, and no published numbers exist.
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
    """Return the location of captioned images, without the keys of addresses. source: open, or a spec of `open_source`.

    A path is absolute, without links. A mixture, or another source without a path, has its name as location.
    """
    spec = source if isinstance(source, str) else str(source.name)
    if is_url(spec) or re.match(r"(hf|hf-stream|scenes)\b", spec) or re.search(r"\s\+\s", spec):
        return shown(spec)
    file, split = split_of(spec)
    if split and os.path.isfile(expand(file)):
        return f"{os.path.realpath(expand(file))}:{split}"
    if not (isinstance(source, str) or os.path.exists(spec)):  # a name that need not be the name of a file
        return shown(spec)
    return shown(os.path.realpath(expand(spec)))
