"""What a report says to do about runs without results, as commands."""

from __future__ import annotations

from slip.commands import command
from slip.report.runs import Run

PLACEHOLDER = "PICTURES"
"""Stands for what a page cannot know: labelled pictures of one's own."""


def measuring(run: Run) -> str:
    """Return the command that measures a run which has no results.

    It goes on with the run where that is not complete, or has tasks of its own: it is measured at its end.
    """
    if not run.complete or run.config.evaluation.tasks or run.config.data.val:
        return command("slip", "train", "--resume", "--out", run.folder)
    return command(
        "slip", "evaluate", run.folder, f"{'knn' if run.method == 'SimCLR' else 'zeroshot'}:{PLACEHOLDER}"
    )
