"""Tar shards: grouping, captions, random access, what is left out and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.contents import BROKEN
from openslip.data.record import Record
from openslip.data.sources import open_source, webdataset
from openslip.data.sources.options import Misfit
from openslip.data.sources.webdataset import TarShards
from openslip.errors import DataError


def twin(path):
    """The records of a shard, slowly: its members, each sample's in a dict, repeated members in a new one."""
    samples: list[dict[str, Any]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            folder, base = os.path.split(member.name)
            key, _, extension = base.partition(".")
            key = os.path.join(folder, key)
            mine = [s for s in samples if s["key"] == key]
            if not mine or extension in mine[-1]:
                mine.append({"key": key})
                samples.append(mine[-1])
            content = tar.extractfile(member)
            assert content is not None
            mine[-1][extension] = content.read()
    records = []
    for sample in samples:
        images = [e for e in ("jpg", "png") if e in sample]
        if images:
            texts = json.loads(sample.get("json", b"{}")).get("captions") or [sample.get("txt", b"").decode()]
            captions = tuple(t for t in texts if t)
            records.append(Record(sample[images[0]], captions, sample["key"], str(path)))
    return records


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["1", "2", "d/1", "x" * 110]),
            st.sampled_from(["jpg", "png", "txt", "json", "cls"]),
        ),
        min_size=1,
        max_size=20,
    ),
    format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_same_records_as_the_slow_twin(tmp_path_factory, write_tar, files, format):
    if format == tarfile.USTAR_FORMAT:
        files = [(key[:50], extension) for key, extension in files]

    def content(i, extension):
        if extension == "json":
            return json.dumps({"captions": [f"json {i}", "second"] if i % 2 else []}).encode()
        return f"{extension} {i}".encode()

    path = tmp_path_factory.mktemp("tar") / "a.tar"
    write_tar(path, [(f"{k}.{e}", content(i, e)) for i, (k, e) in enumerate(files)], format)
    expected = twin(path)
    if expected:
        source = TarShards([path])
        assert [source[i] for i in range(len(source))] == expected
    else:
        with pytest.raises(DataError, match="hold no images"):
            TarShards([path])


@pytest.fixture
def shards(tmp_path, write_tar, jpeg):
    paths = []
    for s in range(3):
        members = []
        for i in range(4):
            members += [
                (f"{i:03}.jpg", jpeg + bytes([s, i])),
                (f"{i:03}.txt", f"shard {s} image {i}\n".encode()),
            ]
        paths.append(write_tar(tmp_path / f"a-{s}.tar", members))
    return paths


def test_shard_after_shard(shards, jpeg):
    source = TarShards(shards, name="all")
    assert source.name == "all"
    assert len(source) == 12
    for index, record in enumerate(source):
        s, i = divmod(index, 4)
        assert record == Record(jpeg + bytes([s, i]), (f"shard {s} image {i}",), f"{i:03}", str(shards[s]))
    assert source[-1] == source[11]
    with pytest.raises(IndexError):
        source[12]


