"""Write what a command prints in characters that the reader's encoding has, or end the command with a message.

Standard output may be a terminal with another encoding, a pipe whose reader has gone, a full disk, or closed. None of
these may lose a result or end in a traceback.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TypeVar

from openslip.errors import SlipError, printable

T = TypeVar("T")

SPELLED = {
    "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "…": "...", "→": "->", "←": "<-", "↑": "^", "↓": "v", "·": ".",
    "•": "*", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "≈": "~", "²": "2", "³": "3", "¹": "1", "½": "1/2",
    "µ": "u", "μ": "u", "‰": "/1000", "‖": "||", "✓": "+", "✗": "x", "‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"',
    "„": '"', "«": '"', "»": '"', "‹": "'", "›": "'", "─": "-", "━": "-", "│": "|", "┃": "|", "═": "=", "║": "|",
    "╭": "+", "╮": "+", "╰": "+", "╯": "+", "╸": "-", "╺": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
}  # fmt: skip
"""Signs that openslip and its libraries print → replacements for encodings that lack these signs."""
_STYLES = re.compile(r"\x1b\[[0-9;]*m")
_HANDLER = "openslip.spelled"


class OutputClosed(BaseException):
    """Nobody reads the command's output any more, as with `| head`; not an error, hence no Exception."""


class OutputError(SlipError):
    """The output of a command cannot be written."""


class Stream:
    """Standard output or error, with another way to fail.

    Writing raises OutputClosed if the reader has gone. Any other failure raises OutputError on standard output. On
    standard error other failures are ignored: a log on a full disk must not end a run. Colours are removed where they
    are not wanted.
    """

    def __init__(self, stream: Any, *, required: bool) -> None:
        self._stream, self._required, self.failed = stream, required, False
        self._coloured = _colours_wanted(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; return its length."""
        self._try(self._stream.write, text if self._coloured else _STYLES.sub("", text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return action(*arguments)
        except BrokenPipeError:
            self.failed = True
            raise OutputClosed from None
        except OSError as error:
            self.failed = True
            if self._required:
                raise OutputError(
                    "The output of the command cannot be written",
                    cause=error.strerror or str(error),
                    fix="Files that the command has already written are still there",
                ) from None
            return None

    def end(self) -> None:
        """Write the buffer. If that fails, discard the buffer: the interpreter would try again at its end, and report
        the failure."""
        with suppress(OutputClosed, OutputError):
            self.flush()
        if self.failed:
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()


@contextmanager
def safe_streams() -> Iterator[None]:
    """Make sys.stdout and sys.stderr `Stream`s inside, which replace characters that their encodings lack."""
    _open_closed_ones()
    codecs.register_error(_HANDLER, _spell)
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)
    ours: Any = Stream(sys.stdout, required=True), Stream(sys.stderr, required=False)
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in ours:
            stream.end()


def _open_closed_ones() -> None:
    """Open the null device for standard streams that are closed, as by `>&-`.

    Otherwise the next file that is opened would take a closed stream's number, and get what a library prints there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)
                os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _colours_wanted(stream: Any) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Return replacements for characters that an encoding lacks: plain signs for typographic ones, and for letters,
    which may belong to a name, their numbers, `\\xe9`. The streams use this as their error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_spelled, letters)), error.end


def _spelled(letter: str) -> str:
    if letter in SPELLED:
        return SPELLED[letter]
    if "\u2500" <= letter <= "\u257f":  # lines that draw boxes
        return "+"
    if "\u2580" <= letter <= "\u259f":  # blocks that draw bars
        return "#"
    return letter.encode("unicode_escape").decode()


@contextmanager
def one_document(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Carry out `--json`: send what is printed inside to standard error, and one JSON document to standard output.

    wanted: whether `--json` was given; without it nothing changes. Yields a function to call once with the document.
    """
    if not wanted:
        yield lambda document: None
        return
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        yield lambda document: print(as_json(document), file=out)


def as_json(document: Any) -> str:
    """Return JSON in ASCII, so that no encoding of the output can change it. NaN and infinities are null."""
    return json.dumps(_plain(document), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return a value in the types that JSON has."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items()}
        case Path():
            return str(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in value]
    return _plain(value.item())  # a number of NumPy or torch


def say(text: str) -> None:
    """Print a sentence for people to standard error, at once."""
    print(printable(text), file=sys.stderr, flush=True)


def listed_files(files: Sequence[tuple[str, int]]) -> str:
    """Return names of files and their sizes, given in bytes, in aligned lines."""
    width = max((len(name) for name, _ in files), default=0)
    return "\n".join(f"  {name:<{width}}  {_size(size):>9}" for name, size in files)


def _size(size: int) -> str:
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size:,} B"
