from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from openslip.data.data import Data
from openslip.data.identity import UNREADABLE, differences
from openslip.data.record import Record, Source
from openslip.data.sources.mixture import Mixture
from openslip.errors import DataError


@dataclass(eq=False)
class Files(Source):
    """Records of a few bytes, in an order, with captions."""

    name: str = "a.tar"
    numbers: tuple[int, ...] = tuple(range(64))
    broken: tuple[int, ...] = ()
    word: str = "number"
    block: int = 1
    rendered: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Record:
        if index in self.broken:
            raise DataError("The server is away")
        number = self.numbers[index]
        image = np.full((2, 3, 3), number, np.uint8) if self.rendered else bytes([number])
        return Record(image, (f"{self.word} {number}",), str(index), self.name)


def compare(old, new, *, captioned: bool = True) -> list[str]:
    """Return the differences, the old identity having been written down."""
    before = json.loads(json.dumps(Data(**old).identity(captioned=captioned)))
    return differences(before, Data(**new).identity(captioned=captioned))


A, B = Files(), Files("b.csv", tuple(range(100, 130)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"numbers": tuple(range(80))}, "has records: 80, had 64; has samples an epoch: 80, had 64"),
        ({"numbers": tuple(range(1, 65))}, "other content or another order: record 0, 21, 42, 63"),
        ({"numbers": (*range(63), 200)}, "other content or another order: record 63"),
        ({"word": "picture"}, "other content or another order: record 0, 21, 42, 63"),
        ({"block": 64}, "has blocks of 64, had 1"),
        ({"rendered": True}, "other content"),
    ],
)
def test_other_data_are_noticed(changes: dict, words: str) -> None:
    found = compare({"train": A, "ssl": None}, {"train": replace(A, **changes), "ssl": None})
    assert words in "; ".join(found).replace("a.tar (data.train) ", "")


def test_the_same_data_elsewhere_are_the_same() -> None:
    for source in (A, replace(A, rendered=True), Mixture([A, B], [1, 2])):
        assert compare({"train": source}, {"train": source}) == []
    assert compare({"train": A}, {"train": replace(A, name="/disk2/a.tar")}) == []


def test_captions_count_where_they_are_used() -> None:
    other = replace(A, word="picture")
    assert compare({"train": A}, {"train": other}, captioned=False) == []
    assert compare({"train": A, "ssl": A}, {"train": A, "ssl": other}) == []


def test_what_cannot_be_read_is_not_held_against_it() -> None:
    away = replace(A, broken=(0, 63))
    assert next(iter(Data(away).identity(captioned=True)["train"][0]["samples"].values())) == UNREADABLE
    assert compare({"train": A}, {"train": away}) == compare({"train": away}, {"train": A}) == []
    assert compare({"train": away}, {"train": replace(A, numbers=tuple(range(1, 65)))}) != []


def test_each_source_of_a_mixture_is_compared() -> None:
    mixture = Mixture([A, B], [1, 1])
    (words,) = compare({"train": mixture}, {"train": Mixture([A, B], [1, 2])})
    assert "b.csv" in words
    assert "60" in words
    assert "30" in words
    (words,) = compare({"train": mixture}, {"train": Mixture([A, replace(B, word="x")], [1, 1])})
    assert words.startswith("b.csv (data.train)")
    assert "record 0, 9, 19, 29" in words
    assert compare({"train": mixture}, {"train": A}) == ["data.train has 1 sources, had 2"]
    assert compare({"train": A, "ssl": B}, {"train": A, "ssl": None}) == [
        "data for train, were for train and ssl"
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_small_sources(count: int) -> None:
    small = replace(A, numbers=tuple(range(count)))
    assert len(Data(small).identity(captioned=True)["train"][0]["samples"]) == min(count, 4)
    assert compare({"train": small}, {"train": small}) == []
