from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from check_fakes import encoded, pixels
from distributed.ranks import run_on
from openslip.data.data import Data
from openslip.data.identity import differences
from openslip.data.order import Order
from openslip.data.record import Record, Source
from openslip.data.sources.mixture import Mixture
from openslip.data.subset import Subset
from openslip.errors import ConfigError, DataError
from openslip.processes import joined
from openslip.tools.split import share_of, split


@functools.cache
def picture(number: int, width: int = 40) -> bytes:
    return encoded(pixels(number, width, width), quality=95)


@dataclass
class Products(Source):
    """Records of (picture, its width, title); a picture of None cannot be read."""

    rows: Sequence[tuple[int | None, int, str]]
    name: str = "products"
    block: int = 1
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        number, width, title = self.rows[index]
        self.read.append(index)
        if number is None:
            raise DataError("The file is gone")
        return Record(picture(number, width), (title,), f"{number}/{width}/{title}", self.name)


MANY = [(k, 40, f"title {k // 2 if k < 40 else k}") for k in range(60)] + [
    (k, 60, f"again {k}") for k in range(0, 60, 5)
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "splits"


def keys(source) -> set[str]:
    return {source[index].key for index in range(len(source))}


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ("10%", 0.1),
        (" 5 % ", 0.05),
        ("0.5%", 0.005),
        (".5%", 0.005),
        ("99.9%", 0.999),
        ("10 percent", 0.1),
        ("+1%", 0.01),
    ],
)
def test_shares(spec: str, share: float) -> None:
    assert share_of(spec) == pytest.approx(share)


@pytest.mark.parametrize(
    "spec", ["", "val.csv", "scenes:test:10", "a + 0.5 * b", "https://x/a%20b.tar", "hf:a/b:10%"]
)
def test_sources(spec: str) -> None:
    assert share_of(spec) is None


def test_a_file_of_that_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "10%").mkdir()
    assert share_of("10%") is None


@pytest.mark.parametrize(
    "spec", ["0%", "100%", "-5%", "110 %", "10%%", "1/10", "0.1", "10", "%", "5,5%", "500 records", "-"]
)
def test_no_shares(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"--data.val 10%"):
        share_of(spec)


def test_what_is_equal_or_alike_stays_together() -> None:
    train, val = split(Products(MANY), 0.3, processes=1)
    assert keys(train) | keys(val) == keys(Products(MANY))
    assert len(train) + len(val) == len(MANY)
    for place, what in ((2, "titles"), (0, "pictures, of two sizes")):
        sides = [{key.split("/")[place] for key in keys(side)} for side in (train, val)]
        assert not sides[0] & sides[1], what
    about = val.held_out
    assert about is not None
    assert about == train.held_out
    assert (about.records, about.total, about.share) == (len(val), 72, 0.3)
    assert 10 <= len(val) <= 33
    assert about.summary().startswith(f"30 % of train held out: {len(val)} of 72 records (")
    assert about.groups < about.records


@given(
    numbers=st.lists(st.integers(0, 59), min_size=2, max_size=12, unique=True),
    share=st.floats(0.01, 0.99),
    more=st.lists(st.integers(60, 90), max_size=4, unique=True),
)
@settings(max_examples=25)
def test_more_records_move_none(numbers: list[int], share: float, more: list[int]) -> None:
    """But for the one group that is held out, or kept, where the share asks for none."""
    rows = [(k, 40, f"title {k}") for k in numbers]
    all_rows = [(k, 40, f"title {k}") for k in more] + rows[::-1]
    _, before = split(Products(rows, str(rows)), share, processes=1)
    _, after = split(Products(all_rows, str(all_rows)), share, processes=1)
    moved = keys(before) ^ {key for key in keys(after) if int(key.split("/")[0]) < 60}
    assert len(moved) <= 1
    assert before.held_out is not None
    if len(before) > 1 and before.held_out.groups < len(numbers) - 1:
        assert not moved


def test_processes_and_order_do_not_matter(cache) -> None:
    expected = keys(split(Products(MANY), 0.3, processes=1)[1])
    for path in cache.iterdir():
        path.unlink()
    assert keys(split(Products(MANY), 0.3, processes=2)[1]) == expected
    assert keys(split(Products(MANY[::-1]), 0.3, processes=1)[1]) == expected


