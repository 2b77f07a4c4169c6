"""What sources have beside image and captions: whole, in order, and read only when it is asked for."""

from __future__ import annotations

import datetime
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.own_columns import unify
from openslip.data.record import Source
from openslip.data.sources import open_source
from openslip.data.sources.sidecars import Asked, own_fields
from openslip.data.sources.table import Table
from openslip.data.subset import Subset
from openslip.errors import DataError

NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


@pytest.fixture
def folder(tmp_path: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / name).write_bytes(jpeg)
    return tmp_path


def told(source: Source, indices: Sequence[int] | None = None) -> dict[str, list[Any]]:
    """Return the own columns; in parts, alone, and of another process they are the same."""
    everything = range(len(source)) if indices is None else indices
    table = source.columns(everything)
    assert table is not None
    assert table.num_rows == len(everything)
    for other in (source, pickle.loads(pickle.dumps(source))):
        for index, row in zip(everything, table.to_pylist()):
            alone = other.columns([index])
            assert alone is not None
            assert {name: cell for name, cell in alone.to_pylist()[0].items() if cell is not None} == {
                name: cell for name, cell in row.items() if cell is not None
            }
    return table.to_pydict()


def test_all_columns_but_image_and_captions(folder: Path) -> None:
    lines = [
        "id,image,price,caption,size,new",
        "007,a.jpg,1.5,one,L,true",
        "08,b.jpg,,two,,false",
        "9,c.jpg,2,x,M,",
    ]
    (folder / "t.csv").write_text("\n".join(lines))
    source = open_source("t.csv")
    assert told(source) == {
        "id": ["007", "08", "9"],
        "price": [1.5, None, 2.0],
        "size": ["L", None, "M"],
        "new": [True, False, None],
    }
    assert told(source, [2, 0])["id"] == ["9", "007"]
    assert source.columns_note == ""
    chosen = open_source("t.csv", caption_column="size,caption")
    assert list(told(chosen)) == ["id", "price", "new"]


def test_a_table_without_other_columns_has_none(folder: Path) -> None:
    (folder / "t.csv").write_text("image,caption,caption\na.jpg,one,two\n")
    assert open_source("t.csv").columns([0]) is None


def test_rows_that_name_one_picture(folder: Path) -> None:
    lines = ["file\tcaption\tsize\tprice", "a.jpg#0\tone\tL\t1", "b.jpg#0\ttwo\tL\t2", "a.jpg#1\tthree\tM\t1"]
    lines += ["\tnone\tX\t9", "a.jpg#2\tfour\tS\t1", "b.jpg#1\tfive\tL\t2", "c.jpg#0\tsix\tXL\t3"]
    (folder / "t.tsv").write_text("\n".join(lines) + "\n")
    source = open_source("t.tsv")
    assert len(source) == 3
    assert told(source) == {"size": ["L", "L", "XL"], "price": [1, 2, 3]}
    note = "Pictures of t.tsv whose rows differ in a column: 1, such as 'size' of a.jpg; the first row's value is taken"
    assert source.columns_note == note


def test_names_that_come_twice(folder: Path) -> None:
    (folder / "t.csv").write_text(",image,caption,size,size,\n1,a.jpg,one,L,5,\n2,b.jpg,two,M,6,\n")
    assert told(open_source("t.csv")) == {"column": [1, 2], "size": ["L", "M"], "size_2": [5, 6]}
    (folder / "t.csv").write_text("image,caption,image\na.jpg,one,a.jpg\nb.jpg,two,b.jpg\n")
    assert told(open_source("t.csv")) == {"image": ["a.jpg", "b.jpg"]}