@pytest.mark.parametrize(
    ("sidecars", "captions"),
    [
        ({"json": {"captions": ["a", " b "]}, "txt": "c"}, ("a", "b")),
        ({"json": {"caption": "a", "url": "x"}, "txt": "c"}, ("c",)),
        ({"json": {"caption": "a", "url": "x"}, "txt": " "}, ("a",)),
        ({"json": {"caption": "a", "url": "x"}}, ("a",)),
        ({"json": {"caption": "b", "captions": ["a"]}}, ("a",)),
        ({"json": {"captions": ["", "  "], "caption": "a"}, "txt": "c"}, ("c",)),
        ({"json": {"captions": ["", "  "], "caption": "a"}}, ("a",)),
        ({"json": {"captions": [], "caption": None}, "txt": "c"}, ("c",)),
        ({"json": {"url": "x", "TEXT": "a", "title": "b"}}, ("a",)),
        ({"json": {"url": "x", "Title": "a"}}, ("a",)),
        ({"json": {"caption_0": "a", "caption_1": "b"}}, ("a", "b")),
        ({"json": {"url": "x"}, "caption": "c"}, ("c",)),
        ({"cap": "a", "text": "b", "txt": "c"}, ("c",)),
        ({"blip.txt": "a"}, ("a",)),
        ({"blip.txt": "a", "alt.txt": "b"}, ()),
        ({"json": {"captions": "just one"}}, ("just one",)),
        ({"json": {"captions": ["a", None, 3]}}, ("a",)),
        ({"json": ["no", "object"], "txt": "c"}, ("c",)),
        ({"json": {"caption": "half \ud83d"}}, ("half ?",)),
        ({"txt": "\ufefftwo\nlines \n"}, ("two\nlines",)),
        ({"txt": ""}, ()),
        ({}, ()),
    ],
)
def test_captions(tmp_path, write_tar, jpeg, sidecars, captions):
    files = [(f"a.{e}", (json.dumps(s) if e == "json" else s).encode()) for e, s in sidecars.items()]
    source = TarShards([write_tar(tmp_path / "a.tar", [*files, ("a.jpg", jpeg)])])
    assert source[0].captions == captions


@pytest.mark.parametrize("bad", [("b.json", b'{"caption": "cut o'), ("b.txt", "Stra\xdfe".encode("latin1"))])
def test_one_broken_sidecar_is_one_broken_record(tmp_path, write_tar, jpeg, bad):
    source = TarShards(
        [write_tar(tmp_path / "a.tar", [("a.jpg", jpeg), ("b.jpg", jpeg), bad, ("c.jpg", jpeg)])]
    )
    assert [source[0].key, source[2].key] == ["a", "c"]
    with pytest.raises(DataError, match=r"caption cannot be read.*'b.*' in .*a\.tar"):
        source[1]


def test_which_member_is_the_image_and_which_key(tmp_path, write_tar):
    members = [
        ("./d.x/1.seg.png", b"mask"),
        ("./d.x/1.JPG", b"picture"),
        ("./d.x/1.TXT", b"caption"),
        ("IMG.2020.jpeg", b"dots"),
        ("only.txt", b"failed download"),
        ("3.cls", b"7"),
        ("._3.jpg", b"resource fork"),
        ("README", b""),
        ("3.webp", b"late"),
    ]
    source = TarShards([write_tar(tmp_path / "a.tar", members)])
    assert [(r.key, r.image, r.captions) for r in source] == [
        ("d.x/1", b"picture", ("caption",)),
        ("IMG", b"dots", ()),
        ("3", b"late", ()),
    ]
    assert source.contents.seen == 9
    assert left_out(source) == {
        "a sample has several pictures, of which .jpg is taken": (1, "./d.x/1.seg.png in a.tar", False),
        "the sample has no picture": (1, "only.txt in a.tar", True),
        ".cls is not read": (1, "3.cls in a.tar", False),
        "hidden files": (1, "._3.jpg in a.tar", False),
        "a name without an ending": (1, "README in a.tar", True),
    }


def left_out(source):
    return {
        reason: (left.count, left.example, left.lost) for reason, left in source.contents.left_out.items()
    }


def shard(tmp_path, write_tar, *names, **options):
    """A source of members that hold their names."""
    path = write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    return TarShards([path], **options)


def told(source):
    return [(record.key, record.image.decode(), record.captions) for record in source]


def test_captions_without_pictures_and_pictures_of_no_known_ending(tmp_path, write_tar):
    source = shard(
        tmp_path, write_tar, "1.jpg", "1.txt", "2.txt", "2.json", "3.HEIC", "3.txt", "4.npy", "4.txt"
    )
    assert told(source) == [("1", "1.jpg", ("1.txt",))]
    assert {reason: left[0] for reason, left in left_out(source).items()} == {
        "the sample has no picture": 4,
        ".heic is not read (make JPEGs of such pictures)": 1,
        ".npy is not read": 1,
    }
    assert source.contents.large_loss
    assert source.contents.used == 2


