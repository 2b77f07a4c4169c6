from __future__ import annotations

import dataclasses
import json

import pytest

from check_fakes import ODD, PLAIN, Odds, index_of
from openslip.data.record import Record
from openslip.errors import DataError
from openslip.tools.check import check
from openslip.tools.check.listing import compare, read_list, write_list, wrong


def test_all_that_is_wrong(tmp_path) -> None:
    summary = check(Odds(), processes=1)
    assert summary is not None
    entries = list(wrong(summary))
    assert [(entry["index"], entry["what"], entry.get("of")) for entry in entries] == [
        (30, ["exact copy"], 3),
        (31, ["same picture, other captions"], 3),
        (32, ["near copy"], 4),
        (33, ["damaged"], None),
        (34, ["damaged"], None),
        (35, ["cannot be read"], None),
        (36, ["no caption"], None),
        (index_of("one colour"), ["blank"], None),
        (index_of("another colour"), ["blank"], None),
    ]
    assert [entry["key"] for entry in entries[:6]] == [*(f"key/{k}" for k in range(30, 35)), "#35"]
    assert write_list(tmp_path / "list.jsonl", summary) == 9
    indices = [entry["index"] for entry in entries]
    listed = read_list(tmp_path / "list.jsonl")
    assert list(listed) == [index for index in indices if index not in (31, 32)]
    assert listed == {entry["index"]: entry for entry in entries if entry["index"] in listed}
    assert [entry["index"] for entry in entries if "image" not in entry] == [35]  # that cannot be read
    assert entries[0]["image"] == entries[1]["image"] != entries[2]["image"]
    assert list(read_list(tmp_path / "list.jsonl", near=True)) == [index for index in indices if index != 31]
    compare(Odds(), listed, processes=1)


def test_keys_of_any_letters(tmp_path) -> None:
    """U+2028 ends a line for some; half characters cannot be written."""

    class Copies(Odds):
        def __getitem__(self, index: int) -> Record:
            return dataclasses.replace(super().__getitem__(0), key=f"a\u2028b\ud800 {index}")

    summary = check(Copies(3), processes=1)
    assert summary is not None
    assert [entry["key"] for entry in wrong(summary)] == ["a\u2028b? 1", "a\u2028b? 2"]
    write_list(tmp_path / "list.jsonl", summary)
    compare(Copies(3), read_list(tmp_path / "list.jsonl"), processes=1)


def test_one_of_two_near_copies_stays() -> None:
    """Where the first has no caption and goes for that, the second is no copy of anything."""

    class Silent(Odds):
        def __getitem__(self, index: int) -> Record:
            image, captions = (PLAIN[4][0], ()) if index == 0 else (ODD[2][0], ("a caption",))
            assert image is not None
            return Record(image, captions, str(index), "silent")

    summary = check(Silent(2), processes=1)
    assert summary is not None
    assert summary.near_copies == 1
    assert [(entry["index"], entry["what"]) for entry in wrong(summary)] == [(0, ["no caption"])]


def test_a_list_made_by_hand(tmp_path) -> None:
    lines = ['{"index": 4}', '{"index": 7, "what": ["ugly"]}', '{"index": 9, "what": ["near copy"]}']
    lines.append('{"index": 11, "what": ["near copy", "blank"]}')
    (tmp_path / "list.jsonl").write_text("\r\n".join(lines))
    assert read_list(tmp_path / "list.jsonl") == {
        index: json.loads(line) for index, line in zip((4, 7, 11), (lines[0], lines[1], lines[3]))
    }
    compare(Odds(), {4: {}, 7: {"key": None}}, processes=1)


def test_a_list_of_other_records() -> None:
    """Of what is listed each record counts, wherever it lies; what cannot be read now has no key to compare."""
    compare(Odds(), {0: {"key": "key/0"}, 35: {"key": "other"}}, processes=1)
    with pytest.raises(DataError, match="(?s)key of record 50 is key/50, and was key/49.*Make the list anew"):
        compare(Odds(), {0: {"key": "key/0"}, 50: {"key": "key/49"}}, processes=2)
    with pytest.raises(DataError, match="record 3 is key/3, and was #3"):  # it can be read now
        compare(Odds(), {3: {"key": "#3"}}, processes=1)


def test_a_list_of_other_images_under_the_same_keys() -> None:
    """As the numbers of rows are; damaged images count, too."""

    class Mended(Odds):
        def __getitem__(self, index: int) -> Record:
            return dataclasses.replace(super().__getitem__(index), image=PLAIN[index % 30][0])

    summary = check(Odds(), processes=1)
    assert summary is not None
    for entry in wrong(summary):
        if {"near copy", "damaged"} & set(entry["what"]):
            with pytest.raises(DataError, match=f"image of record {entry['index']} is "):
                compare(Mended(), {entry["index"]: entry}, processes=1)


def test_of_a_part_of_the_source() -> None:
    summary = check(Odds(), limit=27, needs_captions=False, processes=1)
    assert summary is not None
    entries = list(wrong(summary))
    assert {entry["index"] for entry in entries} <= set(summary.indices.tolist())
    assert all("no caption" not in entry["what"] for entry in entries)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "3",
        '{"index": 1, "what": 5}',
        '{"index": "3"}',
        '{"index": true}',
        '{"key": 3}',
        '{"index": null}',
        '{"index": 9999999999999999999999}',
    ],
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
        write_list(tmp_path / "no" / "list.jsonl", summary)
