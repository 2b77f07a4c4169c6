"""Command lines for messages and pages, ready to be pasted, with the sources and columns that were used."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from openslip.addresses import shown


def command(*words: object) -> str:
    """Return a command line, with each word quoted if the shell needs it."""
    return shlex.join(map(str, words))


def data_options(values: Mapping[str, object]) -> list[str]:
    """Return the options of the section `data` that are set, as words: `--data.caption-column title`."""
    words = []
    for name, value in values.items():
        option = f"--data.{name.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)] if value else []
    return words


def can_be_shown(*words: str) -> bool:
    """Return whether words may be shown as they are; addresses with passwords or signatures may not."""
    return all(shown(word) == word for word in words)
