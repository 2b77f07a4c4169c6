"""Commands that pages show: to be pasted as they are, with the folders, sources and columns that were used."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from slip.addresses import shown
from slip.report.runs import Run

PLACEHOLDER = "PICTURES"
"""Stands for what a page cannot know: labelled pictures of one's own."""


def command(*words: object) -> str:
    """Return a command line, each word quoted where the shell needs it."""
    return shlex.join(map(str, words))


def options(values: Mapping[str, object]) -> list[str]:
    """Return the options that are set as words of a command: `--data.caption-column title`, `--data.leave-broken`."""
    words = []
    for name, value in values.items():
        option = f"--data.{name.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)] if value else []
    return words


def can_be_shown(*words: str) -> bool:
    """Say whether words may stand on a page as they are: addresses with passwords in them may not."""
    return all(shown(word) == word for word in words)


def measuring(run: Run) -> str:
    """Return the command that measures a run which has no results.

    It goes on with the run where that is not through, or has tasks of its own: it is measured at its end.
    """
    own = run.config.evaluation.tasks or run.config.data.val
    if not run.complete or own:
        return command("slip", "train", "--resume", "--out", run.folder)
    return command(
        "slip", "evaluate", run.folder, f"{'knn' if run.method == 'SimCLR' else 'zeroshot'}:{PLACEHOLDER}"
    )