def test_a_larger_share_holds_out_more_of_the_same() -> None:
    sides = [keys(split(Products(MANY), share, processes=1)[1]) for share in (0.1, 0.3, 0.6, 0.9)]
    assert sides[0] < sides[1] < sides[2] < sides[3]


def test_what_was_found_is_kept(cache, tmp_path) -> None:
    first = split(Products(MANY), 0.3, processes=1)[1]
    again = Products(MANY)
    assert keys(split(again, 0.3, processes=1)[1]) == keys(first)
    (kept,) = cache.iterdir()
    for damage in (b"", b"[", b"[72]\n", kept.read_bytes()[:-1], kept.read_bytes()[:-1] + b"x"):
        kept.write_bytes(damage)
        assert keys(split(Products(MANY), 0.3, processes=1)[1]) == keys(first)
    source = Products(MANY)
    split(source, 0.5, processes=1)
    assert len(source.read) == 4  # to see that it is the same source


def test_files_that_changed_are_read_again(cache, tmp_path) -> None:
    table = tmp_path / "pairs.csv"
    for text in ("a", "ab", "ab"):
        table.write_text(text)
        split(Products(MANY), 0.3, spec=f"0.5 * {table}", processes=1)
    assert 2 <= len(list(cache.iterdir())) <= 3  # the time of the file counts, too


def test_where_nothing_can_be_kept(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "file"))
    assert len(split(Products(MANY), 0.3, processes=1)[1])


def test_what_cannot_be_used_stays_in_training() -> None:
    rows = [*MANY, (None, 0, "a"), (100, 40, ""), (101, 40, "  ")]
    train, val = split(Products(rows), 0.98, processes=1)
    kept = [train.whole_index(index) for index in range(len(train))]
    assert {72, 73, 74} <= set(kept)
    assert val.held_out is not None
    assert "cannot be read or decoded stay in training, which skips them: 1" in val.held_out.summary()


def test_something_is_held_out_and_something_is_left() -> None:
    two = [(0, 40, "a"), (1, 40, "b")]
    for share in (1e-9, 0.999999):
        train, val = split(Products(two), share, processes=1)
        assert (len(train), len(val)) == (1, 1)
    with pytest.raises(DataError, match=r"cannot be split: all usable records are one group.*--data.val"):
        split(Products([(0, 40, "a"), (0, 40, "b"), (1, 40, "b")]), 0.5, processes=1)
    with pytest.raises(DataError, match="no record has both a picture that can be decoded and a caption"):
        split(Products([(None, 40, "a"), (0, 40, ""), (1, 40, "")]), 0.5, processes=1)


def test_a_giant_group_is_said() -> None:
    rows = [(k, 40, f"no. {k // 2}") for k in range(30)] + [(k, 60, f"no. {k // 2 + 1}") for k in range(30)]
    rows += [(k, 40, f"title {k}") for k in range(40, 60)]
    _, val = split(Products(rows), 0.1, processes=1)
    assert val.held_out is not None
    assert "one group has 60 of the 80 records, so the share can hardly be met" in val.held_out.summary()


def test_a_label_is_said() -> None:
    rows = [(k, 40, "product photo" if k % 2 else f"title {k}") for k in range(60)]
    _, val = split(Products(rows), 0.2, processes=1)
    assert val.held_out is not None
    assert "captions that more than 10 records have may be on both sides: 1;" in val.held_out.summary()
    assert 3 <= len(val) <= 25


def test_of_a_mixture_each_part_keeps_its_weight() -> None:
    a, b = Products(MANY[:40], "a"), Products(MANY[40:], "b")
    mixture = Mixture([a, b, Products([(None, 0, "")], "c")], [1, 0.5, 1])
    train, val = split(mixture, 0.3, processes=1)
    assert train.part_names == ("a", "b", "c")
    assert val.part_names == ("a", "b")  # of c there is nothing
    for side in (train, val):
        one, other, *_ = side.parts
        assert (one.share, other.share) == (one.length, round(other.length / 2))
        assert sum(part.length for part in side.parts) == len(side)
        assert side.epoch_length == sum(part.share for part in side.parts)
    assert train.origin(len(train) - 1)[1] == 0
    order = Order(val.parts, 3)
    seen = {val[order.locate(position)[1]].key for position in range(3 * order.length)}
    assert seen == keys(val)


