"""YFCC15M as its users keep it: metadata in a pickle or Parquet, images in zips by index."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.record import Record
from openslip.data.sources import yfcc
from openslip.data.sources.yfcc import (
    Yfcc,
    convert_metadata,
    is_yfcc,
    read_metadata,
    write_metadata,
    zip_member,
)
from openslip.errors import DataError

ROWS = [
    (12345678, " A title ", "What is\nseen"),
    (12345679, "", "only a description"),
    (42, "only a title", " "),
    (99999999, "", ""),
    (12345999, "é 鳥", "half \ud83d"),
]
CAPTIONS = [
    ("A title", "What is\nseen"),
    ("only a description",),
    ("only a title",),
    (),
    ("é 鳥", "half ?"),
]


def fill(root, compression, jpeg):
    """Write the zips of the rows, each image with its index at the end."""
    for index, *_ in ROWS:
        digits = f"{index:08}"
        folder = root / "images" / digits[:2]
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / f"{digits[2:5]}.zip", "a", compression) as archive:
            archive.writestr(f"{digits[5:]}.jpg", jpeg + digits.encode())


@pytest.fixture
def metadata(tmp_path, jpeg):
    """Write metadata and images; return the metadata's path."""

    def write(rows=ROWS, folder=".", protocol=4, compression=zipfile.ZIP_STORED):
        if not (tmp_path / folder / "images").exists():
            fill(tmp_path / folder, compression, jpeg)
        path = tmp_path / "meta" / "yfcc15m.pkl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(rows, protocol))
        return path

    return write


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("protocol", range(6))
def test_records(metadata, jpeg, protocol, compression):
    path = metadata(protocol=protocol, compression=compression)
    source = Yfcc(path)
    digits = [f"{index:08}" for index, *_ in ROWS]
    expected = [Record(jpeg + d.encode(), c, d, str(path)) for d, c in zip(digits, CAPTIONS)]
    assert [source[i] for i in range(len(source))] == expected
    assert (len(source), source.name, source.block) == (5, str(path), 1)
    assert source[-1] == source[4]
    with pytest.raises(IndexError):
        source[5]


def test_place_is_the_index_in_three_parts():
    assert zip_member(12345678) == ("images/12/345.zip", "678.jpg")
    assert zip_member(42) == ("images/00/000.zip", "042.jpg")


@pytest.mark.parametrize("folder", [".", "meta", "yfcc100m", "meta/yfcc15m"])
def test_finds_the_images_and_says_so(metadata, tmp_path, folder):
    source = Yfcc(metadata(folder=folder))
    assert os.path.realpath(source.root) == os.path.realpath(tmp_path / folder)
    assert source.note.startswith("Images of ")
    assert source.note.endswith("images (guessed).")


@pytest.mark.parametrize("root", ["far/away", "far/away/images"])
def test_image_root(metadata, tmp_path, root):
    source = Yfcc(metadata(folder="far/away"), image_root=str(tmp_path / root))
    assert source[0].key == "12345678"
    assert source.note == ""


def test_images_nowhere(metadata, tmp_path):
    path = metadata(folder="far/away")
    with pytest.raises(DataError, match=r"meta/images/12/345\.zip.*--data\.image-root"):
        Yfcc(path)
    with pytest.raises(DataError, match=r"wrong/images/12/345\.zip"):
        Yfcc(path, image_root=str(tmp_path / "wrong"))


def test_what_is_missing_or_damaged_is_one_record(metadata, tmp_path):
    rows = [*ROWS, (12345000, "not in its zip", ""), (55555555, "no zip", "")]
    source = Yfcc(metadata(rows))
    with pytest.raises(DataError, match=r"no member '000\.jpg'"):
        source[5]
    with pytest.raises(DataError, match=r"does not exist.*55/555\.zip"):
        source[6]
    (tmp_path / "images" / "00" / "000.zip").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"cannot be read.*00/000\.zip"):
        source[2]
    assert source[0].captions == CAPTIONS[0]


def test_indices_alone_are_images_without_captions(metadata):
    source = Yfcc(metadata([index for index, *_ in ROWS]))
    assert [(record.key, record.captions) for record in source][:2] == [("12345678", ()), ("12345679", ())]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "list no images"),
        ([ROWS[0], (1, "two"), 1.5], r"Entry 1 .*\(1, 'two'\)"),
        ([(10**5000, "a", "b")], "Entry 0.*too long to be shown"),
        ([(123456789, "a", "b")], "at most 8 digits"),
        ([(-1, "a", "b")], "Entry 0"),
        ([("12345678", "a", "b")], "Entry 0"),
        ([(1, ["a"], "b")], "Entry 0"),
        ([{"index": 1, "title": "a" * 5000}], "Entry 0"),
        ({"a": 1}, "holds a dict"),
    ],
)
def test_other_metadata(metadata, rows, message):
    with pytest.raises(DataError, match=f"(?s){message}") as error:
        Yfcc(metadata(rows))
    assert len(str(error.value)) < 1000


