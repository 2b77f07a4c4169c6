"""Exports to the formats of other libraries: each is tried in its library before it is kept. A folder gets a card."""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from openslip.classifier import FinetunedClassifier
from openslip.errors import ConfigError, ExportError, did_you_mean
from openslip.exports import card, classifiers
from openslip.exports.classifiers import card as classifier_card
from openslip.exports.plan import Plan, cannot
from openslip.exports.trial import Trial, try_out
from openslip.files import TEMPORARY, check_free, expand, sync
from openslip.interop import finetuned, ours, read
from openslip.interop.filling import encoder_of, note

FORMATS = {
    "open_clip": "a folder for open_clip, laid out like its repositories on the hub",
    "timm": "a folder for timm, with the image tower alone",
    "huggingface": "a folder for transformers, with both towers, processor and tokenizer",
    "openslip": "a folder for `openslip.load`: one safetensors file and the card",
    "reference": "a .pt file as the SLIP paper's code writes and reads it",
    "onnx": "a folder for programs without torch: a graph of each tower, tokenizer, preprocessing",
    "torch_export": "a folder for programs with torch, without slip: a program of each tower, tokenizer, preprocessing",
}
"""The formats of an export. Each is a module of this package; the keywords of its `plan` are the format's options."""


@dataclass(frozen=True)
class Exported:
    """What was written: where, what people should know, how close the library's results are, how it loads the model."""

    place: Path
    notes: tuple[str, ...]
    trial: Trial
    usage: str


def export(
    model: str | Path,
    to: str,
    out: str | Path,
    *,
    which: Literal["latest", "best"] = "latest",
    license: str = "",
    notes: Path | None = None,
    repository: str = "",
    **options: Any,
) -> Exported:
    """Write a model in another format, with its preprocessing and tokenizer. The result is whole or not there.

    model, which: as `openslip.load` takes them; or a finetuned classifier as `openslip.FinetunedClassifier` takes it,
    for a format of `classifiers.FORMATS`. to: one of FORMATS. out: a file or folder that does not exist yet.
    license, notes: for the README.md that a folder gets as its card: the licence's identifier on the hub, and a file
    of Markdown. repository: the hub repository that the folder is for; the card loads the model from there.
    options: options of the format, as its `plan` describes them; onnx has `fp16` and `layout`.

    Before the result takes its place, the format's own library loads it, and the library's embeddings of some pictures
    and texts are compared with ours. If the format cannot hold the model, nothing is written.

    Raises ExportError if the format cannot hold the model, there is no room, or the library gives other embeddings;
    ConfigError if the place is taken, or for an unknown format or option; and the errors of `load`.
    """
    if to not in FORMATS:
        raise ConfigError("There is no such format to export to", got=to, fix=did_you_mean(to, FORMATS))
    of_classifier = finetuned.is_one(model)
    if of_classifier and to not in classifiers.FORMATS:
        fix = f"Use one of {', '.join(classifiers.FORMATS)}"
        raise cannot(to, "it is a finetuned classifier, an image tower and a head without texts", fix)
    home = "openslip.exports.classifiers" if of_classifier else "openslip.exports"
    plans: Callable[..., Plan] = importlib.import_module(f"{home}.{to}").plan
    _check_options(to, plans, options)
    place = expand(out)
    check_free(place, "The model")
    wanted = card.Wanted.given(license, notes, repository)
    if of_classifier:
        ours.check_alone(expand(model), which)
        classifier = FinetunedClassifier(model)
        encoder, plan = classifier.model, plans(classifier, **options)
        write_card = partial(classifier_card.write, expand(model), classifier)
    else:
        source = read(model, which)
        encoder = encoder_of(source)
        plan = plans(encoder, source, **options)
        write_card = partial(card.write, model, which, encoder, source)
    for line in plan.of_version():
        note(line)
    _check_name(place, plan, to)
    _check_room(place, plan)
    place.parent.mkdir(parents=True, exist_ok=True)
    with beside(place) as unfinished:
        plan.write(unfinished)
        trial = try_out(plan, encoder, unfinished)
        if unfinished.is_dir():
            title = repository.partition("/")[2] or place.name
            write_card(plan, to, unfinished, title, wanted)
        keep(unfinished)
        os.rename(unfinished, place)
    sync(place.parent)
    return Exported(place, plan.notes, trial, plan.usage.replace("PLACE", str(place)))


def _check_options(to: str, plans: Callable[..., Plan], options: Collection[str]) -> None:
    """Raise ConfigError for an option that a format does not have."""
    known = [
        name for name, one in inspect.signature(plans).parameters.items() if one.kind is one.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"The format {to} has no such option",
                got=name,
                fix=f"Leave it out; the options of {to}: {', '.join(known) or 'none'}",
            )


def _check_name(place: Path, plan: Plan, to: str) -> None:
    """Raise ExportError if a format that is a folder gets the name of a file, or the other way round."""
    if plan.ending and place.suffix != plan.ending:
        raise ExportError(
            f"The format {to} is one file, whose name ends in {plan.ending}",
            got=f"--out {place}",
            fix=f"Write --out {place.with_name(place.name + plan.ending)}",
        )
    if not plan.ending and place.suffix in (".pt", ".pth", ".bin", ".safetensors", ".onnx"):
        raise ExportError(
            f"The format {to} is a folder, and this is the name of a file",
            got=f"--out {place}",
            fix=f"Write --out {place.with_suffix('')}",
        )


def _check_room(place: Path, plan: Plan) -> None:
    """Raise ExportError if the disk has less room than the weights need."""
    parent = next(
        folder for folder in (place.absolute().parent, *place.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(parent).free
    if free < plan.nbytes:
        raise ExportError(
            "The disk has no room for the exported model",
            got=f"{plan.nbytes / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free at {parent}",
            fix="Make room, or name a place on another disk with --out",
        )


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """Give a path beside `place` for the unfinished result; whatever is left there at the end is removed."""
    unfinished = place.with_name(f"{TEMPORARY}{os.getpid()}-{place.name}")
    try:
        yield unfinished
    except OSError as error:
        raise ExportError(
            "The model cannot be written",
            got=str(place),
            cause=str(error),
            fix="Make room, or name another place with --out. Nothing was left behind",
        ) from None
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def keep(place: Path) -> None:
    """Flush a file, or all files of a folder, to the disk."""
    for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
        sync(path)