def test_names_with_several_dots(tmp_path, write_tar):
    own = shard(
        tmp_path, write_tar, *(f"d/I_2023.05.0{i}_{i}.{e}" for i in (1, 2) for e in ("JPG", "txt")), "p.jpg"
    )
    assert told(own) == [
        ("d/I_2023.05.01_1", "d/I_2023.05.01_1.JPG", ("d/I_2023.05.01_1.txt",)),
        ("d/I_2023.05.02_2", "d/I_2023.05.02_2.JPG", ("d/I_2023.05.02_2.txt",)),
        ("p", "p.jpg", ()),
    ]
    assert "2 pictures of" in own.note
    assert not own.contents.left_out
    assert pickle.loads(pickle.dumps(own))[1] == own[1]
    bare = shard(
        tmp_path, write_tar, "I_2023.05.01.jpg", "I_2023.05.02.jpg", "I_2023.05.02.thumb.jpg", "b.jpg"
    )
    assert [record.key for record in bare] == ["I_2023.05.01", "I_2023.05.02", "b"]
    one = shard(tmp_path, write_tar, "I_2023.05.01.jpg", "I_2023.05.01.txt")
    assert told(one) == [("I_2023", "I_2023.05.01.jpg", ("I_2023.05.01.txt",))]


def test_a_folder_for_each_sample(tmp_path, write_tar):
    names = [f"{i}/{name}" for i in range(3) for name in ("image.jpg", "caption.txt", "meta.json")]
    source = shard(tmp_path, write_tar, *names)
    assert told(source)[2] == ("2/image", "2/image.jpg", ("2/caption.txt",))
    assert source.note == ""
    both = shard(tmp_path, write_tar, "0/a.jpg", "0/b.jpg", "0/b2.txt")  # whose text it is cannot be told
    assert [record.captions for record in both] == [(), ()]
    own = shard(tmp_path, write_tar, "0/a.jpg", "0/a.txt", "0/b.jpg", "0/c.txt")
    assert [record.captions for record in own] == [("0/a.txt",), ()]


@pytest.mark.parametrize(
    ("names", "taken", "others"),
    [
        (["1.depth.png", "1.rgb.jpg", "1.txt"], "1.rgb.jpg", 1),
        (["1.depth.png", "1.view.jpg", "1.txt"], "1.view.jpg", 1),
        (["1.png", "1.jpg"], "1.jpg", 1),
        (["1.mask.png", "1.webp", "1.rgb.jpg"], "1.webp", 2),
        (["1.img.png", "1.img.jpg"], "1.img.jpg", 1),
    ],
)
def test_which_of_several_pictures(tmp_path, write_tar, names, taken, others):
    source = shard(tmp_path, write_tar, *names)
    assert [record.image for record in source] == [taken.encode()]
    assert sum(left.count for left in source.contents.left_out.values()) == others


def test_pictures_that_are_equally_likely(tmp_path, write_tar):
    names = [f"{i}.{e}" for i in range(3) for e in ("left.jpg", "right.jpg", "txt")]
    with pytest.raises(
        DataError, match=r"3 of 3 samples.*\.left\.jpg, \.right\.jpg.*--data\.image-column left\.jpg"
    ):
        shard(tmp_path, write_tar, *names)
    for asked in ("right.jpg", ".RIGHT.jpg", "right"):
        source = shard(tmp_path, write_tar, *names, image_column=asked)
        assert told(source)[0] == ("0", "0.right.jpg", ("0.txt",))
        assert source.contents.lost == 0
    with pytest.raises(Misfit, match=r"ends in '\.middle'.*--data\.image-column"):
        shard(tmp_path, write_tar, *names, image_column="middle")
    few = [f"{i}.jpg" for i in range(200)] + ["x.a.jpg", "x.b.jpg", "x.txt"]
    source = shard(tmp_path, write_tar, *few)  # one of many is no reason to refuse them all
    assert source[200].image == b"x.a.jpg"
    assert source.contents.lost == 1


