"""Index files: made once, where they can be, believed only when they fit their shard and are whole."""

from __future__ import annotations

import os
import tarfile
import threading
from collections import Counter
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.contents import Contents
from openslip.data.sources import tar_index
from openslip.data.sources.sidecars import Asked
from openslip.data.sources.tar_index import (
    FOLDER,
    ShardIndex,
    Wanted,
    decode,
    encode,
    walk,
    write_index,
)
from openslip.data.storage.reading import LocalFile, cache_folder, stat
from openslip.data.storage.remote import Stat
from openslip.errors import DataError


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def kept(monkeypatch):
    """Indexes are written however quick they were made."""
    monkeypatch.setattr(tar_index, "WORTH_KEEPING", 0)


@pytest.fixture
def walked(monkeypatch):
    """The shards that were walked over."""
    paths: list[str] = []
    original = tar_index.members
    monkeypatch.setattr(
        tar_index, "members", lambda file, remark: paths.append(file.path) or original(file, remark)
    )
    return paths


@pytest.fixture
def shards(tmp_path, write_tar):
    """Two shards; the first has names that do not fit a header, and members that are no images."""
    (tmp_path / "shards").mkdir()
    members = [(f"{'k' * 150}{i}.jpg", b"x" * i) for i in range(3)] + [("1.txt", b"t"), ("2.cls", b"c")]
    first = write_tar(tmp_path / "shards" / "a-0.tar", members, tarfile.PAX_FORMAT)
    second = write_tar(tmp_path / "shards" / "a-1.tar", [("1.jpg", b"i"), ("1.txt", b"t"), ("1.json", b"{}")])
    return [str(first), str(second)]


def index_shards(paths, name, **options) -> list[ShardIndex]:
    indexes, broken = tar_index.index_shards(paths, name, **options)
    assert not broken
    return cast(list[ShardIndex], indexes)


def equal(a: ShardIndex, b: ShardIndex) -> bool:
    same = np.array_equal(a.extents, b.extents) and a.extents.dtype == b.extents.dtype == np.uint32
    return same and a[1:] == b[1:]


def test_kept_beside_the_shards_and_used(shards, kept, walked, tmp_path):
    first = index_shards(shards, "x")
    assert sorted(walked) == shards
    assert sorted(os.listdir(tmp_path / "shards" / FOLDER)) == ["a-0.tar.index", "a-1.tar.index"]
    again = index_shards(shards, "x")
    assert sorted(walked) == shards
    assert all(map(equal, first, again))
    assert not cache_folder().exists()
    assert first[0].keys == {i: "k" * 150 + str(i) for i in range(3)}
    assert (first[0].contents.seen, first[0].contents.used) == (5, 3)
    assert list(first[0].contents.left_out) == ["the sample has no picture", ".cls is not read"]
    assert first[0].facts["picture jpg"] == 3
    assert first[1].extents.tolist() == [[[1, 1], [5, 2], [3, 1]]]


def test_nothing_is_written_for_what_is_quick(shards, tmp_path):
    index_shards(shards, "x")
    assert not (tmp_path / "shards" / FOLDER).exists()
    assert not cache_folder().exists()


def test_in_the_cache_folder_where_the_shards_cannot_be_written(shards, kept, walked, tmp_path):
    (tmp_path / "shards" / FOLDER).touch()  # root may write into read-only folders, but not into a file
    index_shards(shards, "x")
    assert len(list((cache_folder() / "indexes").iterdir())) == 2
    index_shards(shards, "x")
    assert len(walked) == 2


def test_nowhere_to_write(shards, kept, walked, tmp_path, monkeypatch):
    (tmp_path / "shards" / FOLDER).touch()
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "shards" / FOLDER / "cache"))
    for _ in range(2):
        assert len(index_shards(shards, "x")[0].extents) == 3
    assert len(walked) == 4


def test_written_by_who_makes_the_shard(shards, walked, tmp_path):
    write_index(shards[0])
    assert os.listdir(tmp_path / "shards" / FOLDER) == ["a-0.tar.index"]
    assert len(index_shards(shards[:1], "x")[0].extents) == 3
    assert walked == shards[:1]


def test_another_time_or_size_and_it_is_made_again(shards, kept, walked, write_tar):
    index_shards(shards, "x")
    os.utime(shards[0], ns=(5, 5))
    index_shards(shards, "x")
    assert walked[2:] == shards[:1]
    times = os.stat(shards[1])
    with open(shards[1], "ab") as file:
        file.write(bytes(512))
    os.utime(shards[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    index_shards(shards, "x")
    assert walked[3:] == shards[1:]
    assert len(index_shards(shards, "x")) == 2
    assert len(walked) == 4


@pytest.mark.parametrize("damage", [b"", b"openslip tar index 2\nold", b"\x80\x04pickle", b"x" * 200_000])
def test_damaged_index_files_are_made_again(shards, kept, walked, tmp_path, damage):
    good = index_shards(shards, "x")
    place = tmp_path / "shards" / FOLDER / "a-0.tar.index"
    place.write_bytes(damage)
    assert equal(index_shards(shards, "x")[0], good[0])
    assert len(walked) == 3
    assert decode(place.read_bytes(), stat(shards[0])) is not None


def test_another_shards_index_is_not_believed(shards, kept, walked, tmp_path):
    good = index_shards(shards, "x")
    folder = tmp_path / "shards" / FOLDER
    os.replace(folder / "a-1.tar.index", folder / "a-0.tar.index")
    assert all(map(equal, index_shards(shards, "x"), good))


STATUS = Stat(1 << 30, "17")


@st.composite
def indexes(draw):
    count = draw(st.integers(0, 5))
    places = np.array(draw(st.lists(st.integers(1, 1000), min_size=6 * count, max_size=6 * count)), np.uint32)
    keys = draw(
        st.dictionaries(st.integers(0, 100), st.text(st.characters(exclude_categories=["Cs"])), max_size=3)
    )
    counts = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 9), max_size=5)
    contents = Contents("members", draw(st.integers(0, 99)))
    for reason, count in draw(counts).items():
        contents.leave_out(reason, "a.txt", count, lost=count > 4)
    remarks = tuple(draw(counts))
    return ShardIndex(places.reshape(-1, 3, 2), keys, contents, Counter(draw(counts)), remarks, STATUS)


