"""Requests: ranges are what was asked for, what may pass is tried again, nothing waits for ever."""

from __future__ import annotations

import io
import sys
import threading
import time
from types import SimpleNamespace

import fsspec
import pytest

from openslip.data.storage import remote, retry
from openslip.data.storage.remote import Stat
from openslip.data.storage.retry import NoRanges, is_url, shown
from openslip.errors import DataError

DATA = bytes(range(256)) * 40


@pytest.fixture
def url(server):
    server.files["/a.tar"] = DATA
    return server.url + "/a.tar"


@pytest.fixture
def memory():
    """A folder of fsspec's file system in memory, as its URL."""
    system = fsspec.filesystem("memory")
    yield "memory://openslip-test"
    if system.exists("/openslip-test"):
        system.rm("/openslip-test", recursive=True)


def test_stat(server, url):
    assert remote.stat(url) == Stat(len(DATA), '"1"', True)
    server.ranges = False
    assert remote.stat(url) == Stat(len(DATA), '"1"', False)
    server.lengths = False
    assert remote.stat(url) == Stat(-1, '"1"', False)
    server.files["/none"] = b""
    server.ranges = True
    assert remote.stat(server.url + "/none").size == 0


def test_a_file_compressed_on_the_way_has_other_places(server, url):
    server.headers["Content-Encoding"] = "gzip"
    assert remote.stat(url) == Stat(-1, '"1"', False)


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, len(DATA)), (300, 700), (len(DATA) - 1, 1)])
def test_ranges(url, offset, size):
    assert remote.read(url, offset, size, len(DATA)) == DATA[offset : offset + size]


@pytest.mark.parametrize(
    "fault", [500, 502, 503, 429, 408, "reset", "short", "long", "stall", "silent", "elsewhere"]
)
def test_what_passes_is_tried_again(server, url, fault):
    if fault in ("stall", "silent"):
        server.impatient()
    server.faults["/a.tar"] = [fault, fault] if isinstance(fault, int) else [fault]
    assert remote.read(url, 100, 1000, len(DATA)) == DATA[100:1100]
    # aiohttp itself may have asked once more over a connection that was kept alive and is gone
    assert len(server.asked) >= (3 if isinstance(fault, int) else 2)


@pytest.mark.parametrize("fault", [500, "reset", "short"])
def test_five_tries_and_no_more_for_the_next_record(server, url, fault):
    server.faults["/a.tar"] = [fault, "always"]
    with pytest.raises(DataError, match=r"cannot be fetched.*a\.tar.*5 tries"):
        remote.read(url, 100, 1000, len(DATA))
    asked = len(server.asked)
    with pytest.raises(DataError, match="cannot be fetched"):
        remote.read(url, 5000, 10, len(DATA))
    assert len(server.asked) == asked
    server.faults.clear()
    assert remote.stat(url).size == len(DATA)  # opening asks afresh
    assert remote.read(url, 5000, 10, len(DATA)) == DATA[5000:5010]


@pytest.mark.parametrize(
    ("after", "low", "high"), [("", 0, 0), ("7", 7, 7), ("99999", 32, 32), ("tomorrow", 0, 0)]
)
def test_waits_grow_and_heed_the_server(server, url, monkeypatch, after, low, high):
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    monkeypatch.setattr(retry, "FIRST_WAIT", 2.0)
    server.headers["Retry-After"] = after
    server.faults["/a.tar"] = [429] * 4
    assert remote.read(url, 0, 10, len(DATA)) == DATA[:10]
    for wait, usual in zip(waits, (2, 4, 8, 8), strict=True):
        assert max(low, usual / 2) <= wait <= max(high, usual * 1.5)


def test_after_a_while_a_file_gets_another_chance(server, url, monkeypatch):
    monkeypatch.setattr(retry, "GIVEN_UP_FOR", 0.05)
    server.faults["/a.tar"] = [500] * 5
    with pytest.raises(DataError):
        remote.read(url, 0, 10, len(DATA))
    time.sleep(0.06)
    assert remote.read(url, 0, 10, len(DATA)) == DATA[:10]


def test_giving_up_is_said_and_lasts_longer_each_time(server, url, monkeypatch, capsys):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None)
    monkeypatch.setattr(retry, "time", clock)

    def fail() -> str:
        with pytest.raises(DataError):
            retry.persist(url, remote_failure, announce=True)
        return capsys.readouterr().err

    def remote_failure():
        raise retry.Status(500, "away")

    address = url.partition("?")[0]
    for minutes in (5, 10, 20, 40, 60, 60):
        assert fail() == (
            f"skipping {address} for {minutes} minutes: The file cannot be fetched: "
            f"HTTP status 500 away ({retry.TRIES} tries)\n"
        )
        assert fail() == ""  # once
        now[0] += 60 * minutes + 1
    assert retry.persist(url, lambda: 7) == 7
    assert "for 5 minutes" in fail()  # anew
    retry.forget(url)
    with pytest.raises(DataError):
        retry.persist(url, remote_failure)
    assert capsys.readouterr().err == ""


