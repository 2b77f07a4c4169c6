"""slip classify MODEL PICTURES --classes classes.txt [--out labels.csv] [--sort-into FOLDER] [--calibrate SAMPLE]"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import chosen_device, given, parse, print_notes, refuse_several_processes
from openslip.cli.output import say
from openslip.cli.source import refuse_unheeded
from openslip.errors import UsageError

if TYPE_CHECKING:
    from openslip.classifier import Classifier
    from openslip.classifying.labels import Rule
    from openslip.classifying.sorting import Sorter
    from openslip.data.record import Source

DESCRIPTION = """Say which class each picture shows.

MODEL is a model that classifies by the names in --classes (zero-shot), or a classifier that `slip evaluate` trained and
kept, RUN/linear/NAME or RUN/finetune/NAME, with classes of its own. PICTURES is a folder, a pattern in quotes, one
picture, or anything else that `slip train` reads: tar shards, Parquet, a table. Captions are not needed.

Without --out the answers go to standard output: as CSV in a pipe or file, as lines on a terminal. Every picture has a
row. If a picture cannot be used, the column `error` has the reason."""
EXAMPLES = """\
slip classify runs/mine photos/ --classes classes.txt --out labels.csv
    Ask for the classes in a file, a class a line.
slip classify open_clip:ViT-B-32/openai photos/ --classes 'cat,dog' --sort-into sorted
    Copy each picture into a folder of its class.
slip classify runs/mine/linear/photos new/ --out labels.csv
    Use a classifier that `slip evaluate runs/mine linear:photos/` has trained.
