"""Random access to the rows of Parquet files; what goes wrong with them."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slip.data.containers import row_groups
from slip.data.containers.row_groups import RowGroups, holds
from slip.data.storage import retry
from slip.errors import DataError


def write(path, start, count, group, **columns):
    table = pa.table(
        {
            "text": [f"text {i}" for i in range(start, start + count)],
            "other": pa.array(range(start, start + count), pa.int64()),
            "image": [f"image {i}".encode() for i in range(start, start + count)],
        }
        | columns
    )
    pq.write_table(table, path, row_group_size=group)
    return str(path)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(0, 3),
    st.data(),
)
def test_any_row_at_any_time(tmp_path_factory, shapes, cache, data):
    folder = tmp_path_factory.mktemp("groups")
    files, start, places = [], 0, []
    for number, (count, group) in enumerate(shapes):
        files.append(write(folder / f"{number}.parquet", start, count, group))
        places += [f"{number}.parquet:{row}" for row in range(count)]
        start += count
    rows = RowGroups(files, ["image", "text"], cache_bytes=cache * 60)
    assert len(rows) == start
    order = data.draw(st.permutations(range(start)))
    if data.draw(st.booleans()):
        rows = pickle.loads(pickle.dumps(rows))
    for index in order:
        assert rows[index] == (f"image {index}".encode(), f"text {index}")
        assert rows.place(index) == places[index]
    assert [row[1] for row in rows.scan()] == [f"text {i}" for i in range(start)]
    for index in (start, -start - 1):
        with pytest.raises(IndexError):
            rows[index]


def test_only_the_needed_columns_are_read_and_each_row_group_once(tmp_path, monkeypatch):
    reads = []
    original = pq.ParquetFile.read_row_group

    def spy(self, group, columns=None, **options):
        reads.append((group, columns))
        return original(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    rows = RowGroups([write(tmp_path / "a.parquet", 0, 6, 2)], ["image"])
    for index in (3, 2, 3, 0, 1, 2):
        assert rows[index] == (f"image {index}".encode(),)
    assert reads == [(1, ["image"]), (0, ["image"])]
    sizes = pq.read_metadata(tmp_path / "a.parquet")
    assert rows.total == sum(sizes.row_group(g).column(2).total_uncompressed_size for g in range(3))
    assert (rows.usual, rows.largest) == (2, rows.total // 3)


def test_the_cache_is_bounded_in_bytes(tmp_path):
    rows = RowGroups([write(tmp_path / "a.parquet", 0, 40, 2)], ["image"], cache_bytes=100)
    for index in range(40):
        rows[index]
        assert rows.kept.held <= 100 or len(rows.kept) == 1
    assert len(rows.kept) > 1


def test_nested_columns_and_names_with_dots(tmp_path):
    pq.write_table(
        pa.table({"a": [{"b": 1}], "a.b": ["x"], "l": [["p", "q"]], "ab": ["no"]}), tmp_path / "n.parquet"
    )
    rows = RowGroups([str(tmp_path / "n.parquet")], ["l", "a.b"])
    assert rows[0] == (["p", "q"], "x")


def test_damage_within_a_file_is_an_error_of_its_rows_and_remembered(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", 0, 40, 20)
    meta = pq.read_metadata(path).row_group(1).column(2)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    start = meta.dictionary_page_offset or meta.data_page_offset
    data[start : start + meta.total_compressed_size] = b"\xff" * meta.total_compressed_size
    (tmp_path / "a.parquet").write_bytes(data)
    rows = RowGroups([path], ["image"], cache_bytes=0)
    assert rows[3] == (b"image 3",)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        rows[25]
    assert rows[3] == (b"image 3",)
    write(tmp_path / "a.parquet", 0, 40, 20)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):  # not tried again
        rows[26]
    monkeypatch.setattr(row_groups.time, "monotonic", lambda: 1e12)
    assert rows[26] == (b"image 26",)


def test_pages_with_a_wrong_checksum_are_not_used(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"x" * 1000]}), path, compression="none", write_page_checksum=True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x" * 500, b"x" * 499 + b"y", 1))
    with pytest.raises(DataError, match="cannot be read"):
        RowGroups([str(path)], ["image"])[0]


def test_a_file_that_goes_away_or_changes(tmp_path):
    path = write(tmp_path / "a.parquet", 0, 4, 2)
    rows = RowGroups([path], ["image"])
    write(tmp_path / "a.parquet", 0, 2, 1)
    with pytest.raises(DataError, match="another number of rows"):
        rows[0]
    rows = pickle.loads(pickle.dumps(rows))
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(DataError, match=r"a\.parquet"):
        rows[0]


@pytest.mark.parametrize("opened", [True, False])
def test_a_file_of_a_server_that_is_down_is_given_up_once(tmp_path, server, capsys, opened):
    """Not for each of its row groups; in a process that has it open, and in one that has yet to open it."""
    write(tmp_path / "a.parquet", 0, 40, 2)
    server.files["/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    rows = RowGroups([f"{server.url}/a.parquet"], ["image"])
    if opened:
        rows[0]
    else:
        rows = pickle.loads(pickle.dumps(rows))
    server.asked.clear()
    server.faults["/a.parquet"] = [500, "always"]
    for index in range(2, 40):
        with pytest.raises(DataError, match=r"a\.parquet"):
            rows[index]
    assert len(server.asked) == retry.TRIES
    assert capsys.readouterr().err.count("skipping ") == 1


def test_text_that_is_no_utf8(tmp_path):
    text = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    rows = RowGroups([str(tmp_path / "a.parquet")], ["text"])
    assert rows[0] == ("fine",)
    with pytest.raises(DataError, match=r"Row a\.parquet:1 is damaged"):
        rows[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "not a readable Parquet file.*Fetch it again"),
        (lambda data: data[:-2] + b"XX", "not a readable Parquet file"),
        (lambda data: data[:-8] + b"\xff\xff\xff\x7f" + data[-4:], "not a readable Parquet file"),
        (lambda data: b"", "not a readable Parquet file"),
        (lambda data: b"PAR1", "not a readable Parquet file"),
        (lambda data: None, "does not exist"),
    ],
)
def test_files_that_cannot_be_opened(tmp_path, change, message):
    path = write(tmp_path / "a.parquet", 0, 10, 5)
    data = change((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "a.parquet").unlink() if data is None else (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=message):
        RowGroups([path], ["image"])


def test_files_of_different_kinds(tmp_path):
    first = write(tmp_path / "a.parquet", 0, 2, 2)
    numbers = write(tmp_path / "b.parquet", 0, 2, 2, text=[1, 2])
    lists = write(tmp_path / "c.parquet", 0, 2, 2, text=[["x", "y"], []])
    empty = write(tmp_path / "d.parquet", 0, 2, 2, text=[None, None])
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "e.parquet")
    assert RowGroups([first, lists, empty], ["text"])[2] == (["x", "y"],)
    with pytest.raises(
        DataError, match=r"'text' of .*b\.parquet holds something else than that of .*a\.parquet"
    ):
        RowGroups([first, numbers], ["text"])
    with pytest.raises(DataError, match=r"e\.parquet has no column 'text', which .*a\.parquet has"):
        RowGroups([first, str(tmp_path / "e.parquet")], ["text"])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_is_a_data_error_or_goes_unnoticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "a.parquet"
    write(path, 0, 6, 3)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        rows = RowGroups([str(path)], ["image", "text"])
    except DataError:
        return
    for index in range(min(len(rows), 10)):
        try:
            rows[index]
        except DataError:
            continue


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (pa.binary(), "image"),
        (pa.struct({"bytes": pa.large_binary(), "path": pa.string()}), "image"),
        (pa.struct({"bytes": pa.null(), "path": pa.string()}), "image"),
        (pa.struct({"bytes": pa.string(), "path": pa.string()}), ""),
        (pa.struct({"path": pa.string()}), "path"),
        (pa.struct({"file_name": pa.large_string(), "n": pa.int64()}), "path"),
        (pa.struct({"text": pa.string()}), ""),
        (pa.binary(8), ""),  # hashes
        (pa.dictionary(pa.int32(), pa.large_string()), "text"),
        (pa.list_(pa.string()), "texts"),
        (pa.list_(pa.string(), 2), "texts"),
        (pa.large_list(pa.dictionary(pa.int8(), pa.string())), "texts"),
        (pa.list_(pa.list_(pa.string(), 2)), "texts"),
        (pa.list_(pa.int64(), 2), ""),
        (pa.list_(pa.null()), "texts"),
        (pa.null(), "nothing"),
        (pa.map_(pa.string(), pa.string()), ""),
    ],
)
def test_what_columns_can_hold(kind, what):
    assert holds(kind) == what


@pytest.mark.skipif(not hasattr(pa, "list_view"), reason="an older pyarrow")
def test_list_views_hold_texts():
    assert holds(pa.list_view(pa.string())) == holds(pa.large_list_view(pa.string())) == "texts"
