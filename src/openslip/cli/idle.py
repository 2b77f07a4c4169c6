"""Refuse options that have no effect with the others, because whoever gives one expects an effect."""

from __future__ import annotations

import os
import typing
from collections.abc import Collection, Sequence
from pathlib import Path

from openslip.cli.arguments import refuse_idle
from openslip.config import Config, ViewConfig, ViewsConfig
from openslip.evaluation import ON_CAPTIONED, TRAINED

CAPTIONED = ("caption_column", "leave_broken")
LABELLED = ("label_column",)
OF_CLASSES = ("data.label_column", "data.templates", "data.class_names")
IMAGES = ("image_root", "image_column")
PICTURES = (*IMAGES, *CAPTIONED)


def evaluate(
    given: Collection[str], model: Path, tasks: Sequence[str], data: str, against: Path | None = None
) -> None:
    """Raise UsageError for an option among those `given` to `slip evaluate` that the tasks ignore."""
    pairs = [task.partition(":")[::2] for task in tasks]
    protocols = {protocol for protocol, _ in pairs}
    which(given, model, *([against] if against else []))
    if against is None:
        refuse_idle(
            given,
            "general",
            because="It separates general tasks from own tasks in the verdict of --against",
            fix="Name all tasks after the model, or add --against BASE",
        )
    if pairs and all(dataset for _, dataset in pairs):
        refuse_idle(given, "data", because="Every task names its own data set")
    if not protocols & {"zeroshot", "zeroshot-segmentation"}:
        refuse_idle(given, "templates", because="Prompts are for zeroshot, which is not among the tasks")
    if "zeroshot" not in protocols:
        refuse_idle(given, "classnames", because="Prompts are for zeroshot, which is not among the tasks")
    if not protocols & {*TRAINED}:
        refuse_idle(given, "preset", because="It is for linear and finetune, which are not among the tasks")
        refuse_idle(given, "keep", because="It is for linear and finetune, which train a classifier")
    if not protocols & {*ON_CAPTIONED, "pairs"}:
        refuse_idle(
            given,
            "caption_column",
            because="It is for retrieval, geometry and pairs, which are not among the tasks",
        )
    if not protocols & {*ON_CAPTIONED}:
        names = ("leave_broken", "captions")
        refuse_idle(given, *names, because="It is for retrieval and geometry, which are not among the tasks")
    if "retrieval" not in protocols:
        refuse_idle(given, "folds", because="It is for retrieval, which is not among the tasks")
    if protocols and protocols <= {*ON_CAPTIONED, "pairs"}:
        refuse_idle(given, *LABELLED, because="Retrieval, geometry and pairs read captions, and no labels")
    if protocols and protocols <= {"segmentation", "zeroshot-segmentation"}:
        refuse_idle(given, *LABELLED, *IMAGES, because="Folders of pictures and masks have no columns")
    if protocols == {"mieb"}:
        refuse_idle(given, *LABELLED, *IMAGES, because="MIEB's tasks bring their own data")
    if all(map(_without_columns, (dataset or data for _, dataset in pairs))):
        refuse_idle(
            given, *LABELLED, *IMAGES, because="Folders of pictures by class have no columns, nor do scenes"
        )


def classify(given: Collection[str], model: Path, pictures: bool) -> None:
    """Raise UsageError for an option among those `given` to `slip classify` that has no effect with the others.

    model: the model whose checkpoint --which would pick. pictures: whether PICTURES were named.
    """
    which(given, model)
    if "calibrate" not in given:
        names = ("keep_temperature", "label_column")
        refuse_idle(given, *names, because="It is for the pictures of --calibrate, which is not given")
        if not {"threshold", "calibration"} & {*given}:
            refuse_idle(
                given,
                "none_class",
                because="Without a threshold every picture gets a class",
                fix="Add --threshold P or --calibrate SAMPLE, or leave it out",
            )
    else:
        refuse_idle(given, "threshold", because="--calibrate chooses the threshold")
    if "sort_into" not in given:
        refuse_idle(given, "link", because="It is for --sort-into, which is not given")
    if not pictures:
        names = ("out", "sort_into", "link", "top", *IMAGES, "leave_broken")
        refuse_idle(given, *names, because="No PICTURES are named, only those to calibrate on")


