"""Exceptions that say what happened, the value seen, the likely cause, and what to do next; and notes to the user."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from openslip.addresses import without_keys

LONGEST = 600
"""Characters of a value that a message shows at most; a whole picture in base64 helps nobody."""
_UNPRINTABLE = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


class SlipError(Exception):
    """Base of every error this package raises on purpose.

    The message is one paragraph: `what` happened, the value `got`, the likely `cause`, and the `fix`. Passwords and
    signatures of addresses are left out.
    The command line prints the message without a traceback and exits with `status`, by default 1.
    """

    status = 1

    def __init__(self, what: str, *, got: object = None, cause: str = "", fix: str = "") -> None:
        what, cause, fix = (_in_lines(printable(without_keys(text))) for text in (what, cause, fix))
        got = without_keys(got) if isinstance(got, str) else got
        self.what, self.got, self.cause, self.fix = what, got, cause, fix
        parts = [_sentence(what)]
        if got is not None:
            parts.append(
                f"Got: {shortened(repr(got) if isinstance(got, str) else printable(without_keys(str(got))))}."
            )
        if cause:
            parts.append(_sentence(cause))
        if fix:
            parts.append(_sentence(fix))
        super().__init__(" ".join(parts))


class ConfigError(SlipError):
    """A configuration value, key, recipe name or option is wrong."""


class UsageError(ConfigError):
    """A command line is wrong: an unknown command, an option that is given twice or has no effect."""

    status = 2


class DataError(SlipError):
    """A source, image, caption or label cannot be used."""


class CheckpointError(SlipError):
    """A checkpoint or run folder cannot be read or written."""


class ExportError(SlipError):
    """A model cannot be written in another format."""


class TrainingError(SlipError):
    """Training cannot go on."""


class ProcessError(SlipError):
    """Another process of the run has ended, has failed, or cannot be reached."""


class EvaluationError(SlipError):
    """A measurement cannot be made."""


def printable(text: str) -> str:
    """Return text with its control characters spelled out (`\\x1b`), so that data cannot steer a terminal.

    Line breaks stay. Marks that change the direction of writing, and halves of characters, are spelled out as well.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def encodable(text: str) -> str:
    """Return text with question marks for halves of characters (`\\ud800`), which neither UTF-8 nor Arrow can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@lru_cache(maxsize=1024)
def note(message: str) -> None:
    """Warn the user of something that the numbers alone would hide; each message appears once in a process."""
    logging.getLogger("openslip").warning(printable(message))


@contextmanager
def unsaid() -> Iterator[None]:
    """Silence `note` inside, because rank 0 gives the same warnings."""
    logger = logging.getLogger("openslip")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return text of at most about `longest` characters: its beginning and end, and how many there are."""
    if len(text) <= longest:
        return text
    return f"{text[: longest * 3 // 4]} … {text[-longest // 4 :]} ({len(text):,} characters)"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the sentence that helps with an unknown `name`: the closest known names, else all; "" if none is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(known)}." if known else ""


def _in_lines(text: str) -> str:
    """Return text without line breaks, except before the indented lines of our own lists. So text after a line break in
    data cannot pass for a message of its own."""
    return re.sub(r"\s*\n(?!  )", " ", text)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."