def test_reading_says_what_it_gives_up_and_asking_does_not(server, url, capsys):
    server.faults["/a.tar"] = [404, "always"]
    with pytest.raises(DataError):
        remote.stat(url)
    assert capsys.readouterr().err == ""
    retry.forget(url)
    with pytest.raises(DataError):
        remote.read(url, 0, 10, len(DATA))
    assert "/a.tar for 5 minutes: There is no such file" in capsys.readouterr().err


def test_a_server_that_is_down_is_not_asked_five_times_for_each_file(server, url):
    for name in "bc":
        server.files[f"/{name}.tar"] = DATA
    server.faults = {f"/{name}.tar": [500, "always"] for name in "abc"}
    for name in "abc":
        with pytest.raises(DataError):
            remote.read(f"{server.url}/{name}.tar", 0, 10, len(DATA))
    assert [path for path, _ in server.asked] == ["/a.tar"] * 5 + ["/b.tar"] * 5 + ["/c.tar"]


@pytest.mark.parametrize("fault", ["silent", "stall"])
def test_a_server_that_stalls_for_ever(server, url, monkeypatch, fault):
    monkeypatch.setattr(retry, "TRIES", 2)
    server.impatient()
    server.faults["/a.tar"] = [fault, "always"]
    begun = time.monotonic()
    with pytest.raises(DataError, match="cannot be fetched"):
        remote.read(url, 100, 1000, len(DATA))
    assert time.monotonic() - begun < 5