def test_json_lines_have_types(folder: Path) -> None:
    rows = [
        {"image": "a.jpg", "captions": ["one"], "n": 1, "s": "007", "mixed": 1, "sizes": ["L", "M"]},
        {"image": "b.jpg", "captions": ["two"], "n": 2.5, "s": "", "mixed": "x", "sizes": {"ä": None}},
        {"image": "", "n": "none", "lost": 1},
        {"image": "a.jpg", "captions": ["three"], "n": 1, "sizes": ["L"]},
        {"image": "c.jpg", "captions": ["three"], "late": False, "n": None},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source("t.jsonl")
    assert told(source) == {
        "n": [1.0, 2.5, None],
        "s": ["007", "", None],
        "mixed": ["1", "x", None],
        "sizes": ['["L", "M"]', '{"ä": null}', None],
        "lost": [None, None, None],
        "late": [None, None, False],
    }
    assert "'s' of a.jpg" in source.columns_note


def test_keys_that_only_later_objects_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openslip.data.sources.sheet.HEAD", 1)
    rows = [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "two", "late": 1}]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert told(open_source("t.jsonl")) == {"late": [None, 1]}
    rows = [{"image": "a.jpg", "label": "cat"}, {"image": "b.jpg", "label": "dog", "late": 1}]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert told(open_source("labels:labels.jsonl")) == {"label": ["cat", "dog"], "late": [None, 1]}


