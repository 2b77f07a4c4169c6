"""slip evaluate suite MODEL [MODEL ...] [--sets paper|all|FILE.toml]"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from openslip.cli import evaluate
from openslip.cli.arguments import chosen_device, parse
from openslip.cli.output import one_document, say
from openslip.errors import ConfigError, SlipError, UsageError, printable
from openslip.evaluation.datasets import places
from openslip.files import expand, write_bytes
from openslip.shell import command

if TYPE_CHECKING:
    import torch

    from openslip.evaluation import Evaluator, Result
    from openslip.evaluation.benchmark import Asked, Benchmark
    from openslip.processes import Processes

DESCRIPTION = """Measure several models on all public data sets that are found on disk, on the paper's 26, or on a list
of tasks in a file. The command searches for sets in the folders of --datasets and of the environment variable
OPENSLIP_DATASETS (`slip datasets`).

A pattern in quotes ('runs/slip-*') stands for runs that differ in their seeds, and so do models with the same name in
front (slip=runs/a slip=runs/b). The table has their mean and spread. Results are kept, and the same command continues
after an interruption."""

TASK_OPTIONS = (
    "image_root", "image_column", "caption_column", "label_column", "leave_broken", "templates", "classnames", "preset",
    "captions", "folds",
)  # fmt: skip
"""Options of `slip evaluate` about one task, which `[[task]]` in a file of tasks may set."""
NAMED = 8
"""How many missing sets are named at the start: two lines of a terminal."""
EXAMPLES = """\
slip evaluate suite 'runs/clip-*' 'runs/slip-*' --datasets /data
    Measure the seeds of two configurations on all public sets below /data.
slip evaluate suite slip=runs/mine openai=open_clip:ViT-B-32/openai --sets paper --datasets /data
    Measure two models on the paper's 26 sets.
"""


@dataclass(frozen=True)
class Options:
    """Which models, on what."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, files or names of models, as for `slip evaluate`; patterns in quotes; NAME=MODEL names one."""
    sets: str = "all"
    """all: every set that is found; paper: the paper's 26 by the paper's protocols; or a TOML file, tasks =
    ["knn:photos/"]."""
    protocols: tuple[str, ...] = ()
    """Protocols for the sets that are found, in place of zeroshot, knn and linear, retrieval and geometry, ..."""
    datasets: tuple[Path, ...] = ()
    """Folders to search for data sets."""
    out: Path = Path("suite")
    """Folder for the table (results.csv, results.json), for results of models that are no runs, and for features."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of run folders."""
    preset: Literal["auto", "paper"] = "auto"
    """paper: as in the paper, linear by SGD on augmented pictures and finetune by BEiT's recipe. Takes 100 times as
    long."""
    again: bool = False
    """Measure again what has been measured before."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the image tower; auto: fp32 on a CPU, and on a GPU the precision of training."""
    json: bool = False
    """Print one JSON document to standard output, and everything else to standard error."""