def test_a_run_knows_what_was_held_out() -> None:
    found = []
    for share in (0.3, 0.6):
        train, _ = split(Products(MANY), share, processes=1)
        found.append(json.loads(json.dumps(Data(train).identity(captioned=True))))
    whole = Data(Products(MANY)).identity(captioned=True)
    assert differences(found[0], found[0]) == []
    assert "held out of data.train for data.val" in differences(found[0], found[1])[0]
    assert ": none, were: " in differences(found[0], whole)[0]
    moved = json.loads(json.dumps(found[0]))
    moved["held_out"][0]["digest"] = "0"
    assert differences(found[0], moved)[0].endswith(", but other records")


def of_a_rank(folder: str) -> tuple[list[int], list[int], str, int]:
    source = Products(MANY)
    with joined() as ranks, mock.patch.dict(os.environ, OPENSLIP_CACHE=folder):
        train, val = split(source, 0.3, processes=1, ranks=ranks)
    assert val.held_out is not None
    return (
        train._indices.array.tolist(),
        val._indices.array.tolist(),
        val.held_out.summary(),
        len(source.read),
    )


def test_ranks_share_the_reading(tmp_path) -> None:
    one, other = run_on(2, of_a_rank, str(tmp_path))
    alone = of_a_rank(str(tmp_path))
    assert one[:3] == other[:3] == alone[:3]
    assert one[3] + other[3] == len(MANY) + 4  # which tell the source from others
    assert alone[3] == 4


def test_records_that_are_held_out_leave_blocks_whole() -> None:
    """What was fetched together is still asked for in a row, once an epoch."""
    rng = np.random.default_rng(0)
    source = Products([(0, 40, "a")] * 1000, block=64)
    left_out = rng.permutation(1000)[:130]
    subset = Subset(source, left_out)
    (part,) = subset.parts
    order = Order([part], 5)
    for epoch in range(2):
        located = [order.locate(epoch * len(subset) + k) for k in range(len(subset))]
        assert {e for e, _ in located} == {epoch}
        blocks = [subset.whole_index(index) // 64 for _, index in located]
        assert sorted(index for _, index in located) == list(range(870))
        changes = 1 + sum(one != other for one, other in itertools.pairwise(blocks))
        assert changes == 16 == len(set(blocks))
        starts = [k for k in range(870) if order.since_block(epoch * 870 + k) == 0]
        assert [k for k in range(870) if k == 0 or blocks[k] != blocks[k - 1]] == starts
    for index in range(0, 870, 37):
        block = order.block_of(index)
        assert index in block
        assert {subset.whole_index(k) // 64 for k in block} == {subset.whole_index(index) // 64}
    orders = {tuple(order.locate(epoch * 870 + k)[1] for k in range(100)) for epoch in range(3)}
    assert len(orders) == 3


def test_blocks_that_lie_as_they_are_and_blocks_that_are_gone() -> None:
    source = Products([(0, 40, "a")] * 100, block=10)
    source.as_they_lie = True  # type: ignore[attr-defined]
    subset = Subset(Subset(source, np.arange(20, 30)), np.arange(5))
    (part,) = subset.parts
    order = Order([part], 1)
    located = [subset.whole_index(order.locate(k)[1]) for k in range(len(subset))]
    assert sorted(located) == list(range(5, 90))
    assert all(b == a + 1 or b % 10 in (0, 5) for a, b in itertools.pairwise(located))
    assert part.ends is not None
    assert part.ends.tolist() == [5, *range(15, 90, 10)]


class OfClasses(Products):
    """Records whose titles are names of classes."""

    captions_name_classes = True


def test_equal_names_of_classes_tie_none_together() -> None:
    rows = [(k % 30, 40 + 20 * (k // 30), f"kind {k % 3}") for k in range(60)]
    _, held = split(OfClasses(rows), 0.3, processes=1)
    assert held.held_out is not None
    assert held.held_out.groups * 2 == held.held_out.records  # copies of a picture, and they alone
    assert held.held_out.by == "pictures"
    assert {held[k].captions for k in range(len(held))} == {(f"kind {k}",) for k in range(3)}
    _, tied = split(Products(rows), 0.3, processes=1)
    assert tied.held_out is not None
    assert tied.held_out.by == "captions or pictures"
