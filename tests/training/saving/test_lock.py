import os
import signal
import subprocess
import sys
import time

import pytest

from slip.errors import ConfigError
from slip.training.saving import lock

HOLD = """
import sys, time
from pathlib import Path
from slip.training.saving.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_a_second_one_is_refused_and_told_who_the_first_is(tmp_path) -> None:
    refused = pytest.raises(ConfigError, match=rf"process {os.getpid()} on .*--out")
    with lock.held(tmp_path), refused, lock.held(tmp_path, patience=0):
        pytest.fail("two at once")
    with lock.held(tmp_path, patience=0):
        pass


def test_a_killed_holder_holds_nothing(tmp_path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"process {process.pid} on"), lock.held(tmp_path, patience=0):
            pytest.fail("two at once")
        started = time.monotonic()
        process.send_signal(signal.SIGKILL)
        with lock.held(tmp_path):  # waits for it to be gone
            assert time.monotonic() - started < lock.PATIENCE


def test_nothing_stays_of_a_folder_that_nothing_came_of(tmp_path) -> None:
    with lock.held(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    with lock.held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    with lock.held(tmp_path / "a" / "b"):
        pass
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["file", "lock"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_none_is_left_alone(tmp_path, kind) -> None:
    (tmp_path / "precious").write_text("precious")
    place = tmp_path / "run" / "lock"
    place.parent.mkdir()
    {
        "link": lambda: place.symlink_to(tmp_path / "precious"),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
    }[kind]()
    with lock.held(place.parent, patience=0):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
