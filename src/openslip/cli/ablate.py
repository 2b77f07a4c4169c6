"""slip ablate GRID [--out RUNS]"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from openslip.cli.arguments import asks_for_help, given, parse, refuse_idle
from openslip.cli.output import one_document, say
from openslip.errors import DataError, UsageError, did_you_mean, printable
from openslip.files import expand

if TYPE_CHECKING:
    from openslip.ablation.compute import Cost
    from openslip.ablation.grid import Grid, GridRun
    from openslip.ablation.table import Table
    from openslip.processes import Processes

DESCRIPTION = """Train variants of a configuration, each with several seeds, and print one table: means with their
spread, samples, counted FLOPs and seconds, and each variant's difference to the first. The same command goes on where
it stopped. `slip ablate show` lists grid files to begin with, and `slip ablate show NAME` prints one."""
EXAMPLES = """\
slip ablate grid.toml --dry-run
    Print which runs there will be, and what they cost.
slip ablate grid.toml
    Train what is not finished, and print the table.
slip ablate show paper-ssl
    Print a grid file to begin with.
"""


@dataclass(frozen=True)
class Options:
    """What to train, and where."""

    grid: Annotated[Path, tyro.conf.Positional]
    """The grid file: base, shared values, variants, seeds."""
    out: Path | None = None
    """Folder of the runs. By default the grid's own `out`, else runs/GRID."""
    dry_run: bool = False
    """Print the plan, and write nothing."""
    table: bool = False
    """Print the table of what is finished, and train nothing."""
    index: int | None = None
    """Train only the run with this number in the plan, such as `$SLURM_ARRAY_TASK_ID`."""
    run: str = ""
    """Train only the run with this name in the plan."""
    slurm: bool = False
    """Print a batch script that trains the runs as a SLURM array, and train nothing."""
    all: bool = False
    """All metrics in the table, rather than the first of each task."""
    format: Literal["table", "json"] = "table"
    """json: a list with a row for each variant and metric."""
    json: bool = False
    """Short for --format json: one JSON document on standard output, and everything else on standard error."""
    save: Path | None = None
    """Also write the table to this file: as CSV where its name ends in .csv, else as JSON."""
    report: Path | None = None
    """Also write a page about all finished runs, as `slip report` does."""


def main(argv: list[str]) -> int:
    """Train what is not finished, and print the table; return the exit status."""
    if argv[:1] == ["show"] and not asks_for_help(argv):
        return show(argv[1:])
    options = parse(Options, argv, prog="slip ablate", description=DESCRIPTION, examples=EXAMPLES)
    _check(options, given(Options, argv))

    from openslip.ablation import grid, running, table
    from openslip.processes import joined

    save = None if options.save is None else expand(options.save)
    if save is not None:
        table.check_place(save)
    if options.report is not None:
        from openslip.report import check_place

        check_place(options.report)
    read = grid.load(options.grid, "" if options.out is None else expand(options.out))
    chosen = _chosen(read, options)
    if options.slurm:
        print(slurm_script(read, options))
        return 0
    # The runs print what was measured of each; standard output is for the table alone.
    with one_document(options.json or options.format == "json") as give, joined() as processes:
        planned, costs = _planned(read, processes, needed=not options.table)
        if processes.first and not options.table:
            text = table.plan_text(planned, costs, table.standings(planned))
            print(printable(text)) if options.dry_run else say(text)
        if options.dry_run or options.table:
            running.check_unchanged(planned.runs, planned.out)
        if options.dry_run:
            return 0
        runs = [planned.runs[number] for number in chosen]
        status = 0 if options.table else _train(planned, runs, processes)
        if processes.first and (options.table or len(chosen) == len(read.runs)):
            found = table.collect(planned, costs, everything=options.all)
            _print(found, save, give)
            if options.report is not None:
                _report(planned, options.report)
    return status


def _check(options: Options, typed: set[str]) -> None:
    """Raise UsageError for options that have no effect together."""
    ways = [name for name in ("dry_run", "table", "slurm") if getattr(options, name)]
    ways += [name for name in ("index", "run") if name in typed]
    if len(ways) > 1:
        raise UsageError(
            "These options do not go together",
            got=" ".join(f"--{name.replace('_', '-')}" for name in ways),
            fix="Give one of them",
        )
    if ways and ways[0] != "table":
        refuse_idle(
            typed, "all", "format", "json", "save", "report",
            because=f"No table is made with --{ways[0].replace('_', '-')}",
            fix="`slip ablate GRID --table` makes the table at any time",
        )  # fmt: skip


