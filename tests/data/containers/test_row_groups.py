"""Random access to the rows of Parquet files; what goes wrong with them."""

from __future__ import annotations

import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.containers import parquet_group, row_groups
from openslip.data.containers.pages import chunk_of, weigh
from openslip.data.containers.row_groups import RowGroups, holds
from openslip.data.storage import retry
from openslip.errors import DataError


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
        assert rows.key(index) == places[index]
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
    with pytest.raises(DataError, match=r"'text' of .*b\.parquet holds something else than in .*a\.parquet"):
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


def bomb(path, *, nested=False, rows=1000, size=20_000):
    """A file of a few hundred bytes: one text, by dictionary in every row."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size])).cast(
        pa.string()
    )
    if nested:
        texts = pa.ListArray.from_arrays([0, rows], texts)
    pq.write_table(pa.table({"text": texts}), path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    return str(path)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("far", [False, True])
def test_a_dictionary_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, nested, far):
    monkeypatch.setattr(parquet_group, "TABLE_BYTES", 10_000_000)
    monkeypatch.setattr(parquet_group, "LARGE", 1_000_000)
    monkeypatch.setattr(row_groups, "TABLE_BYTES", 10_000_000)
    monkeypatch.setattr(row_groups, "GROWTH", 1)
    path = bomb(tmp_path / "a.parquet", nested=nested)
    rows = RowGroups([f"file://{path}" if far else path], ["text"])
    assert rows.total < 100_000  # says the footer
    with pytest.raises(DataError, match="Row group 0 of .* takes too much"):
        rows[0]
    with pytest.raises(DataError, match="takes too much"):
        list(rows.scan())


@pytest.mark.parametrize("nested", [False, True])
def test_a_dictionary_that_could_be_too_large_and_is_not(tmp_path, monkeypatch, nested):
    monkeypatch.setattr(parquet_group, "TABLE_BYTES", 1_000_000)
    monkeypatch.setattr(parquet_group, "LARGE", 100_000)
    texts = ["x" * 10_000, *(f"text {i}" for i in range(999))]
    values = [[text, text[:3]] for text in texts] if nested else texts
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    rows = RowGroups([str(tmp_path / "a.parquet")], ["text"])
    assert [rows[i][0] for i in (0, 1, 999)] == [values[0], values[1], values[999]]
    assert [value for (value,) in rows.scan()] == values


def test_texts_spelled_by_those_before_them(tmp_path, monkeypatch):
    path, texts = str(tmp_path / "a.parquet"), ["x" * (i + 1) for i in range(300)]
    pq.write_table(
        pa.table({"text": texts}), path, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}
    )
    monkeypatch.setattr(parquet_group, "TABLE_BYTES", 60_000)
    monkeypatch.setattr(parquet_group, "LARGE", 5000)
    rows = RowGroups([path], ["text"])
    assert rows[299] == (texts[299],)
    assert list(rows.scan()) == [(text,) for text in texts]
    monkeypatch.setattr(parquet_group, "TABLE_BYTES", 30_000)
    with pytest.raises(DataError, match="takes too much"):
        RowGroups([path], ["text"])[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b"text", b"\xffext"),
        lambda content: content[: content.rindex(b"PAR1") - 4] + b"\xff\xff\xff\xffPAR1",
    ],
)
def test_damaged_footers(tmp_path, change):
    path = write(tmp_path / "a.parquet", 0, 3, 2)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(change(content))
    with pytest.raises(DataError, match="readable"):
        RowGroups([path], ["text"])


def test_a_footer_that_would_end_the_process(tmp_path):
    """pyarrow writes histograms of levels; one of another length is an exception where nothing catches it."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [["a"], ["b", "c"]]}), path)
    content, refused = path.read_bytes(), 0
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for at in range(footer, len(content) - 8):
        if content[at] & 15 == 6 and content[at] >> 4 in (3, 4):  # the head of a list of so many numbers
            path.write_bytes(content[:at] + bytes([content[at] - 16]) + content[at + 1 :])
            try:
                RowGroups([str(path)], ["text"])
            except DataError:
                refused += 1
    assert refused


def test_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no regular file"):
        RowGroups([str(tmp_path / "a.parquet")], ["text"])


def test_two_columns_of_one_name(tmp_path):
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns that are called 'text'"):
        RowGroups([str(tmp_path / "a.parquet")], ["text"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.none() | st.text(max_size=8), min_size=1, max_size=30),
    st.sampled_from(["none", "zstd", "snappy"]),
    st.sampled_from(["1.0", "2.0"]),
    st.booleans(),
)
def test_what_pages_weigh(tmp_path_factory, texts, compression, version, dictionary):
    path = tmp_path_factory.mktemp("pages") / "a.parquet"
    pq.write_table(
        pa.table({"text": texts, "number": range(len(texts))}),
        path,
        compression=compression,
        data_page_version=version,
        use_dictionary=dictionary,
        data_page_size=20,
        write_batch_size=3,
    )
    content, file = path.read_bytes(), pq.ParquetFile(path)
    weight = weigh(
        lambda offset, size: content[offset : offset + size], [chunk_of(file.metadata, 0, i) for i in (0, 1)]
    )
    assert sum(len((text or "").encode()) for text in texts) + 8 * len(texts) <= weight.most
    assert weight.value <= sum(len((text or "").encode()) + 12 for text in texts) + 100


def test_all_broken_files_are_named(tmp_path):
    files = [write(tmp_path / f"{n}.parquet", 0, 3, 2) for n in range(4)]
    for n in (1, 3):
        (tmp_path / f"{n}.parquet").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"2 of 4 Parquet files.*1\.parquet, 3\.parquet"):
        RowGroups(files, ["text"])


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
