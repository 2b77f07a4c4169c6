"""What a spec stands for: paths on this machine and URLs, from braces, globs, folders and plain names."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from openslip.data.storage import remote
from openslip.data.storage.retry import is_http, is_url, shown
from openslip.errors import DataError

MAX_SHARDS = 1_000_000
"""The most paths that a brace range may stand for."""

SHARDS = ("*.tar", "*.parquet")
"""A folder behind a URL stands for its shards of the first of these kinds."""


def find_paths(spec: str) -> list[str]:
    """Return what `spec` stands for: itself, a glob, a brace range, the shards of a folder elsewhere; at least one.

    Local paths exist. The part of a spec that exists as it is written is no pattern: in `photos [2021]/*.tar` only the
    star is one. URLs need not exist: a web server is asked when its files are opened. In URLs on a file system that can
    list files (not `http://`), globs and folders work as well.
    Raises DataError when there is no such path, or the spec makes no sense.
    """
    if "\0" in spec:
        raise DataError("A path cannot hold a NUL character", got=spec)
    path = os.path.expanduser(spec.removeprefix("file://"))
    if os.path.exists(path):  # unlike Path.exists, no error for what is too long to be a path
        return [str(Path(path))]
    if is_url(spec) and not spec.startswith("file://"):
        return [found for url in expand_braces(spec) for found in _find_urls(url)]
    there, rest = _split_existing(path)
    paths = [found for pattern in expand_braces(rest) for found in _glob(there, pattern)]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        what = (
            f"{len(missing)} of {len(paths)} files do not exist"
            if len(paths) > 1
            else "There is no such file or folder"
        )
        raise DataError(what, got=missing[0], fix=_nearby(Path(missing[0])))
    return paths


def stands_for_something(path: str) -> bool:
    """Whether a local path exists, or matches anything as a pattern; a pattern with `**` counts as matching nothing."""
    if "**" in path or "\0" in path:
        return False
    path = os.path.expanduser(path)
    there, rest = _split_existing(path)
    try:
        return not rest or any(
            os.path.lexists(found) for pattern in expand_braces(rest) for found in _matches(there, pattern)
        )
    except DataError:
        return False


def ending(path: str) -> str:
    """Return the ending of a path or URL in lower case with its dot, "" if it has none, and "/" for a local folder."""
    if not is_url(path):
        return "/" if os.path.isdir(path) else os.path.splitext(path)[1].lower()
    return os.path.splitext(_file(path))[1].lower()


def _file(url: str) -> str:
    """Return the part of a URL that names a file: of a web server's the path, else the query; the first of a chain."""
    if is_http(url):
        address, _, query = url.partition("?")
        path = address.partition("://")[2].partition("/")[2]
        return path if os.path.splitext(path)[1] else query
    first = url.partition("::")[0]
    return first if "://" in first else url


def _find_urls(url: str) -> list[str]:
    """Return the URLs that a URL without braces stands for: itself, a glob, the shards of a folder."""
    magic = glob.has_magic(url.partition("?")[0] if is_http(url) else url)
    if (is_http(url) or "::" in url) and (magic or not ending(url)):
        raise DataError(
            "Files behind such an address cannot be listed" if magic else "The address names no file",
            got=shown(url),
            cause="A web server does not say which files it has"
            if is_http(url)
            else "It is a chain of addresses",
            fix="Write a range, as in https://server/set/{00000..00331}.tar",
        )
    if magic:
        found = _unhidden(remote.glob(url))
        if not found:
            raise DataError("The pattern matches no file", got=shown(url))
        return found
    if ending(url) or not remote.is_folder(url):
        return [url]
    for pattern in SHARDS:
        if found := _unhidden(remote.glob(f"{url.rstrip('/')}/{pattern}")):
            return found
    raise DataError("The folder holds no shards", got=shown(url), fix=f"Looked for: {', '.join(SHARDS)}")


def _unhidden(urls: list[str]) -> list[str]:
    """Return the URLs that are not hidden, as a local pattern does: macOS leaves `._a.tar` beside `a.tar`."""
    return [url for url in urls if not url.rpartition("/")[2].startswith(".")]


