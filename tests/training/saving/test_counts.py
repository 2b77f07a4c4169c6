from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from openslip.data.contents import Contents
from openslip.data.data import Data
from openslip.data.order import Order
from openslip.data.record import Record, Skipped, Source, Tally
from openslip.data.sources.mixture import Mixture
from openslip.errors import TrainingError
from openslip.training.saving.counts import Counts, Window

EXAMPLE = Skipped(3, "key", "a.tar", "The server is away")
LISTED = Path("run/skipped.jsonl")


@dataclass(eq=False)
class Shards(Source):
    """So many records that are read in blocks; nobody reads them here."""

    length: int
    block: int = 1
    name: str = "shards"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        raise NotImplementedError


def tally(read: int, skipped: int) -> Tally:
    return Tally(read=read, used=read - skipped, skipped=skipped, stood_in=skipped)


def stops(counts: Counts, allowed: float = 0.05) -> bool:
    try:
        counts.judge(allowed, EXAMPLE, LISTED)
    except TrainingError:
        return True
    return False


def test_too_much_is_an_error_that_says_what() -> None:
    counts = Counts(Data(Shards(1000)))
    counts.add([tally(199, 50)])
    counts.judge(0.05, EXAMPLE, LISTED)  # too early to tell
    counts.add([tally(1, 0)])
    with pytest.raises(
        TrainingError, match=r"25\.0% of the records.*5\.0% allowed.*50 of 200.*key: The server.*run/"
    ):
        counts.judge(0.05, EXAMPLE, LISTED)
    counts.judge(0.25, EXAMPLE, LISTED)


@pytest.mark.parametrize(("length", "enough"), [(100_000, 6400), (3000, 3000), (100, 200)])
def test_blocks_are_judged_when_enough_of_them_were_read_or_all(length: int, enough: int) -> None:
    counts = Counts(Data(Shards(length, 64)))
    counts.add([tally(enough - 1, 190)])
    assert not stops(counts, 0.01)
    counts.add([tally(1, 0)])
    assert stops(counts, 0.01)


def stopped_at(seed: int, dead: int, *, shards: int = 100, blocks: int = 4, old: bool = False) -> int:
    """Train an epoch on shards of 64 · `blocks` records of which the first few are dead; 0: not stopped."""
    source = Shards(64 * blocks * shards, 64)
    order, counts = Order(source.parts, seed), Counts(Data(source))
    skipped = 0
    for read in range(64, len(source) + 1, 64):
        unusable = 64 * (order.locate(read - 64)[1] < 64 * blocks * dead)
        skipped += unusable
        counts.add([tally(64, unusable)])
        if (skipped > 0.05 * read and read >= 200) if old else stops(counts):
            return read
    return 0


def test_one_dead_shard_of_a_hundred_stops_no_run() -> None:
    seeds = range(60)
    assert sum(stopped_at(seed, 1, old=True) > 0 for seed in seeds) >= 4  # single records were judged before
    assert sum(stopped_at(seed, 1) > 0 for seed in seeds) == 0
    assert all(6400 <= stopped_at(seed, 15) <= 7000 for seed in seeds[:20])


def test_a_useless_source_is_warned_of_once() -> None:
    mixture = Mixture([Shards(1000), Shards(10, name="small")], [1, 1])
    counts = Counts(Data(mixture, Shards(500, name="pictures")))
    counts.add([tally(19_000, 10), tally(190, 190), tally(500, 260)])
    (warning,) = counts.warnings()
    assert "260 of 500 records of pictures (data.ssl) could not be used" in warning
    counts.add([tally(1000, 0), tally(10, 10), tally(0, 0)])
    (warning,) = counts.warnings()
    assert "200 of 200 records of small (data.train)" in warning
    assert counts.warnings() == []
    assert not stops(counts)  # but of all that was read it is little
    alone = Counts(Data(Shards(1000)))
    alone.add([tally(300, 200)])
    assert alone.warnings() == []


def test_summary() -> None:
    counts = Counts(Data(Shards(1000)))
    counts.add([tally(1000, 0)])
    assert counts.summary(LISTED, 0, 8) == "1,000 records read, all usable"
    counts.add([tally(24, 3)])
    assert counts.summary(LISTED, 2, 8) == (
        "1,024 records read: 1,021 used, 3 skipped and stood in for by others, listed in run/skipped.jsonl\n"
        "16 samples were in 2 steps with a loss that was not finite: nothing was learned from them"
    )
    counts = Counts(Data(Mixture([Shards(10, name="a"), Shards(10, name="b")], [1, 1])))
    counts.add([tally(10, 0), tally(10, 2)])
    assert counts.summary(LISTED, 0, 8).splitlines()[1:] == [
        "  data.train a: 10 read, 10 used, 0 skipped",
        "  data.train b: 10 read, 8 used, 2 skipped; 2 stood in for others",
    ]


def test_a_checkpoint_of_before_they_were_kept() -> None:
    counts = Counts(Data(Shards(10)), None, 7)
    counts.add([tally(8, 0)])
    assert counts.summary(LISTED, 0, 8) == "8 records read, since step 7, all usable"
    again = Counts(Data(Shards(10)), counts.state, 9)
    assert again.to_dict(9, 0, 8) == counts.to_dict(9, 0, 8)
    assert again.to_dict(8, 0, 8)["samples"] == again.total.read == 8


def test_what_a_source_leaves_out_is_kept() -> None:
    source = Shards(10)
    contents = Contents("members", 12)
    contents.leave_out("the sample has no picture", "b.txt", 2)
    object.__setattr__(source, "contents", contents)
    (kept,) = Counts(Data(source, Shards(3))).to_dict(0, 0, 8)["contents"]
    assert kept == {"lane": "train", "name": "shards", **contents.to_dict()}


def test_a_window_goes_on_from_its_sums() -> None:
    window = Window()
    window.add({"loss": 1.0})
    window = Window(window.sums)
    window.add({"loss": 2.0})
    assert window.take() == {"loss": 1.5}
    assert window.take() == {}