def test_workbooks_have_types(folder: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    day, noon = datetime.datetime(2026, 11, 30), datetime.datetime(2026, 11, 30, 12)
    for row in (
        ["Foto", "Text", "code", "n", "price", "day", "time", "yes", "mixed", None],
        ["a.jpg", "one", "007", 1, 1.5, day, noon, True, 1],
        ["b.jpg", "two", "8", 2, 2, day, day, False, "x"],
        [None] * 9,
        ["c.jpg", 5, None, None, 3],
    ):
        book.active.append(row)
    book.save(folder / "t.xlsx")
    source = open_source("t.xlsx")
    assert [record.captions for record in map(source.__getitem__, range(3))] == [("one",), ("two",), ("5",)]
    assert told(source) == {
        "code": ["007", "8", None],
        "n": [1, 2, None],
        "price": [1.5, 2.0, 3.0],
        "day": [day.date(), day.date(), None],
        "time": [noon, day, None],
        "yes": [True, False, None],
        "mixed": ["1", "x", None],
    }


@pytest.mark.parametrize(
    "text",
    [
        "image,caption,n\nb.jpg,one,1\na.jpg,two,2\n",
        "image,caption,n\na.jpg,one,1\n",
        "image,caption,n\na.jpg,one,1\nb.jpg,two,2\nc.jpg,three,3\n",
        "image,caption,n\na.jpg,one,1\na.jpg,two,2\n",
    ],
)
def test_a_table_that_has_changed(folder: Path, text: str) -> None:
    (folder / "t.csv").write_text("image,caption,n\na.jpg,one,1\nb.jpg,two,2\n")
    source = open_source("t.csv")
    (folder / "t.csv").write_text(text)
    with pytest.raises(DataError, match="changed since it was opened"):
        source.columns([0])
    (folder / "t.csv").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source.columns([0])


def test_nothing_is_kept_until_columns_are_asked_for(folder: Path) -> None:
    (folder / "t.csv").write_text("image,caption,n\na.jpg,one,1\n")
    source = open_source("t.csv")
    assert isinstance(source, Table)
    assert not any(isinstance(value, pa.Table) for value in vars(source).values())
    assert source.columns([0]) is not None
    assert not any(isinstance(v, pa.Table) for v in vars(pickle.loads(pickle.dumps(source))).values())


SIDECARS: dict[str, Any] = {
    "a": {"key": "a", "captions": ["one", "two"], "attributes": {"colour": "red", "tags": ["x", 1]}, "n": 1},
    "b": {
        "key": "b",
        "captions": ["three"],
        "attributes": {"colour": None},
        "n": 2.5,
        "deep": {"a": {"b": 1}},
    },
    "c": None,
    "d": {"n": "none", "attributes": "plain", "empty": {}},
}
FIELDS = {
    "key": ["a", "b", None, None],
    "attributes.colour": ["red", None, None, None],
    "attributes.tags": ['["x", 1]', None, None, None],
    "n": ["1", "2.5", None, "none"],
    "deep.a": [None, '{"b": 1}', None, None],
    "attributes": [None, None, None, "plain"],
    "empty": [None, None, None, "{}"],
}


def test_fields_of_the_json_in_shards(tmp_path: Path, write_tar: Any, jpeg: bytes) -> None:
    members = []
    for key, found in SIDECARS.items():
        members += [(f"{key}.jpg", jpeg), (f"{key}.txt", b"a text")]
        members += [(f"{key}.json", json.dumps(found).encode() if found else b'{"captions": ')]
    write_tar(tmp_path / "s-0.tar", members[:6])
    write_tar(tmp_path / "s-1.tar", members[6:])
    source = open_source(str(tmp_path / "s-*.tar"))
    table = source.columns(range(4))
    assert table is not None
    assert table.to_pydict() == FIELDS
    parts = [source.columns([index]) for index in range(4)]
    assert unify([part for part in parts if part is not None]).to_pydict() == FIELDS
    assert pickle.loads(pickle.dumps(source)).columns([3, 0]).to_pydict()["n"] == ["none", "1"]
    with pytest.raises(DataError, match="caption cannot be read"):
        source[2]


def test_fields_of_the_json_in_folders(folder: Path) -> None:
    for key, found in SIDECARS.items():
        (folder / f"{key}.json").write_text(json.dumps(found) if found else '{"n": ')
    (folder / "e.jpg").write_bytes(b"")
    source = open_source(".")
    table = source.columns(range(5))
    assert table is not None
    assert table.slice(0, 4).to_pydict() == FIELDS
    assert set(table.to_pylist()[4].values()) == {None}
    (folder / "a.json").unlink()  # since it was opened
    assert source.columns([0, 1]).to_pydict()["key"] == [None, "b"]  # type: ignore[union-attr]


def test_no_json_no_columns(folder: Path, write_tar: Any, jpeg: bytes) -> None:
    (folder / "a.txt").write_text("one")
    assert open_source("*.jpg").columns([0, 1]) is None
    write_tar(folder / "s.tar", [("1.jpg", jpeg), ("1.txt", b"one")])
    assert open_source("s.tar").columns([0]) is None


@pytest.mark.parametrize(
    ("option", "text", "found", "expected"),
    [
        ("", None, {"caption": "x", "Title": "y"}, {"Title": "y"}),
        ("", "x", {"caption": "x", "url": "u"}, {"url": "u"}),
        ("", "x", {"caption": "other", "captions": []}, {"caption": "other"}),
        ("", "x", {"captions": ["y"], "title": "x"}, {"title": "x"}),
        ("", None, {"caption_0": "a", "caption_1": "b", "n": 0}, {"n": 0}),
        ("title", None, {"TITLE": "x", "caption": "y"}, {"caption": "y"}),
        ("title", None, {"TITLE": "x", "title": "y"}, {"TITLE": "x"}),
        ("meta.alt", None, {"meta": {"ALT": "x", "id": 5}}, {"meta.id": 5}),
        ("a,b", None, {"a": "x", "b": "y", "c": "z"}, {"c": "z"}),
        ("", None, {"a.b": 1, "a": {"b": 2}}, {"a.b": 1, "a.b_2": 2}),
        ("", None, {"captions": [{"text": "x"}]}, {"captions": [{"text": "x"}]}),
        ("", None, ["a", "b"], {}),
        ("", None, 5, {}),
    ],
)
def test_what_is_no_caption(option: str, text: str | None, found: Any, expected: dict[str, Any]) -> None:
    beside = json.dumps(found).encode(), None if text is None else text.encode()
    assert own_fields(*beside, Asked.parse(option)) == expected


def test_fields_of_nothing() -> None:
    assert own_fields(None, b"x") == own_fields(b"{", None) == own_fields(b"\xff", None) == {}


def parquet(path: Path, columns: dict[str, Any], rows: int = 2) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=rows)


