"""slip evaluate RUN_OR_CHECKPOINT TASK [TASK ...] [--against BASE [--general TASK ...]]"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from openslip.cli import hints, idle
from openslip.cli.arguments import chosen_device, given, parse
from openslip.cli.output import one_document, say
from openslip.cli.source import ColumnOptions
from openslip.errors import ConfigError, SlipError, UsageError, unsaid
from openslip.evaluation import ON_CAPTIONED, TRAINED
from openslip.evaluation.datasets import places
from openslip.files import expand

if TYPE_CHECKING:
    import torch

    from openslip.encoder import Encoder
    from openslip.evaluation import Evaluator, Result
    from openslip.evaluation.compare import Difference
    from openslip.processes import Processes

DESCRIPTION = """Measure a run folder, one of its checkpoint folders, a file of weights, a released SLIP .pt file, or a
model of open_clip (`open_clip:NAME/TAG`), the hub (`hf:owner/name`) or timm (`timm:NAME`).

A task is PROTOCOL:DATASET. Protocols: zeroshot, linear, fewshot, knn, finetune (DATASET is a folder of images by class,
Parquet files, a table of images and classes, tar shards with classes, `scenes`, or the name of a set that `slip
datasets` lists), retrieval and geometry (DATASET is what `slip train` reads), pairs (Winoground, SugarCrepe, or a table
of pictures with right and wrong captions), segmentation and zeroshot-segmentation (pictures with masks, or `scenes`),
mieb (DATASET is `lite`, `eng`, `multilingual` or a task's name: the benchmark MIEB, by mteb).

A run keeps its results in results.json. New results replace those of the same model, data and settings; all others
stay. With --against BASE both models are measured, and the differences have intervals and a verdict. `slip evaluate
suite --help` describes how to measure several models on many sets."""
EXAMPLES = """\
slip evaluate runs/mine zeroshot:photos/ linear:photos/ knn:photos/
    Measure three ways on pictures in a folder for each class.
slip evaluate open_clip:ViT-B-32/openai retrieval:'shards/test-*.tar' --out results.csv
    Measure retrieval of captions and pictures with a public model.
slip evaluate runs/mine zeroshot:photos/ --general zeroshot:other/ --against runs/before
    Measure what a model has gained and lost compared with another model.
"""
FIRST = (
    "against", "general", "out", "json", "which", "datasets", "templates", "preset", "keep", "cache", "device",
    "precision",
)  # fmt: skip
"""The options that `slip evaluate --help` shows."""


@dataclass(frozen=True)
class Options(ColumnOptions):
    """What to measure, and how."""

    model: Annotated[Path, tyro.conf.Positional]
    """Run folder, checkpoint folder, file that `slip consolidate` wrote, .pt file, or name of a public model."""
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """PROTOCOL:DATASET, for example zeroshot:/data/birds; or PROTOCOL alone with --data."""
    data: str = ""
    """Data set of the tasks that name none."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run folder, also of --against."""
    datasets: tuple[Path, ...] = ()
    """Folders to search for data sets that are named by their card, as in zeroshot:food101."""
    templates: tuple[str, ...] = ()
    """Zero-shot prompts, each with {} for the class name; or a file of prompts, or the name of a set of prompts. By
    default the prompts that suit the data set."""
    classnames: Path | None = None
    """JSON or text file with the class names for zero-shot prompts, of one data set or by data set."""
    preset: Literal["auto", "paper", "small-data"] = "auto"
    """Recipe of finetune. paper also measures linear as in the paper, by SGD on augmented pictures instead of L-BFGS
    on features."""
    captions: int = 0
    """Retrieval: use only the first N captions of each picture; 0: all. COCO's protocol has 5."""
    folds: int = 1
    """Retrieval: parts of the pictures, in their order, that are ranked separately. COCO's 1k protocol has 5."""
    against: Path | None = None
    """A second model, usually the one that training started from, to measure on the same tasks: before and after."""
    general: tuple[str, ...] = ()
    """More tasks, which the model was not trained for; with --against they have a verdict of their own."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the image tower; auto: fp32 on a CPU, and on a GPU the precision of training."""
    cache: Path | None = None
    """Folder that keeps features of pictures. Measuring the same model again reads the features from there."""
    out: Path | None = None
    """Also write the results to this file: as CSV if its name ends in .csv, else as JSON."""
    keep: Path | None = None
    """Folder for trained classifiers, in linear/NAME, linear-paper/NAME and finetune/NAME. A run keeps them in its
    own folder."""
    json: bool = False
    """Print one JSON document to standard output, and everything else to standard error."""


@dataclass
class Side:
    """A model to measure: its name, what is loaded, its run if it has one, and the place of its results.

    keep: a folder for trained classifiers that replaces the run's. ranks: the processes that share the work; rank 0
    keeps the results.
    """

    name: Path
    which: Literal["latest", "best"]
    out: Path | None = None
    keep: Path | None = None
    ranks: Processes | None = None
    encoder: Encoder = field(init=False)
    tasks: list[Evaluator] = field(init=False)

    def __post_init__(self) -> None:
        from openslip.evaluation.ledger import Ledger

        self.path, self.run = _checkpoint(self.name, self.which)
        first = self.ranks is None or self.ranks.first
        self.ledger = Ledger(self.run, self.out) if first else Ledger()

    def load(self) -> None:
        """Load the model. Raises EvaluationError if every task would be left out."""
        from openslip.interop import load

        self.encoder = load(self.path, which=self.which if self.path == self.run else "latest")
        _refuse_nothing(self.name, self.tasks, text=self.text)

    def keeping(self, protocol: str, dataset: str) -> dict[str, Any]:
        """Return the options of a task that trains a classifier: where to keep the classifier, if anywhere."""
        from openslip.evaluation.datasets.places import short_name

        place = expand(self.keep) if self.keep else self.run
        if place is None or not dataset:
            return {}
        folder = {"folder": place / protocol / short_name(dataset).replace(":", "-")}
        if protocol != "linear":
            return folder
        from openslip.evaluation.kept_probe import Origin

        return {**folder, "origin": Origin(str(self.path), self.run, self.checkpoint)}

    @property
    def text(self) -> bool:
        return self.encoder.model.text_tower is not None

    @property
    def needed(self) -> list[Evaluator]:
        """The tasks that are not left out."""
        return [task for task in self.tasks if self.text or not getattr(task, "needs_text", False)]

    @property
    def checkpoint(self) -> str:
        name = os.path.basename(os.path.abspath(self.path))
        return name if name.startswith("step-") else ""

    def __str__(self) -> str:
        return f"{self.name}{f', {self.checkpoint},' if self.run and self.checkpoint else ''}"


def main(argv: list[str]) -> int:
    """Check, load, measure, keep and print; return the exit status."""
    if argv[:1] == ["suite"]:
        from openslip.cli import suite

        return suite.main(argv[1:])
    options = parse(
        Options, argv, prog="slip evaluate", description=DESCRIPTION, examples=EXAMPLES, first=FIRST
    )
    hints.check_evaluate(str(options.model), options.tasks)
    every = (*options.tasks, *options.general)
    places.add_roots(options.datasets)
    idle.evaluate(given(Options, argv), options.model, every, options.data, options.against)

    if not every:
        raise UsageError("No task was named", fix="For example `slip evaluate RUN zeroshot:scenes`")
    if options.keep is not None and os.path.lexists(keep := expand(options.keep)) and not keep.is_dir():
        raise ConfigError(
            "Trained classifiers are kept in a folder, and this is not a folder",
            got=f"--keep {options.keep}",
            fix="Name a folder, which need not exist yet",
        )
    from openslip.processes import joined

    device = chosen_device(options.device)
    with one_document(options.json) as give, joined(device) as ranks:
        return by_the_first(ranks, lambda: _measure(options, device, ranks, give))


def by_the_first(ranks: Processes, work: Callable[[], int]) -> int:
    """Do the work that processes share; rank 0 prints and writes everything, and the others only compute."""
    if ranks.first:
        return work()
    with unsaid(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        return work()


def _measure(options: Options, device: torch.device, ranks: Processes, give: Callable[[Any], None]) -> int:
    """Measure one or two models in all processes together; return the exit status. give: receives the numbers if the
    user asked for JSON."""
    from openslip.evaluation import suite

    kept = {"out": options.out, "keep": options.keep, "ranks": ranks}
    after = Side(options.model, options.which, **kept)
    tasks = after.tasks = _tasks(options, after)
    before = None if options.against is None else Side(options.against, options.which, ranks=ranks)
    sides = [after]
    if before:
        before.tasks, sides = _tasks(options, before, like=tasks), [before, after]
    for side in sides:
        for note in side.ledger.notes:
            say(note)
    lines = _checked(sides, ranks)
    if before and _is_same(before.path, after.path):
        raise _same(options)
    for side in sides:
        say(f"Measuring {side} on {device}.")
        if not (side.run or side.keep) and any(hasattr(task, "recipe_for") for task in tasks):
            say(
                "Finetuning, and a linear layer by SGD, keep their state in a run folder, and this is none. After an "
                "interruption they start anew. --keep FOLDER keeps their state in FOLDER."
            )
    for line in lines:
        say(line)
    names = suite.distinct(after.needed)
    own = {
        name for name, task in zip(names, after.needed) if task in tasks[: len(_each(options.tasks, options))]
    }
    measurement = Measurement(before, after, own, options, ranks)
    try:
        failed = sum(measurement.measure(side, device) for side in sides)
    finally:  # also when it is interrupted
        measurement.print({*names})
    if ranks.first:
        give(measurement.to_dict())
    return 1 if failed else 0


def _checked(sides: Sequence[Side], ranks: Processes) -> list[str]:
    """Check the data of all tasks, then load the models; return sentences about the data.

    A task that needs texts is left out for a model without a text tower, whatever the task's data are. If it is not yet
    known whether a model has a text tower, errors of such a task appear only after the models are loaded.
    """
    from openslip.evaluation import suite
    from openslip.interop import check_place, has_text

    tasks = [*{id(task): task for side in sides for task in side.tasks}.values()]
    for side in sides:
        check_place(side.path)
    told = [has_text(side.path) for side in sides]
    known, lines = any(told) or None not in told, None
    with ranks.first_goes_ahead():
        try:
            lines = suite.check(tasks, text=any(told) or not known)
        except SlipError:
            if known:
                raise
    for side in sides:
        with ranks.first_goes_ahead():
            side.load()
    text = any(side.text for side in sides)
    if lines is None or not (known or text):
        with ranks.first_goes_ahead():
            lines = suite.check(tasks, text=text)
    return lines


@dataclass
class Measurement:
    """The measurement of one model or two. before: the model of --against. own: names of the tasks that are not
    general. ranks: the processes that share the work."""

    before: Side | None
    after: Side
    own: set[str]
    options: Options
    ranks: Processes
    differences: dict[str, list[Difference]] = field(default_factory=lambda: {"own": [], "general": []})
    done: int = 0

    def measure(self, side: Side, device: torch.device) -> int:
        """Measure one of the models; return the number of failures, each of which has been printed."""
        from openslip.evaluation import suite
        from openslip.evaluation.feature_cache import FeatureCache

        failed = 0

        def through(task: suite.Done) -> None:
            nonlocal failed
            results = [replace(result, checkpoint=side.checkpoint) for result in task.results]
            errors = side.ledger.add(results, self._beside(task.name, results) if side is self.after else ())
            of = f" ({side.name})" if self.before else ""
            for error in filter(None, (task.error, *errors)):
                failed += 1
                say(f"slip: {task.name}{of}: {error}")
            if results:
                self.done += side is self.after
                say(f"{task.name}{of}: {main_number(results)}, {task.seconds:,.0f} s")

        suite.run(
            side.encoder.to(device),
            side.tasks,
            on_task=through,
            progress=True,
            precision=self.options.precision,
            cache=None if self.options.cache is None else FeatureCache(self.options.cache),
            ranks=self.ranks,
        )
        side.encoder.to("cpu")
        return failed

    def _beside(self, name: str, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Record the differences of a task; return the additional values of each result in a file."""
        from openslip.evaluation.compare import compare

        if self.before is None:
            return []
        kind = "own" if name in self.own else "general"
        found = compare(self.before.ledger.results, results)
        self.differences[kind] += found
        known = {id(one.after): one.to_dict() for one in found}
        return [
            {"against": str(self.before.name), "tasks": kind, **known.get(id(result), {})}
            for result in results
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers: the results of the model, each with its difference to the other model, if any."""
        ledger = self.after.ledger
        return {
            "model": self.after.name,
            "against": self.before.name if self.before else None,
            "results": [one.to_dict() | {**beside} for one, beside in zip(ledger.results, ledger.beside)],
            "against_results": [one.to_dict() for one in self.before.ledger.results] if self.before else [],
            "files": ledger.files,
        }

    def print(self, wanted: set[str]) -> None:
        """Print tables of the results, and where they are kept. wanted: the tasks that were to be measured."""
        from openslip.errors import printable
        from openslip.evaluation import suite

        sides = [side for side in (self.before, self.after) if side and side.ledger.results]
        if not sides:
            return
        compared = {id(one.after) for some in self.differences.values() for one in some}
        if self.before and compared:
            self._print_differences(self.before)
        for side in [self.after] if compared else sides:
            if rest := [result for result in side.ledger.results if id(result) not in compared]:
                if self.before:
                    print(printable(f"Not compared, of {side.name} alone:"))
                print(printable(suite.table(rest)))
        many = "" if self.done == len(wanted) else f"{self.done} of {len(wanted)} tasks measured. "
        files = " and ".join(str(file) for side in sides for file in side.ledger.files)
        say(
            many
            + (f"Results kept in {files}." if files else "No file keeps the results; --out FILE writes them.")
        )
        for classifier in dict.fromkeys(one.classifier for side in sides for one in side.ledger.results):
            if classifier:
                say(_how_to_use(classifier))

    def _print_differences(self, before: Side) -> None:
        from openslip.errors import printable
        from openslip.evaluation import compare
        from openslip.interop import mixing
        from openslip.shell import command

        own, general = self.differences["own"], self.differences["general"]
        print(printable(f"Before: {before.name}; after: {self.after.name}\n"))
        for kind, some in self.differences.items():
            if some:
                print(f"{kind.capitalize()} tasks" if general else "", end="\n" if general else "")
                print(printable(compare.table(some)))
        print(printable(compare.verdict(own, general)))
        lost = any(one.verdict == "worse" for one in compare.headlines([*own, *general]))
        if lost and mixing.are_related(before.encoder, self.after.encoder):
            words = ("slip", "mix", before.name, self.after.name, "--alpha", "0.25", "0.5", "0.75")
            print(
                printable(
                    "Weights between both models may keep more of either. Write some, and measure them:\n  "
                    f"{command(*words)}"
                )
            )
        print()


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one model; the name of a public model is no file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _same(options: Options) -> ConfigError:
    return ConfigError(
        "A model is compared with itself",
        got=f"{options.model} --against {options.against}",
        fix="Name the model that training started from with --against, or leave --against out",
    )


def _tasks(options: Options, side: Side, like: Sequence[Evaluator] = ()) -> list[Evaluator]:
    """Return the tasks to measure a model on. like: the tasks of another model, whose data are shared."""
    named = [*_each(options.tasks, options), *_each(options.general, options)]
    if not like:
        return [evaluator(task, options, side) for task in named]
    # Each model keeps the classifiers that are trained on its own features.
    return [
        evaluator(task, options, side) if task.partition(":")[0] in TRAINED else one
        for task, one in zip(named, like)
    ]


def _each(tasks: Sequence[str], options: Options) -> list[str]:
    """Return tasks, with each text that names several tasks replaced by these tasks."""
    from openslip.evaluation import suite

    return [one for task in tasks for one in suite.each(f"mieb:{options.data}" if task == "mieb" else task)]


def evaluator(task: str, options: Options, side: Side) -> Evaluator:
    """Return the evaluator of a task with the options of the command; nothing is opened yet."""
    from openslip.evaluation import suite

    protocol, separator, dataset = task.partition(":")
    dataset = dataset or options.data
    if protocol in suite.PROTOCOLS or separator:
        task = f"{protocol}:{dataset}"
    columns = {
        name: value
        for name in ("image_root", "image_column", "label_column")
        if (value := getattr(options, name))
    }
    if protocol == "zeroshot":
        return suite.parse_task(task, columns=columns, **_prompts(options))
    if protocol == "zeroshot-segmentation":
        templates = _prompts(options).get("templates", ())
        return suite.parse_task(task, templates=templates)
    if protocol in ("segmentation", "mieb"):
        return suite.parse_task(task)
    if protocol == "finetune":
        # So that the same command can continue after an interruption.
        kept = side.keeping(protocol, dataset)
        return suite.parse_task(task, preset=options.preset, columns=columns, **kept)
    if protocol == "linear" and options.preset == "paper":
        kept = side.keeping("linear-paper", dataset)
        return suite.parse_task(task, preset="paper", columns=columns, **kept)
    if protocol == "linear":
        return suite.parse_task(task, columns=columns, **side.keeping(protocol, dataset))
    if protocol in ON_CAPTIONED:
        names = ("image_root", "image_column", "caption_column")
        captioned = {name: options.columns[name] for name in names}
        how = {"captions": options.captions} | ({"folds": options.folds} if protocol == "retrieval" else {})
        return suite.parse_task(task, **captioned, leave_broken=options.leave_broken, **how)
    if protocol == "pairs":
        names = ("image_root", "image_column", "caption_column")
        return suite.parse_task(task, **{name: options.columns[name] for name in names})
    if protocol in suite.PROTOCOLS:
        return suite.parse_task(task, columns=columns)
    return suite.parse_task(task)


@cache
def _prompts(options: Options) -> dict[str, Any]:
    """Return the options of zero-shot about names and prompts of classes."""
    from openslip.data.labelled.names import read_names
    from openslip.data.labelled.prompts import given_templates

    templates = {"templates": given_templates(options.templates)} if options.templates else {}
    return templates | ({"class_names": read_names(expand(options.classnames))} if options.classnames else {})


def _checkpoint(model: Path, which: Literal["latest", "best"]) -> tuple[Path, Path | None]:
    """Return what to load (for a run, the chosen checkpoint) and the run's folder, None if `model` is not a run.

    A run that is still training writes more checkpoints. So the checkpoint is chosen once, and that one is measured.
    """
    from openslip.interop.ours import pick

    if not os.path.isfile(model / "config.toml"):
        return model, None
    return pick(model, which) or model, model


def _refuse_nothing(model: Path, tasks: Sequence[Evaluator], *, text: bool) -> None:
    """Raise EvaluationError if every task would be left out."""
    from openslip.errors import EvaluationError

    if tasks and not text and all(getattr(task, "needs_text", False) for task in tasks):
        raise EvaluationError(
            f"No task can be measured on {model}: the model has no text tower, which every task needs",
            got=", ".join(task.name for task in tasks),
            cause="The model is an image tower alone, such as one of timm or of SimCLR",
            fix="Add knn, linear or finetune, which need no texts",
        )


def _how_to_use(classifier: str) -> str:
    from openslip.shell import command

    place = os.path.relpath(classifier)
    place = classifier if place.startswith("..") else place
    return f"The classifier is kept: {command('slip', 'classify', place, 'PICTURES')}"


def main_number(results: Sequence[Result]) -> str:
    """Return the first result of a task as a short text."""
    from openslip.evaluation import measure

    first = results[0]
    number = measure(first.metric).with_unit(first.value)
    return f"{first.metric} {number}{f' of {first.count:,}' if first.count else ''}"