def test_harmful_metadata(metadata, tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'ran'}'",)

    with pytest.raises(DataError, match="nothing of it was executed"):
        Yfcc(metadata([(1, "a", "b"), Harmful()]))
    assert not (tmp_path / "ran").exists()


def test_parquet_gives_the_same_records(metadata, monkeypatch):
    monkeypatch.setattr(yfcc, "ROWS", 2)  # several row groups
    path = metadata()
    parquet = path.with_suffix(".parquet")
    assert convert_metadata(path, parquet) == 5
    assert pq.ParquetFile(parquet).num_row_groups == 3
    assert pq.read_table(parquet).column_names == ["index", "title", "description"]
    pickled, columns = Yfcc(path), Yfcc(parquet)
    assert [(r.image, r.captions, r.key) for r in columns] == [(r.image, r.captions, r.key) for r in pickled]
    assert sorted(f.name for f in path.parent.iterdir()) == ["yfcc15m.parquet", "yfcc15m.pkl"]


def test_a_conversion_that_fails_leaves_what_was_there(metadata, monkeypatch):
    monkeypatch.setattr(yfcc, "ROWS", 2)
    path = metadata()
    parquet = path.with_suffix(".parquet")
    convert_metadata(path, parquet)
    before = parquet.read_bytes()
    with pytest.raises(DataError, match="Entry 5"):
        convert_metadata(metadata([*ROWS, "wrong"]), parquet)
    assert parquet.read_bytes() == before
    assert sorted(f.name for f in path.parent.iterdir()) == ["yfcc15m.parquet", "yfcc15m.pkl"]
    with pytest.raises(DataError, match="cannot be written"):
        write_metadata([(1, "a", "b")], path.parent / "none" / "a.parquet")
    with pytest.raises(DataError, match="not one image"):
        write_metadata([], parquet)
    assert parquet.read_bytes() == before
    with pytest.raises(DataError, match="not one image"):
        write_metadata([], path.parent / "new.parquet")
    assert sorted(f.name for f in path.parent.iterdir()) == ["yfcc15m.parquet", "yfcc15m.pkl"]


def test_parquet_of_other_writers(tmp_path):
    table = pa.table(
        {
            "description": ["b", None],
            "other": [1, 2],
            "index": pa.array([7, 8], pa.int64()),
            "title": [None, "a"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_metadata(tmp_path / "a.parquet")) == [(7, "", "b"), (8, "a", "")]
    pq.write_table(table.drop_columns("title"), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="lack the column 'title'.*description, other, index"):
        list(read_metadata(tmp_path / "a.parquet"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet"])
def test_damaged_parquet(tmp_path, content):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_metadata(path))


def test_parquet_cut_off(metadata):
    path = metadata()
    parquet = path.with_suffix(".parquet")
    convert_metadata(path, parquet)
    parquet.write_bytes(parquet.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        Yfcc(parquet)


def test_read_in_another_process(metadata):
    source = Yfcc(metadata())
    expected = [source[4], source[0]]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[4], copy[0]] == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(source.__getitem__, [4, 0]) == expected


def test_memory_a_record(metadata):
    count = 2000
    source = Yfcc(metadata([(12345678, "title", "text")] * count))
    assert len(pickle.dumps(source)) < (20 + len("titletext")) * count + 2000


def test_is_yfcc(metadata, tmp_path):
    path = metadata()
    convert_metadata(path, path.with_suffix(".parquet"))
    assert is_yfcc(path)
    assert is_yfcc(path.with_suffix(".parquet"))
    pq.write_table(pa.table({"title": ["a"], "image": [b"b"]}), tmp_path / "other.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    for name in ("other.parquet", "damaged.parquet", "none.parquet", "a.json"):
        assert not is_yfcc(tmp_path / name)


def test_what_is_not_used_is_said(metadata):
    source = Yfcc(metadata([*ROWS, (1, "two"), (42, "again", "")]))
    assert source.contents is not None
    assert (len(source), source.contents.seen, source.contents.used) == (6, 7, 6)
    assert source.contents.left_out["the entry is not (index, title, description)"].count == 1
    assert "1 entries are of images listed before: each entry is a record of its own" in source.note
    with pytest.raises(DataError, match="Entry 5"):  # what is converted is whole
        list(read_metadata(metadata([*ROWS, (1, "two")])))


def test_a_text_that_is_named_over_and_over(metadata, monkeypatch):
    monkeypatch.setattr("openslip.data.sources.entries.MEMORY", 1_000_000)
    text = "x" * 10_000
    with pytest.raises(DataError, match="takes too much"):
        Yfcc(metadata([(i, text, text) for i in range(100)]))


def test_damaged_names_in_a_footer_are_not_yfcc(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"caption": ["a"]}), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"caption", b"\xffaption"))
    assert not is_yfcc(path)