def add_link(tar, name, target, kind=tarfile.LNKTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


def test_links(tmp_path, write_tar):
    path = write_tar(tmp_path / "a.tar", [("d/1.jpg", b"one"), ("d/1.txt", b"caption"), ("blob", b"two")])
    with tarfile.open(path, "a") as tar:
        add_link(tar, "2.jpg", "d/1.jpg")
        add_link(tar, "./d/3.jpg", "4.jpg", tarfile.SYMTYPE)  # a link to a link that comes later
        add_link(tar, "d/4.jpg", "../2.jpg", tarfile.SYMTYPE)
        add_link(tar, "5.jpg", "blob")
        add_link(tar, "6.jpg", "/etc/passwd", tarfile.SYMTYPE)
        add_link(tar, "7.jpg", "7.jpg", tarfile.SYMTYPE)
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("d/1.jpg"))
    path.write_bytes(
        path.read_bytes() + write_tar(tmp_path / "b.tar", [("d/1.jpg", b"another")]).read_bytes()
    )
    source = TarShards([path])
    assert [(record.key, record.image) for record in source] == [
        ("d/1", b"one"),
        ("2", b"one"),
        ("d/3", b"one"),
        ("d/4", b"one"),
        ("5", b"two"),
        ("d/1", b"another"),
    ]
    assert source[0].captions == ("caption",)
    assert left_out(source)["a link to what is not in the shard"] == (2, "6.jpg in a.tar", True)


def test_captions_that_are_asked_for(tmp_path, write_tar, jpeg):
    sidecar = {"caption": "a", "TEXT": "b", "meta": {"alt": ["c", "d"]}, "n": 3}
    members = [
        ("1.jpg", jpeg),
        ("1.json", json.dumps(sidecar).encode()),
        ("1.txt", b"e\nf\n"),
        ("1.blip.cap", b"g"),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    for asked, captions in {
        "": ("e\nf",),
        "txt": ("e\nf",),
        "txt:lines": ("e", "f"),
        ":lines": ("e", "f"),
        "caption": ("a",),
        "json": ("a",),
        "text": ("b",),
        "TEXT, meta.alt": ("b", "c", "d"),
        "blip.cap": ("g",),
    }.items():
        assert TarShards([path], caption_column=asked)[0].captions == captions, asked
    for asked in ("n", "nothing", "meta.nothing", "a:b"):
        with pytest.raises(Misfit, match=f"no captions '{asked}'"):
            TarShards([path], caption_column=asked)


@pytest.mark.parametrize(
    ("sidecar", "text", "message"),
    [
        (
            {"caption": "a"},
            b"b",
            r"in 2 of 2 samples.*differs from 'caption' of the \.json: the text is taken",
        ),
        (
            {"captions": ["a"]},
            b"b",
            r"differs from 'captions'.*: 'captions' of the \.json is taken.*column txt",
        ),
        ({"captions": ["b", "a"]}, b"b\n", "^$"),
        ({"caption": "b"}, b"b\n", "^$"),
        ({"url": "x"}, b"b\nc", r"in 2 of 2 samples.*several lines.*txt:lines"),
        ({"TEXT": "a"}, b"", "from 'TEXT' of the .json"),
        ({"url": "x", "alternative": "y"}, b"", "No captions were found in the 2 .*'alternative', 'url'"),
    ],
)
def test_what_is_said_of_captions(tmp_path, write_tar, jpeg, sidecar, text, message):
    members = [
        (f"{i}.{e}", data)
        for i in range(2)
        for e, data in (("jpg", jpeg), ("json", json.dumps(sidecar).encode()), ("txt", text))
    ]
    assert re.search(message, TarShards([write_tar(tmp_path / "a.tar", members)]).note)


def test_long_and_foreign_keys(tmp_path, write_tar):
    keys = ["k" * 150, "straße/鳥", "plain"]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / f"{format}.tar", [(f"{key}.jpg", b"x") for key in keys], format)
        assert [record.key for record in TarShards([path])] == keys


def test_no_images(tmp_path, write_tar):
    with pytest.raises(
        DataError, match=r"hold no images.*2 × the sample has no picture, for example a\.txt.*\.jpg"
    ):
        TarShards([write_tar(tmp_path / "a.tar", [("a.txt", b"a"), ("b.txt", b"b")])])
    with pytest.raises(DataError, match="They are empty"):
        TarShards([write_tar(tmp_path / "b.tar", [])])