def _chosen(grid: Grid, options: Options) -> list[int]:
    """Return the numbers of the runs to train."""
    names = [run.name for run in grid.runs]
    if options.index is not None:
        if not 0 <= options.index < len(names):
            raise UsageError(
                "The grid has no run with that number",
                got=options.index,
                fix=f"Runs are 0 to {len(names) - 1}",
            )
        return [options.index]
    if options.run:
        if options.run not in names:
            raise UsageError(f"The grid has no run {options.run!r}", fix=did_you_mean(options.run, names))
        return [names.index(options.run)]
    return list(range(len(names)))


def _planned(grid: Grid, processes: Processes, *, needed: bool) -> tuple[Grid, dict[str, Cost]]:
    """Return the grid with its lengths, and the costs. Rank 0 opens the data before the others do.

    needed: whether the data must exist; a table works without counts, unless lengths follow from the counts.
    """
    from openslip.ablation import compute

    found: list[tuple[Grid, dict[str, Cost]]] = []
    try:
        with processes.first_goes_ahead():
            found.append(compute.planned(grid))
    except DataError as error:
        if needed or any(variant.equal_compute for variant in grid.variants):
            raise
        say(f"FLOPs are taken from the logs: {error}")
        return grid, {}
    return found[0]


def _train(grid: Grid, runs: list[GridRun], processes: Processes) -> int:
    """Train the runs that are not finished; return 1 if one has failed."""
    from openslip.ablation.running import run_all
    from openslip.cli import main as slip

    first = processes.first
    outcome = run_all(
        grid, runs, command=slip, processes=processes, inform=lambda text: say(text) if first else None
    )
    if first:
        for name in outcome.held:
            say(f"{name} is left out: another process trains it")
        for name, why in outcome.failed.items():
            say(f"FAILED     {name}: {why}")
    return 1 if outcome.failed else 0


def _print(table: Table, save: Path | None, give: Callable[[Any], None]) -> None:
    """Print and write the table. give: receives its rows if the user asked for JSON."""
    from openslip.ablation import table as tables

    rows = tables.rows(table)
    if save is not None:
        tables.write_rows(rows, save)
    for note in table.notes:
        say(note)
    print(printable(tables.as_text(table, shutil.get_terminal_size((110, 0)).columns)), end="")
    give(rows)
    if save is not None:
        say(f"wrote {save}")


def _report(grid: Grid, page: Path) -> None:
    from openslip.ablation.running import standing
    from openslip.report import load_run, write_report

    begun = [run for run in grid.runs if (grid.out / run.name / "config.toml").is_file()]
    found = [grid.out / run.name for run in begun if standing(run, grid.out).state != "broken"]
    if not found:
        raise UsageError("There is nothing to report: no run of the grid has begun")
    write_report(page, [load_run(path) for path in found], title=grid.path.stem)
    say(f"wrote {page}")


def show(words: list[str]) -> int:
    """List the grids that come with the package, or print one."""
    from openslip.ablation.grid import shipped, shipped_text

    match words:
        case []:
            for name in shipped():
                print(f"{name:<16}{shipped_text(name).splitlines()[0].removeprefix('# ')}")
        case [name]:
            print(shipped_text(name), end="")
        case _:
            raise UsageError("`slip ablate show` takes one name", got=" ".join(words))
    return 0


SLURM = """\
#!/bin/bash
# One job for each of the {count} runs of {grid}; finished runs are left as they are.
# Adapt partition, time and devices. A job that is told to end saves its run first, and continues when it is requeued.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
cd {folder} || exit 1
srun {command} --index "$SLURM_ARRAY_TASK_ID"
# When all have ended: {command} --table"""


def slurm_script(grid: Grid, options: Options) -> str:
    """Return a batch script for a SLURM array, to be adapted."""
    import shlex

    from openslip.shell import command

    line = command("slip", "ablate", options.grid, "--out", grid.out)
    folder, count = shlex.quote(str(Path.cwd())), len(grid.runs)
    name = "".join(letter if letter.isalnum() else "-" for letter in grid.path.stem)
    return SLURM.format(count=count, grid=grid.path, name=name, last=count - 1, folder=folder, command=line)