@given(indexes())
def test_encoded_and_decoded(index):
    decoded = decode(encode(index), STATUS)
    assert decoded is not None
    assert equal(decoded, index)
    assert decode(encode(index), STATUS._replace(version="18")) is None
    assert decode(encode(index), STATUS._replace(size=STATUS.size + 512)) is None
    wanted = Wanted("rgb.jpg", Asked(("txt",), lines=True))
    assert decode(encode(index), STATUS, wanted) is None
    assert decode(encode(index, wanted), STATUS, wanted) is not None


@settings(max_examples=100)
@given(indexes(), st.data())
def test_any_damage_is_found(index, data):
    good = encode(index)
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(bad), STATUS) is None
    assert decode(good[:place], STATUS) is None


@given(
    st.binary(max_size=60), st.sampled_from([b"", b'{"size":1073741824,"version":"17"', b"[" * 99, b"1e999"])
)
def test_a_right_checksum_alone_is_not_enough(rest, start):
    import zlib

    rest = len(start + rest).to_bytes(4, "little") + start + rest
    assert decode(tar_index.MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest, STATUS) is None


@pytest.mark.parametrize(
    "places",
    [
        [[1, 1], [0, 0], [(1 << 30) // 512, 1]],  # beyond the end of the shard
        [[1, 1 << 31], [0, 0], [0, 0]],
        [[0, 1], [1, 1], [1, 1]],  # no image
    ],
)
def test_places_that_cannot_be_are_not_believed(places):
    index = ShardIndex(np.array([places], np.uint32), {}, Contents("members"), Counter(), (), STATUS)
    assert decode(encode(index), STATUS) is None


def test_what_was_asked_for_has_an_index_of_its_own(shards, kept, walked, tmp_path):
    plain = index_shards(shards[1:], "x")[0]
    asked = index_shards(shards[1:], "x", wanted=Wanted("jpg", Asked(("txt",))))[0]
    assert len(walked) == 2
    assert plain.extents.tolist() == [[[1, 1], [5, 2], [3, 1]]]
    assert asked.extents.tolist() == [[[1, 1], [0, 0], [3, 1]]]
    for wanted in (Wanted(), Wanted("jpg", Asked(("txt",)))):
        index_shards(shards[1:], "x", wanted=wanted)
    assert len(walked) == 2


def test_all_broken_shards_are_named_and_the_others_read(shards, tmp_path):
    os.truncate(shards[1], 600)
    missing = str(tmp_path / "none.tar")
    indexes, broken = tar_index.index_shards([*shards * 3, missing], "x")
    assert [index is not None for index in indexes] == [True, False] * 3 + [False]
    assert [path for path, _ in broken] == [shards[1]] * 3 + [missing]
    assert "cut off" in str(broken[0].error)


def test_few_servers_that_are_away_are_waited_for(server, monkeypatch):
    monkeypatch.setattr(tar_index, "UNREACHABLE", 2)
    monkeypatch.setattr(tar_index, "THREADS", 1)
    monkeypatch.setattr(tar_index, "SILENCE", 0)
    indexes, broken = tar_index.index_shards([f"{server.url}/{i}.tar" for i in range(50)], "x")
    assert indexes == [None] * 50
    assert 2 <= len(broken) < 50


def test_a_walk_can_be_stopped(shards):
    stop = threading.Event()
    stop.set()
    with pytest.raises(DataError, match="stopped"):
        walk(LocalFile(shards[0]), stat(shards[0]), stop=stop)


def test_progress_is_told_when_it_takes_long(shards, monkeypatch, capsys):
    index_shards(shards, "x")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(tar_index, "SILENCE", 0.01)
    monkeypatch.setattr(tar_index, "WORTH_KEEPING", 100)
    monkeypatch.setattr(tar_index, "THREADS", 1)
    slow, original = threading.Event(), tar_index.walk
    monkeypatch.setattr(tar_index, "walk", lambda *args: slow.wait(0.1) or original(*args))
    index_shards(shards, "[x]")
    assert capsys.readouterr().err.startswith("Looking through 2 shards of [x]")
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    monkeypatch.setenv("TERM", "xterm")
    index_shards(shards, "[x]")
    assert "Looking through 2 shards of [x]" in capsys.readouterr().err