def test_a_server_that_drips(server, monkeypatch):
    """Never silent, never done: the time for the whole request ends it."""
    monkeypatch.setattr(retry, "TRIES", 1)
    stop = threading.Event()

    def drip(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-999/1000")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(50):
            handler.wfile.write(b".")
            handler.wfile.flush()
            if stop.wait(0.1):
                return

    server.impatient()
    server.answer = drip
    begun = time.monotonic()
    with pytest.raises(DataError, match="cannot be fetched"):
        remote.read(server.url + "/a.tar", 0, 1000, 1000)
    assert time.monotonic() - begun < 3
    stop.set()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"no such file on the server.*a\.tar.*\{00000\.\.00099\}"),
        (410, "no such file"),
        (403, "does not let the file be read.*signed address"),
        (401, "does not let"),
        (400, "cannot be fetched|cannot be read"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(server, url, status, message):
    server.faults["/a.tar"] = [status, "always"]
    with pytest.raises(DataError, match=message):
        remote.read(url, 0, 10, len(DATA))
    assert len(server.asked) == 1


def test_a_file_that_shrank_or_grew(server, url):
    server.files["/a.tar"] = DATA[:-1]
    with pytest.raises(DataError, match="has changed since it was opened.*10,239 bytes instead of 10,240"):
        remote.read(url, 0, 10, len(DATA))
    server.files["/b.tar"] = DATA[:10]
    with pytest.raises(DataError, match="has changed since"):
        remote.read(server.url + "/b.tar", 500, 10, len(DATA))


def test_a_file_of_the_same_size_but_another_version(server, url):
    server.headers["Last-Modified"] = "today"
    for known in ('"1"', 'W/"1"', "today", ""):
        assert remote.read(url, 5, 10, len(DATA), known) == DATA[5:15]
        assert remote.download(url, io.BytesIO(), len(DATA), known) == len(DATA)
    for known in ('"0"', "yesterday"):
        with pytest.raises(DataError, match=f'has changed since it was opened.*"1" instead of {known}'):
            remote.read(url, 5, 10, len(DATA), known)
        retry.forget(url)
        with pytest.raises(DataError, match="has changed since"):
            remote.download(url, io.BytesIO(), len(DATA), known)
        retry.forget(url)
    server.headers.clear()
    server.etags["/a.tar"] = ""  # which one it is, the server does not say
    assert remote.read(url, 5, 10, len(DATA), '"0"') == DATA[5:15]


def test_a_whole_file_is_not_taken_for_a_range(server, url):
    server.faults["/a.tar"] = ["whole"]
    with pytest.raises(NoRanges):
        remote.read(url, 0, 10, len(DATA))
    server.ranges = False
    with pytest.raises(NoRanges):
        remote.read(url, 0, len(DATA) - 1, len(DATA))
    assert remote.read(url, 0, len(DATA), len(DATA)) == DATA  # which is what was asked for


@pytest.mark.parametrize("fault", [500, "reset", "stall", "short"])
def test_download(server, url, fault):
    if fault == "stall":
        server.impatient()
    server.faults["/a.tar"] = [fault]
    file = io.BytesIO()
    if fault == "short":  # the only one that a length tells
        with pytest.raises(DataError, match="has changed since it was opened"):
            remote.download(url, file, len(DATA))
    else:
        assert remote.download(url, file, len(DATA)) == len(DATA)
        assert file.getvalue() == DATA


def test_download_of_unknown_length(server, url):
    server.lengths = False
    file = io.BytesIO(b"something longer left from the try before" * 1000)
    assert remote.download(url, file, -1) == len(DATA)
    assert file.getvalue() == DATA


def test_nobody_there(monkeypatch, server):
    monkeypatch.setattr(retry, "TRIES", 2)
    server.close()
    with pytest.raises(DataError, match=r"cannot be fetched.*2 tries.*server and the network"):
        remote.stat(server.url + "/a.tar")


@pytest.mark.parametrize("url", ["http://", "http:///a.tar", "nowhere://a.tar", "http://[::1/a.tar"])
def test_senseless_addresses(server, url, monkeypatch):
    monkeypatch.setattr(retry, "TRIES", 1)
    with pytest.raises(DataError):
        remote.stat(url)


def test_a_missing_package_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setitem(sys.modules, "fsspec.implementations.http", None)
    with pytest.raises(DataError, match="package that reads such addresses is missing"):
        remote.stat(server.url + "/a.tar")
    assert server.asked == []


def test_other_file_systems(memory, server):
    for name in ("b", "a", "c"):
        fsspec.filesystem("memory").pipe(f"/openslip-test/{name}.tar", DATA)
    url = memory + "/a.tar"
    status = remote.stat(url)
    assert (status.size, status.ranges) == (len(DATA), True)
    assert status.version
    assert remote.read(url, 300, 700, len(DATA)) == DATA[300:1000]
    assert [found.rpartition("/")[2] for found in remote.glob(memory + "/*.tar")] == [
        "a.tar",
        "b.tar",
        "c.tar",
    ]
    assert remote.stat(remote.glob(memory + "/*.tar")[0]) == status
    assert remote.is_folder(memory)
    assert not remote.is_folder(url)
    with pytest.raises(DataError, match="no such file"):
        remote.stat(memory + "/none.tar")


def test_other_file_systems_fail_and_stall(memory, server, monkeypatch):
    system = fsspec.filesystem("memory")
    system.pipe("/openslip-test/a.tar", DATA)
    answers = [OSError("lost"), ConnectionResetError(), b"short", DATA[:10], OSError("lost again")]
    wait = threading.Event()

    def cat_file(*_):
        if not answers:
            wait.wait(20)
            return DATA[:10]
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    server.impatient()
    monkeypatch.setattr(type(system), "cat_file", cat_file)
    assert remote.read(memory + "/a.tar", 0, 10, len(DATA)) == DATA[:10]
    monkeypatch.setattr(retry, "TRIES", 2)
    with pytest.raises(DataError, match=r"No answer within 0 s.*2 tries"):
        remote.read(memory + "/a.tar", 0, 10, len(DATA))
    wait.set()


def test_what_is_a_url_and_what_of_it_is_shown():
    assert is_url("https://x/a.tar")
    assert is_url("HTTP://x/a.tar")
    assert is_url("simplecache::s3://bucket/a.tar")
    for path in ("a.tar", "/a/b.tar", "C:\\a.tar", "a::b.tar", "scenes:val:10", "./a://b"):
        assert not is_url(path)
        assert shown(path) == path
    assert shown("https://me:secret@host/a.tar?sig=secret") == "https://host/a.tar"
    assert shown("s3://bucket/a?.tar") == "s3://bucket/a?.tar"


def test_what_libraries_say_of_an_address_shows_no_keys():
    url = "https://me:s3cr3t%3D@host/a.tar?sig=s3cr3t%3D"
    for said in (f"403, url=URL('{url}')", "host/a.tar?sig=s3cr3t=", "password s3cr3t= is wrong"):

        def ask(said: str = said) -> None:
            raise ValueError(said)

        with pytest.raises(DataError) as error:
            retry.persist(url, ask)
        assert "s3cr3t" not in str(error.value.__dict__) + str(error.value)
        retry.forget(url)
