"""slip quickstart"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openslip.cli.arguments import parse

DESCRIPTION = """Train CLIP, SimCLR and SLIP with the same small image tower on the embedded scenes, measure all three,
and write one report. This takes a few minutes on two CPU cores. After an interruption the same command goes on where it
stopped."""
EXAMPLES = """\
slip quickstart
    Train, measure and compare three models in the folder quickstart.
slip quickstart --seeds 3 --out runs/three
    Train each model with three seeds, and compare the means.
"""


@dataclass(frozen=True)
class Options:
    """Where, and with which randomness."""

    out: Path = Path("quickstart")
    """Folder for the scenes, the runs and the report."""
    seed: int = 0
    seeds: int = 1
    """Train each model with this many seeds, from `seed` on, and compare the means. Each seed takes as long again."""
    scenes: int = 4000
    """Scenes to train on."""


def main(argv: list[str]) -> None:
    """Run it and say where the report is."""
    options = parse(Options, argv, prog="slip quickstart", description=DESCRIPTION, examples=EXAMPLES)

    from openslip.quickstart import METHODS, commands, quickstart

    report = quickstart(options.out, scenes=options.scenes, seed=options.seed, seeds=options.seeds)
    print(f"\nThe report: {report.resolve().as_uri()}\n\nSearch the scenes with the last of these models:")
    for _, line in commands(options.out, [options.out / METHODS[-1].lower()])[:2]:
        print(f"  {line}")