def test_other_columns_of_parquet(tmp_path: Path) -> None:
    nested = pa.array([{"a": [1]}, {"a": []}, None], pa.struct({"a": pa.list_(pa.int8())}))
    common = {"image": [b"\xff\xd8 1", b"\xff\xd8 2", b"\xff\xd8 3"], "caption": ["x", "y", "z"]}
    parquet(tmp_path / "t-0.parquet", {**common, "n": pa.array([1, 2, 3], pa.int8()), "nested": nested})
    more = {
        "thumbnail": [b"a", b"b", b"c"],
        "pages": [[b"a"], [], None],
        "n": [0.5, None, 1.0],
        "id.x": [*"abc"],
    }
    parquet(tmp_path / "t-1.parquet", common | more)
    source = open_source(str(tmp_path / "t-*.parquet"))
    assert told(source) == {
        "n": [1.0, 2.0, 3.0, 0.5, None, 1.0],
        "nested": [{"a": [1]}, {"a": []}, None, None, None, None],
        "id.x": [None, None, None, "a", "b", "c"],
    }
    assert source.columns([0, 2]).schema.field("n").type == pa.int8()  # type: ignore[union-attr]
    assert told(source, [5, 0, 4])["n"] == [1.0, 1.0, None]
    assert "that hold bytes are left out: 'thumbnail', 'pages'" in source.columns_note
    assert source.file(0) is None


def test_parquet_without_other_columns(tmp_path: Path) -> None:
    parquet(tmp_path / "t.parquet", {"image": [b"\xff\xd8", b"\xff\xd8"], "caption": ["x", "y"]})
    source = open_source(str(tmp_path / "t.parquet"))
    assert (source.columns([]), source.columns([0, 1]), source.columns_note) == (None, None, "")


def test_columns_of_parquet_that_share_a_name(tmp_path: Path) -> None:
    cells = [[b"\xff\xd8"], ["x"], [1], [2], [3]]
    pq.write_table(pa.table(cells, ["image", "caption", "n", "n", "m"]), tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"))
    assert told(source) == {"m": [3]}
    assert "that share a name are left out: 'n'" in source.columns_note


def test_cells_of_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    values = [f"value {i:03}" * 40 for i in range(6)]
    columns = {"image": [b"\xff\xd8"] * 6, "caption": ["x"] * 6, "a": values, "b": list(range(6))}
    pq.write_table(
        pa.table(columns), tmp_path / "t.parquet", row_group_size=2, compression="none", use_dictionary=False,
        write_page_checksum=True,
    )  # fmt: skip
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data.replace(values[3][:200].encode(), b"!" * 200))
    source = open_source(str(tmp_path / "t.parquet"))
    assert source.columns(range(6)).to_pydict()["b"] == [0, 1, None, None, 4, 5]  # type: ignore[union-attr]
    assert "cannot be read are empty, in 2 rows" in source.columns_note


