"""Opens the classifier that a command names, of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from openslip.classifier import Classifier, FinetunedClassifier, LinearClassifier, ZeroShotClassifier
from openslip.classifying import classes as reading
from openslip.errors import CheckpointError, ConfigError, EvaluationError, note
from openslip.evaluation import KEPT_IN
from openslip.files import expand
from openslip.interop import finetuned, foreign, load, ours
from openslip.shell import command


def open_classifier(
    model: str,
    classes: str = "",
    templates: Sequence[str] = (),
    *,
    which: Literal["latest", "best"] = "latest",
    encoder: str = "",
) -> Classifier:
    """Return the classifier that `model` names: a linear probe, a finetuned classifier, or a model with `classes`.

    model: RUN/linear/NAME or RUN/finetune/NAME, which bring their classes; or a model as `openslip.load` takes it.
    classes, templates: as `read_classes` takes them. encoder: the model of a linear probe, if that model has moved.

    Raises ConfigError if classes are missing, or given although the classifier brings its own; EvaluationError for a
    model without a text tower; and what reading a model raises.
    """
    path = expand(model)
    probe, tuned = foreign.a_probe(path), finetuned.is_one(path)
    if encoder and not probe:
        raise ConfigError(
            "--encoder says where the model of a linear probe is, and this is not a linear probe",
            got=model,
            fix="Leave --encoder out, or give RUN/linear/NAME",
        )
    if probe or tuned or (not classes and model.startswith("hf:")):
        if classes or templates:
            raise ConfigError(
                "The classifier brings its own classes, and other classes have no effect",
                got=classes or " ".join(templates),
                fix="Leave --classes and --templates out, or give the model itself to ask for other classes",
            )
        if probe:
            return LinearClassifier(path, load(encoder, which=which) if encoder else None)
        ours.check_alone(path, which)
        return _finetuned(model)
    if not classes:
        raise _no_classes(model, path)
    asked = reading.read_classes(classes, templates)
    for line in asked.notes:
        note(line)
    loaded = load(model, which=which)
    if loaded.model.text_tower is None:
        raise EvaluationError(
            "The model has no text tower, and so it cannot be asked for classes by their names",
            got=model,
            cause="The model is an image tower alone, such as one of timm or of SimCLR",
            fix="Put some pictures of each class into a folder. `slip evaluate MODEL linear:FOLDER` then trains a "
            "classifier on the folder in minutes, and keeps the classifier for `slip classify`",
        )
    return ZeroShotClassifier(loaded, asked.mapping, asked.templates)


def _finetuned(model: str) -> FinetunedClassifier:
    try:
        return FinetunedClassifier(model)
    except CheckpointError as error:
        if not model.startswith("hf:"):
            raise
        fix = "Name classes with --classes, or give a repository with a finetuned classifier"
        raise CheckpointError(error.what, got=error.got, cause=error.cause, fix=fix) from None


def _no_classes(model: str, path: Path) -> ConfigError:
    """Return the error for a model without classes, or for a classifier that does not exist.

    The error names the classifiers that the run keeps.
    """
    run = path.parent.parent if path.parent.name in KEPT_IN else path
    kept = [str(place) for kind in KEPT_IN for place in sorted(run.glob(f"{kind}/*")) if _is_kept(place)]
    if kept:
        return ConfigError(
            "There are no classes to choose from",
            got=model,
            fix=f"Name classes with --classes, {reading.WAYS}; or use a classifier that the run keeps: "
            + ", ".join(command("slip", "classify", place, "PICTURES") for place in kept[:5]),
        )
    return ConfigError(
        "There are no classes to choose from", got=model, fix=f"Name {reading.WAYS} with --classes"
    )


def _is_kept(place: Path) -> bool:
    return foreign.a_probe(place) or finetuned.is_one(place)
