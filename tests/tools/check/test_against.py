from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given

from check_fakes import encoded, pixels
from openslip.data.record import Record, Source
from openslip.errors import DataError
from openslip.tools.check import as_text, check, judge
from openslip.tools.check.against import CAPTION, NEAR, NONE, PICTURE, Against, compare, with_findings
from openslip.tools.check.facts import Facts
from openslip.tools.check.listing import read_list, write_list, wrong
from openslip.tools.check.summary import Summary
from tools.check.test_groups import SETS, facts, tied


@dataclass(eq=False)
class Rows(Source):
    """Records of (picture, side, captions); a picture of None cannot be read, -1 is damaged."""

    rows: tuple[tuple[int | None, int, tuple[str, ...]], ...]
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        number, side, captions = self.rows[index]
        if number is None:
            raise DataError("The file is gone")
        image = encoded(pixels(number, side, side), quality=95) if number >= 0 else b"no image"
        return Record(image, captions, f"{self.name}/{index}", self.name)


TRAIN = Rows(
    (
        (0, 60, ("of its own",)),
        (1, 60, ("a picture that is there, too",)),
        (2, 60, ("a near copy",)),
        (3, 60, ("One  caption", "that is THERE")),
        (1, 60, ("the same picture again",)),
        (4, 60, ("IMG_0001.jpg",)),
        (-1, 60, ("damaged",)),
        (None, 60, ()),
    ),
    "train",
)
TEST = Rows(
    (
        (10, 60, ("That is there",)),
        (1, 60, ("another",)),
        (2, 90, ("a larger copy",)),
        (11, 60, ("img_0001.jpg",)),
        (-1, 60, ("damaged",)),
    ),
    "test",
)


def checked(source) -> Summary:
    summary = check(source, processes=1)
    assert summary is not None
    return summary


@pytest.fixture(scope="module")
def against() -> Against:
    return compare(checked(TRAIN), checked(TEST))


def test_what_two_sets_have_in_common(against: Against) -> None:
    assert {what: dict(enumerate(of.tolist())) for what, of in against.of.items()} == {
        PICTURE: dict.fromkeys(range(8), NONE) | {1: 1, 4: 1},
        NEAR: dict.fromkeys(range(8), NONE) | {2: 2},
        CAPTION: dict.fromkeys(range(8), NONE) | {3: 0},
    }
    assert against.back == {PICTURE: 1, NEAR: 1, CAPTION: 1}
    assert (against.common, against.complete) == (0, True)


def test_it_is_said_and_is_no_reason_not_to_train(against: Against) -> None:
    verdict = judge(against.here, max_skipped=0.5)
    found = with_findings(verdict, against)
    assert (found.good, found.sentence) == (verdict.good, verdict.sentence)
    text = " ".join(as_text(against.here, found, 10_000).split())
    assert (
        "Records whose picture is in test, too, byte by byte: 2 (25 %). There it is 1 of 5 records (20 %)."
        in text
    )
    assert "For example 'train/1' here and 'test/1' there; 'train/4' here and 'test/1' there." in text
    assert "picture is a near copy of one in test: 1" in text
    assert "Records with a caption that is in test, too: 1" in text
    assert text.count("slip data check SOURCE --against OTHER --list found.jsonl") == 1
    assert "Records there that were not compared, because they cannot be read or decoded: 1." in text


def test_nothing_in_common_is_said() -> None:
    one, other = checked(Rows(TRAIN.rows[:1], "one")), checked(Rows(TEST.rows[:1], "other"))
    found = with_findings(judge(one), compare(one, other))
    assert (
        "Records that have something in common with other: 0 (0 %). None has an equal caption or"
        in as_text(one, found, 10_000)
    )


def test_what_is_in_the_other_set_is_listed_and_left_out(against: Against, tmp_path) -> None:
    entries = {entry["index"]: entry for entry in wrong(against.here, against)}
    assert {index: (entry["what"], entry.get("of_other")) for index, entry in entries.items()} == {
        1: ([PICTURE], "test/1"),
        2: ([NEAR], "test/2"),
        3: ([CAPTION], "test/0"),
        4: (["same picture, other captions", PICTURE], "test/1"),
        6: (["damaged"], None),
        7: (["cannot be read"], None),
    }
    assert entries[4]["of"] == 1
    assert write_list(tmp_path / "list.jsonl", against.here, against) == 6
    assert list(read_list(tmp_path / "list.jsonl")) == [1, 2, 3, 4, 6, 7]


def test_what_too_many_have_does_not_count() -> None:
    many = [Rows(tuple((k + start, 60, ("product photo",)) for k in range(11)), "many") for start in (0, 20)]
    found = compare(*map(checked, many))
    assert (found.any.any(), found.common) == (False, 1)
    words = as_text(found.here, with_findings(judge(found.here), found), 10_000)
    assert "Captions in both that are not counted, because very many records have them: 1." in words


def test_a_part_of_a_set_and_a_set_with_nothing_to_compare() -> None:
    part = check(TRAIN, limit=3, processes=1)
    assert part is not None
    nothing = checked(Rows(TRAIN.rows[-2:], "nothing"))
    assert not compare(part, nothing).any.any()
    assert not compare(nothing, part).any.any()


@given(one=SETS, other=SETS)
def test_the_slow_way(one, other) -> None:
    summaries = []
    for rows in (one, other):
        records, captions = facts(rows)
        found = Facts(bytearray(records.tobytes()), bytearray(captions.tobytes()))
        summaries.append(
            Summary.of(found, Rows(tuple(rows), "rows"), np.arange(len(rows)), needs_captions=False)
        )
    found = compare(*summaries)
    for index, row in enumerate(one):
        ties = [tied(row, row_there) and not row[1] and not row_there[1] for row_there in other]
        assert found.any[index] == any(ties)
        for what, of in found.of.items():
            if of[index] != NONE:
                assert ties[of[index]], what
    tied_there = [any(tied(row, there) and not row[1] and not there[1] for row in one) for there in other]
    assert max(found.back.values()) <= sum(tied_there) <= sum(found.back.values())


class OfClasses(Rows):
    """Records whose captions are made of the names of classes."""

    captions_name_classes = True


def test_equal_captions_of_classes_are_nothing_in_common() -> None:
    """Nor are they repeated ones, which would be each other's wrong answers."""
    here = OfClasses(tuple((number, 60, (f"kind {number % 2}",)) for number in range(20)), "here")
    there = OfClasses(tuple((number, 60, (f"kind {number % 2}",)) for number in range(19, 23)), "there")
    one, other = checked(here), checked(there)
    against = compare(one, other)
    assert against.positions(CAPTION).tolist() == []
    assert against.positions(PICTURE).tolist() == [19]
    assert one.of_class.all()
    assert "say the same" not in as_text(one, judge(one, batch=4))
    plain = checked(Rows(here.rows, "plain"))
    assert "say the same" in as_text(plain, judge(plain, batch=4))
