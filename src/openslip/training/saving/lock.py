"""One process at a time writes to a run folder: a lock that nobody holds who is dead.

The kernel keeps the lock (`flock`) and lets go of it when its holder dies. What one kernel keeps, others may not see,
as on some network file systems, and some file systems keep no locks at all. There the holder's sign of life counts: it
changes the lock file every few seconds, and a file that has not been changed for a while is nobody's.
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
"""Seconds to wait for a holder that may be about to end, as one that has been replaced."""
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
    """Be the only process within the block, of all that ask for this folder; make the folder where it is not there.

    A process that dies, however that may be, holds no lock. What was made for the lock alone goes with it, but for a
    folder that another process is in by then. Where no file can be written, everybody is let in. inform: tells people
    what is waited for.

    Raises ConfigError when another process has held it for `patience` seconds (default: PATIENCE), OSError when the
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
            for path in made:  # nothing has come of it
                path.rmdir()


def check_free(folder: Path, patience: float | None = None, inform: Inform = lambda text: None) -> None:
    """Raise ConfigError when another process of this machine has held the folder for `patience` seconds.

    Nothing is written, and nothing is held afterwards: for who has long to prepare before it needs the folder.
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
        """Let go: first the file, while nobody else can have it."""
        self.ended.set()
        self.thread.join()
        try:
            if _is(self.descriptor, self.path):
                self.path.unlink()
        finally:
            os.close(self.descriptor)


@dataclass
class _Sign:
    """What a lock file says of its holder; of another version's, only who it is."""

    holder: str = ""
    kernel: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    beat: int = 0

    def write(self, descriptor: int) -> None:
        """Write it, also for those who look from another machine."""
        with suppress(OSError):  # a full disk stops nobody here
            text = f"{self.holder}\n{self.kernel} {self.token} {self.beat:010d}\n".encode()
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
            os.fsync(descriptor)

    @classmethod
    def read(cls, path: Path) -> _Sign | None:
        """Return what a lock file says; None where there is none, or it says nothing."""
        try:
            descriptor = os.open(
                path, _READ
            )  # opened anew each time, because a network file system looks then
        except OSError:
            return None
        with suppress(OSError), os.fdopen(descriptor, "rb") as file:
            holder, _, rest = file.read(1000).decode(errors="replace").partition("\n")
            kernel, token, beat = (*rest.split(), "", "", "")[:3]
            return cls(holder, kernel, token, int(beat) if beat.isdecimal() else 0) if holder else None
        return None


def _acquire(path: Path, patience: float, inform: Inform) -> _Lock | None:
    """Return the lock, or None where no file can be written. Raises ConfigError when it is held."""
    while True:
        before = _Sign.read(path)
        if before and not before.holder.startswith(("process ", "a process ")):
            raise ConfigError(
                f"{path} is a file of somebody else's, in the place of the lock on its folder",
                got=f"a file that begins with {before.holder[:60]!r}",
                fix="Give that file another name, or choose another folder with --out",
            )
        try:
            descriptor = _open(path)
        except FileNotFoundError:  # who made the folder has just removed it
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        except OSError:  # what is written next says why
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                return None
            kept = _wait_for(descriptor, path, patience, inform)
            if _is(descriptor, path):
                # What earlier versions left says nothing of a kernel.
                if before and (not kept or before.kernel not in ("", _kernel())):
                    _wait_for_silence(path, before, inform)
                if kept or _first_of_several(descriptor, path):
                    return _Lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(
            descriptor
        )  # it has gone with its last holder, or is another one's who came at the same time


def _open(path: Path) -> int:
    """Open the lock file, make it where there is none; one of another user's at least to be locked."""
    try:
        return os.open(path, _WRITE | os.O_CREAT, 0o644)
    except PermissionError:
        return os.open(path, _READ)


def _wait_for(descriptor: int, path: Path, patience: float, inform: Inform, *, shared: bool = False) -> bool:
    """Lock the open file; False where the file system keeps no locks. Raises ConfigError when another has it."""
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
                inform(f"waiting {patience:.0f} s for {_named(sign)} to let go of {path.parent}")
            time.sleep(0.1)
        except OSError as error:
            if error.errno in _UNLOCKABLE:
                return False
            raise


def _wait_for_silence(path: Path, before: _Sign, inform: Inform) -> None:
    """Return when nothing is heard of the holder that this kernel does not know. Raises ConfigError when it lives."""
    end, told = time.monotonic() + SILENCE, False
    while time.monotonic() < end:
        now = _Sign.read(path)
        if now is None:
            return
        if now != before:
            raise _refusal(path.parent, now)
        if not told:
            told = True
            inform(f"waiting {SILENCE:.0f} s for a sign of life of {_named(before)}, which had {path.parent}")
        time.sleep(0.2)


def _first_of_several(descriptor: int, path: Path) -> bool:
    """Whether the file is this process's where no lock decides between those who come at the same time.

    Each writes its sign. The last one to write is the one that all then see.
    """
    sign = _Sign("a process that starts", _kernel())
    sign.write(descriptor)
    time.sleep(1)
    return _Sign.read(path) == sign


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that are new, the innermost first."""
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
    """Return what tells the running kernel from others, and from itself before it was started anew."""
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
        cause="Two would write over each other's files; perhaps the one that this one replaces has not ended yet",
        fix="Wait until it has ended, or end it (`kill` with its number, on its machine), then start again with "
        "--resume; or choose another folder with --out",
    )
