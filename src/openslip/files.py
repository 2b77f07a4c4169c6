"""Open only regular files, and replace files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from openslip.errors import ConfigError, encodable

RUN_FILE = 64 << 20
"""Most bytes of a JSON or TOML file, or of one line, that is read; a run's own files have some kilobytes."""
LARGEST = 2**63
"""Whole numbers must be below this: no count here comes near, and floats and tensors hold no more."""

TEMPORARY = ".writing-"
"""Prefix of the names of unfinished files; safe to delete."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading, as bytes.

    Raises OSError if there is none, also for a pipe or device, which might never answer or never end, and for the
    kernel's files under /proc and /sys; ValueError for a path that no file can have.
    """
    return os.fdopen(open_descriptor(path)[0], "rb")


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` or `~user` at its beginning replaced; unchanged if there is no such user."""
    return Path(os.path.expanduser(path))


def read_whole(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the bytes of a regular file. Raises OSError as `open_regular` does, and for more than `most` bytes."""
    descriptor, size = open_descriptor(path)
    try:
        parts, have = [], 0
        while have <= most:
            # Asking for one byte more than the file has finds its end in one read.
            asked = min(max(size, have) + 1 - have, most + 1 - have)
            part = os.read(descriptor, asked)
            parts.append(part)
            have += len(part)
            if not part or (have == size and len(part) < asked):
                return part if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"It has more than {most / 1e6:,.0f} MB", str(path))


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError or ValueError as `open_regular` does: for libraries that open a path themselves."""
    os.close(open_descriptor(path)[0])


def open_descriptor(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Open a regular file; return the descriptor and the size in bytes. Raises as `open_regular` does."""
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "It is a folder", str(path))
        if not stat.S_ISREG(status.st_mode) or status.st_dev in _made_up():
            raise OSError(errno.EINVAL, "It is no regular file, but a pipe, a device or the like", str(path))
        return descriptor, status.st_size
    except BaseException:
        os.close(descriptor)
        raise


def read_json(path: str | os.PathLike[str], most: int = RUN_FILE) -> Any:
    """Return what a JSON file holds. Raises OSError as `read_whole` does, ValueError as `parse_json` does."""
    return parse_json(read_whole(path, most))


def parse_json(data: bytes | str) -> Any:
    """Return the value of untrusted JSON text.

    Raises ValueError for anything that is no JSON, bytes other than UTF-8, values nested too deeply, and whole numbers
    that are too large. Halves of characters in texts (`"\\ud800"`), which can be neither printed nor written, become
    `?`.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(text, parse_int=_whole_number)
        return _whole_characters(value) if "\\ud" in text or "\\uD" in text else value
    except RecursionError:
        raise ValueError("Its values are nested too deeply") from None


def _whole_number(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else LARGEST
    if not -LARGEST <= number < LARGEST:
        raise ValueError(f"A whole number of {len(digits)} digits is too large")
    return number


def _whole_characters(value: Any) -> Any:
    """Return a JSON value without halves of characters."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value


@cache
def _made_up() -> frozenset[int]:
    """Return the devices of file systems whose files the kernel makes up."""
    return frozenset(os.stat(path).st_dev for path in ("/proc", "/sys") if os.path.isdir(path)) - {
        os.stat("/").st_dev
    }


def _refuse_to_replace(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:  # opening the file will soon show whether it is possible
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "A pipe, a device or the like is there", str(path))


@contextmanager
def whole_or_not(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` when it is complete. Any number of processes may do so at once.

    `durable`: the file is on disk by then, so that it stays whole when the machine fails.
    Raises OSError if a pipe or device such as /dev/null is there, which a file must not replace.
    """
    try:
        _refuse_to_replace(path)
        if "\0" in os.fsdecode(os.fsencode(path)):
            raise ValueError("NUL")
        temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    except ValueError as error:
        raise OSError(errno.EINVAL, "No file can have this name", str(path)) from error
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unwritable(path: Path) -> str:
    """Return the reason why no file can be written at `path`; "" if one can."""
    probe = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)  # the name may be too long
        with open(probe, "xb"):
            pass
        probe.unlink()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def check_free(place: Path, what: str) -> None:
    """Raise ConfigError if the place to write to exists already, or if nothing can be written there."""
    if os.path.lexists(place):
        raise ConfigError(
            f"{what} would take the place of something that is there",
            got=str(place),
            fix="With --out, name a place that does not exist yet",
        )
    if place.parent.is_dir() and (why := unwritable(place)):
        raise ConfigError(
            f"{what} cannot be written there", got=str(place), cause=why, fix="Name another place with --out"
        )


def check_replaceable(
    out: Path, what: str, example: str, ours: Callable[[Path], bool], option: str = "--out"
) -> None:
    """Raise ConfigError unless a table can be written to `out`, and no other file is lost by it.

    what: the contents of the table, in the plural, for messages. example: a possible name. ours: returns whether a file
    is such a table, or empty. option: the option that named the file.
    """
    got = f"{option} {out}"
    if out.is_dir():
        raise ConfigError(
            f"There is a folder at the place for the {what}",
            got=got,
            fix=f"Name a file, as in {option} {out / example}",
        )
    if not out.parent.is_dir():
        raise ConfigError(
            f"The {what} would be written into a folder that is not there",
            got=got,
            fix="Make the folder, or name another one",
        )
    if os.path.lexists(out) and not ours(out):
        raise ConfigError(
            f"The file for the {what} holds something else, or is no regular file",
            got=got,
            fix="Name a file that does not exist yet",
        )
    if why := unwritable(out):
        raise ConfigError(f"The {what} cannot be written there", got=got, cause=why, fix="Name another path")


@contextmanager
def usual_permissions(path: Path) -> Iterator[None]:
    """Let a library write a file at `path` inside; give the file the permissions that any new file has here.

    Some libraries write a temporary file that only its owner may read (mode 0600), and rename it. But the umask and the
    folder should decide, because people share weights. A file that was there keeps its permissions. Raises OSError if
    no file can be written.
    """
    with open(path, "ab") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    yield
    if stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file at `path` by one that holds `data`."""
    with whole_or_not(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by one that holds UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by indented JSON in UTF-8. File names outside UTF-8 keep their bytes as escapes."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def sync(path: Path) -> None:
    """Force a file's or folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