def _without_columns(spec: str) -> bool:
    """Return whether labelled images are scenes, or a folder that contains only folders, no table or shard."""
    if spec.split(":")[0] == "scenes":
        return True
    try:
        return all(entry.is_dir() for entry in os.scandir(os.path.expanduser(spec)))
    except OSError:
        return False


def which(given: Collection[str], *models: Path) -> None:
    """Raise UsageError for `--which` if none of the models is a run. A missing model is reported elsewhere."""
    if all(os.path.exists(model) and not os.path.isfile(model / "config.toml") for model in models):
        none = f"{models[0]} is none" if len(models) == 1 else f"neither {models[0]} nor {models[1]} is one"
        refuse_idle(given, "which", because=f"It picks a checkpoint of a run folder, and {none}")


def train(given: Collection[str], config: Config) -> None:
    """Raise UsageError for an option among those `given` to `slip train` that has no effect with the other values."""
    from openslip import objectives
    from openslip.data.sources.mixture import LABELS, split_mixture
    from openslip.tools.split import share_of

    loss, written = objectives.parse(config.objective), f"The loss is {config.objective.loss!r}"
    if not loss.captioned:
        names = ("model.text.", "model.embed_dim", "data.caption_column", "data.templates", "data.drop_words")
        refuse_idle(given, *names, because=f"{written}, which reads no captions")
    val = "" if share_of(config.data.val) else config.data.val
    sources = (config.data.train, val, config.data.ssl)
    terms = [name for spec in sources for _, name in split_mixture(spec)]
    if not any(name.startswith(LABELS) for name in terms):
        fix = f"Write --data.train {LABELS}FOLDER for pictures in folders of classes, {LABELS}FILE for a table with a "
        fix += "column of labels, or leave it out"
        refuse_idle(given, *OF_CLASSES, because=f"No source has labelled images, {LABELS}…", fix=fix)
    elif all(name.startswith(LABELS) for name in terms if name):
        because = "Captions of labelled images are made from the names of their classes"
        refuse_idle(given, "data.caption_column", "data.leave_broken", because=because)
    if not any(view.scheduled for view in loss.views):
        names = ("objective.ssl_every", "objective.ssl_from", "objective.ssl_share")
        refuse_idle(given, *names, because=f"{written}, which has no self-supervision")
    drawn, kinds = {view.kind for view in loss.views}, typing.get_type_hints(ViewsConfig)
    for kind in (name for name, hint in kinds.items() if hint is ViewConfig and name not in drawn):
        refuse_idle(given, f"views.{kind}.", because=f"{written}, which draws no such views")
    terms = {term.kind.name for term in loss.terms}
    for name in objectives.known().keys() - terms:
        refuse_idle(given, f"objective.{name}.", because=f"{written}, which does not contain {name}")
    if config.model.image.name != "vit":
        names = tuple(f"model.image.{name}" for name in ("patch", "width", "depth", "heads"))
        refuse_idle(
            given, *names, because=f"timm defines {config.model.image.name}; these sizes are for `vit`"
        )
    if config.training.parallel != "fsdp":
        refuse_idle(
            given, "training.offload", because="Only --training.parallel fsdp can keep weights elsewhere"
        )
    if config.data.workers == 0:
        refuse_idle(given, "data.prefetch", because="With --data.workers 0 nothing is loaded ahead")
    if not config.data.val and not config.evaluation.tasks:
        names = ("evaluation.every_epochs", "evaluation.best")
        refuse_idle(
            given,
            *names,
            because="Nothing is measured",
            fix="Add --data.val or --evaluation.tasks, or leave it out",
        )
