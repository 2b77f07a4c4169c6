"""The quickstart: CLIP, SimCLR and SLIP on the embedded scenes, side by side, in a few minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from openslip import recipes
from openslip.config import Config
from openslip.errors import ConfigError
from openslip.shell import command

if TYPE_CHECKING:
    from openslip.report import Run

METHODS = ("CLIP", "SimCLR", "SLIP")
SIZE = 64
"""Side of the stored scenes in pixels; views are cropped from them."""
LEARNING_RATES = {"CLIP": 1.5e-3}
"""Learning rates of methods that do better with another rate than the recipe's, chosen on scenes never reported."""
PICTURE_SIZE = 192
"""Side of the scenes shown in the report."""

INTRO = """Models with the same small image tower saw the same number of pictures: CLIP learned from pictures and
captions, SimCLR from the pictures alone, SLIP from both. The compute is not the same: for each picture SLIP puts three
views through the tower, SimCLR two, CLIP one.{cost} This program paints the scenes: 24 kinds of things in many poses,
colours, places and lights, with captions like people's. The held-out pairs show things in colours that training never
showed them in."""


def commands(out: Path, folders: Sequence[Path]) -> list[tuple[str, str]]:
    """Return the next things to do, as pairs (what it does, command). They work in the folder of the call."""
    vectors = out / "vectors"
    return [
        (
            "Search: embed the scenes once",
            command("slip", "embed", folders[-1], out / "scenes", "--out", vectors),
        ),
        (
            "and find some by words, or by a picture",
            command("slip", "search", vectors, "a yellow car at night", "--sheet", out / "found.png"),
        ),
        (
            "Look at the scenes, and at the views that the models saw of them",
            command("slip", "data", "show", out / "scenes"),
        ),
        (
            "Train on pictures of your own: here pairs.csv, a table of paths and captions",
            "slip train small-data --data.train pairs.csv --data.val 10% --out runs/mine",
        ),
        (
            "Measure: here on other scenes; on pictures of your own, in a folder for each class, by zeroshot:FOLDER",
            command("slip", "evaluate", folders[-1], "zeroshot:scenes:val", "knn:scenes:val"),
        ),
        (
            "Compare runs on a page like this one",
            command("slip", "report", *folders[-2:], "--out", out / "compared.html"),
        ),
    ]


def cost(runs: Mapping[str, Run]) -> str:
    """Return a sentence on how much more SLIP computes for a sample than CLIP; "" if their logs do not say."""
    each = {method: run.operations for method, run in runs.items() if run.operations}
    if "CLIP" not in each or "SLIP" not in each:
        return ""
    times = each["SLIP"] / each["CLIP"]
    return f" Counted in floating-point operations, SLIP's training cost {times:.1f} times as much as CLIP's."


def method_config(method: str, base: Config, seed: int) -> Config:
    """Return `base` with the loss and the learning rate of a method, and a seed."""
    return replace(
        base,
        name=f"{base.name}-{method.lower()}",
        objective=replace(base.objective, loss=recipes.LOSSES[method.lower()]),
        optimizer=replace(base.optimizer, lr=LEARNING_RATES.get(method, base.optimizer.lr)),
        training=replace(base.training, seed=seed),
    )


def paint(folder: Path, scenes: int, seed: int, *, shown: bool = False) -> Path:
    """Write the training scenes as two shards, in two processes, keeping what is there already. Returns `folder`.

    shown: whether the progress is shown.

    Raises DataError when the folder cannot be written, or holds other scenes.
    """
    from openslip.scenes import Scenes
    from openslip.tools.convert import write_shards

    source = Scenes("train", scenes, seed, SIZE)
    write_shards(source, folder, -(-scenes // 2), encoding="png", processes=2, shown=shown)
    return folder


def quickstart(
    out: str | Path,
    *,
    base: Config | None = None,
    methods: Sequence[str] = METHODS,
    scenes: int = 4000,
    seed: int = 0,
    seeds: int = 1,
    console: Console | None = None,
) -> Path:
    """Train and measure every method of `methods` on `scenes` rendered scenes; return the path of report.html.

    out: the folder for the scenes, a run folder for each method, and the report. Another call keeps finished parts and
    continues unfinished ones. base: the configuration that the methods share (default: recipe `scenes-tiny`). seeds:
    how many times each method is trained, on the same scenes, with the seeds from `seed` on; the report shows the
    means.

    Raises ConfigError without a seed, and what `openslip.training.train.train` raises.
    """
    from openslip.data.workers import start_context
    from openslip.interop import load
    from openslip.ranges import check_ranges
    from openslip.report import comparison, load_run, write_report
    from openslip.scenes import TEMPLATES, Scenes

    if seeds < 1:
        raise ConfigError("Nothing would be trained", got=f"{seeds} seeds", fix="Take 1 seed or more")
    console = console or Console(stderr=True)
    out, base = Path(out), base or recipes.get("scenes-tiny")
    for number in (seed, seed + seeds - 1):  # before the scenes are painted
        check_ranges(method_config(methods[0], base, number))
    # The process server loads once what all later processes need.
    start_context(["openslip.tools.convert", "openslip.data.loader"])
    console.print(f"[bold]Painting {scenes:,} scenes[/bold]")
    base = replace(
        base, data=replace(base.data, train=str(paint(out / "scenes", scenes, seed, shown=not console.quiet)))
    )
    folders = _trained(out, base, methods, range(seed, seed + seeds), console)
    loaded = {key: load_run(folders[key]) for key in sorted(folders, key=lambda key: methods.index(key[0]))}
    pictures = Scenes("test", 250, 1, PICTURE_SIZE)
    report = write_report(
        out / "report.html",
        list(loaded.values()),
        title="CLIP, SimCLR and SLIP on the same pictures",
        intro=INTRO.format(cost=cost({method: loaded[method, seed] for method in methods})),
        encoder=load(folders[methods[-1], seed]),
        pictures=pictures,
        class_names=pictures.class_names,
        templates=TEMPLATES,
        commands=commands(out, [folders[method, seed] for method in methods]),
        seed=seed,
        pool=len(pictures),
        examples=4,
    )
    print(comparison(list(loaded.values())))
    return report


def _trained(
    out: Path, base: Config, methods: Sequence[str], seeds: range, console: Console
) -> dict[tuple[str, int], Path]:
    """Train and measure each method with each seed, unless done already; return the run folders.

    The order is seed by seed, so that a stopped quickstart has compared something.
    """
    from openslip.data.sources import open_source
    from openslip.evaluation import suite
    from openslip.training.train import train

    evaluate = suite.Suite(base.evaluation.tasks)
    folders: dict[tuple[str, int], Path] = {}
    for seed in seeds:
        for method in methods:
            folder = out / (method.lower() if seed == seeds.start else f"{method.lower()}-seed{seed}")
            folders[method, seed] = folder
            if (folder / "results.json").is_file():
                continue
            console.print(f"\n[bold]{method}[/bold]" + (f", seed {seed}" if len(seeds) > 1 else ""))
            source = open_source(base.data.train)
            config = method_config(method, base, seed)
            train(config, source, folder, evaluate=evaluate, resume=True, console=console)
    return folders
