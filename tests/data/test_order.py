from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.order import (
    ATTEMPTS,
    Order,
    Part,
    Stream,
    Streams,
    generator,
    locate,
    permute,
    stand_ins,
    stream_of,
)
from openslip.errors import ConfigError

seeds = st.integers(0, 2**64 - 1)


@given(seed=seeds, length=st.integers(1, 60), epoch=st.integers(0, 2**40))
@settings(deadline=None)
def test_every_epoch_is_a_permutation(seed: int, length: int, epoch: int) -> None:
    located = [locate(seed, epoch * length + offset, length) for offset in range(length)]
    assert {e for e, _ in located} == {epoch}
    assert sorted(index for _, index in located) == list(range(length))


@given(seed=seeds, length=st.integers(1, 40), batch=st.integers(1, 50), start=st.integers(0, 500))
@settings(deadline=None)
def test_batches_of_any_size_see_every_record_once_an_epoch(
    seed: int, length: int, batch: int, start: int
) -> None:
    first = start - start % length  # from an epoch's first record on, cut into batches that straddle epochs
    stream = [
        locate(seed, p, length) for b in range(first, first + 3 * length, batch) for p in range(b, b + batch)
    ]
    seen = [index for epoch, index in stream if epoch == first // length + 1]
    assert sorted(seen) == list(range(length))


@given(seed=seeds, position=st.integers(0, 10**12), length=st.integers(1, 1000))
@settings(deadline=None)
def test_a_pure_function(seed: int, position: int, length: int) -> None:
    expected = locate(seed, position, length)
    for other in range(3):  # drive the cached epochs out
        locate(seed ^ 1, other * 1000, 1000)
    assert locate(seed, position, length) == expected


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(locate(seed, epoch * 50 + offset, 50)[1] for offset in range(50))
        for seed in (0, 1, 2**64 - 1)
        for epoch in range(4)
    }
    assert len(orders) == 12


def test_the_order_is_uniform() -> None:
    counts = np.zeros((4, 4))
    for epoch in range(2000):
        for offset in range(4):
            counts[offset, locate(3, epoch * 4 + offset, 4)[1]] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 0.04  # 4 standard errors


@given(length=st.integers(1, 300), keys=st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=12))
@settings(deadline=None)
def test_permute_is_a_permutation(length: int, keys: list[int]) -> None:
    assert sorted(permute(value, length, keys) for value in range(length)) == list(range(length))


def test_neighbours_are_scattered() -> None:
    # A weak network would keep neighbours at the same distance.
    places = np.array([[locate(3, epoch * 4097 + k, 4097)[1] for k in (0, 1)] for epoch in range(2000)])
    for numbers in (places[:, 0], (places[:, 1] - places[:, 0]) % 4097):
        counts = np.histogram(numbers, bins=10, range=(0, 4097))[0]
        assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


