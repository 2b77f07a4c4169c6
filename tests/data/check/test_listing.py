from __future__ import annotations

import pytest

from check_fakes import Odds, index_of
from slip.data.check import check
from slip.data.check.listing import read_list, write_list, wrong
from slip.errors import DataError


def test_all_that_is_wrong(tmp_path) -> None:
    summary = check(Odds(), processes=1)
    assert summary is not None
    entries = list(wrong(summary, Odds()))
    assert [(entry["index"], entry["what"], entry.get("of")) for entry in entries] == [
        (30, ["exact copy"], 3),
        (31, ["exact copy"], 3),
        (32, ["near copy"], 4),
        (33, ["damaged"], None),
        (34, ["damaged"], None),
        (35, ["cannot be read"], None),
        (36, ["no caption"], None),
        (index_of("one colour"), ["blank"], None),
        (index_of("another colour"), ["blank"], None),
    ]
    assert [entry["key"] for entry in entries[:6]] == [*(f"key/{k}" for k in range(30, 35)), "#35"]
    assert write_list(tmp_path / "list.jsonl", summary, Odds()) == 9
    assert read_list(tmp_path / "list.jsonl") == [entry["index"] for entry in entries]


def test_of_a_part_of_the_source() -> None:
    summary = check(Odds(), limit=27, needs_captions=False, processes=1)
    assert summary is not None
    entries = list(wrong(summary, Odds()))
    assert {entry["index"] for entry in entries} <= set(summary.indices.tolist())
    assert all("no caption" not in entry["what"] for entry in entries)


@pytest.mark.parametrize(
    "text", ["{", "[1]", "3", '{"index": "3"}', '{"index": true}', '{"key": 3}', '{"index": null}']
)
def test_wrong_lists(tmp_path, text: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"index": 1}\n\n' + text)
    with pytest.raises(DataError, match="Line 3"):
        read_list(path)


def test_no_list(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_list(tmp_path / "nowhere.jsonl")
    summary = check(Odds(3), processes=1)
    assert summary is not None
    with pytest.raises(DataError, match="cannot be written"):
        write_list(tmp_path / "no" / "list.jsonl", summary, Odds(3))
