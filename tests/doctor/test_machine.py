"""What is advised about a machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openslip.doctor.machine import CPU_ONLY, Machine, Room, advice, look

FINE = Machine(
    device="cpu", name="", precision="float32", threads=2, cores=2, cuda="", memory=8 << 30,
    shared=Room(8 << 30, 8 << 30), folder="/work", disk=Room(100 << 30, 200 << 30), writable=True,
)  # fmt: skip


def test_looking(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.folder == str(tmp_path.resolve())
    assert found.writable
    assert 0 < found.disk.free <= found.disk.total
    assert found.threads >= 1
    assert found.precision in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("changes", "system", "driver", "said"),
    [
        ({}, "linux", False, ()),
        ({"cuda": "13.0", "device": "cuda:0"}, "linux", True, ()),
        ({"cuda": "13.0"}, "linux", False, (CPU_ONLY, "finds no GPU")),
        ({"cuda": "13.0"}, "linux", True, (CPU_ONLY, "nvidia-smi")),
        ({}, "linux", True, ("--force-reinstall torch",)),
        ({}, "darwin", True, ()),
        ({"shared": Room(64 << 20, 64 << 20)}, "linux", False, ("--shm-size", "--data.workers 0")),
        ({"shared": None}, "darwin", False, ()),
        ({"disk": Room(1 << 30, 200 << 30)}, "linux", False, ("disk space is free",)),
    ],
)
def test_advice(changes, system, driver, said) -> None:
    lines = advice(replace(FINE, **changes), system, driver)
    assert len(lines) == bool(said)
    assert all(words in lines[0] for words in said)
