"""Every reader reads damaged files or refuses them in words: no other error, no end of the process, no endless work."""

from __future__ import annotations

import sys

import pytest

from fuzzing.readers import READERS
from fuzzing.sandbox import fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Limits of a process are those of Linux")


@pytest.mark.parametrize("name", list(READERS)[::3])
def test_damaged_files_are_read_or_refused(name, tmp_path) -> None:
    """The whole sample, which must be read, and a few damaged ones; of every third reader, of all in the slow test."""
    failures = fuzz(name, tmp_path, count=5, seed=0)
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("raises", "ValueError: a traceback"),
        ("refuses", "The whole sample is refused"),
        ("dies", "SIGSEGV"),
        ("leaves", "The process ended: 3"),
        ("loops", "It took too long"),
        ("eats", "MB of memory, more than 30"),
    ],
)
def test_the_fuzz_notices(name, what, tmp_path) -> None:
    """It goes on after a process that died, keeps the files, and stops where enough has failed."""
    failures = fuzz(name, tmp_path, count=5, seed=0, most=1 if name in ("refuses", "loops") else 2)
    assert [failure.index for failure in failures] == ([0, 1] if name not in ("refuses", "loops") else [0])
    assert all(what in failure.what for failure in failures)
    assert (failures[0].folder / "a").read_bytes() == b"a"


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_lot_of_damaged_files_are_read_or_refused(name, tmp_path) -> None:
    failures = fuzz(name, tmp_path, count=200, seed=1)
    assert not failures, "\n".join(map(str, failures))