def test_texts_of_parquet_that_are_none(tmp_path: Path) -> None:
    table = pa.table(
        {"image": [b"\xff\xd8"] * 2, "caption": ["x"] * 2, "a": [b"ok", b"\xff\xfe"], "b": [1, 2]}
    )
    text = pa.StringArray.from_buffers(2, *table["a"].chunk(0).buffers()[1:])  # type: ignore[arg-type]
    table = table.set_column(2, "a", text)
    pq.write_table(table, tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"))
    assert source.columns([0, 1]).to_pydict() == {"b": [1, 2]}  # type: ignore[union-attr]
    assert "cannot be read are empty" in source.columns_note


def test_parquet_that_names_files(folder: Path) -> None:
    rows = {"path": ["a.jpg", "", "b.jpg", "a.jpg", "c.jpg"], "caption": [*"vwxyz"], "n": [1, 2, 3, 4, 5]}
    parquet(folder / "t.parquet", rows)
    source = open_source("t.parquet")
    assert told(source) == {"n": [1, 3, 5]}
    assert told(source, [2, 0]) == {"n": [5, 1]}
    assert (
        source.columns_note
        == "Where several rows of t.parquet name one picture, the columns of the first row are taken"
    )
    parquet(folder / "t.parquet", {name: cells[2:3] + cells[4:] for name, cells in rows.items()})
    plain = open_source("t.parquet")
    assert (told(plain), plain.columns_note) == ({"n": [3, 5]}, "")


def test_sets_of_the_datasets_library(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from openslip.data.sources.huggingface import HubDataset

    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "n": datasets.Value("int16"),
            "thumb": datasets.Image(),
        }
    )
    rows: dict[str, list[Any]] = {
        "image": ["a.jpg", {"bytes": b"\xff\xd8", "path": None}, "d.jpg", "gone.jpg"],
        "text": [*"wxyz"], "label": [0, 1, 1, 0], "n": [1, None, 3, 4], "thumb": ["a.jpg"] * 4,
    }  # fmt: skip
    for row in range(4):
        if isinstance(rows["image"][row], str):
            rows["image"][row] = {"bytes": None, "path": str(folder / rows["image"][row])}
    dataset = datasets.Dataset.from_dict(rows, features)
    source = HubDataset(dataset, name="pets", image_column="image")
    assert told(source) == {"label": [0, 1, 1, 0], "n": [1, None, 3, 4]}
    assert source.columns([1, 0]).schema.field("n").type == pa.int16()  # type: ignore[union-attr]
    assert source.columns_note == "Columns of pets that hold bytes are left out: 'thumb'"
    shuffled = HubDataset(dataset.select([2, 0, 1]), name="pets", image_column="image")
    assert told(shuffled) == {"label": [1, 0, 1], "n": [3, 1, None]}
    files = [source.file(index) for index in range(3)]
    assert [None if found is None else found.path for found in files] == [
        str(folder / "a.jpg"),
        None,
        str(folder / "d.jpg"),
    ]
    for index in (0, 2):
        record, found = source[index], files[index]
        assert found is not None
        assert (record.image, record.captions, record.key) == (
            Path(found.path).read_bytes(),
            found.captions,
            found.key,
        )
    for ask in (source.file, source.__getitem__):
        with pytest.raises(DataError, match=r"does not exist.*gone\.jpg"):
            ask(3)
    alone = HubDataset(dataset.select_columns(["image", "text"]), name="pets", image_column="image")
    assert (alone.columns([0]), alone.columns_note) == (None, "")
    paths = datasets.Dataset.from_dict({"path": ["a.jpg"], "text": ["x"]})
    assert HubDataset(paths, name="pets", image_root=str(folder)).file(0).path == str(folder / "a.jpg")  # type: ignore[union-attr]


def test_annotation_files(folder: Path, jpeg: bytes) -> None:
    images = [
        {"id": 7, "file_name": "a.jpg", "width": 640, "license": {"id": 1}},
        {"id": "x", "file_name": " "},
        {"id": 8, "file_name": "b.jpg", "width": 480, "coco_url": "https://example.org/b.jpg"},
        {"id": "7.", "file_name": "a.jpg", "width": 320},
        {"id": 7, "file_name": "a.jpg", "width": 1},
    ]
    coco = {"images": images, "annotations": [{"id": 1, "image_id": 8, "caption": "x"}]}
    (folder / "coco.json").write_text(json.dumps(coco))
    source = open_source("coco.json")
    assert told(source) == {
        "id": [7, 8],
        "width": [640, 480],
        "license": ['{"id": 1}', None],
        "coco_url": [None, "https://example.org/b.jpg"],
    }
    assert "'id' of a.jpg" in source.columns_note
    (folder / "images" / "cats").mkdir(parents=True)
    for name in ("x1", "x2"):
        (folder / "images" / "cats" / f"{name}.jpg").write_bytes(jpeg)
    annotations = [
        {"image_id": "x1", "subreddit": "cats", "caption": "a cat", "raw_caption": "A CAT", "score": 3},
        {"image_id": "x2", "subreddit": ["cats", "pets"], "caption": None, "raw_caption": "Cat"},
    ]
    (folder / "redcaps.json").write_text(json.dumps({"annotations": annotations}))
    assert told(open_source("redcaps.json")) == {
        "image_id": ["x1", "x2"],
        "subreddit": ["cats", '["cats", "pets"]'],
        "raw_caption": ["A CAT", None],
        "score": [3, None],
    }
    entries = [{"image_id": "a", "captions": ["x"], "n": 1}, {"image_id": "b", "captions": ["y"], "n": 2.5}]
    np.save(folder / "cc.npy", np.array(entries, dtype=object))
    assert told(open_source("cc.npy")) == {"n": [1.0, 2.5]}
    assert open_source("scenes:test:3").columns([0]) is None


