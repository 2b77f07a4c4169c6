"""The quickstart: CLIP, SimCLR and SLIP on the embedded scenes, side by side, in a few minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from slip import recipes
from slip.config import Config

METHODS = ("CLIP", "SimCLR", "SLIP")
SIZE = 64
"""Side of the stored scenes in pixels; views are cropped from them."""
LEARNING_RATES = {"CLIP": 1.5e-3}
"""Where a method does better with another learning rate than the recipe's: chosen on scenes that nothing reports."""
PICTURE_SIZE = 192
"""Side of the scenes shown in the report."""

INTRO = """Three models with the same small image tower saw the same number of pictures: CLIP learned from pictures and
captions, SimCLR from the pictures alone, SLIP from both. The scenes are painted by this program: 24 kinds of things in
many poses, colours, places and lights, with captions like people's. What was measured on held-out pairs shows things in
colours that training never showed them in."""

COMMANDS = (
    (
        "Train on your own pictures",
        "slip train small-data --data.train 'shards-*.tar' --data.val 'val-*.tar'",
    ),
    (
        "… or from a table of paths and captions",
        "slip train small-data --data.train pairs.csv --out runs/mine",
    ),
    ("Measure on labelled pictures", "slip evaluate runs/mine zeroshot:photos/ linear:photos/ knn:photos/"),
    ("Compare runs on a page like this one", "slip report runs/mine runs/other"),
)


def method_config(method: str, base: Config, seed: int) -> Config:
    """Return `base` with the loss and the learning rate of a method, and a seed."""
    return replace(
        base,
        name=f"{base.name}-{method.lower()}",
        objective=replace(base.objective, loss=recipes.LOSSES[method.lower()]),
        optimizer=replace(base.optimizer, lr=LEARNING_RATES.get(method, base.optimizer.lr)),
        training=replace(base.training, seed=seed),
    )


def paint(folder: Path, scenes: int, seed: int) -> Path:
    """Write the scenes to train on as two shards, by two processes; what is there already is kept. Returns `folder`.

    Raises DataError when the folder cannot be written, or holds other scenes.
    """
    from slip.data.convert import write_shards
    from slip.data.scenes import Scenes

    source = Scenes("train", scenes, seed, SIZE)
    write_shards(source, folder, -(-scenes // 2), encoding="png", processes=2)
    return folder


def quickstart(
    out: str | Path,
    *,
    base: Config | None = None,
    methods: Sequence[str] = METHODS,
    scenes: int = 4000,
    seed: int = 0,
    console: Console | None = None,
) -> Path:
    """Train and measure every method of `methods` on `scenes` rendered scenes; return the path of report.html.

    out: the folder for the scenes, a run folder for each method, and the report. Finished parts are kept when it is
    called again, unfinished ones are continued. base: the configuration that the methods share (default: recipe
    `scenes-tiny`). Raises what `slip.training.loop.train` raises.
    """
    from slip.data.fanout import start_context
    from slip.data.scenes import TEMPLATES, Scenes
    from slip.data.sources import open_source
    from slip.evaluation import suite
    from slip.interop import load
    from slip.report import comparison, load_run, write_report
    from slip.training.loop import train

    console = console or Console(stderr=True)
    out, base = Path(out), base or recipes.get("scenes-tiny")
    # The server of processes loads once what all the processes that follow need.
    start_context(["slip.data.convert", "slip.data.loader"])
    console.print(f"[bold]Painting {scenes:,} scenes[/bold]")
    base = replace(base, data=replace(base.data, train=str(paint(out / "scenes", scenes, seed))))
    evaluate = partial(suite.run, tasks=[suite.parse_task(task) for task in base.evaluation.tasks])
    runs = []
    for method in methods:
        folder = out / method.lower()
        runs.append(folder)
        if not (folder / "results.json").is_file():
            console.print(f"\n[bold]{method}[/bold]")
            config = method_config(method, base, seed)
            train(
                config, open_source(base.data.train), folder, evaluate=evaluate, resume=True, console=console
            )
    loaded = [load_run(folder) for folder in runs]
    pictures = Scenes("test", 250, 1, PICTURE_SIZE)
    report = write_report(
        out / "report.html",
        loaded,
        title="CLIP, SimCLR and SLIP on the same pictures",
        intro=INTRO,
        encoder=load(runs[-1]),
        pictures=pictures,
        class_names=pictures.class_names,
        templates=TEMPLATES,
        commands=COMMANDS,
        seed=seed,
        pool=len(pictures),
    )
    print(comparison(loaded))
    return report
