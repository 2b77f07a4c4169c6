import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from openslip.errors import ConfigError
from openslip.training.saving import lock

HOLD = """
import sys, time
from pathlib import Path
from openslip.training.saving.lock import held
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
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


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


def unlockable(monkeypatch) -> None:
    """As on a file system that keeps no locks."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def quick(monkeypatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 1.0)


def test_where_no_locks_are_kept_a_sign_of_life_holds(tmp_path, monkeypatch) -> None:
    unlockable(monkeypatch)
    quick(monkeypatch)
    refused = pytest.raises(ConfigError, match=f"process {os.getpid()} on")
    with lock.held(tmp_path), refused, lock.held(tmp_path):
        pytest.fail("two at once")
    assert os.listdir(tmp_path) == []
    # Killed, a holder leaves its sign, which nobody changes any more.
    (tmp_path / "lock").write_text(f"process 1 on elsewhere, since long\n{lock._kernel()} abc 0000000007\n")
    said: list[str] = []
    with lock.held(tmp_path, inform=said.append):
        assert len(said) == 1
        assert "sign of life of process 1 on elsewhere" in said[0]


def test_of_two_that_come_at_once_where_no_locks_are_kept_one_gets_in(tmp_path, monkeypatch) -> None:
    unlockable(monkeypatch)
    quick(monkeypatch)
    outcomes: list[str] = []
    start, both = threading.Barrier(2), threading.Event()

    def come() -> None:
        start.wait()
        try:
            with lock.held(tmp_path / "run"):
                outcomes.append("in")
                both.wait(20)
        except ConfigError:
            outcomes.append("refused")
            both.set()

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in", "refused"]
    # Whoever made the folder may be the one who was refused, while the other was in it: then it stays, empty.
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["run"])


def test_a_holder_on_another_machine_is_heard_of(tmp_path, monkeypatch) -> None:
    """Of another kernel, whose locks this one may know nothing of."""
    quick(monkeypatch)
    place = tmp_path / "lock"
    place.write_text("process 7 on far, since today\nkernel-of-far abc 0000000001\n")
    beats = threading.Timer(
        0.3, place.write_text, ["process 7 on far, since today\nkernel-of-far abc 0000000002\n"]
    )
    beats.start()
    with pytest.raises(ConfigError, match="process 7 on far"), lock.held(tmp_path):
        pytest.fail("two at once")
    beats.join()
    with lock.held(tmp_path):  # it is silent from now on
        assert f"process {os.getpid()}" in place.read_text()


def test_what_an_earlier_version_left_is_nobodys(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "SILENCE", 1000)
    (tmp_path / "lock").write_text("process 7 on far, since today\n")
    with lock.held(tmp_path):
        pass


def test_whether_a_folder_is_free_can_be_asked_without_a_trace(tmp_path) -> None:
    lock.check_free(tmp_path / "nowhere")
    assert os.listdir(tmp_path) == []
    with lock.held(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
        lock.check_free(tmp_path, patience=0)
    lock.check_free(tmp_path, patience=0)
    assert os.listdir(tmp_path) == []


def test_a_file_of_somebody_elses_is_left_alone(tmp_path) -> None:
    (tmp_path / lock.NAME).write_text("my padlock's number\n")
    with pytest.raises(ConfigError, match="is no lock.*padlock.*another name"), lock.held(tmp_path):
        pass
    assert (tmp_path / lock.NAME).read_text() == "my padlock's number\n"
