"""slip train RECIPE | --config FILE | --resume --out RUN   [--section.key value ...]"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from openslip import recipes, toml
from openslip.cli import hints, idle, resuming
from openslip.cli.arguments import given, parse, take_option, take_positional
from openslip.cli.help import ALL, asks_for_help
from openslip.cli.output import one_document
from openslip.config import SOURCES, Config
from openslip.errors import ConfigError, UsageError, printable, unsaid

if TYPE_CHECKING:
    from openslip.data.record import Source
    from openslip.evaluation import Evaluator, Result
    from openslip.evaluation.suite import Suite
    from openslip.objectives import Loss
    from openslip.processes import Processes
    from openslip.training.saving.run import RunFolder

VAL = "val"
"""The name of data.val in results."""
DESCRIPTION = """Train a recipe (`slip recipes` lists them) or a configuration file (`--config FILE`) on your pictures.
Every value of the configuration is an option. `--resume --out RUN` continues a run with the run's own recipe and data.
If a recipe is named and there is no run yet, it starts the run."""
EXAMPLES = """\
slip train small-data --data.train pairs.csv --data.val 10% --out runs/mine
    Train from random weights on a table of paths and captions; measure on a tenth of them.
slip train finetune --init open_clip:ViT-B-32/laion2b_s34b_b79k --data.train 'shards/*.tar' --data.val 10%
    Train a public model further on tar shards.
slip train --resume --out runs/mine
    Continue a run that was interrupted.
"""


FIRST = (
    "data.train", "data.val", "out", "resume", "init", "objective.loss", "training.epochs", "training.budget",
    "training.batch", "optimizer.lr", "views.size", "evaluation.tasks", "training.device", "json",
)  # fmt: skip
"""The options that `slip train --help` shows."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, and where to write."""

    config: Annotated[Config, arg(name="")] = field(default_factory=Config)
    out: str = ""
    """Run folder; by default runs/NAME with the recipe's name."""
    resume: bool = False
    """Continue the run in the folder from its newest checkpoint, with the run's own recipe and data. If there is no
    run, and a recipe is named, start the run."""
    json: bool = False
    """At the end, print one JSON document to standard output: the last metrics and the results. Everything else goes
    to standard error."""


def main(argv: list[str]) -> None:
    """Parse, open the data, train, print the results."""
    options = resolve(argv)
    with one_document(options.json) as give:
        run(options.config, options.out, options.resume, options.typed, give if options.json else None)


@dataclass(frozen=True, kw_only=True)
class Resolved(Options):
    """The resolved options. typed: the keys of the configuration that the user typed."""

    typed: Collection[str] = ()


def resolve(argv: list[str]) -> Resolved:
    """Return the options that `argv` resolves to.

    The recipe, file or run that the command line names is the base, and the other options change the base.

    A run that continues is known by its folder, and the options change its configuration. If a configuration file is
    named as well, every value of the file counts as an option.
    """
    recipe, rest = take_positional(argv)
    path, rest = take_option(rest, "--config")
    out, _ = take_option(rest, "--out")
    resume = "--resume" in rest
    if recipe and path:
        raise UsageError("Give a recipe or --config, not both", got=f"{recipe} and {path}")
    wants_help, prog = asks_for_help(rest), f"slip train {recipe or 'RECIPE'}"
    if not wants_help:
        hints.check_train(recipe, recipes.RECIPES, rest)
    base = recipes.get(recipe) if recipe else toml.load(path) if path else None
    if wants_help and ALL not in rest:  # none of the first options is an objective's: torch is not imported
        _parse(Options, rest, prog, Options(config=base or Config()))

    from openslip.cli import sections

    if path and resume and not out and os.path.basename(path) == "config.toml":
        out = os.path.dirname(path) or "."  # the run's own
    folder = out or (f"runs/{base.name}" if base else "")
    known = toml.load(Path(folder) / "config.toml") if resume and folder and resuming.is_run(folder) else None
    of_run = known if known and not (path or (base and base.name != known.name)) else None
    its_own = bool(path and known and os.path.samefile(path, Path(folder) / "config.toml"))
    typed_loss, _ = take_option(rest, "--objective.loss")
    _load_own(typed_loss, path, base, Path(folder) if of_run or its_own else None)
    if path and base:
        _check_options(path, base)
    parsed = partial(_parsed, rest, prog)
    if base is None and known is None and not wants_help:
        parsed(Config())  # --resum may be why nothing was named
        raise resuming.nothing_named(resume, folder)
    options, typed = parsed(of_run or base or Config())
    config, others = sections.of_the_loss(options.config)
    if known:
        config = replace(config, data=resuming.data_of(known.data, config.data))
        if of_run and base:
            resuming.print_settings(config, parsed(base)[0].config, folder)
    if not config.data.train:
        fix = f"Add --data.train with {SOURCES}"
        if resume and folder:
            fix = f"There is no run at {folder} to take the data from. {resuming.near(folder)} {fix}".replace(
                "  ", " "
            )
        raise UsageError("No training data was named", fix=fix)
    idle.train(typed, config)
    if path and not of_run:
        for name in others:
            resuming.print_line(f"objective.{name} is not part of the loss: its options are left out")
    if resume and folder and not known and resuming.near(folder, close=True):
        resuming.print_line(
            f"There is no run at {folder} yet, so one is started. {resuming.near(folder, close=True)}"
        )
    return Resolved(
        config=config,
        out=folder or f"runs/{config.name}",
        resume=options.resume,
        json=options.json,
        typed=typed,
    )


