"""A lock that lets one process at a time write to a run folder; a dead process holds no lock.

The kernel keeps the lock (`flock`) and releases it when its holder dies. On some network file systems other kernels do
not see the lock, and some file systems keep no locks at all. There the holder's sign of life counts: the holder changes
the lock file every few seconds, and a file that has not changed for a while belongs to nobody.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import Event, Thread

from openslip.errors import ConfigError

NAME = "lock"
PATIENCE = 10.0
"""Seconds to wait for a holder that may be about to end, such as a process that has been replaced."""
BEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 20.0
"""Seconds without a sign of life after which a holder that the kernel does not know of is taken for dead."""
_UNLOCKABLE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_READ = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)
_WRITE = _READ | os.O_RDWR
Inform = Callable[[str], object]


@contextmanager
def held(folder: Path, patience: float | None = None, inform: Inform = lambda text: None) -> Iterator[None]:
    """Hold the lock on a folder within the block; make the folder if it is not there.

    A process that dies in any way holds no lock. Folders made only for the lock are removed with it, unless another
    process uses them by then. If no file can be written, no lock is held, and the block runs. inform: prints what the
    process waits for.

    Raises ConfigError if another process has held the lock for `patience` seconds (default: PATIENCE), OSError if the
    folder cannot be made.
    """
    patience = PATIENCE if patience is None else patience
    made = _make(folder)
    lock = None
    try:
        lock = _acquire(folder / NAME, patience, inform)
        yield
    finally:
        with suppress(OSError):
            if lock is not None:
                lock.release()
            for path in made:  # only if it is empty
                path.rmdir()


def check_free(folder: Path, patience: float | None = None, inform: Inform = lambda text: None) -> None:
    """Raise ConfigError if another process of this machine has held the folder for `patience` seconds.

    Nothing is written, and nothing is held afterwards. Use it before a long preparation that needs the folder at its
    end.
    """
    patience = PATIENCE if patience is None else patience
    with suppress(OSError):
        descriptor = os.open(folder / NAME, _READ)
        try:
            _wait_for(descriptor, folder / NAME, patience, inform, shared=True)
        finally:
            os.close(descriptor)


@dataclass
class _Lock:
    """A lock that is held, and its sign of life."""

    path: Path
    descriptor: int
    ended: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self.sign = _Sign(f"process {os.getpid()} on {socket.gethostname()}, since {_now()}", _kernel())
        self.sign.write(self.descriptor)
        self.thread = Thread(target=self._beat, name="lock", daemon=True)
        self.thread.start()

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            self.sign.beat += 1
            self.sign.write(self.descriptor)

    def release(self) -> None:
        """Release the lock: first remove the file, while no other process can have it."""
        self.ended.set()
        self.thread.join()
        try:
            if _is(self.descriptor, self.path):
                self.path.unlink()
        finally:
            os.close(self.descriptor)


@dataclass
class _Sign:
    """What a lock file says of its holder. A lock file of another version only names the holder."""

    holder: str = ""
    kernel: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    beat: int = 0

    def write(self, descriptor: int) -> None:
        """Write the sign, also for processes on other machines."""
        with suppress(OSError):  # a full disk is no reason to stop
            text = f"{self.holder}\n{self.kernel} {self.token} {self.beat:010d}\n".encode()
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
            os.fsync(descriptor)

    @classmethod
    def read(cls, path: Path) -> _Sign | None:
        """Return what a lock file says; None if there is no file, or it is empty."""
        try:
            descriptor = os.open(
                path, _READ
            )  # opened anew each time, because only then a network file system looks at the file again
        except OSError:
            return None
        with suppress(OSError), os.fdopen(descriptor, "rb") as file:
            holder, _, rest = file.read(1000).decode(errors="replace").partition("\n")
            kernel, token, beat = (*rest.split(), "", "", "")[:3]
            return cls(holder, kernel, token, int(beat) if beat.isdecimal() else 0) if holder else None
        return None


def _acquire(path: Path, patience: float, inform: Inform) -> _Lock | None:
    """Return the lock, or None if no file can be written. Raises ConfigError if another process holds the lock."""
    while True:
        before = _Sign.read(path)
        if before and not before.holder.startswith(("process ", "a process ")):
            raise ConfigError(
                f"{path} is no lock, and has the name of the lock on its folder",
                got=f"a file that begins with {before.holder[:60]!r}",
                fix="Give that file another name, or choose another folder with --out",
            )
        try:
            descriptor = _open(path)
        except FileNotFoundError:  # the process that made the folder has just removed it
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        except OSError:  # the next file that is written tells why
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                return None
            kept = _wait_for(descriptor, path, patience, inform)
            if _is(descriptor, path):
                # A file of an earlier version does not name a kernel.
                if before and (not kept or before.kernel not in ("", _kernel())):
                    _wait_for_silence(path, before, inform)
                if kept or _first_of_several(descriptor, path):
                    return _Lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(
            descriptor
        )  # the file went with its last holder, or another process came at the same time and has it


def _open(path: Path) -> int:
    """Open the lock file, or make it; open another user's file at least for locking."""
    try:
        return os.open(path, _WRITE | os.O_CREAT, 0o644)
    except PermissionError:
        return os.open(path, _READ)


def _wait_for(descriptor: int, path: Path, patience: float, inform: Inform, *, shared: bool = False) -> bool:
    """Lock the open file; False if the file system keeps no locks. Raises ConfigError if another process has it."""
    try:
        import fcntl
    except ImportError:
        return False
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    started, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            waited, sign = time.monotonic() - started, _Sign.read(path)
            if waited > patience:
                raise _refusal(path.parent, sign) from None
            if waited > 1 and not told:
                told = True
                inform(f"waiting {patience:.0f} s for {_named(sign)} to release {path.parent}")
            time.sleep(0.1)
        except OSError as error:
            if error.errno in _UNLOCKABLE:
                return False
            raise


def _wait_for_silence(path: Path, before: _Sign, inform: Inform) -> None:
    """Return when a holder that this kernel does not know gives no sign of life. Raises ConfigError if it lives."""
    end, told = time.monotonic() + SILENCE, False
    while time.monotonic() < end:
        now = _Sign.read(path)
        if now is None:
            return
        if now != before:
            raise _refusal(path.parent, now)
        if not told:
            told = True
            inform(
                f"waiting {SILENCE:.0f} s for a sign of life of {_named(before)}, which held {path.parent}"
            )
        time.sleep(0.2)


def _first_of_several(descriptor: int, path: Path) -> bool:
    """Whether this process gets the file, if no lock decides between processes that come at the same time.

    Each process writes its sign. All then see the sign of the last to write, which gets the file.
    """
    sign = _Sign("a process that starts", _kernel())
    sign.write(descriptor)
    time.sleep(1)
    return _Sign.read(path) == sign


def _make(folder: Path) -> list[Path]:
    """Make a folder and its parents; return the new ones, the innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at that path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@cache
def _kernel() -> str:
    """Return an id of the running kernel, which differs between machines and after a reboot."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _named(sign: _Sign | None) -> str:
    return sign.holder if sign else "a process that has not said which"


def _refusal(folder: Path, sign: _Sign | None) -> ConfigError:
    return ConfigError(
        f"Another process works in {folder}: {_named(sign)}",
        cause="Two processes would write over each other's files. Perhaps the process that this one replaces has not "
        "ended yet",
        fix="Wait until it has ended, or end it (`kill` with its number, on its machine), then start again with "
        "--resume; or choose another folder with --out",
    )
