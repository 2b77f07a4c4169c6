"""One process at a time writes to a run folder: a lock that the kernel lets go of when its holder dies."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from slip.errors import ConfigError

NAME = "lock"
PATIENCE = 10.0
"""Seconds to wait for a holder that may be about to end, as one that has been replaced."""
_UNLOCKABLE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def held(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Be the only process within the block, of all that ask for this folder; make the folder where it is not there.

    A process that dies, however that may be, holds no lock. Where files cannot be locked, as on some network file
    systems, everybody is let in. What was made for the lock alone goes with it.

    Raises ConfigError when another process has held it for `patience` seconds, OSError when the folder cannot be made.
    """
    made = _make(folder)
    place = folder / NAME
    descriptor = _acquire(place, patience)
    try:
        yield
    finally:
        with suppress(OSError):
            if made and os.listdir(folder) == [NAME]:  # nothing has come of it
                place.unlink()
            for path in made:
                path.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that are new, the innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _acquire(place: Path, patience: float) -> int | None:
    """Return the locked file's descriptor, or None where there is no locking. Raises ConfigError when it is held."""
    try:
        import fcntl
    except ImportError:
        return None
    end = time.monotonic() + patience
    while True:
        try:
            descriptor = os.open(
                place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
            )
        except OSError:  # what is written next says why
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return _closed(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(descriptor, place):
                _sign(descriptor)
                return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise _refusal(place.parent, holder) from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno in _UNLOCKABLE:
                return _closed(descriptor)
            os.close(descriptor)
            raise
        os.close(descriptor)  # it has gone with its last holder, or is held for now


def _closed(descriptor: int) -> None:
    os.close(descriptor)


def _is(descriptor: int, place: Path) -> bool:
    """Whether the open file is still the one at that place."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(place, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write into the lock who holds it, for those who wait."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    with suppress(OSError):  # a full disk stops nobody here
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {now}\n".encode(), 0)


def _refusal(folder: Path, holder: str) -> ConfigError:
    return ConfigError(
        f"Another process works in {folder}: {holder or 'it has not said which'}",
        cause="Two would write over each other's files; perhaps the one that this one replaces has not ended yet",
        fix="Wait until it has ended, or end it (`kill` with its number, on its machine), then start again with "
        "--resume; or choose another folder with --out",
    )
