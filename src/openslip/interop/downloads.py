"""Weights behind web addresses: fetched once into the cache folder, in parts. A download that was cut off continues.

<cache>/weights/1f2e3d4c-slip_base_25ep.pt        the file, whole
<cache>/weights/1f2e3d4c-slip_base_25ep.pt.json   its size and SHA-256, and when it was last seen unchanged
<cache>/weights/….pt.part-5b6c7d8e                what has come so far of one version of it
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from openslip.addresses import shown
from openslip.data.storage import remote
from openslip.data.storage.reading import cache_folder, cache_name
from openslip.data.storage.retry import DiskError, NoRanges
from openslip.data.storage.spool import only_fetcher
from openslip.errors import CheckpointError, DataError
from openslip.files import read_json, sync, write_json
from openslip.interop.digests import sha256

PART = 8 << 20
"""Bytes that are asked for at a time."""
MB = 1e6
PATIENCE = 3600.0
"""Seconds that a process waits for another one that fetches the same file."""


def fetch(url: str, *, sha: str = "", size: int = -1) -> Path:
    """Return the path of a web server's file in the cache folder. The file is fetched if it is not there.

    sha: the file's SHA-256, or the beginning of it. size: in bytes. Both are given as far as they are known. What was
    fetched is noted, and the file in the cache is compared with the note later.

    Without a network the copy is used as it is. Raises CheckpointError if the file cannot be had, or is another one.
    """
    name = os.path.basename(url.partition("?")[0]) or "weights"
    path = cache_folder() / "weights" / f"{cache_name(url)[:8]}-{name}"
    try:
        if _is_good(path, sha, size):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_fetcher(path.with_name(path.name + ".lock"), PATIENCE):
            if not _is_good(path, sha, size):  # another process may have fetched it
                _fetch(url, path, sha, size)
    except DataError as error:
        raise CheckpointError(
            f"Weights cannot be fetched: {error.what[:1].lower()}{error.what[1:]}",
            got=shown(url),
            cause=error.cause,
            fix="Try again with a network, or fetch the file by other means and give its path",
        ) from None
    except (OSError, DiskError) as error:
        raise CheckpointError(
            "Weights cannot be kept in the cache folder",
            got=str(path),
            cause=str(error),
            fix="Make room, or name another folder in the environment variable OPENSLIP_CACHE",
        ) from None
    return path


def _is_good(path: Path, sha: str, size: int) -> bool:
    """Say whether the file is in the cache as it was fetched. Raises CheckpointError if the file has been changed.

    A file with the size and the time of its note was compared before, so that large files are not read each time.
    """
    if not path.is_file():
        return False
    status, noted = path.stat(), _note(path)
    digest = str(noted.get("sha256", ""))
    if noted.get("size") != status.st_size or noted.get("mtime_ns") != status.st_mtime_ns or not digest:
        found = sha256(path)
        if digest and found != digest:
            raise _changed(path, f"SHA-256 {found}, noted when it was fetched: {digest}")
        digest = found
        _keep_note(path, {**noted, "sha256": digest})
    if (size >= 0 and status.st_size != size) or not digest.startswith(sha):
        raise _changed(path, f"{status.st_size:,} bytes, SHA-256 {digest}; it has to be {_wanted(sha, size)}")
    return True


def _fetch(url: str, path: Path, sha: str, size: int) -> None:
    """Fetch a file. Raises DataError, OSError and DiskError; CheckpointError if it is not the wanted file."""
    status = remote.stat(url)
    if 0 <= size != status.size >= 0:
        raise _other(url, f"{status.size:,} bytes", sha, size)
    part = path.with_name(f"{path.name}.part-{cache_name(status.version)[:8]}")
    for earlier in path.parent.glob(f"{path.name}.part-*"):
        if earlier != part:  # of another version
            earlier.unlink(missing_ok=True)
    with open(part, "ab"):  # made where it is not there
        pass
    if status.ranges and status.size >= 0:
        try:
            _in_parts(url, part, status)
        except NoRanges:
            _whole(url, part, status)
    else:
        _whole(url, part, status)
    found = sha256(part)
    if not found.startswith(sha):
        part.unlink()
        raise _other(url, f"SHA-256 {found}", sha, size)
    sync(part)
    os.replace(part, path)
    _keep_note(path, {"url": shown(url), "sha256": found})


def _in_parts(url: str, part: Path, status: remote.Stat) -> None:
    """Fetch the rest of a file that was begun, with a progress bar on a terminal."""
    from openslip.progress import Bar, print_text

    total = round(status.size / MB)
    with open(part, "r+b") as file, Bar(f"fetching {shown(url)}, MB", total, transient=True) as bar:
        if not bar.live:
            print_text(bar.console, f"fetching {shown(url)}, {total:,} MB")
        have = file.seek(0, os.SEEK_END)
        if have > status.size:
            have = 0
        while have < status.size:
            bar.update(done=round(have / MB))
            data = remote.read(
                url, have, min(PART, status.size - have), status.size, status.version, announce=False
            )
            file.seek(have)
            have += file.write(data)
        file.truncate()


def _whole(url: str, part: Path, status: remote.Stat) -> None:
    with open(part, "r+b") as file:
        remote.download(url, file, status.size, status.version, announce=False)


def _note(path: Path) -> dict[str, Any]:
    try:
        noted = read_json(path.with_name(path.name + ".json"))
        return noted if isinstance(noted, dict) else {}
    except (OSError, ValueError):
        return {}


def _keep_note(path: Path, noted: dict[str, Any]) -> None:
    status = path.stat()
    try:
        write_json(
            path.with_name(path.name + ".json"),
            {**noted, "size": status.st_size, "mtime_ns": status.st_mtime_ns},
        )
    except OSError:  # a cache that others made, and that may only be read
        return


def _wanted(sha: str, size: int) -> str:
    told = [f"{size:,} bytes"] if size >= 0 else []
    told += [f"SHA-256 {sha}{'…' if len(sha) < 64 else ''}"] if sha else []
    return ", ".join(told)


def _changed(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"The weights {path} in the cache folder are not those that were fetched",
        got=got,
        cause="The disk is damaged, or a program has changed the file",
        fix="Remove the file, so that it is fetched anew",
    )


def _other(url: str, got: str, sha: str, size: int) -> CheckpointError:
    return CheckpointError(
        "The file at this address is not the one that slip knows, and was not kept",
        got=f"{shown(url)}: {got}, instead of {_wanted(sha, size)}",
        cause="It was cut off or changed on its way, or the file was replaced",
        fix="Try again. If it happens again, tell the authors of slip",
    )