@dataclass
class SuiteModel:
    """A model of the suite. group: the title of its column, the same for all seeds of one configuration. place: the
    file that keeps its results."""

    group: str
    side: evaluate.Side
    place: Path = Path()
    results: list[Result] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Find tasks and models, measure, write and print; return the exit status."""
    options = parse(Options, argv, prog="slip evaluate suite", description=DESCRIPTION, examples=EXAMPLES)
    places.add_roots(options.datasets)
    models = _models(options.models)
    benchmark = _benchmark(options)

    from openslip.processes import joined

    device = chosen_device(options.device)
    with one_document(options.json) as give, joined(device) as ranks:
        return evaluate.by_the_first(ranks, lambda: _Run(options, benchmark, device, ranks).all(models, give))


def _benchmark(options: Options) -> Benchmark:
    from openslip.evaluation import benchmark

    if options.sets in ("all", "paper"):
        found = benchmark.of_sets(paper=options.sets == "paper", protocols=options.protocols)
    elif options.protocols:
        raise ConfigError(
            "A file of tasks already names the protocol of each task",
            got=f"--sets {options.sets} --protocols {' '.join(options.protocols)}",
            fix="Leave --protocols out",
        )
    else:
        found = benchmark.from_file(options.sets, TASK_OPTIONS)
        for asked in found.tasks:
            _options(asked, Path())
    return found


def _models(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the group and the place of each model on the command line.

    A word without a name is a group of its own. If several groups would have the same name, their places name them.

    Raises UsageError without a word, ConfigError for a pattern without any model and for a model that is named twice,
    CheckpointError for a place that does not exist.
    """
    from openslip.evaluation.measured import name_and_place, name_of
    from openslip.interop import check_place

    if not words:
        raise UsageError(
            "No model was named", fix="For example `slip evaluate suite 'runs/*' --datasets FOLDER`"
        )
    found: list[tuple[str, str, str, list[Path]]] = []
    for word in words:
        name, place = name_and_place(word)
        paths = [Path(place)]
        if has_magic(place) and not os.path.lexists(expand(place)):
            paths = [Path(one) for one in sorted(glob(str(expand(place)))) if _is_model(Path(one))]
            if not paths:
                raise ConfigError("The pattern matches no run and no file of weights", got=place)
        short = name_of([os.path.basename(os.path.normpath(path)) for path in paths])
        found.append((name, short, os.path.normpath(place), paths))
    taken = Counter(
        [*{name for name, *_ in found if name}, *(short for name, short, *_ in found if not name)]
    )
    models: dict[str, tuple[str, Path]] = {}
    for name, short, place, paths in found:
        for path in paths:
            check_place(path)
            key = os.path.realpath(expand(path))
            if key in models:
                raise ConfigError("The same model is named twice", got=str(path), fix="Name it once")
            models[key] = name or (short if taken[short] == 1 else place), path
    return list(models.values())


def _is_model(path: Path) -> bool:
    return (path / "config.toml").is_file() or path.suffix in (".safetensors", ".pt")


