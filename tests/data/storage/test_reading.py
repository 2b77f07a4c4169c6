"""Bytes of a file somewhere: the same through every way, kept whole or not at all, shared by processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.storage import reading
from openslip.data.storage.reading import (
    LocalFile,
    ReadAhead,
    Recent,
    Spans,
    cache_folder,
    open_file,
    stat,
)
from openslip.errors import DataError

DATA = bytes(range(256)) * 40


@pytest.fixture
def url(server):
    server.files["/a.tar"] = DATA
    return server.url + "/a.tar"


def copies() -> list[Path]:
    return sorted((cache_folder() / "files").glob("*"))


def test_local(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    status = stat(str(path))
    assert status.size == len(DATA)
    assert status.ranges
    file = open_file(str(path), status)
    assert (file.path, file.size, file.read(300, 700)) == (str(path), len(DATA), DATA[300:1000])
    os.utime(path, ns=(1, 1))
    assert stat(str(path)).version == "1" != status.version
    os.truncate(path, 500)
    with pytest.raises(DataError, match="become shorter"):
        file.read(300, 700)
    with pytest.raises(DataError, match="cannot be read"):
        stat(str(tmp_path / "none"))
    with pytest.raises(DataError, match="cannot be read"):
        LocalFile(tmp_path / "none")


def test_remote(server, url):
    file = open_file(url, stat(url))
    assert (file.size, file.read(300, 700), file.read(0, 0)) == (len(DATA), DATA[300:1000], b"")
    assert server.asked[1:] == [("/a.tar", "bytes=300-999")]
    assert not copies()


def test_a_server_without_ranges_is_asked_once(server, url):
    server.ranges = False
    file = open_file(url, stat(url))
    assert [file.read(i, 10) for i in (0, 500)] == [DATA[:10], DATA[500:510]]
    assert open_file(url, stat(url)).read(7, 1) == DATA[7:8]
    assert server.asked == [("/a.tar", "bytes=0-0"), ("/a.tar", ""), ("/a.tar", "bytes=0-0")]
    assert [path.read_bytes() for path in copies()] == [DATA]


def test_a_server_that_stops_serving_ranges(server, url):
    file = open_file(url, stat(url))
    assert file.read(0, 10) == DATA[:10]
    server.ranges = False
    assert file.read(500, 10) == DATA[500:510]
    assert file.read(600, 10) == DATA[600:610]
    assert [asked for _, asked in server.asked] == ["bytes=0-0", "bytes=0-9", "bytes=500-509", ""]


def test_a_server_that_says_no_size(server, url):
    server.ranges = server.lengths = False
    status = stat(url)
    assert status.size == len(DATA)
    assert open_file(url, status).read(500, 10) == DATA[500:510]
    assert [asked for _, asked in server.asked] == ["bytes=0-0", ""]
    # Without a version nobody knows whether the copy is that of today's file.
    server.etags["/a.tar"] = ""
    server.files["/a.tar"] = DATA[::-1]
    assert open_file(url, stat(url)).read(0, 10) == DATA[::-1][:10]
    server.files["/a.tar"] = DATA
    assert open_file(url, stat(url)).read(0, 10) == DATA[:10]


def test_a_copy_of_an_earlier_version_is_replaced(server, url):
    server.ranges = False
    open_file(url, stat(url))
    server.files["/a.tar"], server.etags["/a.tar"] = DATA[::-1], '"2"'
    assert open_file(url, stat(url)).read(0, 10) == DATA[::-1][:10]
    assert [path.read_bytes() for path in copies()] == [DATA[::-1]]


def test_a_damaged_copy_is_replaced(server, url):
    server.ranges = False
    open_file(url, stat(url))
    os.truncate(copies()[0], 100)
    assert open_file(url, stat(url)).read(200, 10) == DATA[200:210]


def test_a_download_that_fails_leaves_nothing(server, url):
    server.ranges = False
    status = stat(url)
    server.faults["/a.tar"] = ["reset", "always"]
    with pytest.raises(DataError, match="cannot be fetched"):
        open_file(url, status)
    assert copies() == []


def test_no_room_for_a_copy(server, url, monkeypatch, tmp_path):
    server.ranges = False
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cache folder.*does not serve parts.*OPENSLIP_CACHE"):
        open_file(url, stat(url))


def test_disk_full(server, url, monkeypatch):
    server.ranges = False
    status = stat(url)
    monkeypatch.setattr("openslip.data.storage.remote._on_disk", full)
    with pytest.raises(DataError, match=r"cache folder.*No space left.*Make room"):
        open_file(url, status)
    assert copies() == []


def full(*_):
    from openslip.data.storage.retry import DiskError

    raise DiskError("No space left on device")


def test_threads_and_processes_fetch_at_once(server, url):
    server.ranges = False
    status = stat(url)
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: open_file(url, status), range(4)))
    assert all(file.read(500, 10) == DATA[500:510] for file in files)
    copies()[0].unlink()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(reading._copy, [(url, status)] * 4, chunksize=1)
    assert [path.read_bytes() for path in copies()] == [DATA]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000))), st.integers(1, 400))
def test_reading_ahead_gives_the_same_bytes(tmp_path_factory, spans, window):
    path = tmp_path_factory.mktemp("ahead") / "a"
    path.write_bytes(DATA[:1000])
    ahead = ReadAhead(LocalFile(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "WINDOW", window)
        for offset, size in spans:
            size = min(size, 1000 - offset)
            assert ahead.read(offset, size) == DATA[offset : offset + size]


def test_reading_ahead_asks_seldom(server, url, monkeypatch):
    monkeypatch.setattr(reading, "WINDOW", 3000)
    ahead = ReadAhead(open_file(url, stat(url)))
    assert b"".join(ahead.read(offset, 100) for offset in range(0, len(DATA) - 40, 100)) == DATA[:10200]
    assert len(server.asked) <= 5


def test_spans(tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    spans = Spans(LocalFile(tmp_path / "a"), [(100, 300), (1000, 1001)])
    assert spans.size == 201
    assert spans.read(150, 150) == DATA[150:300]
    assert spans.read(1000, 1) == DATA[1000:1001]
    for span in [(99, 2), (299, 2), (500, 1)]:
        with pytest.raises(DataError, match="does not fit"):
            spans.read(*span)


def test_recent_is_bounded_by_count_and_weight():
    made: list[int] = []

    def make(key):
        return lambda: made.append(key) or "x" * key

    recent: Recent[str] = Recent(3, 100)
    for key in (10, 20, 30, 10, 20, 30):
        assert recent.get(key, make(key), len) == "x" * key
    assert made == [10, 20, 30]
    recent.get(10, make(10), len)
    recent.get(40, make(40), len)  # a fourth: 20, not used for longest, goes
    recent.get(10, make(10), len)
    assert made == [10, 20, 30, 40]
    recent.get(500, make(500), len)  # more than all may weigh: held alone
    recent.get(500, make(500), len)
    recent.get(10, make(10), len)
    assert made == [10, 20, 30, 40, 500, 10]
    copy = pickle.loads(pickle.dumps(recent))
    copy.get(10, make(10), len)
    assert made[-2:] == [10, 10]
    copy.drop(10)
    copy.drop(11)
    assert (len(copy), copy.held) == (0, 0)
    copy.least = 2
    for key in (500, 600, 500, 600):  # two, whatever they weigh
        copy.get(key, make(key), len)
    assert made[-3:] == [10, 500, 600]
    copy.get(700, make(700), len)
    assert (len(copy), copy.held) == (2, 1300)


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("OPENSLIP_CACHE", "~/here")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/here")
    monkeypatch.delenv("OPENSLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/openslip")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/me/.cache/openslip")
