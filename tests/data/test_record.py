"""What a source has unless it says otherwise, and what is made of a program's own class."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from openslip.data.contents import Contents
from openslip.data.record import Foreign, Part, Record, Source, as_source
from openslip.data.sources.mixture import Mixture
from openslip.data.subset import Subset
from toys import ToySource


class Plain:
    """A source as programs write one: none of our classes."""

    name = "mine"

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        return Record(b"", (f"picture {index}",), f"mine/{index}", self.name)


class Rich(Plain):
    """One that has all that it may have."""

    block, as_they_lie, note = 2, True, "Guessed."
    contents, beside = Contents("rows", 4), Contents("files", 1)
    options = ("caption_column",)
    class_names = ("cat", "dog")

    def label(self, index: int) -> int:
        return index % 2

    @property
    def parts(self) -> Iterator[Part]:
        yield Part(3, 6, 2)
        yield Part(1, 1)

    def origin(self, index: int) -> tuple[Plain | Source, int]:
        return (Plain(3), index) if index < 3 else (ToySource(), 0)

    def whole_index(self, index: int) -> int:
        return index + 10

    columns_note = "Chosen."

    def columns(self, indices: Sequence[int]) -> pa.Table:
        return pa.table({"own": list(indices)})


def test_a_source_says_what_is_in_it_and_nothing_more() -> None:
    class Bare(Source):
        name = "bare"

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Record:
            return ToySource(6)[index]

    source = Bare()
    assert source.parts == (Part(6, 6, 1, False),)
    assert (source.part_names, source.epoch_length) == (("bare",), 6)
    assert (source.origin(3), source.whole_index(3), source.label(3)) == ((source, 3), 3, None)
    assert (source.note, source.options, source.held_out, source.class_names) == ("", (), None, ())
    assert source.contents_by_name() == []
    assert (source.file(3), source.columns([3]), source.columns_note) == (None, None, "")


def test_a_source_has_a_length_and_records() -> None:
    class Lacking(Source):
        name = "lacking"

        def __len__(self) -> int:
            return 1

    with pytest.raises(TypeError, match="abstract"):
        Lacking()  # type: ignore[abstract]


def test_a_plain_class_is_a_source() -> None:
    source = pickle.loads(pickle.dumps(as_source(Plain())))
    assert isinstance(source, Foreign)
    assert as_source(source) is source
    assert (source.name, len(source), source[2].key) == ("mine", 4, "mine/2")
    assert (source.parts, source.part_names) == ((Part(4, 4),), ("mine",))
    assert source.origin(1) == (source, 1)
    assert (source.whole_index(1), source.label(1), source.contents_by_name()) == (1, None, [])
    assert (source.file(1), source.columns([1]), source.columns_note) == (None, None, "")
    source.source.columns = ["a", "list"]  # of a program that means something else by it
    assert source.columns([1]) is None


def test_what_a_plain_class_has_besides_is_taken_over() -> None:
    source = pickle.loads(pickle.dumps(as_source(Rich())))
    assert (source.block, source.as_they_lie, source.note) == (2, True, "Guessed.")
    assert [name for name, _ in source.contents_by_name()] == ["mine", "mine"]
    assert (source.options, source.class_names, source.label(3)) == (("caption_column",), ("cat", "dog"), 1)
    assert (source.parts, source.epoch_length) == ((Part(3, 6, 2), Part(1, 1)), 7)
    assert (source.part_names, source.whole_index(2)) == (("mine", "toy"), 12)
    assert (source.columns([2, 3]).to_pydict(), source.columns_note) == ({"own": [2, 3]}, "Chosen.")  # type: ignore[union-attr]


def test_plain_classes_may_be_mixed_and_cut() -> None:
    plain: Any = Plain(3)
    rich: Any = Rich()
    mixed = Mixture([plain, rich], [1, 2])
    assert mixed.parts == (Part(3, 3), Part(3, 12, 2), Part(1, 2))
    assert (mixed.options, mixed[4].key) == (("caption_column",), "mine/1")
    assert mixed.columns([1, 4]).to_pydict() == {"own": [None, 1]}  # type: ignore[union-attr]
    assert (mixed.columns([0, 2]), mixed.columns_note) == (None, "Chosen.")
    left = Subset(rich, [0])
    assert (left.columns([0, 2]).to_pydict(), left.columns_note) == ({"own": [1, 3]}, "Chosen.")  # type: ignore[union-attr]
    assert ([left.label(k) for k in range(3)], left.class_names) == ([1, 0, 1], ("cat", "dog"))
