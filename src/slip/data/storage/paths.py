"""What a spec stands for: paths on this machine and URLs, from braces, globs, folders and plain names."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from slip.data.storage import remote
from slip.data.storage.retry import is_http, is_url, shown
from slip.errors import DataError
from slip.files import expand

MAX_SHARDS = 1_000_000
"""The most paths that a brace range may stand for."""

SHARDS = ("*.tar", "*.parquet")
"""What a folder is taken for if it holds any: its shards of the first of these kinds. Else it is a folder."""


def find_paths(spec: str) -> list[str]:
    """Return what `spec` stands for: itself, a glob, a brace range, the shards of a folder; at least one.

    Local paths exist. URLs need not: a web server is asked when its files are opened. Of a URL on a file system that
    can list (not `http://`), globs and folders are understood as well.
    Raises DataError when there is no such path, or the spec makes no sense.
    """
    path = expand(spec.removeprefix("file://"))
    if os.path.exists(path):  # unlike Path.exists, no error for what is too long to be a path
        return _in_folder(str(path)) if path.is_dir() else [str(path)]
    if is_url(spec) and not spec.startswith("file://"):
        return [found for url in expand_braces(spec) for found in _find_urls(url)]
    paths = [found for pattern in expand_braces(str(path)) for found in _glob(pattern)]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        what = (
            f"{len(missing)} of {len(paths)} files do not exist"
            if len(paths) > 1
            else "There is no such file or folder"
        )
        raise DataError(what, got=missing[0], fix=_nearby(Path(missing[0])))
    return paths


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


def _in_folder(folder: str) -> list[str]:
    """Return a local folder's shards, or the folder itself."""
    for pattern in SHARDS:
        if found := sorted(map(str, Path(folder).glob(pattern))):
            return found
    return [folder]


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
        found = remote.glob(url)
        if not found:
            raise DataError("The pattern matches no file", got=shown(url))
        return found
    if ending(url) or not remote.is_folder(url):
        return [url]
    for pattern in SHARDS:
        if found := remote.glob(f"{url.rstrip('/')}/{pattern}"):
            return found
    raise DataError("The folder holds no shards", got=shown(url), fix=f"Looked for: {', '.join(SHARDS)}")


def _glob(pattern: str) -> list[str]:
    """Return what a pattern matches, sorted; a plain path as it is. Raises DataError when nothing matches."""
    if not glob.has_magic(pattern):
        return [pattern]
    try:
        found = sorted(glob.glob(pattern, recursive=True))
    except ValueError:  # NULs or lone surrogates
        found = []
    if not found:
        raise DataError("The pattern matches no file", got=pattern, fix=_nearby(Path(pattern)))
    return found


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
            f"The braces stand for {count:,} files", got=spec, fix=f"At most {MAX_SHARDS:,} are possible"
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
            f"The range {{{inside}}} is too long", got=spec, fix=f"At most {MAX_SHARDS:,} files are possible"
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
