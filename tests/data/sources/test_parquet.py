"""Parquet in the layouts that people have: as hubs store it, plain bytes, paths; columns guessed and chosen."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.sources import parquet
from openslip.data.sources.parquet import ParquetPaths, ParquetTable, open_parquet
from openslip.errors import DataError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(start, count):
    """Distinct byte strings in the place of encoded images, which nothing here decodes."""
    return [b"\xff\xd8 image %d" % i for i in range(start, start + count)]


def structs(start, count):
    return pa.array([{"bytes": b, "path": f"{i}.jpg"} for i, b in enumerate(images(start, count))], IMAGE)


def write(path, columns, features=None, group=4):
    """Write a file as the `datasets` library lays it out, with the columns' types in the schema."""
    table = pa.table(columns)
    if features:
        info = {"info": {"features": {name: {"_type": kind} for name, kind in features.items()}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(info).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def pairs(source):
    return [(record.key, record.captions) for record in source]


def test_a_hub_layout_of_several_files(tmp_path):
    features = {"image": "Image", "caption": "Value"}
    files = [
        write(
            tmp_path / f"data/train-0000{n}-of-00002.parquet",
            {"id": ["x"] * 6, "image": structs(6 * n, 6), "caption": [f" {6 * n + i}\n" for i in range(6)]},
            features,
        )
        for n in range(2)
    ]
    source = open_parquet([files[1], files[0]], name="pairs")
    assert isinstance(source, ParquetTable)
    assert (len(source), source.name) == (12, "pairs")
    assert [record.image for record in source] == images(0, 12)
    assert [record.captions for record in source] == [(str(i),) for i in range(12)]
    assert source[7].key == "train-00001-of-00002.parquet:1"
    assert source[7].source == "pairs"
    assert source[-1].image == images(11, 1)[0]
    assert source.note == "Columns of pairs: image from 'image', caption from 'caption' (guessed)"
    assert pairs(pickle.loads(pickle.dumps(source))) == pairs(source)
    with pytest.raises(IndexError):
        source[12]


def test_columns_are_guessed_by_type_then_by_name(tmp_path):
    plain = pa.array(images(0, 2), pa.large_binary())

    def guess(columns, features=None, **options):
        return open_parquet(write(tmp_path / "t.parquet", columns, features), **options).chosen

    text = {"caption": ["a", "b"]}
    assert guess({"zebra": plain} | text).image == "zebra"  # the only column of bytes
    assert guess({"mask": plain, "IMG": plain} | text).image == "IMG"  # a known name
    assert guess({"image": plain, "scan": structs(0, 2)} | text, {"scan": "Image"}).image == "scan"  # marked
    both = {"mask": structs(0, 2), "image": structs(0, 2)} | text
    assert guess(both, {"mask": "Image", "image": "Image"}).image == "image"
    assert guess({"path": ["a", "b"], "jpg": plain} | text).image == "jpg"  # bytes before paths
    assert guess({"jpg": plain, "text": [1, 2], "title": ["x", "y"]}).captions == ("title",)  # text only
    many = {"image": plain, "caption_0": ["a", "b"], "caption_1": ["c", "d"], "note": ["e", "f"]}
    assert guess(many).captions == ("caption_0", "caption_1")
    assert guess(many, caption_column="note,caption_1").captions == ("note", "caption_1")
    assert guess(both, image_column="mask").image == "mask"
    with pytest.raises(DataError, match=r"Several columns of .*t\.parquet may be the image.*mask, photos"):
        guess({"mask": plain, "photos": plain} | text)
    with pytest.raises(DataError, match="no column 'imgae'.*Did you mean 'image'"):
        guess(both, image_column="imgae")
    with pytest.raises(DataError, match=r"'n' of .* holds no images, nor paths of images\. Got: 'int64'"):
        guess({"n": [1, 2]} | text, image_column="n")
    with pytest.raises(DataError, match="'n' of .* holds no captions"):
        guess({"jpg": plain, "n": [1, 2]}, caption_column="n")


def test_columns_are_looked_at_where_their_names_do_not_tell(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    plain, hashes = pa.array([jpeg, jpeg], pa.binary()), pa.array([b"12345678", b"x2345678"], pa.binary())
    paths, text = pa.array(["a.jpg", "a.jpg"]), {"caption": ["a", "b"]}

    def guess(columns, **options):
        return open_parquet(write(tmp_path / "t.parquet", columns | text), **options).chosen

    assert guess({"image": paths, "phash": hashes}).image == "image"
    assert guess({"phash": hashes, "path": paths}).image == "path"
    assert guess({"path": paths, "content": plain}).image == "content"
    assert guess({"phash": hashes, "content": plain}).image == "content"
    assert guess({"image": hashes, "content": plain}).image == "content"
    assert guess({"image": hashes, "file": paths}).image == "file"
    numbers = guess({"image": pa.array(["0", "1"]), "image_path": paths})
    assert (numbers.image, numbers.among) == ("image_path", ("image_path", "image"))
    with pytest.raises(DataError, match=r"No column of .* looks like the image.*phash \(binary\)"):
        guess({"phash": hashes})


def test_two_columns_of_one_name(tmp_path, jpeg):
    table = pa.table([pa.array([jpeg]), pa.array(["x"]), pa.array(["y"])], ["image", "caption", "caption"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="several columns called 'caption'"):
        open_parquet(tmp_path / "t.parquet")


@pytest.mark.parametrize("form", ["text", "bytes", "data URI"])
def test_pictures_written_as_text_are_refused_in_few_words(tmp_path, jpeg, form):
    text = base64.b64encode(jpeg * 9)
    cell = {"text": text.decode(), "bytes": text, "data URI": "data:image/jpeg;base64," + text.decode()}[form]
    path = write(tmp_path / "t.parquet", {"image": pa.array([cell]), "caption": ["a"]})
    with pytest.raises(DataError, match="'image' of .* holds pictures written as text, in base64") as error:
        open_parquet(path)
    assert len(str(error.value)) < 700


def test_structs_that_only_name_the_file(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    image = pa.array([{"path": "a.jpg"}, {"path": "a.jpg"}, None])
    source = open_parquet(write(tmp_path / "t.parquet", {"image": image, "caption": ["x", "y", "z"]}))
    assert isinstance(source, ParquetPaths)
    assert pairs([source[0]]) == [("a.jpg", ("x", "y"))]
    assert (len(source), source.contents.reasons()) == (
        1,
        ["1 × the row names no image, for example row 2"],
    )


def test_objects_as_captions(tmp_path):
    told = pa.array([[{"text": "a", "n": 1}, {"text": "b", "n": 2}], None])
    path = write(tmp_path / "t.parquet", {"image": structs(0, 2), "captions": told})
    source = open_parquet(path)
    assert [record.captions for record in source] == [("a", "b"), ()]
    assert source.note.endswith(
        "caption from 'captions.text' (guessed). The cells of 'captions' are objects with 'text', 'n'"
    )
    told = pa.array([{"en": "a", "de": "b"}, {"en": None, "de": "c"}])
    path = write(tmp_path / "t.parquet", {"image": structs(0, 2), "captions": told, "alt": ["x", "y"]})
    assert open_parquet(path).chosen.captions == ("alt",)
    assert [r.captions for r in open_parquet(path, caption_column="captions.de")] == [("b",), ("c",)]
    for asked, message in (("captions", "not texts"), ("captions.fr", "without a key 'fr'")):
        with pytest.raises(
            DataError, match=f"'captions' of .* holds objects, {message}.*'en', 'de'.*captions.en"
        ):
            open_parquet(path, caption_column=asked)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([["a", " ", "b "], [], None, ["c", None]]), [("a", "b"), (), (), ("c",)]),
        (pa.array([["a"], None, [], ["c"]], pa.large_list(pa.large_string())), [("a",), (), (), ("c",)]),
        (pa.array(["a", None, "", "c"]), [("a",), (), (), ("c",)]),
        (pa.array(["a", None, "a", "c"]).dictionary_encode(), [("a",), (), ("a",), ("c",)]),
        (pa.nulls(4), [()] * 4),
        (
            pa.array([["a", "b"], None, [" ", None], ["c", ""]], pa.list_(pa.string(), 2)),
            [("a", "b"), (), (), ("c",)],
        ),
        (pa.array([[["a"], ["b"]], None, [], [["c"]]]), [("a", "b"), (), (), ("c",)]),
        (pa.array(['["a", "b"]', None, "&nbsp;", "c"], pa.large_string()), [("a", "b"), (), (), ("c",)]),
    ],
)
def test_captions(tmp_path, column, expected):
    path = write(tmp_path / "t.parquet", {"image": structs(0, 4), "caption": column}, group=3)
    source = open_parquet(path)
    assert [record.captions for record in source] == expected


def test_without_captions(tmp_path):
    path = write(tmp_path / "train.parquet", {"image": structs(0, 3), "label": [0, 1, 2]}, {"image": "Image"})
    with pytest.raises(DataError, match="looks like the caption.*simclr"):
        open_parquet(path)
    source = open_parquet(path, captions_required=False)
    assert pairs(source)[2] == ("train.parquet:2", ())
    assert (
        source.note
        == f"Columns of {path}: image from 'image' (guessed); no captions (other columns: 'label')"
    )


def test_rows_without_image_bytes(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    column = [
        {"bytes": None, "path": "a.jpg"},
        {"bytes": None, "path": str(tmp_path / "a.jpg")},
        {"bytes": jpeg, "path": "none.jpg"},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": "none.jpg"},
        {"bytes": None, "path": "https://example.org/a.jpg"},
    ]
    path = write(tmp_path / "t.parquet", {"image": pa.array(column, IMAGE), "text": ["x"] * 7}, group=10)
    source = open_parquet(path)
    assert [source[i].image for i in range(3)] == [jpeg] * 3
    for index, message in [
        (3, r"^The row has no image in column 'image'\. Got: '.*t\.parquet:3'"),
        (4, r"has no image in column 'image'\. Got: 't\.parquet:4'"),
        (5, r"does not exist.*none\.jpg"),
        (6, "does not hold its image.*https"),
    ]:
        with pytest.raises(DataError, match=message):
            source[index]
    null = write(tmp_path / "u.parquet", {"image": pa.array([b"x", None], pa.binary()), "text": ["x", "y"]})
    assert open_parquet(null)[0].image == b"x"
    with pytest.raises(DataError, match=r"has no image in column .*u\.parquet:1"):
        open_parquet(null)[1]


def test_paths_only(tmp_path, jpeg):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.jpg").write_bytes(jpeg)
    columns = {
        "file_name": ["sub/a.jpg", "sub/b.jpg", " sub/a.jpg ", None],
        "captions": [["x", "y"], None, ["w"], ["z"]],
    }
    source = open_parquet(write(tmp_path / "t.parquet", columns, group=2), name="t")
    assert isinstance(source, ParquetPaths)
    assert getattr(source, "block", 1) == 1
    (tmp_path / "sub/b.jpg").write_bytes(jpeg)
    assert pairs([source[0], source[1]]) == [("sub/a.jpg", ("x", "y", "w")), ("sub/b.jpg", ())]
    assert source[0].image == jpeg
    said = "3 rows name 2 images: each image is one record, with its rows' captions"
    assert source.note == f"Columns of t: image from 'file_name', caption from 'captions' (guessed). {said}"
    assert pairs([pickle.loads(pickle.dumps(source))[0]]) == pairs([source[0]])
    assert (source.contents.seen, source.contents.used) == (4, 3)
    assert source.contents.reasons() == ["1 × the row names no image, for example row 3"]
    bare = write(tmp_path / "other/t.parquet", {"path": ["a.jpg"], "caption": ["x"]})
    assert open_parquet(bare, image_root=str(tmp_path / "sub"))[0].image == jpeg
    with pytest.raises(DataError, match=r"other/a\.jpg.*--data\.image-root"):
        open_parquet(bare)


def test_web_addresses_are_refused(tmp_path):
    path = write(tmp_path / "t.parquet", {"URL": ["https://example.org/a.jpg"], "TEXT": ["x"]})
    with pytest.raises(DataError, match="'URL' of .* web addresses.*img2dataset"):
        open_parquet(path)


def test_blocks(tmp_path, monkeypatch):
    """Any order where all fits in memory; else row groups, of local files no more than MAX_BLOCK."""
    path = write(tmp_path / "t.parquet", {"image": structs(0, 22), "text": ["x"] * 22}, group=5)
    assert open_parquet(path).block == 1
    monkeypatch.setattr(parquet, "CACHE_BYTES", 100)
    assert open_parquet(path).block == 5
    monkeypatch.setattr(parquet, "MAX_BLOCK", 3)
    assert open_parquet(path).block == 3
    assert open_parquet(f"file://{path}").block == 5


def test_a_block_between_two_row_groups_reads_each_once_in_any_order(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", {"image": structs(0, 12), "text": ["x"] * 12}, group=6)
    source = open_parquet(path)
    assert isinstance(source, ParquetTable)
    source._rows.kept.weight = 0
    read, original = [], source._rows._fetch
    monkeypatch.setattr(source._rows, "_fetch", lambda group: read.append(group) or original(group))
    for index in (4, 7, 5, 6, 3, 8):
        assert source[index].key == f"t.parquet:{index}"
    assert read == [0, 1]
    assert not source.parts[0].as_they_lie
    monkeypatch.setattr(parquet, "LARGE_GROUP", 10)  # two of these would take too much memory
    source = open_parquet(path)
    assert isinstance(source, ParquetTable)
    assert source.parts[0].as_they_lie
    assert source._rows.kept.least == 1


def test_large_row_groups_are_said_and_absurd_ones_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", {"image": structs(0, 8), "text": ["x"] * 8})
    monkeypatch.setattr(parquet, "LARGE_GROUP", 10)
    assert "holds a row group of" in open_parquet(path).note
    assert "row_group_size=500" in open_parquet(path, image_column="image", caption_column="text").note
    monkeypatch.setattr(parquet, "TABLE_BYTES", 10)
    with pytest.raises(DataError, match="row groups of up to.*row_group_size"):
        open_parquet(path)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls(tmp_path, scheme):
    files = [
        write(tmp_path / f"{n}.parquet", {"image": structs(3 * n, 3), "text": list("abc")}) for n in range(3)
    ]
    urls = [f"{scheme}://{tmp_path}/copied/{file.name}" for file in files]
    (tmp_path / "copied").mkdir()
    for url, file in zip(urls, files):
        with cast(Any, fsspec.open(url, "wb")) as target:
            target.write(file.read_bytes())
    source = open_parquet(urls)
    assert source.name == urls[0]
    assert source.note.startswith(f"Columns of {urls[0]}: ")
    assert [record.image for record in pickle.loads(pickle.dumps(source))] == images(0, 9)
    assert source[8].key == "2.parquet:2"


def test_keys_in_addresses_are_in_no_name(tmp_path, server):
    """Nor do the records' keys change with a new signature."""
    server.files["/a.parquet"] = write(
        tmp_path / "a.parquet", {"image": images(0, 2), "caption": ["a", "b"]}
    ).read_bytes()
    keys = set()
    for signature in ("s3cr3t", "another"):
        source = open_parquet([f"{server.url}/a.parquet?sig={signature}"])
        keys |= {record.key for record in source}
        assert signature not in f"{source.name} {source.note} {[record.source for record in source]}"
    assert keys == {"a.parquet:0", "a.parquet:1"}
    server.files["/b.parquet"] = b"no Parquet"
    for file in ("b", "c"):
        with pytest.raises(DataError) as error:
            open_parquet([f"{server.url}/{file}.parquet?sig=s3cr3t"])
        assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server(tmp_path, server, ranges):
    for i in range(2):
        columns = {"image": structs(3 * i, 3), "text": [f"row {j}" for j in range(3)]}
        server.files[f"/{i}.parquet"] = write(tmp_path / f"{i}.parquet", columns).read_bytes()
    server.ranges = ranges
    server.faults["/1.parquet"] = [500, "reset"]
    source = open_parquet([f"{server.url}/{i}.parquet" for i in range(2)])
    assert [record.image for record in pickle.loads(pickle.dumps(source))] == images(0, 6)
    assert source[4].captions == ("row 1",)


def test_urls_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"no such file on the server\. Got: 'memory://none\.parquet'"):
        open_parquet("memory://none.parquet")
    with pytest.raises(DataError, match=r"cannot be read\. Got: 'nosuch://bucket/a\.parquet'"):
        open_parquet("nosuch://bucket/a.parquet")
    write(tmp_path / "t.parquet", {"path": ["a.jpg"], "text": ["x"]})
    with pytest.raises(DataError, match=r"relative to no folder of this machine.*--data\.image-root"):
        open_parquet(f"file://{tmp_path}/t.parquet")


def test_errors(tmp_path):
    with pytest.raises(DataError, match="No Parquet file"):
        open_parquet([])
    with pytest.raises(DataError, match="does not exist"):
        open_parquet(tmp_path / "none.parquet")
    for columns in (
        {"image": structs(0, 0), "text": pa.array([], pa.string())},
        {"path": pa.array([], pa.string()), "text": pa.array([], pa.string())},
    ):
        with pytest.raises(DataError, match="hold no rows"):
            open_parquet(write(tmp_path / "empty.parquet", columns))
    good = write(tmp_path / "a.parquet", {"image": structs(0, 8), "text": ["x"] * 8})
    other = write(tmp_path / "b.parquet", {"image": structs(0, 8), "label": [1] * 8})
    with pytest.raises(DataError, match=r"b\.parquet has no column 'text', which .*a\.parquet has"):
        open_parquet([good, other])
    other.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(DataError, match=r"b\.parquet is not a readable Parquet file.*Fetch it again"):
        open_parquet([good, other])


def test_paths_that_are_no_text(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "caption": ["x", "y"]}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"b.jpg", b"\xff.jpg"))
    with pytest.raises(DataError, match="cannot be read"):
        open_parquet(str(path))