class _Run:
    """One call of the command: each model in turn on all sets, computing the features of each set once."""

    def __init__(
        self, options: Options, benchmark: Benchmark, device: torch.device, ranks: Processes
    ) -> None:
        self.options, self.benchmark, self.device, self.ranks = options, benchmark, device, ranks
        self.failed = 0
        self.left_out: set[str] = set()
        self.out = expand(options.out)

    def all(self, models: Sequence[tuple[str, Path]], give: Callable[[Any], None]) -> int:
        from openslip.evaluation.feature_cache import FeatureCache
        from openslip.evaluation.opened import shared

        with self.ranks.first_goes_ahead():
            for _, place in models:
                self._check(place)
        self.cache = FeatureCache(self.out / "features")
        if missing := [card.name for card in self.benchmark.missing]:
            more = f", and {len(missing) - NAMED:,} more (`slip datasets`)" if len(missing) > NAMED else ""
            say(
                f"Not on this machine, {len(missing)}: {', '.join(missing[:NAMED])}{more}. "
                f"`slip datasets show {missing[0]}` says where to get it."
            )
        measured: list[SuiteModel] = []
        try:
            with shared():
                for number, (group, place) in enumerate(models, 1):
                    say(f"Model {number} of {len(models)}: {place}")
                    try:
                        measured.append(SuiteModel(group, self._side(place)))
                        self._measure(measured[-1])
                    except SlipError as error:  # of one model; the other models are still measured
                        self.failed += 1
                        say(f"slip: {place}: {error}")
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, or another signal
                say("What has been measured is kept; the same command goes on with the rest.")
            raise
        finally:
            if self.ranks.first and any(model.results for model in measured):
                self._write(measured)
        if self.ranks.first:
            give(
                [
                    result.to_dict() | {"model": model.side.name, "group": model.group}
                    for model in measured
                    for result in model.results
                ]
            )
        return 1 if self.failed else 0

    def _side(self, place: Path) -> evaluate.Side:
        side = evaluate.Side(place, self.options.which, ranks=self.ranks)
        side.keep = None if side.run else self.out / _file_name(place)
        return side

    def _check(self, place: Path) -> None:
        """Raise EvaluationError if kept results of a model cannot be read, and would be lost."""
        from openslip.evaluation import results

        self._side(place)  # which reads a run's own
        name = _file_name(place)
        for file in (self.out / name / results.FILE, *self.out.glob(f"{name}-????????/{results.FILE}")):
            results.read(file)

    def _place(self, side: evaluate.Side) -> Path:
        """Return the file that keeps a model's results: in the run's folder, else in the suite's."""
        from openslip.files import unwritable

        own = side.run / "results.json" if side.run else None
        if own is not None and not unwritable(own):
            return own
        folder = self.out / _file_name(side.name)
        if not side.run:  # other weights with the same name have other results
            from openslip.models.weights import digest

            folder = folder.with_name(f"{folder.name}-{digest(side.encoder.model)[:8]}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "results.json"

    def _measure(self, model: SuiteModel) -> None:
        """Measure one model on all tasks without a kept result."""
        from openslip.evaluation import results, suite

        side = model.side
        with self.ranks.first_goes_ahead():
            side.tasks = []
            side.load()
        place = model.place = self._place(side)
        known = [] if self.options.again else results.read(place)
        for _, several in groupby(self.benchmark.tasks, key=lambda asked: asked.task.partition(":")[2]):
            tasks: list[Evaluator] = []
            for asked in several:
                task = self._checked(asked, side)
                if task is None:
                    continue
                if getattr(task, "needs_text", False) and not side.text:
                    say(f"{task.name} left out: the model has no text tower.")
                    continue
                dtype = suite.chosen_precision(self.options.precision, side.encoder.to(self.device))
                before = _of(task, known, side.checkpoint, dtype)
                if self.ranks.from_first(len(before)):  # another suite may write there meanwhile
                    model.results += before
                    say(f"{task.name}: measured before")
                else:
                    tasks.append(task)

            def through(task: suite.Done) -> None:
                found = [replace(result, checkpoint=side.checkpoint) for result in task.results]
                model.results += found
                if task.error is not None:
                    self.failed += 1
                    say(f"slip: {task.name}: {task.error}")
                if found:
                    try:
                        results.keep(found, place)
                    except SlipError as error:
                        self.failed += 1
                        say(f"slip: {task.name}: {error}")
                    say(f"{task.name}: {evaluate.main_number(found)}, {task.seconds:,.0f} s")

            if tasks:
                suite.run(
                    side.encoder.to(self.device),
                    tasks,
                    on_task=through,
                    progress=True,
                    precision=self.options.precision,
                    cache=self.cache,
                    ranks=self.ranks,
                )
        del side.encoder  # the next one needs the room

    def _checked(self, asked: Asked, side: evaluate.Side) -> Evaluator | None:
        """Return the evaluator of a task whose data can be used; None if the data do not fit or the check fails."""
        from openslip.evaluation import suite

        task: Evaluator | None = None
        try:
            options = _options(asked, side.name, self.options.preset)
            found = evaluate.evaluator(asked.task, options, side)
            with self.ranks.first_goes_ahead():
                lines = suite.check([found], text=side.text)
            for line in lines:
                if line not in self.left_out:
                    self.left_out.add(line)
                    say(line)
            task = found
        except SlipError as error:
            if asked.task not in self.left_out:
                say(f"{asked.task} is left out: {error}" if asked.found else f"slip: {asked.task}: {error}")
            self.left_out.add(asked.task)
            self.failed += not asked.found
        (lacking,) = self.ranks.any(task is None)
        return None if lacking else task

    def _write(self, measured: Sequence[SuiteModel]) -> None:
        """Write the whole table, and print it."""
        from openslip.evaluation.results import save

        every = [(model, result) for model in measured for result in model.results]
        beside = [{"model": str(model.side.name), "group": model.group} for model, _ in every]
        for name in ("results.json", "results.csv"):
            save([result for _, result in every], self.out / name, beside)
        text = table(measured) + beside_the_papers(measured)
        write_bytes(self.out / "table.txt", text.encode("utf-8", "replace"))
        print(printable(text))
        say(f"Kept in {self.out}: results.csv, results.json, table.txt.")
        if runs := [str(model.side.run) for model in measured if model.side.run]:
            say(f"As a page: {command('slip', 'report', *runs)}")


def table(measured: Sequence[SuiteModel]) -> str:
    """Return a table with the first metric of each task: a line for each task, a column for each group of models, mean
    ± spread."""
    from openslip.evaluation import measure
    from openslip.evaluation.distinct import distinct
    from openslip.evaluation.results import aligned
    from openslip.evaluation.scores import ahead, score

    groups = list(dict.fromkeys(model.group for model in measured))
    found: dict[tuple[str, ...], dict[str, list[Result]]] = {}
    first: dict[tuple[str, ...], Result] = {}
    for model in measured:
        tasks: set[tuple[str, ...]] = set()
        for result in model.results:
            what = (result.task, result.data, result.split, result.prompts, result.settings)
            if what not in tasks:
                tasks.add(what)
                first.setdefault((*what, result.metric), result)
                found.setdefault((*what, result.metric), {}).setdefault(model.group, []).append(result)
    names = dict(zip(first, distinct([replace(one, checkpoint="", content="") for one in first.values()])))
    rows = [["task", "metric", *groups, "n"]]
    for what, result in first.items():
        of, scores = measure(result.metric), {group: score(some) for group, some in found[what].items()}
        best = ahead(scores, lower=of.better == "lower") if of.better else None
        cells = [
            f"{of.text(one.value)}{of.spread(one.spread)}{'*' * (group == best)}"
            if (one := scores.get(group))
            else "–"
            for group in groups
        ]
        rows.append([names[what], result.metric, *cells, f"{result.count:,}"])
    lines = aligned(rows)
    lines.append("Shares in percent; for several seeds, mean ± standard deviation.")
    if len(groups) > 1:
        lines.append("* ahead of all others: the 95 % intervals of the differences do not contain 0.")
    return "\n".join(lines) + "\n"


def beside_the_papers(measured: Sequence[SuiteModel]) -> str:
    """Return the paper's numbers beside those measured by the paper's protocol; empty if there are none."""
    from openslip.evaluation.kept_outcomes import recall
    from openslip.evaluation.published import PUBLISHED, agrees

    found: dict[str, list[str]] = {}
    for model in measured:
        tops = [one for one in model.results if one.metric == "top1" and "imagenet" in one.task]
        kept = {one.identity: one.answers for one in recall(tops, model.place)[0]} if tops else {}
        for result in tops:
            if protocol := agrees(result, result.answers or kept.get(result.identity)):
                found.setdefault(protocol, []).append(f"{model.side.name}: {result.value:.1%}")
    lines = []
    for protocol, own in found.items():
        rows = [(row, getattr(row, protocol)) for row in PUBLISHED]
        lines.append(f"\n{protocol} of ImageNet by the paper's protocol, beside the paper's numbers:")
        lines += own
        lines += [
            f"  {row.method} {row.tower}, {row.data}, {row.epochs} epochs: {number:.1f}%"
            for row, number in rows
            if number is not None
        ]
    return "\n".join([*lines, ""]) if lines else ""


def _of(task: Evaluator, known: Sequence[Result], checkpoint: str, dtype: torch.dtype) -> list[Result]:
    """Return the results of a task among the known results, for this checkpoint and precision."""
    from openslip.evaluation.suite import with_precision

    about = task.about()
    settings = with_precision(about.get("settings", ""), task, dtype)
    return [
        result
        for result in known
        if result.task == task.name
        and result.checkpoint == checkpoint
        and all(getattr(result, name) == value for name, value in about.items() if name != "settings")
        and result.settings == settings
    ]


def _options(
    asked: Asked, model: Path, preset: Literal["auto", "paper", "small-data"] = "auto"
) -> evaluate.Options:
    """Return the options of `slip evaluate` for a task. preset: used if the task sets none.

    Raises ConfigError for a value of another type.
    """
    from openslip import toml

    given = dict(asked.options)
    if isinstance(told := given.get("templates"), str):
        given["templates"] = [told]
    file = given.pop("classnames", None)
    if not isinstance(file, str | None):
        raise ConfigError(f"'classnames' of {asked.task} takes the name of a file", got=file)
    plain = evaluate.Options(
        model=model, tasks=(asked.task,), preset=preset, classnames=None if file is None else Path(file)
    )
    return toml.from_dict(given, evaluate.Options, plain, f"{asked.task} ")


def _file_name(place: Path) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in str(place)).strip(
        "-."
    )
