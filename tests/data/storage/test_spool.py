"""What processes share of remote files: fetched once, whole, of the right version, and never waited for long."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.containers.row_groups import RowGroups
from openslip.data.storage import remote, spool
from openslip.data.storage.reading import LocalFile, open_file, stat
from openslip.data.storage.spool import shared
from openslip.errors import DataError

SIZE = spool.SMALLEST
DATA = np.random.default_rng(0).bytes(4 * SIZE)


def open_shared(url: str):
    status = stat(url)
    return shared(open_file(url, status), url, status)


def spans(server) -> list[str]:
    """The ranges asked for, but for what is small."""
    ranges = [asked.removeprefix("bytes=").split("-") for _, asked in server.asked if asked]
    return [f"{first}-{last}" for first, last in ranges if int(last) - int(first) + 1 >= SIZE]


def kept(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache" / "spans").iterdir())


@pytest.fixture(autouse=True)
def fresh(monkeypatch) -> None:
    monkeypatch.setattr(spool, "_refused", -spool.LEFT_ALONE)


def read_rows(url: str, cache: Path, rank: int, world: int) -> list[int]:
    os.environ.update(OPENSLIP_CACHE=str(cache), NO_PROXY="127.0.0.1")
    rows = RowGroups([url], ["image"], cache_bytes=0)
    return [int.from_bytes(rows[index][0][:4], "little") for index in range(rank, len(rows), world)]


def test_processes_that_read_interleaved_rows_fetch_a_file_once(tmp_path, server):
    noise = np.random.default_rng(0)
    images = [k.to_bytes(4, "little") + noise.bytes(80_000) for k in range(64)]
    table = pa.table({"image": images, "text": ["x"] * 64})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=16, compression="none")
    server.files["/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    url, cache = f"{server.url}/a.parquet", tmp_path / "cache"
    with ProcessPoolExecutor(4, multiprocessing.get_context("forkserver")) as pool:
        found = list(pool.map(read_rows, [url] * 4, [cache] * 4, range(4), [4] * 4))
    assert found == [list(range(rank, 64, 4)) for rank in range(4)]
    asked = spans(server)
    assert len(asked) == len(set(asked)) == 4  # row groups
    sizes = [int(last) - int(first) + 1 for first, last in (span.split("-") for span in asked)]
    assert sum(sizes) <= len(server.files["/a.parquet"])
    assert not list((cache / "spans").rglob("*.lock")) + list(cache.rglob(".writing-*"))


def test_threads_that_want_the_same_at_once_fetch_it_once(server):
    server.files["/a"] = DATA
    url = f"{server.url}/a"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: open_shared(url).read(5, 2 * SIZE), range(8)))
    assert found == {DATA[5 : 5 + 2 * SIZE]}
    assert len(spans(server)) == 1


def test_small_reads_are_not_kept(tmp_path, server):
    server.files["/a"] = DATA
    assert open_shared(f"{server.url}/a").read(7, 100) == DATA[7:107]
    assert not (tmp_path / "cache" / "spans").exists()


def test_another_version_is_fetched_anew(server):
    server.files["/a"] = DATA
    assert open_shared(f"{server.url}/a").read(0, SIZE) == DATA[:SIZE]
    server.files["/a"], server.etags["/a"] = DATA[::-1], '"2"'
    assert open_shared(f"{server.url}/a").read(0, SIZE) == DATA[::-1][:SIZE]


def test_what_came_later_is_not_kept_under_an_earlier_version(server):
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    server.files["/a"], server.etags["/a"] = DATA[::-1], '"2"'
    with pytest.raises(DataError, match="has changed since it was opened"):
        file.read(0, SIZE)
    server.files["/a"], server.etags["/a"] = DATA, '"1"'
    assert open_shared(f"{server.url}/a").read(0, SIZE) == DATA[:SIZE]


def test_what_has_no_version_or_is_near_is_not_shared(tmp_path, server):
    server.files["/a"] = DATA
    server.etags["/a"] = ""
    file = open_shared(f"{server.url}/a")
    assert [file.read(0, SIZE) for _ in range(2)] == [DATA[:SIZE]] * 2
    assert len(spans(server)) == 2
    (tmp_path / "a").write_bytes(DATA)
    near = LocalFile(tmp_path / "a")
    assert shared(near, str(tmp_path / "a"), stat(str(tmp_path / "a"))) is near
    assert open_shared(f"file://{tmp_path}/a").read(1, SIZE) == DATA[1 : SIZE + 1]
    assert not (tmp_path / "cache" / "spans").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:9] + b"#" + data[10:]])
def test_damage_is_noticed(tmp_path, server, damage):
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    file.read(0, SIZE)
    (place,) = kept(tmp_path)
    place.write_bytes(damage(place.read_bytes()))
    assert file.read(0, SIZE) == DATA[:SIZE]
    assert file.read(0, SIZE) == DATA[:SIZE]
    assert len(spans(server)) == 2


def test_the_oldest_make_room(tmp_path, server, monkeypatch):
    monkeypatch.setattr(spool, "SPOOL_BYTES", 3 * SIZE)
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    for number in range(4):
        file.read(number * SIZE, SIZE)
        for place in kept(tmp_path):  # file systems tell times apart by milliseconds, at worst
            os.utime(place, (place.stat().st_mtime - 10,) * 2)
        assert sum(place.stat().st_size for place in kept(tmp_path)) <= 3 * SIZE
    assert len(kept(tmp_path)) == 2
    file.read(3 * SIZE, SIZE)
    assert len(spans(server)) == 4
    file.read(0, SIZE)
    assert len(spans(server)) == 5
    assert file.read(0, 4 * SIZE) == DATA  # more than all that may be kept
    assert len(kept(tmp_path)) == 2


def test_the_limit_holds_for_all_together(tmp_path, server, monkeypatch):
    """Eight that fetch at once each found room for theirs."""
    monkeypatch.setattr(spool, "SPOOL_BYTES", 3 * SIZE)
    server.files["/a"] = DATA
    files = [open_shared(f"{server.url}/a") for _ in range(8)]
    fetched = threading.Barrier(len(files))
    for file in files:
        read = file._file.read  # type: ignore[attr-defined]

        def together(offset: int, size: int, read=read) -> bytes:
            fetched.wait(60)
            return read(offset, size)

        monkeypatch.setattr(file._file, "read", together)  # type: ignore[attr-defined]
    with ThreadPoolExecutor(len(files)) as pool:
        found = [pool.submit(file.read, k, SIZE) for k, file in enumerate(files)]
        assert [future.result() for future in found] == [DATA[k : k + SIZE] for k in range(len(files))]
    assert [place.stat().st_size for place in kept(tmp_path)] == [SIZE + 4] * 2


def test_what_cannot_be_kept_alone_is_not_kept(tmp_path, server, monkeypatch):
    monkeypatch.setattr(spool, "WRITERS", 0.05)
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    (tmp_path / "cache" / "spans").mkdir(parents=True)
    writer = spool._lock(tmp_path / "cache" / "spans.lock", 0)
    assert writer is not None
    assert file.read(0, SIZE) == DATA[:SIZE]
    assert not kept(tmp_path)
    os.close(writer)
    monkeypatch.setattr(spool, "_refused", -spool.LEFT_ALONE)
    assert file.read(0, SIZE) == DATA[:SIZE]
    assert len(kept(tmp_path)) == 1


def test_what_killed_processes_have_left_goes_too(tmp_path, server, monkeypatch):
    monkeypatch.setattr(spool, "SPOOL_BYTES", 2 * SIZE)
    folder = tmp_path / "cache" / "spans"
    folder.mkdir(parents=True)
    (folder / ".writing-0-x").write_bytes(DATA[:SIZE])
    (folder / "y.lock").touch()
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    server.files["/a"] = DATA
    open_shared(f"{server.url}/a").read(0, SIZE)
    assert [path.stat().st_size for path in kept(tmp_path)] == [SIZE + 4]


def test_without_a_folder_that_can_be_written_each_fetches_for_itself(tmp_path, server, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "file"))
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    assert [file.read(0, SIZE) for _ in range(2)] == [DATA[:SIZE]] * 2
    assert len(spans(server)) == 2


def test_a_full_disk(tmp_path, server, monkeypatch):
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    with monkeypatch.context() as patch:
        patch.setattr(spool, "SPARE", 1 << 60)  # more than there is
        assert file.read(0, SIZE) == DATA[:SIZE]
    assert not kept(tmp_path)
    tries = []

    def refuse(place, durable):
        tries.append(place)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "whole_or_not", refuse)
    assert [file.read(0, SIZE) for _ in range(3)] == [DATA[:SIZE]] * 3
    assert len(tries) == 1  # not tried again for a while
    assert not kept(tmp_path)


def test_what_cannot_be_fetched_is_an_error_for_each(server):
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    server.faults["/a"] = [404, "always"]
    with pytest.raises(DataError, match="no such file on the server"):
        file.read(0, SIZE)


def hold(place: Path, locked) -> None:
    with spool.only_fetcher(place, 10):
        locked.set()
        time.sleep(600)


def test_a_killed_holder_lets_go_and_a_silent_one_is_not_waited_for_long(tmp_path):
    place, context = tmp_path / "x.lock", multiprocessing.get_context("forkserver")
    locked = context.Event()
    holder = context.Process(target=hold, args=(place, locked), daemon=True)
    holder.start()
    assert locked.wait(60)
    begun = time.monotonic()
    with spool.only_fetcher(place, 0.3):  # goes ahead all the same, and leaves the lock to its holder
        assert time.monotonic() - begun >= 0.3
    assert place.exists()
    assert holder.pid
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(spool._lock, place, 60)
        time.sleep(0.1)
        os.kill(holder.pid, signal.SIGKILL)
        assert waiting.result() is None  # what it waited for is not there: each for itself
    holder.join()
    descriptor = spool._lock(place, 10)
    assert descriptor is not None
    os.close(descriptor)


def test_those_who_wait_for_a_fetch_that_fails_find_out_together(server, monkeypatch):
    """Not one after the other, each trying again while the others wait."""
    server.files["/a"] = DATA
    file, trying, most, lock = open_shared(f"{server.url}/a"), 0, 0, threading.Lock()
    first = threading.Event()

    def fail(offset: int, size: int) -> bytes:
        nonlocal trying, most
        with lock:
            trying += 1
            most = max(most, trying)
        first.set()
        time.sleep(0.5)
        with lock:
            trying -= 1
        raise DataError("The server is down")

    monkeypatch.setattr(file._file, "read", fail)  # type: ignore[attr-defined]
    with ThreadPoolExecutor(5) as pool:
        failed = [pool.submit(file.read, 0, SIZE)]
        assert first.wait(60)
        failed += [pool.submit(file.read, 0, SIZE) for _ in range(4)]
        assert all(isinstance(future.exception(), DataError) for future in failed)
    assert most > 1


def test_waiting_for_a_fetch_is_bounded_as_a_fetch_is(tmp_path, server, monkeypatch):
    server.files["/a"] = DATA
    file = open_shared(f"{server.url}/a")
    asked = []
    monkeypatch.setattr(spool, "_lock", lambda place, seconds: asked.append(seconds))
    assert file.read(0, SIZE) == DATA[:SIZE]  # without the lock
    assert asked == [remote.PATIENCE + SIZE / remote.SLOWEST]