def _load_own(typed: str | None, path: str | None, base: Config | None, run: Path | None) -> None:
    """Import the user's own objectives that the command line names, else the file, else the run that continues.

    run: the run that continues with its present loss. Its objectives are imported from the same file as before.
    """
    from openslip.objectives import own

    if typed is not None:
        own.load(typed)
    elif run is not None:
        own.resume(run, toml.load(run / "config.toml").objective.loss)
    elif path and base:
        folder = Path(path).parent
        own.load(base.objective.loss, outside=folder if os.path.isfile(folder / "versions.json") else None)


def _check_options(path: str, config: Config) -> None:
    """Raise ConfigError where a file sets options that its objectives do not have."""
    from openslip.cli import sections

    try:
        sections.with_sections(config)
    except ConfigError as error:
        raise ConfigError(f"In {path}: {error}") from None


def accepted(base: Config) -> type[Options]:
    """Return the class of options that change `base`, with the options of every known objective."""
    from openslip.cli import sections

    config = sections.with_sections(base)
    hint: Any = type(config)
    hint = Annotated[hint, arg(name="")]
    fields = [("config", hint, field(default=config))]
    return make_dataclass("Options", fields, bases=(Options,), frozen=True, kw_only=True)


def _parse(cls: type[Options], argv: list[str], prog: str, default: Options | None = None) -> Options:
    return parse(
        cls, argv, prog=prog, description=DESCRIPTION, examples=EXAMPLES, first=FIRST, default=default
    )


def _parsed(argv: list[str], prog: str, base: Config) -> tuple[Options, set[str]]:
    """Return the options with `base` changed by `argv`, and the names of the options that `argv` gives."""
    from openslip.cli import sections

    cls = accepted(base)
    options = _parse(cls, argv, prog)
    typed = given(cls, argv)
    config = sections.without_sections(options.config, base, typed)
    return Options(config=config, out=options.out, resume=options.resume, json=options.json), typed


def run(
    config: Config,
    out: str,
    resume: bool,
    typed: Collection[str] = (),
    give: Callable[[Any], None] | None = None,
) -> None:
    """Train and evaluate as `config` says. typed: the keys of the configuration that the user typed. give: receives
    the summary if the user asked for JSON."""
    from openslip.data.workers import default_processes, start_context

    if config.data.workers > 0 or (config.data.workers < 0 and default_processes() > 1):
        start_context(["openslip.data.loader"])  # its imports take seconds, and run beside this process's

    from rich.console import Console

    from openslip.data.sources.mixture import labelled_ones
    from openslip.evaluation import suite
    from openslip.interop import read
    from openslip.processes import joined
    from openslip.progress import print_text
    from openslip.training import asked, start
    from openslip.training.precision import choose_device
    from openslip.training.saving.run import RunFolder
    from openslip.training.train import train

    config = asked.with_positives(config, classes=bool(labelled_ones(config.data.train)))
    with joined(choose_device(config.training.device)) as processes:
        console = Console(stderr=True, quiet=not processes.first)
        share = _share(config)
        folder = RunFolder(Path(out), partial(print_text, console))
        with processes.first_goes_ahead():
            if processes.first:  # once more when the folder is needed; opening the data may take long
                folder.check_new(resume)
                folder.check_free()
                if folder.exists() and folder.begun():
                    folder.check_config(start.adopted_as_in_run(config, folder.config))
            with resuming.as_the_run_names_it(config, folder):
                source, ssl, val, tasks = _open(config, first=processes.first)
        read_already = []  # handed over below, so that nobody here holds the weights while it trains
        if config.init and not (resume and folder.begun()):
            with processes.first_goes_ahead():
                read_already.append(read(config.init))
            config = start.adopted(config, read_already[0], typed)
        if share:
            source, held_out = _hold_out(config, source, share, processes)
            val = _on_val(config, held_out)
        tasks = tasks.after(val)
        folder = train(
            config,
            source,
            out,
            ssl=ssl,
            evaluate=tasks if tasks.tasks else None,
            resume=resume,
            init=read_already.pop() if read_already else None,
            console=console,
            processes=processes,
        )
        results = suite.read(folder.path / "results.json") if processes.first and tasks.tasks else []
        newest = max((result.checkpoint for result in results), default="")
        if results := [result for result in results if result.checkpoint == newest]:
            print(printable(suite.table(results)))
        print_text(console, f"  done: {folder.path}")
        if processes.first and give:
            give(summary(folder, results))


