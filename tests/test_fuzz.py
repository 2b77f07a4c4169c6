"""Every reader reads damaged files or refuses them in words: no other error, no end of the process, no endless work."""

from __future__ import annotations

import sys

import pytest

from fuzzing.readers import READERS
from fuzzing.sandbox import fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Limits of a process are those of Linux")


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name, tmp_path) -> None:
    """The whole sample, which must be read, and a few damaged ones."""
    failures = fuzz(name, tmp_path, count=8, seed=0)
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_lot_of_damaged_files_are_read_or_refused(name, tmp_path) -> None:
    failures = fuzz(name, tmp_path, count=200, seed=1)
    assert not failures, "\n".join(map(str, failures))