def test_one_shard_cut_in_half(shards):
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[: 512 * 5])
    with pytest.raises(
        DataError, match=r"cut off.*a-1\.tar.*Fetch it again, or remove it.*--data.leave-broken"
    ):
        TarShards(shards)


def test_several_broken_shards(shards, tmp_path):
    for broken in (0, 2):
        os.truncate(shards[broken], 700 + broken)
    with pytest.raises(
        DataError, match=r"(?s)2 of 3 shards cannot be read.*a-0\.tar.*cut off.*a-2\.tar.*cut off"
    ) as error:
        TarShards(shards)
    assert f"or leave them out: '{shards[1]}'" in error.value.fix
    source = TarShards(shards, leave_broken=True)
    assert [record.source for record in source] == [str(shards[1])] * 4
    assert "2 of 3 shards cannot be read and are left out" in source.note
    assert source.beside is not None
    assert (source.beside.seen, source.beside.left_out[BROKEN].count) == (3, 2)
    os.truncate(shards[1], 600)
    with pytest.raises(DataError, match="3 of 3 shards"):
        TarShards(shards, leave_broken=True)


def test_the_pattern_of_the_whole_shards(tmp_path, write_tar, jpeg):
    paths = [write_tar(tmp_path / f"a-{i:05}.tar", [("1.jpg", jpeg)]) for i in range(12)]
    for broken in (3, 10):
        os.truncate(paths[broken], 700)
    with pytest.raises(DataError, match="2 of 12") as error:
        TarShards(paths)
    pattern = error.value.fix.split("'")[1]
    assert len(open_source(pattern)) == 10


def test_members_that_are_too_large_are_one_record_each(tmp_path, write_tar, monkeypatch, jpeg):
    monkeypatch.setattr(webdataset, "FILE_BYTES", len(jpeg))
    monkeypatch.setattr(webdataset, "TEXT_BYTES", 5)
    members = [
        ("1.jpg", jpeg + b"x"),
        ("2.jpg", jpeg),
        ("2.txt", b"123456"),
        ("3.jpg", jpeg),
        ("3.txt", b"12345"),
    ]
    source = TarShards([write_tar(tmp_path / "a.tar", members)])
    for index in range(2):
        with pytest.raises(DataError, match=r"too large.*a\.tar"):
            source[index]
    assert source[2].captions == ("12345",)


def test_shard_shrinks_or_goes_after_opening(shards):
    source = TarShards(shards)
    with shards[2].open("r+b") as file:
        file.truncate(512)
    with pytest.raises(DataError, match="become shorter"):
        source[11]
    shards[0].unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source[0]
    assert source[4].key == "000"


def test_index_is_compact(tmp_path, write_tar):
    count = 2000
    path = write_tar(
        tmp_path / "a.tar", [(f"{i:08}.{e}", b"x") for i in range(count) for e in ("jpg", "json", "txt")]
    )
    source = TarShards([path])
    assert len(source) == count
    assert len(pickle.dumps(source)) < 24 * count + 2000


def test_few_handles_stay_open(shards, monkeypatch):
    monkeypatch.setattr(webdataset, "OPEN_SHARDS", 2)
    source = TarShards(shards)
    before = len(os.listdir("/dev/fd"))
    for index in (0, 4, 8, 1, 5, 9):
        assert source[index].captions
    assert len(os.listdir("/dev/fd")) <= before + 2
    del source
    assert len(os.listdir("/dev/fd")) <= before


def test_pickled_without_handles_and_read_in_another_process(shards):
    source = TarShards(shards)
    expected = [source[7], source[0]]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[7], copy[0]] == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(source.__getitem__, [7, 0]) == expected


def test_threads_share_a_source(shards, monkeypatch):
    monkeypatch.setattr(webdataset, "OPEN_SHARDS", 1)
    source = TarShards(shards)
    expected = [source[i] for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.__getitem__, list(range(12)) * 50)) == expected * 50
