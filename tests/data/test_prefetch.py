from __future__ import annotations

from pathlib import Path

import pytest

from openslip.config import ViewConfig, ViewsConfig
from openslip.data import prefetch as module
from openslip.data.prefetch import (
    SMALLEST,
    WORKER_BATCH,
    Prefetch,
    choose_prefetch,
    free_memory,
    sample_bytes,
)
from openslip.needs import IMAGE, SSL_VIEWS

GB = 10**9
VIEWS = (IMAGE, *SSL_VIEWS)
SAMPLE = 3 * 3 * 224**2


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes are free."""

    def set_free(count: int) -> None:
        monkeypatch.setattr(module, "free_memory", lambda: count)

    set_free(1000 * GB)
    return set_free


@pytest.mark.parametrize(
    ("share", "workers", "expected"),
    [
        (5, 3, Prefetch(3, 4, 5, SAMPLE)),  # small batches: four each
        (256, 8, Prefetch(8, 4, 256, SAMPLE)),
        (300, 2, Prefetch(2, 4, 150, SAMPLE)),  # equal worker batches
        (4096, 8, Prefetch(8, 4, 256, SAMPLE)),  # two batches are four worker batches each
        (4096, 2, Prefetch(2, 16, 256, SAMPLE)),
        (4096, 0, Prefetch(0, 0, 4096, SAMPLE)),
    ],
)
def test_what_is_kept_ready_where_memory_is_plenty(free, share, workers, expected) -> None:
    chosen = choose_prefetch(share, SAMPLE, workers)
    assert chosen == expected
    assert chosen.samples >= 2 * share * (workers > 0)


def test_bytes(free) -> None:
    assert (
        choose_prefetch(4096, SAMPLE, 8).bytes == (8 * 4 + 1) * WORKER_BATCH * SAMPLE
    )  # 3.8 GB, where batches took 59
    assert choose_prefetch(4096, SAMPLE, 0).bytes == 0


@pytest.mark.parametrize("gigabytes", [16, 8, 4, 1, 0.4])
def test_no_more_than_a_quarter_of_what_is_free(free, gigabytes: float) -> None:
    """But for the one worker batch that has just been taken."""
    free(int(gigabytes * GB))
    chosen = choose_prefetch(4096, SAMPLE, 8)
    assert chosen.scarce == (gigabytes < 16)
    assert chosen.samples * SAMPLE <= gigabytes * GB / 4
    assert chosen.each >= 2
    assert chosen.samples * SAMPLE > gigabytes * GB / 4 / 2  # and not much less


def test_a_container_without_shared_memory(free) -> None:
    """64 MB is docker's default."""
    free(64 * 2**20)
    chosen = choose_prefetch(256, SAMPLE, 2)
    assert chosen.bytes < 64 * 2**20 / 3
    free(0)
    assert choose_prefetch(256, SAMPLE, 2) == Prefetch(2, 1, SMALLEST, SAMPLE, scarce=True)


def test_a_block_of_records_that_are_fetched_at_once_is_not_cut_for_want_of_a_little_memory(free) -> None:
    """Its parts would be fetched by as many processes."""
    free(int(0.6 * GB))
    assert choose_prefetch(4096, SAMPLE, 8).rows == 20
    chosen = choose_prefetch(4096, SAMPLE, 8, block=64)
    assert chosen == Prefetch(8, 1, 64, SAMPLE, scarce=True)
    assert 0.6 * GB / 4 < chosen.bytes <= 0.6 * GB / 2
    for gigabytes in (0.4, 4):  # half of it is too little; a quarter is enough
        free(int(gigabytes * GB))
        assert choose_prefetch(4096, SAMPLE, 8, block=64) == choose_prefetch(4096, SAMPLE, 8)
    free(int(0.02 * GB))
    assert choose_prefetch(12, SAMPLE, 2, block=64).rows == 8
    free(int(0.04 * GB))
    assert choose_prefetch(12, SAMPLE, 2, block=64).rows == 12  # its share is less than a block


@pytest.mark.parametrize(
    ("prefetch", "share", "workers", "each"),
    [(0, 4096, 8, 1), (1, 4096, 8, 2), (3, 4096, 8, 6), (1, 16, 8, 1), (20, 16, 8, 3)],
)
def test_what_is_asked_for_is_kept_whatever_it_takes(free, prefetch, share, workers, each) -> None:
    free(0)
    chosen = choose_prefetch(share, SAMPLE, workers, prefetch)
    assert (chosen.each, chosen.rows, chosen.scarce) == (each, min(share, WORKER_BATCH), False)


def test_sample_bytes() -> None:
    assert sample_bytes(VIEWS, ViewsConfig(size=224)) == SAMPLE
    small = ViewsConfig(size=224, ssl=ViewConfig(size=112))
    assert sample_bytes(VIEWS, small, 0.5) == 3 * 224**2 + 2 * 3 * 112**2 // 2
    assert sample_bytes((IMAGE,), small) == 3 * 224**2
    assert sample_bytes((), small) == 0


def system(folder: Path, monkeypatch, **files: str) -> None:
    """Let these be the files in which a system tells of its memory."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    monkeypatch.setattr(module, "_LIMITS", folder)
    monkeypatch.setattr(module, "_MEMORY", folder / "meminfo")
    monkeypatch.setattr(module, "_SHARED", folder / "none")


def test_free_memory(tmp_path, monkeypatch) -> None:
    system(tmp_path, monkeypatch, meminfo="MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:   5000 kB\n")
    assert free_memory() == 5000 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory() == 5000 * 1024 // 4


def test_free_memory_of_a_container(tmp_path, monkeypatch) -> None:
    meminfo = "MemAvailable: 5000 kB\n"
    system(tmp_path, monkeypatch, meminfo=meminfo, memory_max="max\n", memory_current="7\n")
    assert free_memory() == 5000 * 1024
    stat = "file 99\ninactive_file 2000\n"
    system(tmp_path, monkeypatch, memory_max="10000\n", memory_current="8000\n", memory_stat=stat)
    assert free_memory() == 4000
    system(tmp_path, monkeypatch, memory_current="13000\n")
    assert free_memory() == 0


def test_free_memory_where_a_system_does_not_say(tmp_path, monkeypatch) -> None:
    system(tmp_path, monkeypatch)
    assert free_memory() > GB


def test_free_shared_memory(tmp_path, monkeypatch) -> None:
    system(tmp_path, monkeypatch)
    monkeypatch.setattr(module, "_SHARED", tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("", (), {"free": 1234}))
    assert free_memory() == 1234