def summary(folder: RunFolder, results: Sequence[Result]) -> dict[str, Any]:
    """Return a summary of a run: the last line of training in metrics.jsonl, and the results at the end."""
    from openslip.training.saving.run import read_lines

    lines = [line for line in read_lines(folder.path / "metrics.jsonl") if "loss" in line]
    return {
        "run": folder.path,
        "name": folder.config.name,
        "loss": folder.config.objective.loss,
        "metrics": lines[-1] if lines else None,
        "results": [result.to_dict() for result in results],
    }


def _share(config: Config) -> float | None:
    """Return the share of the training data to hold out; None where data.val names a source or is empty.

    Raises ConfigError, before anything is opened, for an impossible share, or if the objective cannot use one.
    """
    from openslip.tools.split import share_of

    share = share_of(config.data.val)
    if share and not _loss(config).shared_space:
        raise ConfigError(
            "Held-out records measure retrieval, which needs an objective with embeddings of images and captions",
            got=f"--data.val {config.data.val}, --objective.loss {config.objective.loss}",
            fix="Leave --data.val out, and measure with --evaluation.tasks, such as `knn:FOLDER` or `linear:FOLDER`",
        )
    return share


def _loss(config: Config) -> Loss:
    from openslip import objectives

    return objectives.parse(config.objective)


def _open(config: Config, *, first: bool) -> tuple[Source, Source | None, list[Evaluator], Suite]:
    """Return the training source, another source for the self-supervised views or None, the tasks on data.val, and the
    other tasks. If a share is to be held out, the training source still contains that share."""
    from openslip.data.sources import open_source
    from openslip.evaluation import suite
    from openslip.evaluation.captioned import OnCaptioned

    data, loss = config.data, _loss(config)
    source = partial(
        open_source,
        image_root=data.image_root,
        image_column=data.image_column,
        caption_column=data.caption_column,
        label_column=data.label_column,
        templates=data.templates,
        class_names=data.class_names,
        leave_broken=data.leave_broken,
    )
    train = source(data.train, captions_required=loss.captioned)
    tasks = suite.Suite(config.evaluation.tasks)
    tasks.check_cadences()
    # Each source is opened once for all tasks, which share what the model makes of it.
    opened = cache(partial(source, must_fit=False, split="test"))
    for number, task in enumerate(tasks.tasks):
        if (
            loss.captioned and isinstance(task, OnCaptioned) and isinstance(task.source, str)
        ):  # columns as in training
            tasks.tasks[number] = replace(task, source=opened(task.source), task=task.name)
    shared = bool(data.val) and _share(config) is not None
    val = (
        _on_val(config, train if shared else source(data.val, must_fit=False, split="val"))
        if data.val
        else []
    )
    # The plan shows what was guessed about the training data. Nothing is known about the held-out share yet.
    known = [line for task in val for line in getattr(task, "lines", list)()] if shared else []
    with nullcontext() if first else unsaid():
        lines = suite.check([*val, *tasks.tasks], text=loss.shared_space, best=config.evaluation.best)
    for line in lines if first else ():
        if line not in known:
            print(printable(line), file=sys.stderr)
    ssl = None
    if data.ssl:
        ssl = source(data.ssl, captions_required=False, caption_column="", must_fit=False)
    return train, ssl, val, tasks


def _on_val(config: Config, source: Source) -> list[Evaluator]:
    """Return the tasks on the source of data.val: retrieval, and zero-shot where captions only name classes."""
    import numpy as np

    from openslip.data.labelled import prompts
    from openslip.data.sources.class_captions import as_labelled, names_classes
    from openslip.data.subset import Subset
    from openslip.evaluation.retrieval import Retrieval
    from openslip.evaluation.zeroshot import ZeroShot

    if not source.captions_name_classes:
        return [Retrieval(source, task=f"retrieval:{VAL}")]
    named = np.flatnonzero(names_classes(source))
    templates = prompts.read_templates(config.data.templates) if config.data.templates else ()
    tasks: list[Evaluator] = []
    if len(named):
        tasks.append(ZeroShot(VAL, templates, labelled=as_labelled(source, VAL)))
    if len(named) < len(source):
        tasks.append(Retrieval(Subset(source, named), task=f"retrieval:{VAL}"))
    return tasks


def _hold_out(config: Config, source: Source, share: float, processes: Processes) -> tuple[Source, Source]:
    """Return the remaining training data and the held-out records. Raises ConfigError if too little remains."""
    from openslip.tools.split import split

    rest, held = split(source, share, spec=config.data.train, ranks=processes, shown=processes.first)
    if rest.epoch_length < config.training.batch <= source.epoch_length:
        raise ConfigError(
            f"The records left to train on are fewer than a batch of {config.training.batch}",
            got=f"{len(rest):,} of {len(source):,} records; --data.val {config.data.val} holds out the others",
            fix="Lower --training.batch, hold out less, or pass another source as --data.val",
        )
    return rest, held
