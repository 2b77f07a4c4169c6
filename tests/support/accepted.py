"""Whether a command line is one that `slip` accepts: tried up to where the command would open something."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import tyro

from openslip import recipes, toml
from openslip.cli import main

RUNS = ("mine", "before", "after")
"""Runs that a command line may name, as `runs/mine`."""


class Parsed(Exception):
    """The words have been parsed, and nothing has been done yet."""


def is_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the real parser takes `line`, a command of `slip`, in the current folder, where runs are made.

    What a command checks before it opens anything is checked too. Raises what the command raises, or SystemExit.
    """
    program, *words = shlex.split(line)
    assert program == "slip", line
    for run in RUNS:  # which options are about a run is checked
        Path("runs", run).mkdir(parents=True, exist_ok=True)
        Path("runs", run, "config.toml").write_text(toml.dumps(recipes.get("scenes-tiny")))
    Path("data").mkdir(exist_ok=True)  # of --datasets
    parse, parsed = tyro.cli, []

    def stop(*_: object, **__: object) -> None:
        raise Parsed

    def recorded(*args, **kwargs):
        options, unknown = parse(*args, **kwargs)
        assert unknown == [], line
        parsed.append(options)
        if words[0] not in ("train", "evaluate") or words[1] == "suite":
            raise Parsed
        return options, unknown

    with monkeypatch.context() as patched:
        patched.setattr(tyro, "cli", recorded)
        patched.setattr("openslip.processes.joined", stop)
        patched.setattr("openslip.cli.train.run", stop)
        try:
            status = main(words)
        except Parsed:
            return bool(parsed)
    return status == 0 and (words[0] == "recipes" or words[:2] in (["ablate", "show"], ["datasets", "show"]))