def _split_existing(path: str) -> tuple[str, str]:
    """Split a path into the folder, as far as it exists as it is written, and the rest, a pattern perhaps."""
    parts = path.split("/")
    for count in range(len(parts) - 1, 0, -1):
        there = "/".join(parts[:count]) or "/"
        if os.path.exists(there):
            return there, "/".join(parts[count:])
    return "", path


def _glob(there: str, pattern: str) -> list[str]:
    """Return what a pattern matches in a folder, sorted; a plain path as it is. Raises DataError when nothing does."""
    if not glob.has_magic(pattern):
        return [os.path.join(there, pattern)]
    try:
        found = sorted(_matches(there, pattern))
    except ValueError:  # lone surrogates
        found = []
    if not found:
        whole = os.path.join(there, pattern)
        raise DataError(
            "The pattern matches no file",
            got=whole,
            cause="Brackets are part of a pattern: [ab] stands for one letter" if "[" in pattern else "",
            fix=_nearby(Path(whole)),
        )
    return found


def _matches(there: str, pattern: str) -> list[str]:
    """Return the paths in a folder that match a pattern; a part of it that exists as written stands for itself."""
    found, parts = [there], pattern.split("/")
    for i, part in enumerate(parts):
        if "**" in part:
            rest = "/".join(parts[i:])
            return [p for base in found for p in glob.glob(_join(glob.escape(base), rest), recursive=True)]
        found = [
            path
            for base in found
            for path in (
                [_join(base, part)]
                if os.path.lexists(_join(base, part))
                else glob.glob(_join(glob.escape(base), part))
            )
        ]
    return found


def _join(base: str, part: str) -> str:
    return os.path.join(base, part) if base else part


def expand_braces(spec: str) -> list[str]:
    """Expand `{0000..0003}` (both ends included, zero-padded as written) and `{a,b}`, left to right.

    Raises DataError on unbalanced, nested or empty braces and on ranges that run backwards.
    """
    pieces = re.split(r"\{([^{}]*)\}", spec)  # text, inside, text, inside, …, text
    if any("{" in text or "}" in text for text in pieces[::2]):
        raise DataError(
            "The braces do not match",
            got=spec,
            fix="Write a range as {00000..00099}, a list as {a,b}; no nesting",
        )
    choices: list[Sequence[str]] = [
        _choices(piece, spec) if i % 2 else [piece] for i, piece in enumerate(pieces)
    ]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_SHARDS:
        raise DataError(
            f"The braces stand for {count:,} files", got=spec, fix=f"Name at most {MAX_SHARDS:,} files"
        )
    return ["".join(parts) for parts in product(*choices)]


def _choices(inside: str, spec: str) -> Sequence[str]:
    """Return what one pair of braces stands for."""
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if bounds is None:
        if "," in inside:
            return inside.split(",")
        raise DataError(
            f"{{{inside}}} is neither a range nor a list",
            got=spec,
            fix="Write a range as {00000..00099}, a list as {a,b}",
        )
    first, last = bounds.groups()
    if int(first) > int(last):
        raise DataError(f"The range {{{inside}}} runs backwards", got=spec, fix=f"Write {{{last}..{first}}}")
    if int(last) - int(first) >= MAX_SHARDS:
        raise DataError(
            f"The range {{{inside}}} is too long",
            got=spec,
            fix=f"Name at most {MAX_SHARDS:,} files in a spec",
        )
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _nearby(path: Path) -> str:
    """Return the sentence that helps with a path that is not there: the first missing part, and names like it."""
    path = path.absolute()
    while not os.path.exists(path.parent):
        path = path.parent
    try:
        siblings = sorted(name for name in os.listdir(path.parent) if not name.startswith("."))
    except OSError as error:
        return f"The folder '{path.parent}' cannot be listed: {error.strerror}"
    close = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(name) for name in close)} in '{path.parent}'?"
    if not siblings:
        return f"The folder '{path.parent}' is empty"
    more = f" and {len(siblings) - 8} more" if len(siblings) > 8 else ""
    return f"'{path.parent}' has no '{path.name}', but {', '.join(siblings[:8])}{more}"