"""
FIRST = (
    "classes", "out", "sort_into", "top", "threshold", "calibrate", "calibration", "templates", "which", "device",
)  # fmt: skip
"""The options that `slip classify --help` shows."""


@dataclass(frozen=True)
class Options:
    """Which classifier, which pictures, and where the answers go."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run folder or anything else that `openslip.load` takes; or RUN/linear/NAME, RUN/finetune/NAME."""
    pictures: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURES")] = ""
    """Folder, pattern, picture or source. May be left out to calibrate alone."""
    classes: str = ""
    """A text file with a class a line; a .json list, or mapping from a class to its name in prompts; or
    'dress,shirt,shoe'."""
    templates: tuple[str, ...] = ()
    """Prompts with {} for the class; or the name of a set of prompts, or a file. By default the prompts that suit the
    classes."""
    top: int = 3
    """How many of the most probable classes to give for each picture."""
    threshold: float | None = None
    """Probability from 0 to 1 below which the answer is none of the classes. By default the threshold of the
    calibration, if there is one."""
    none_class: str = "none"
    """Answer for a picture below the threshold, and the class of --calibrate whose pictures show none of the
    classes."""
    calibrate: str = ""
    """Labelled pictures, in any layout that `slip evaluate` reads, on which to choose threshold and temperature."""
    keep_temperature: bool = False
    """With --calibrate: keep the model's probabilities, and choose only the threshold."""
    calibration: Path | None = None
    """A .json file. With --calibrate, the calibration is written there; without, it is read from there."""
    out: Path | None = None
    """The file of answers: .csv, .jsonl or .parquet."""
    sort_into: Path | None = None
    """Copy each picture into FOLDER/CLASS/. Nothing there is overwritten."""
    link: bool = False
    """With --sort-into: make symbolic links instead of copies."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run folder."""
    encoder: str = ""
    """For a linear probe: its model, if the model has moved."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch: int = 64
    """Pictures that go through the model at a time."""
    image_root: Annotated[str, tyro.conf.arg(aliases=["--data.image-root"])] = ""
    """Folder that image paths in a table of PICTURES are relative to; empty: guessed."""
    image_column: Annotated[str, tyro.conf.arg(aliases=["--data.image-column"])] = ""
    """Column of a table of PICTURES that holds the image, or its ending in tar shards; empty: guessed."""
    label_column: Annotated[str, tyro.conf.arg(aliases=["--data.label-column"])] = ""
    """Column or key of --calibrate that holds the class; empty: guessed."""
    leave_broken: Annotated[bool, tyro.conf.arg(aliases=["--data.leave-broken"])] = False
    """Leave out tar shards of PICTURES that cannot be read to their end, instead of refusing them."""


def main(argv: list[str]) -> None:
    """Check everything, load, classify, and print a summary."""
    refuse_several_processes("slip classify", "Several processes would each classify all pictures")
    options = parse(
        Options, argv, prog="slip classify", description=DESCRIPTION, examples=EXAMPLES, first=FIRST
    )
    if not options.pictures and not options.calibrate:
        raise UsageError(
            "No pictures were named", fix="For example `slip classify RUN photos/ --classes classes.txt`"
        )
    chosen = given(Options, argv)
    idle.classify(chosen, Path(options.encoder or options.model), bool(options.pictures))
    _check(options)

    from openslip.classifying import opening, tables
    from openslip.classifying.classes import check_none
    from openslip.classifying.sorting import Sorter

    out = None if options.out is None else tables.check_out(options.out)
    device = chosen_device(options.device)
    source = _open(options) if options.pictures else None
    classifier = opening.open_classifier(
        options.model, options.classes, options.templates, which=options.which, encoder=options.encoder
    )
    if options.threshold is not None or options.calibrate or options.calibration is not None:
        check_none(options.none_class, classifier.names)
    sorter = None
    if options.sort_into is not None and source is not None:
        names, none = classifier.names, options.none_class
        sorter = Sorter(options.sort_into, names, none, source, options.pictures, link=options.link)
    classifier.model.to(device)
    rule = _rule(options, classifier)
    if source is not None:
        _classify(options, classifier, source, rule, out, sorter)


def _check(options: Options) -> None:
    """Raise ConfigError for impossible values and places, before anything is read."""
    from openslip.classifying import calibration
    from openslip.classifying.labels import Rule
    from openslip.errors import ConfigError

    if options.top < 1 or options.batch < 1:
        got = f"--top {options.top} --batch {options.batch}"
        raise ConfigError("--top and --batch count from 1 on", got=got)
    Rule(threshold=options.threshold or 0.0, none=options.none_class)
    if options.calibration is not None:
        calibration.check_place(options.calibration, written=bool(options.calibrate))


def _open(options: Options) -> Source:
    """Open the pictures, and print what was guessed and what is left out."""
    from openslip.data.contents import described
    from openslip.data.sources import open_source

    source = open_source(
        options.pictures,
        image_root=options.image_root,
        image_column=options.image_column,
        captions_required=False,
        leave_broken=options.leave_broken,
    )
    refuse_unheeded({"image_root": options.image_root, "image_column": options.image_column}, source)
    print_notes(source)
    if any(found.lost and not found.large_loss for _, found in source.contents_by_name()):
        say("\n".join(described(source)))
    return source


def _rule(options: Options, classifier: Classifier) -> Rule:
    """Return the rule from logits to answers: from a calibration, made now or read, or from the options."""
    from openslip.classifying import calibration
    from openslip.classifying.labels import Rule

    if options.calibrate:
        return _calibrated(options, classifier)
    if options.calibration is None:
        return Rule(threshold=options.threshold or 0.0, none=options.none_class)
    found = calibration.read(options.calibration, classifier).rule(options.none_class)
    if options.threshold is not None:
        return Rule(found.temperature, options.threshold, options.none_class)
    say(f"Temperature {found.temperature:.4g} and threshold {found.threshold:.4g} of {options.calibration}.")
    return found


def _calibrated(options: Options, classifier: Classifier) -> Rule:
    from openslip.classifying import calibration
    from openslip.data.labelled import open_labelled
    from openslip.progress import Progress

    labelled = open_labelled(options.calibrate, label_column=options.label_column)
    for line in (labelled.describe(), *labelled.notes):
        say(line)
    pictures = calibration.untrained(classifier, labelled)
    with Progress("calibrating", len(pictures), transient=True, brief=True) as bar:
        sample = calibration.read_sample(
            classifier, pictures, options.none_class, batch=options.batch, advance=bar.advance
        )
    for line in sample.notes:
        say(line)
    found, report, notes = calibration.calibrate(
        classifier, sample, keep_temperature=options.keep_temperature
    )
    if options.calibration is not None:
        found.save(options.calibration)
    for line in (*notes, *calibration.told(found, report, options.none_class)):
        say(line)
    if options.calibration is not None:
        say(f"Calibration kept in {options.calibration}.")
    return found.rule(options.none_class)


def _classify(
    options: Options,
    classifier: Classifier,
    source: Source,
    rule: Rule,
    out: Path | None,
    sorter: Sorter | None,
) -> None:
    """Classify, write and sort the pictures a batch at a time, and print how many got which answer."""
    from openslip.classifying import tables
    from openslip.classifying.labels import label_pictures
    from openslip.classifying.summary import Summary
    from openslip.errors import DataError
    from openslip.progress import Progress

    names = tables.columns(top := min(options.top, len(classifier.names)), sorted_into=sorter is not None)
    summary = Summary(len(classifier.names), rule)
    human = out is None and sys.stdout.isatty()
    with ExitStack() as stack:
        add = stack.enter_context(tables.writing(out, names)) if out else _printing(names, human=human)
        bar = stack.enter_context(Progress("classifying", len(source), shown=not human, transient=True))
        for batch in label_pictures(
            classifier,
            source,
            rule,
            top=top,
            spec=options.pictures,
            batch=options.batch,
            images=sorter is not None and not options.link,
        ):
            placed = [sorter(label, image) if sorter else None for label, image in batch]
            labels = [label for label, _ in batch]
            rows: Sequence[Any] = labels
            if not human:
                rows = [tables.row(label, top, place) for label, place in zip(labels, placed)]
            add(rows)
            summary.add(labels)
            bar.advance(len(batch))
        if not summary.usable:
            raise DataError(
                f"None of the {len(source):,} pictures of {options.pictures} can be used",
                cause=summary.first[0].error if summary.first else "There are none",
            )
    for line in summary.lines():
        say(line)
    if sorter:
        told = f"{sorter.placed:,} {'links' if options.link else 'copies'} made in {options.sort_into}"
        say(told + (f", {sorter.found:,} were there." if sorter.found else "."))
    if out:
        say(f"Answers in {out}.")


def _printing(names: Sequence[str], *, human: bool) -> Callable[[Sequence[Any]], None]:
    """Return a function that prints answers: lines on a terminal, else CSV, whose header is printed now."""
    from openslip.classifying import tables

    width = 0

    def show(rows: Sequence[Any]) -> None:
        nonlocal width
        if not human:
            sys.stdout.write(tables.csv_text(rows, names))
            return
        told, width = tables.lines(rows, width)
        print("\n".join(told), flush=True)

    if not human:
        sys.stdout.write(tables.csv_text([], names, header=True))
    return show
