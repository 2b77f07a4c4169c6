"""Shards behind URLs: the same records as local ones, a block at a time; what fails is skipped, never garbage."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from functools import partial

import fsspec
import pytest

from openslip.data.data import Data
from openslip.data.sources import open_source, tar_index, webdataset
from openslip.data.sources.webdataset import TarShards
from openslip.data.storage import reading, remote, retry
from openslip.data.storage.reading import cache_folder
from openslip.errors import DataError
from openslip.needs import IMAGE

COUNTS = 5, 3, 4


@pytest.fixture
def shards(server, tmp_path, write_tar, jpeg):
    """Three shards of 5, 3 and 4 samples, as local paths; the server has them as well."""
    paths = []
    for s, count in enumerate(COUNTS):
        members = []
        for i in range(count):
            members += [
                (f"{i:03}.jpg", jpeg + bytes([s, i])),
                (f"{i:03}.json", json.dumps({"captions": [f"shard {s} image {i}"]}).encode()),
                (f"{i:03}.txt", f"shard {s} image {i}".encode()),
            ]
        paths.append(write_tar(tmp_path / f"a-{s}.tar", members))
        server.files[f"/set/a-{s}.tar"] = paths[-1].read_bytes()
    return paths


@pytest.fixture
def spec(server):
    return server.url + "/set/a-{0..2}.tar"


def ranges(server):
    """Return (shard, bytes asked for) of the requests so far, and forget them."""
    asked = [(int(path[-5]), asked) for path, asked in server.asked]
    server.asked.clear()
    return asked


def test_the_same_records_as_local_ones(server, shards, spec):
    source, twin = open_source(spec), TarShards(shards)
    assert (len(source), source.name, source.block, twin.block) == (12, spec, 64, 1)
    for index in range(12):
        here, there = twin[index], source[index]
        assert (there.image, there.captions, there.key) == (here.image, here.captions, here.key)
    assert source[4].source == server.url + "/set/a-0.tar"
    with pytest.raises(IndexError):
        source[12]


def test_one_request_a_block_within_a_shard(server, shards, spec, monkeypatch):
    monkeypatch.setattr(webdataset, "REMOTE_BLOCK", 4)
    source = open_source(spec)
    ranges(server)
    order = [6, 4, 7, 5, 0, 3, 1, 2, 11, 8, 10, 9]
    assert [source[i].key for i in order] == [
        f"{i if i < 5 else i - 5 if i < 8 else i - 8:03}" for i in order
    ]
    # Block [4, 8) lies in shards 0 and 1, the others in one each.
    assert [shard for shard, _ in ranges(server)] == [1, 0, 0, 2]
    for index in range(12):
        assert source[index].captions
    assert ranges(server) == []  # held


def test_what_is_held_is_bounded(server, shards, spec, monkeypatch):
    monkeypatch.setattr(webdataset, "REMOTE_BLOCK", 4)
    monkeypatch.setattr(webdataset, "HELD_BYTES", 20_000)
    source = open_source(spec)
    assert isinstance(source, TarShards)
    for index in [0, 8, 0, 8, 4, 0]:
        assert source[index].captions
        assert sum(weight for _, weight in source._blocks_held._values.values()) <= 20_000


def test_large_blocks_are_fetched_in_parts(server, shards, spec, monkeypatch):
    monkeypatch.setattr(webdataset, "FETCHED_BYTES", 8000)
    source = open_source(spec)
    ranges(server)
    assert [source[i].key for i in range(5)] == [f"{i:03}" for i in range(5)]
    asked = [tuple(map(int, r.removeprefix("bytes=").split("-"))) for _, r in ranges(server)]
    assert 1 < len(asked) < 5
    assert all(last - first < 8000 for first, last in asked)


@pytest.mark.parametrize(("held", "most"), [(1 << 20, 1), (20_000, 5)])
def test_a_block_in_any_order_is_fetched_once(server, shards, spec, monkeypatch, held, most):
    monkeypatch.setattr(webdataset, "HELD_BYTES", held)
    monkeypatch.setattr(webdataset, "FETCHED_BYTES", held // 4)
    source = open_source(spec)
    ranges(server)
    assert [source[i].key for i in (3, 0, 4, 1, 2)] == ["003", "000", "004", "001", "002"]
    asked = [tuple(map(int, r.removeprefix("bytes=").split("-"))) for _, r in ranges(server)]
    assert len(asked) <= most
    assert sum(last - first + 1 for first, last in asked) <= len(server.files["/set/a-0.tar"])


def test_samples_whose_members_lie_apart(server, tmp_path, write_tar, monkeypatch):
    monkeypatch.setattr(webdataset, "GAP", 2000)
    members = [
        ("1.jpg", b"i1"),
        ("2.jpg", b"i2"),
        ("9.bin", bytes(100_000)),
        ("1.txt", b"one"),
        ("2.txt", b"two"),
    ]
    server.files["/a.tar"] = write_tar(tmp_path / "a.tar", members).read_bytes()
    source = TarShards([server.url + "/a.tar"])
    server.asked.clear()
    assert [(r.image, r.captions) for r in source] == [(b"i1", ("one",)), (b"i2", ("two",))]
    assert len(server.asked) == 2


def test_the_index_is_made_once(server, shards, spec, monkeypatch):
    open_source(spec)
    assert len(ranges(server)) == 6  # size and content of each
    assert len(list((cache_folder() / "indexes").iterdir())) == 3
    source = open_source(spec)
    assert [asked for _, asked in ranges(server)] == ["bytes=0-0"] * 3
    assert source[11].captions == ("shard 2 image 3",)


@pytest.mark.parametrize("fault", [404, 503])
def test_a_shard_that_is_away_is_taken_by_its_index(server, shards, spec, fault):
    whole = open_source(spec)
    assert whole.note == ""
    server.faults["/set/a-1.tar"] = [fault, "always"]
    source = open_source(spec)
    assert len(source) == len(whole) == 12
    assert "1 of 3 shards could not be reached" in source.note
    assert "/set/a-1.tar" in source.note
    assert [source[i].key for i in (0, 4, 8, 11)] == [whole[i].key for i in (0, 4, 8, 11)]
    with pytest.raises(DataError, match="a-1.tar"):
        source[5]
    del server.faults["/set/a-1.tar"]
    retry.forget(server.url + "/set/a-1.tar")
    assert source[5].captions == ("shard 1 image 0",)  # it is back
    assert open_source(spec).note == ""


def test_a_shard_that_is_away_and_was_never_indexed_is_an_error(server, shards, spec):
    server.faults["/set/a-1.tar"] = [404, "always"]
    with pytest.raises(
        DataError, match=r"no such file on the server.*a-1\.tar.*leave a missing file out like this"
    ):
        open_source(spec)
    server.faults.clear()
    open_source(spec)
    for path in (cache_folder() / "indexes").iterdir():
        path.write_bytes(path.read_bytes()[:-1])  # damaged
    server.faults["/set/a-1.tar"] = [404, "always"]
    with pytest.raises(DataError, match="no such file on the server"):
        open_source(spec)


def test_a_server_that_is_away_is_an_error_all_the_same(server, shards, spec):
    open_source(spec)
    server.faults = {f"/set/a-{s}.tar": [503, "always"] for s in range(3)}
    with pytest.raises(DataError, match="cannot be fetched"):
        open_source(spec)


def test_another_etag_and_it_is_made_again(server, shards, spec, write_tar, tmp_path):
    open_source(spec)
    new = write_tar(tmp_path / "new.tar", [(f"{i}.png", bytes([i])) for i in range(3)]).read_bytes()
    new = new.ljust(len(server.files["/set/a-0.tar"]), b"\0")  # the size tells nothing
    server.files["/set/a-0.tar"], server.etags["/set/a-0.tar"] = new, '"2"'
    ranges(server)
    source = open_source(spec)
    assert len(ranges(server)) == 4
    assert [record.key for record in source][:4] == ["0", "1", "2", "000"]


def test_a_long_shard_is_read_in_windows(server, shards, spec, monkeypatch):
    monkeypatch.setattr(reading, "WINDOW", 2048)
    assert len(open_source(spec)) == 12


def test_without_ranges(server, shards, spec):
    server.ranges = False
    source = open_source(spec)
    asked = ranges(server)
    assert sorted(asked) == sorted([(s, r) for s in range(3) for r in ("bytes=0-0", "")])
    assert [record.captions[0] for record in source][-1] == "shard 2 image 3"
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7].captions == ("shard 1 image 2",)
    assert ranges(server) == []
    for path in (cache_folder() / "files").iterdir():  # somebody makes room
        path.unlink()
    assert pickle.loads(pickle.dumps(source))[0].captions == ("shard 0 image 0",)
    assert ranges(server) == [(0, "")]


def test_a_wrong_address_says_what_to_do(server, shards):
    with pytest.raises(DataError, match=r"no such file on the server.*a-3\.tar.*ends at the last file there"):
        open_source(server.url + "/set/a-{0..3}.tar")
    server.files["/page.tar"] = b"<!DOCTYPE html><html>Sign in</html>"
    with pytest.raises(DataError, match=r"not a tar file.*DOCTYPE"):
        open_source(server.url + "/page.tar")
    server.files["/none.tar"] = b""
    with pytest.raises(DataError, match="shard is empty"):
        open_source(server.url + "/none.tar")


def test_a_shard_cut_off_on_the_server(server, shards, spec):
    server.files["/set/a-1.tar"] = server.files["/set/a-1.tar"][: 512 * 5]
    with pytest.raises(DataError, match=r"cut off.*/set/a-1\.tar") as error:
        open_source(spec)
    assert "truncate" not in str(error.value)


@pytest.mark.parametrize("fault", [503, "reset", "short", "stall"])
def test_opening_and_reading_survive_what_passes(server, shards, spec, fault):
    if fault == "stall":
        server.impatient()
    faults = {f"/set/a-{s}.tar": [fault] for s in range(3)}
    server.faults = {path: list(faults) for path, faults in faults.items()}
    source = open_source(spec)
    server.faults = {path: list(faults) for path, faults in faults.items()}
    assert next(iter(source)).captions == ("shard 0 image 0",)


def test_a_shard_that_fails_for_good_costs_its_records_and_no_more(server, shards, spec):
    source = open_source(spec)
    server.faults["/set/a-1.tar"] = [500, "always"]
    ranges(server)
    read, failed = [], []
    for index in range(12):
        try:
            read.append(source[index].key)
        except DataError as error:
            failed.append((index, str(error)))
    assert len(read) == 9
    assert [index for index, _ in failed] == [5, 6, 7]
    assert all("cannot be fetched" in reason and "a-1.tar" in reason for _, reason in failed)
    assert len([shard for shard, _ in ranges(server) if shard == 1]) == 5


def test_training_goes_on_without_it(server, shards, spec):
    from openslip.config import ViewsConfig
    from openslip.data.loader import Loader

    source = open_source(spec)
    del server.files["/set/a-1.tar"]
    loader = Loader(
        Data(source), views=(IMAGE,), config=ViewsConfig(size=8), tokenizer=None, batch=12, seed=0, workers=0
    )
    batch = next(iter(loader))
    assert sorted(skipped.index for skipped in batch.skipped) == [5, 6, 7]
    assert all("no such file" in skipped.reason for skipped in batch.skipped)
    assert len(batch.keys) == 12


def test_a_shard_vanishes_shrinks_or_is_replaced_after_opening(
    server, shards, spec, write_tar, tmp_path, monkeypatch
):
    source = open_source(spec)
    del server.files["/set/a-0.tar"]
    with pytest.raises(DataError, match="no such file"):
        source[0]
    server.files["/set/a-1.tar"] = server.files["/set/a-1.tar"][:1024]
    with pytest.raises(DataError, match="has changed since"):
        source[5]
    other = write_tar(
        tmp_path / "other.tar", [("x" * i + ".txt", b"y" * 700 * i) for i in range(1, 5)]
    ).read_bytes()
    server.files["/set/a-2.tar"] = other.ljust(len(server.files["/set/a-2.tar"]), b"\0")
    for index in range(8, 12):
        with pytest.raises(DataError, match="has changed since"):
            source[index]


def test_pickled_after_use_and_read_in_other_processes(server, shards, spec, monkeypatch):
    source = open_source(spec)
    expected = [source[i] for i in (0, 6, 11)]
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._blocks_held._values
    assert [copy[i] for i in (0, 6, 11)] == expected
    for method in ("forkserver", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map_async(source.__getitem__, (0, 6, 11)).get(60) == expected


def test_processes_that_open_the_same_set_at_once(server, shards, spec):
    urls = [f"{server.url}/set/a-{s}.tar" for s in range(3)]
    for ranges_served in (True, False):
        server.ranges = ranges_served
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            sources = pool.map_async(partial(TarShards, name="x"), [urls] * 2, chunksize=1).get(60)
        assert [source[11].captions for source in sources] == [("shard 2 image 3",)] * 2
        for path in (cache_folder() / "indexes").iterdir():
            path.unlink()
    assert len(list((cache_folder() / "files").iterdir())) == 3


def test_local_and_remote_shards_together(server, shards):
    source = TarShards([shards[0], f"{server.url}/set/a-1.tar"])
    assert source.block == 64
    assert [record.captions[0] for record in source][4:6] == ["shard 0 image 4", "shard 1 image 0"]


def test_names_that_lead_elsewhere_are_only_names(server, tmp_path, write_tar, jpeg):
    names = ["../../etc/1.jpg", "/abs/2.jpg", "./3.jpg"]
    data = write_tar(tmp_path / "a.tar", [(name, jpeg) for name in names]).read_bytes()
    server.files["/a.tar"] = data
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a.tar", server.url + "/a.tar"):
        assert [record.key for record in TarShards([path])] == ["../../etc/1", "/abs/2", "3"]
    assert os.listdir(tmp_path / "folder") == []


def test_keys_in_addresses_are_not_shown(server, shards, monkeypatch):
    monkeypatch.setattr(retry, "TRIES", 1)
    url = server.url.replace("http://", "http://me:secret@") + "/set/a-0.tar?signature=secret"
    source = TarShards([url])
    assert source[0].source == server.url + "/set/a-0.tar"
    server.faults["/set/a-0.tar"] = [500, "always"]
    with pytest.raises(DataError) as error:
        TarShards([url])[0]
    assert "secret" not in str(error.value)


def test_other_file_systems(shards, server, monkeypatch):
    system = fsspec.filesystem("memory")
    for path in shards:
        system.pipe(f"/openslip-shards/{path.name}", path.read_bytes())
    try:
        for spec in ("a-{0..2}.tar", "a-*.tar", "a-?.tar", "", "a-{0,[12]}.tar"):
            source = open_source(f"memory://openslip-shards/{spec}")
            assert [record.captions[0] for record in source][10] == "shard 2 image 2"
            assert source.block == 64
        with pytest.raises(DataError, match="matches no file"):
            open_source("memory://openslip-shards/b*.tar")
        with pytest.raises(DataError, match="no such file"):
            open_source("memory://openslip-shards/a-3.tar")
        system.mkdir("/openslip-shards/empty")
        with pytest.raises(DataError, match=r"holds no shards.*\*\.tar"):
            open_source("memory://openslip-shards/empty")
    finally:
        system.rm("/openslip-shards", recursive=True)


def test_what_is_imported_for_local_shards(shards):
    """fsspec and aiohttp are loaded by what needs them alone."""
    import subprocess
    import sys

    code = (
        "import sys; from openslip.data.sources import open_source; "
        f"assert open_source({str(shards[0])!r})[0].key == '000'; "
        "assert not {'fsspec', 'aiohttp', 'torch', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_constants_leave_room():
    assert webdataset.FETCHED_BYTES * 4 <= webdataset.HELD_BYTES
    assert reading.WINDOW / remote.SLOWEST < 60
    assert tar_index.THREADS * reading.WINDOW <= 1 << 28
