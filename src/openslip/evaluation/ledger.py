"""Writes a suite's results as its tasks finish: to a run's results.json, and to a file that the user names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import Result, kept_outcomes
from openslip.evaluation.results import FILE, holds_results, is_csv, keep, read, save
from openslip.files import check_replaceable, expand, unwritable

ENDINGS = (".json", ".csv", "")


@dataclass
class Ledger:
    """Results that are on disk before they are shown.

    run: a run folder, whose results.json keeps the results beside those of other measurements. out: a file for these
    results alone, as JSON, or as CSV if its name ends in `.csv`. The outcomes are kept beside each file, except for CSV
    (see `openslip.evaluation.kept_outcomes`). beside: further fields of each result, for `out`. notes: sentences on
    what is not kept, and why.

    Raises, before anything is measured, ConfigError for an `out` that cannot be written or holds something else, and
    EvaluationError for a results.json that holds something else.
    """

    run: Path | None = None
    out: Path | None = None
    results: list[Result] = field(default_factory=list, init=False)
    beside: list[Mapping[str, Any]] = field(default_factory=list, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        path = self.run / FILE if self.run else None
        if self.out is not None:
            self.out = expand(self.out)
            check_out(self.out, path)
        if path is not None:
            read(path)
            if why := unwritable(path):
                told = "" if self.out else " Pass --out FILE to keep them in another file."
                self.notes.append(
                    f"The results are not kept, because {path} cannot be written ({why}).{told}"
                )
                path = None
        self._kept = path

    @property
    def files(self) -> list[Path]:
        """The files that hold the results so far."""
        return [path for path in (self._kept, self.out) if path is not None]

    def add(
        self, results: Sequence[Result], beside: Sequence[Mapping[str, Any]] = ()
    ) -> list[EvaluationError]:
        """Write further results. Return the errors, instead of raising them, so that the next results may succeed.

        beside: further fields of each result, or nothing.
        """
        self.results += results
        self.beside += beside or [{}] * len(results)
        errors = []
        writers = ((self._kept, keep), (self.out, self._save))
        for path, write in writers:
            try:
                if path is not None:
                    write(self.results, path)
            except EvaluationError as error:
                errors.append(error)
        return errors

    def _save(self, results: Sequence[Result], path: Path) -> None:
        save(results, path, self.beside)
        if not is_csv(path):  # nothing reads results from a table
            kept_outcomes.prune(results, path)
            kept_outcomes.keep(results, path)


def check_out(out: Path, kept: Path | None = None) -> None:
    """Raise ConfigError unless the results can be written to `out` without loss of anything else."""
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(
            "Results are written as JSON or CSV", got=f"--out {out}", fix="End the name in .json or .csv"
        )
    if kept is not None and os.path.realpath(out) == os.path.realpath(kept):
        raise ConfigError(
            "--out would replace earlier results in the run's results.json, which keeps the new results anyway",
            got=f"--out {out}",
            fix="Leave --out out, or name another file",
        )
    check_replaceable(out, "results", FILE, holds_results)