@given(seed=seeds, length=st.integers(1, 200), block=st.integers(2, 40), epoch=st.integers(0, 5))
@settings(deadline=None)
def test_blocks_stay_together_and_are_shuffled(seed: int, length: int, block: int, epoch: int) -> None:
    order = Order([Part(length, length, block)], seed)
    indices = [order.locate(epoch * length + offset)[1] for offset in range(length)]
    assert sorted(indices) == list(range(length))
    numbers = [
        {index // block for index in indices[start : start + block]} for start in range(0, length, block)
    ]
    assert all(len(number) == 1 for number in numbers)  # nothing of another block comes between
    order = Order([Part(length, length, block, as_they_lie=True)], seed)
    there = [order.locate(epoch * length + offset)[1] for offset in range(length)]
    assert [index // block for index in there] == [index // block for index in indices]
    assert all(there[i] + 1 == there[i + 1] for i in range(length - 1) if (i + 1) % block)


def test_the_order_inside_a_block_is_another_in_each_block_and_epoch() -> None:
    order = Order([Part(250, 250, 60)], 3)
    located = [[order.locate(epoch * 250 + offset)[1] for offset in range(250)] for epoch in range(3)]
    inside = [
        tuple(i % 60 for i in epoch[start : start + 60]) for epoch in located for start in range(0, 240, 60)
    ]
    assert len(set(inside)) == 12
    assert len({tuple(epoch[240:]) for epoch in located}) == 3  # and that of what the last block leaves over
    assert all(sorted(epoch[240:]) == list(range(240, 250)) for epoch in located)
    steps = [abs(a - b) == 1 for order in inside for a, b in itertools.pairwise(order)]
    assert sum(steps) / len(steps) < 0.1  # neighbours are apart: by chance, 1 of 30 is beside its neighbour


def test_the_order_inside_a_block_is_uniform() -> None:
    order, counts = Order([Part(16, 16, 8)], 3), np.zeros((8, 8))
    for epoch in range(1000):
        for offset in range(16):
            counts[offset % 8, order.locate(epoch * 16 + offset)[1] % 8] += 1
    assert ((counts - 250) ** 2 / 250).sum() < 49 + 4 * (2 * 49) ** 0.5  # chi-squared, 49 degrees of freedom


@given(seed=seeds, length=st.integers(1, 90), block=st.integers(1, 20), index=st.integers(0, 89))
@settings(deadline=None)
def test_stand_ins_are_of_the_block_then_of_the_part(seed: int, length: int, block: int, index: int) -> None:
    index %= length
    order, streams = Order([Part(7, 7), Part(length, length, block), Part(5, 5)], seed), Streams(seed)
    found = stand_ins(order, streams, 2, 7 + index, Stream.REPLACEMENT)
    assert found == stand_ins(order, streams, 2, 7 + index, Stream.REPLACEMENT)
    assert 7 + index not in found
    assert all(0 <= other < length + 12 for other in found)
    near = min(block, length - index // block * block, ATTEMPTS)  # of its block, one may be itself
    assert all((other - 7) // block == index // block for other in found[: near - 1])
    assert all(7 <= other < 7 + length for other in found[:-ATTEMPTS])


parts = st.lists(
    st.builds(Part, st.integers(1, 30), st.integers(1, 60), st.integers(1, 8), st.booleans()),
    min_size=1,
    max_size=5,
)


@given(seed=seeds, parts=parts, start=st.integers(0, 300))
@settings(deadline=None)
def test_parts_get_their_shares_and_lose_nothing(seed: int, parts: list[Part], start: int) -> None:
    order = Order(parts, seed)
    firsts = np.cumsum([0, *(part.length for part in parts)])
    located = [order.locate(p) for p in range(start + order.length)]
    for part, first in zip(parts, firsts):
        own = [
            (p, epoch, index - first)
            for p, (epoch, index) in enumerate(located)
            if 0 <= index - first < part.length
        ]
        # As many turns as its share in any stretch of an epoch's length, and evenly spread: never off by two.
        assert abs(sum(p >= start for p, _, _ in own) - part.share) <= (start % order.length > 0) * len(parts)
        # Its epochs follow each other, and each goes through all of it once.
        assert [epoch for _, epoch, _ in own] == [turn // part.length for turn in range(len(own))]
        for epoch in range(len(own) // part.length):
            assert sorted(index for _, e, index in own if e == epoch) == list(range(part.length))


def test_every_stretch_has_the_mixture() -> None:
    order = Order([Part(1000, 1000), Part(100, 300), Part(50, 700)], 0)
    drawn = np.array([order.locate(p)[1] for p in range(4000)])
    kinds = np.digitize(drawn, [1000, 1100])
    for start in range(0, 4000, 200):
        counts = np.bincount(kinds[start : start + 200], minlength=3)
        assert np.abs(counts - [100, 30, 70]).max() <= 2


@given(seed=seeds, parts=parts, batch=st.integers(1, 12), world=st.integers(1, 4), stop=st.integers(0, 20))
@settings(deadline=None)
def test_any_number_of_processes_and_any_stop_give_the_same_stream(
    seed: int, parts: list[Part], batch: int, world: int, stop: int
) -> None:
    batch *= world
    one = Order(parts, seed)
    whole = [one.locate(p) for p in range(30 * batch)]
    pieces: list[tuple[int, int]] = []
    for number in range(30):
        # After `stop` batches the run goes on elsewhere, with another number of processes.
        processes = world if number < stop else 1
        others = [Order(parts, seed) for _ in range(processes)]
        for rank in range(processes):
            rows = range(rank * batch // processes, (rank + 1) * batch // processes)
            pieces += [others[rank].locate(number * batch + row) for row in rows]
    assert pieces == whole


def test_the_order_of_a_run_stays_what_it_was() -> None:
    # Resuming a run after an upgrade must go on in the same order.
    assert [locate(7, p, 10)[1] for p in range(10)] == PINNED_ORDER
    assert generator(7, 1, 3, Stream.SSL_1).random() == PINNED_NUMBER


def test_the_streams_of_views_stay_what_they_were() -> None:
    """A run goes on with the same crops after an upgrade, also of views that somebody else has named."""
    assert [stream_of(name) for name in ("image", "ssl_1", "ssl_2")] == [3, 4, 5]
    assert stream_of("local_1") == LOCAL_1
    assert generator(7, 1, 3, stream_of("local_1")).random() == PINNED_LOCAL


@given(name=st.text(), other=st.text())
def test_other_views_have_streams_of_their_own(name: str, other: str) -> None:
    if name not in ("image", "ssl_1", "ssl_2"):
        assert 2**63 <= stream_of(name) < 2**64
    assert (stream_of(name) == stream_of(other)) == (name == other)


@pytest.mark.parametrize("name", ["order", "ORDER", "caption", "IMAGE", "replacement"])
def test_a_view_shares_no_stream_with_another_purpose(name: str) -> None:
    assert stream_of(name) not in list(Stream)


PINNED_ORDER = [6, 0, 4, 1, 7, 9, 3, 8, 5, 2]
LOCAL_1 = 9999342620030708354
PINNED_LOCAL = 0.7789178415582148
PINNED_NUMBER = 0.9347348936487159


@given(
    a=st.tuples(seeds, *[st.integers(0, 2**64 - 1)] * 2, st.sampled_from(Stream)),
    b=st.tuples(seeds, *[st.integers(0, 2**64 - 1)] * 2, st.sampled_from(Stream)),
)
@settings(deadline=None)
def test_streams_differ_unless_they_are_the_same(a: tuple, b: tuple) -> None:
    same = generator(*a).random(4).tolist() == generator(*b).random(4).tolist()
    assert same == (a == b)


def test_streams_do_not_overlap() -> None:
    # Neighbouring counters: a long draw from one must not run into the next.
    numbers = np.concatenate([generator(0, 0, i, s).random(5000) for i in range(4) for s in Stream])
    assert len(np.unique(numbers)) == len(numbers)


def test_a_moved_generator_equals_a_fresh_one() -> None:
    streams = pickle.loads(pickle.dumps(Streams(5)))
    for epoch, index, stream in [(0, 0, 1), (2, 9, 4), (0, 0, 1), (3, 2**40, 5)]:
        moved = streams.at(epoch, index, stream)
        moved_draws = [moved.integers(7), moved.random(), moved.integers(3, dtype=np.uint32)]
        fresh = generator(5, epoch, index, stream)
        assert moved_draws == [fresh.integers(7), fresh.random(), fresh.integers(3, dtype=np.uint32)]


@pytest.mark.parametrize(("seed", "position", "length"), [(-1, 0, 5), (2**64, 0, 5), (0, -1, 5), (0, 0, 0)])
def test_bad_input(seed: int, position: int, length: int) -> None:
    with pytest.raises(ConfigError):
        locate(seed, position, length)


def test_no_parts() -> None:
    with pytest.raises(ConfigError, match="no records"):
        Order([], 0)


@given(
    seed=seeds,
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    epoch=st.integers(0, 5),
    as_they_lie=st.booleans(),
)
def test_blocks_of_sizes_of_their_own(seed: int, sizes: list[int], epoch: int, as_they_lie: bool) -> None:
    """Each comes in a row, in an order of its own, every record once an epoch, in any order of asking."""
    ends = np.cumsum(sizes)
    part = Part(sum(sizes), sum(sizes), 5, as_they_lie, ends)
    order = Order([part], seed)
    stream = [order.locate(epoch * part.length + offset) for offset in range(part.length)]
    records = [index for _, index in stream]
    assert sorted(records) == list(range(part.length))
    assert {e for e, _ in stream} == {epoch}
    blocks = [int(np.searchsorted(ends, index, side="right")) for index in records]
    assert [block for block, _ in itertools.groupby(blocks)] == list(dict.fromkeys(blocks))
    for index, block in zip(records, blocks):
        assert list(order.block_of(index)) == list(range(ends[block] - sizes[block], ends[block]))
        if as_they_lie:
            place = records.index(int(ends[block]) - sizes[block])
            assert records[place : place + sizes[block]] == list(order.block_of(index))
    again = pickle.loads(pickle.dumps(Order([part], seed)))
    again.locate((epoch + 1) * part.length)
    assert [again.locate(epoch * part.length + k) for k in reversed(range(part.length))] == stream[::-1]
    others = stand_ins(order, Streams(seed), epoch, records[0], Stream.REPLACEMENT)
    assert set(others) <= set(records) - {records[0]}