def test_mixtures_and_subsets(folder: Path) -> None:
    (folder / "t.csv").write_text("image,caption,n,size\na.jpg,one,1,L\nb.jpg,two,2,M\n")
    (folder / "u.jsonl").write_text('{"image": "c.jpg", "caption": "x", "n": 2.5, "size": 7}\n')
    mixed = open_source("t.csv + 0.5 * scenes:test:2 + u.jsonl")
    for source, indices in ((mixed, range(5)), (Subset(mixed, [0, 3]), range(3)), (mixed, [4, 2, 0])):
        whole = [source.whole_index(index) for index in indices]
        table = pickle.loads(pickle.dumps(source)).columns(indices)
        assert table.to_pydict() == {
            "n": [[1.0, 2.0, None, None, 2.5][index] for index in whole],
            "size": [["L", "M", None, None, "7"][index] for index in whole],
        }
    assert mixed.columns([0, 1]).schema.field("n").type == pa.int64()  # type: ignore[union-attr]
    assert mixed.columns([2]) is None


def test_columns_beside_labels(folder: Path, write_tar: Any, jpeg: bytes) -> None:
    rows = [
        "image,label,n,split",
        "a.jpg,cat,1,train",
        ",cat,9,train",
        "b.jpg,dog,2,train",
        "a.jpg,cat,3,train",
    ]
    (folder / "t.csv").write_text("\n".join([*rows, "c.jpg,dog,4,test", "d.jpg,cat,5,train"]))
    assert told(open_source("labels:t.csv")) == {
        "label": ["cat", "dog", "cat"],
        "n": [1, 2, 5],
        "split": ["train"] * 3,
    }
    (folder / "set").mkdir()
    for name, cells in {"train-1.csv": "a.jpg,cat,7\nb.jpg,dog,8", "train-2.csv": "c.jpg,cat,0.5"}.items():
        (folder / "set" / name).write_text(f"image,label,n\n../{cells.replace(chr(10), chr(10) + '../')}\n")
    source = open_source("labels:set/*.csv")
    assert source.columns(range(3)).to_pydict()["n"] == [7.0, 8.0, 0.5]  # type: ignore[union-attr]
    named = {
        "path": ["a.jpg", "b.jpg", "c.jpg"],
        "label": ["cat", "dog", None],
        "n": [1, 2, 3],
        "x": [b"", b"", b""],
    }
    parquet(folder / "p.parquet", named)
    source = open_source("labels:p.parquet")
    assert told(source) == {"label": ["cat", "dog"], "n": [1, 2]}
    assert "left out: 'x'" in source.columns_note
    parquet(folder / "b.parquet", {"image": [jpeg] * 2, "label": ["cat", "dog"], "n": [1, 2]})
    source = open_source("labels:b.parquet")
    assert (told(source), source.columns_note) == ({"label": ["cat", "dog"], "n": [1, 2]}, "")
    found = {"1": {"label": "cat", "n": 1}, "2": {"label": "dog", "n": 2}}
    members = [(f"{key}.{end}", data) for key, fields in found.items()
               for end, data in (("jpg", jpeg), ("json", json.dumps(fields).encode()))]  # fmt: skip
    write_tar(folder / "s.tar", members)
    assert told(open_source("labels:s.tar")) == {"n": [1, 2]}  # the label is the class, as a caption would be
    (folder / "k" / "cat").mkdir(parents=True)
    (folder / "k" / "dog").mkdir()
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (folder / "k" / name).write_bytes(jpeg)
    assert open_source("labels:k").columns([0, 1]) is None
