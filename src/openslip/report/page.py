"""One self-contained HTML page from one or several runs: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openslip import toml
from openslip.addresses import without_keys
from openslip.data.record import Source
from openslip.errors import CheckpointError, ConfigError
from openslip.files import unwritable, write_bytes
from openslip.report import answered, curves, description, published, scoreboard
from openslip.report.gallery import Gallery, gather
from openslip.report.render import render
from openslip.report.rows import Row, rows
from openslip.report.runs import Run
from openslip.report.samples import EACH, samples

if TYPE_CHECKING:
    from openslip.encoder import Encoder

_COLOURS = 6


def write_report(
    path: str | Path,
    runs: Sequence[Run],
    *,
    title: str,
    intro: str = "",
    encoder: Encoder | None = None,
    pictures: Source | None = None,
    class_names: Sequence[str] = (),
    templates: Sequence[str] = ("a {}",),
    labels: Sequence[int] | None = None,
    captions: Sequence[str] = (),
    commands: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    pool: int = 500,
    examples: int = EACH,
) -> Path:
    """Write the report of `runs` to `path` and return the path; an existing file is replaced whole.

    encoder: the model that answers about pictures. pictures: the source from which `pool` pictures are drawn, at random
    by `seed`. class_names and templates: what zero-shot chooses from. labels: the true class of each of `pictures`
    (default: `pictures.label(index)` if the source has it). captions: what to search for (default: captions of the
    pool, at random). commands: (what it does, command) pairs for the next steps. examples: how many pictures to show of
    each kind of right and wrong answers, read from where they were measured.

    Raises ConfigError without a run, CheckpointError when the file cannot be written.
    """
    if not runs:
        raise ConfigError("A report needs at least one run", fix="Give the folders that `slip train` wrote.")
    path = Path(path)
    check_place(path)
    gallery = Gallery()
    if pictures is not None:
        gallery = gather(
            encoder,
            pictures,
            class_names=class_names,
            templates=templates,
            labels=labels,
            captions=captions,
            seed=seed,
            pool=pool,
        )
    html = page(
        runs,
        gallery,
        title=title,
        intro=intro,
        model=model_name(runs, encoder),
        commands=commands,
        examples=examples,
    )
    try:
        # Captions from the web may hold half characters, which UTF-8 cannot; they become "?".
        write_bytes(path, html.encode("utf-8", errors="replace"))
    except OSError as error:
        raise _unwritten(path, error.strerror or str(error)) from None
    return path


def check_place(path: Path) -> None:
    """Raise CheckpointError if no page can be written to `path`. Called before anything is read or drawn."""
    if os.path.isdir(path):
        raise _unwritten(path, "That is a folder", fix=f"Name a file in it: {path / 'report.html'}")
    if not os.path.isdir(path.parent):
        raise _unwritten(path, f"There is no folder {path.parent}", fix="Make it, or choose another place")
    if why := unwritable(path):
        raise _unwritten(path, why)


def _unwritten(path: Path, why: str, fix: str = "Choose another place for it") -> CheckpointError:
    return CheckpointError("The report cannot be written", got=str(path), cause=why, fix=fix)


def page(
    runs: Sequence[Run],
    gallery: Gallery,
    *,
    title: str,
    intro: str = "",
    model: str = "the model",
    commands: Sequence[tuple[str, str]] = (),
    examples: int = EACH,
) -> str:
    """Return the whole page as HTML text. model: the name of the model that the gallery is from. examples: see
    `write_report`."""
    named = {row.label: row for row in rows(runs)}
    colours = choose_colours(list(named.values()))
    tasks, troubles = answered.tasks(named, colours)
    each = [(name, description.seed_of(row, run), run) for name, row in named.items() for run in row.runs]
    return render(
        "report.html.j2",
        title=title,
        intro=intro,
        headline=scoreboard.headline(named, colours),
        colours=colours,
        results=scoreboard.table(named, colours),
        everything=scoreboard.table(named, colours, everything=True),
        published=published.beside(tasks),
        why_no_results=description.why_no_results(named),
        ways_to_measure=scoreboard.ways_to_measure(named),
        training_note=curves.training_note(named),
        training=[chart.figure() for chart in curves.training_charts(named, colours)],
        evaluations=[chart.figure() for chart in curves.evaluation_charts(named, colours)],
        tasks=list(zip(tasks[: answered.MOST], samples(tasks[: answered.MOST], examples))),
        more_tasks=[task.title for task in tasks[answered.MOST :]],
        gallery=gallery,
        model=model,
        setup=description.setup(named),
        courses=[(name, seed, description.course(run)) for name, seed, run in each],
        configurations=[
            (name, description.of_which_seed(row), without_keys(toml.dumps(row.first.config)))
            for name, row in named.items()
        ],
        commands=commands,
        versions=list(dict.fromkeys(tuple(run.versions.items()) for run in runs if run.versions)),
        troubles=troubles,
        damaged=sum(run.damaged for run in runs),
    )


def choose_colours(rows: Sequence[Row]) -> dict[str, str]:
    """Return a colour class for each row by its label: those whose loss has the most terms come first.

    So a sum stands out among the objectives that it is made of. After six rows the colours repeat.
    """
    ordered = sorted(rows, key=lambda row: -row.first.loss.terms)
    return {row.label: f"c{place % _COLOURS}" for place, row in enumerate(ordered)}


def model_name(runs: Sequence[Run], encoder: Encoder | None) -> str:
    """Return the label of the row that `encoder` comes from, or the model's recipe name."""
    if encoder is None:
        return "the model"
    for row in rows(runs):
        for run in row.runs:
            if run.config == encoder.config:
                return row.label if len(row.runs) == 1 else f"{row.label} (seed {run.config.training.seed})"
    return encoder.config.name
