"""Finetuned classifiers: the state that `slip evaluate RUN finetune:photos/` keeps, and what an export makes of it.

Weights of this version name their model, recipe and classes in the header. A state of an earlier version is read
through the run folder that contains it, or with a copy of the run's config.toml.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openslip.config import Config
from openslip.errors import CheckpointError, ConfigError
from openslip.evaluation.finetune import state
from openslip.evaluation.finetune.layers import Classifier
from openslip.evaluation.finetune.recipe import FinetuneRecipe
from openslip.files import expand, parse_json, read_json
from openslip.interop import hub, ours
from openslip.interop.filling import described, differences
from openslip.interop.foreign import a_classifier
from openslip.models import Model
from openslip.models.blank import fill
from openslip.models.weights import not_finite
from openslip.training.saving import checkpoint, metadata
from openslip.training.saving.tensors import read_tensors

AGAIN = "Run `slip evaluate RUN finetune:DATA` again, which goes on from the last epoch"


@dataclass(frozen=True)
class Finetuned:
    """A finetuned classifier as it was read.

    model: in evaluation mode; its image tower is the classifier (`openslip.evaluation.finetune.layers.Classifier`).
    config: the configuration of the model that the finetuning started from. Its `views` say how pictures are prepared,
    except for the recipe's crop and interpolation. names: the classes, in the order of the logits. about: what the
    finetuning was, as `openslip.evaluation.finetune.state.describe` gives it. files: the files that were read.
    """

    model: Model
    config: Config
    recipe: FinetuneRecipe
    names: tuple[str, ...]
    about: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def classifier(self) -> Classifier:
        """The tower and its head."""
        found: Any = self.model.image_tower
        return found


def read(path: str | Path) -> Finetuned:
    """Return a finetuned classifier.

    path: the folder of a finetuning, `RUN/finetune/NAME`, or a copy; a folder that `slip export … --to openslip` wrote;
    or the file of weights in either. `hf:owner/name` is such an export in a repository of the hub.

    Raises CheckpointError if there is none, the finetuning is not complete, or something is missing or damaged.
    """
    given = _fetched(os.fspath(path)) or expand(path)
    weights, folder = _weights_of(given)
    _, texts = metadata.read_header(weights)
    try:
        if metadata.CLASSIFIER in texts:
            about = parse_json(texts[metadata.CLASSIFIER])
            epochs, settings = about["epochs"], about["config"]
        else:
            about, epochs, settings = _told_beside(weights, folder)
        recipe, names = _recipe(about["recipe"]), tuple(about["classes"])
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("The classes are not named")
        if not all(isinstance(number, int) for number in (epochs, about["images"], about["seed"])):
            raise ValueError("The numbers of epochs, images and seed are not all whole numbers")
        if not isinstance(settings, str | Path):
            raise ValueError("There is no configuration of the model")
    except (ConfigError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            "The classifier's description cannot be read",
            got=str(weights),
            cause=f"{type(error).__name__}: {error}",
            fix="Copy the folder anew, or remove it and finetune again",
        ) from None
    if epochs < recipe.epochs:
        raise CheckpointError(
            "The finetuning is not complete, so the classifier is not used",
            got=f"{epochs} of {recipe.epochs} epochs in {given}",
            fix=AGAIN,
        )
    where = settings if isinstance(settings, Path) else weights
    config = ours.read_settings(settings, str(where), lambda _: None)
    ours.check_settings(config, where)
    _check_pictures(config, about, where)
    model = _filled(config, names, recipe, read_tensors(weights), weights)
    files = (weights, settings) if isinstance(settings, Path) else (weights,)
    return Finetuned(model, config, recipe, names, about, files)


def is_one(path: str | Path) -> bool:
    """Say whether there is a finetuned classifier at a path, complete or not, by the files there."""
    return a_classifier(expand(path))


def _fetched(spec: str) -> Path | None:
    """Return a hub repository's file of weights; None for any other spec. Raises CheckpointError."""
    name = spec.removeprefix("hf:")
    if name == spec or not hub.is_name(name) or expand(spec).exists():
        return None
    found = hub.fetch(name, [ours.WEIGHTS])
    if found is None:
        raise CheckpointError(
            "The repository of the hub holds no finetuned classifier",
            got=name,
            cause=f"It has no {ours.WEIGHTS}",
            fix="Give one that `slip push RUN/finetune/NAME owner/name --to openslip` wrote",
        )
    return found


def _weights_of(given: Path) -> tuple[Path, Path | None]:
    """Return the file of weights, and the folder of the finetuning if it is a state. Raises CheckpointError."""
    if os.path.isdir(given) and (given / state.DESCRIPTION).is_file():
        checkpoints = checkpoint.list_checkpoints(given)
        if not checkpoints:
            raise CheckpointError(
                "The finetuning has no complete epoch yet, or its weights were not copied",
                got=str(given),
                cause=f"There is no {checkpoint.PREFIX}…/{ours.WEIGHTS} in it",
                fix=AGAIN,
            )
        _verify(checkpoints[-1])
        return checkpoints[-1] / ours.WEIGHTS, given
    weights = given / ours.WEIGHTS if os.path.isdir(given) else given
    if not weights.is_file():
        raise CheckpointError(
            "There is no finetuned classifier",
            got=str(given),
            cause=f"There is neither {state.DESCRIPTION} nor {ours.WEIGHTS} in it"
            if os.path.isdir(given)
            else "There is no such file or folder",
            fix="Give RUN/finetune/NAME, which `slip evaluate RUN finetune:DATA` keeps, or an export of it",
        )
    if (weights.parent / "state.json").is_file():
        _verify(weights.parent)
    folder = Path(os.path.abspath(weights)).parent.parent
    return weights, folder if (folder / state.DESCRIPTION).is_file() else None


def _verify(folder: Path) -> None:
    try:
        checkpoint.verify(folder, "model")
    except CheckpointError as error:
        fix = "Copy the folder anew, or remove it and finetune again"
        raise CheckpointError(error.what, got=error.got, cause=error.cause, fix=fix) from None


def _told_beside(weights: Path, folder: Path | None) -> tuple[dict[str, Any], int, Path]:
    """Return the description of an earlier version's finetuning, the number of epochs that are done, and the path of
    the model's configuration. Raises CheckpointError."""
    if folder is None:
        raise CheckpointError(
            "These are not the weights of a finetuned classifier, or they do not describe it",
            got=str(weights),
            fix=f"Give RUN/finetune/NAME, with its {state.DESCRIPTION}, or what `slip export … --to openslip` wrote",
        )
    try:
        about = read_json(folder / state.DESCRIPTION)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    return about, len(checkpoint.read_state(weights.parent)["losses"]), _settings_beside(folder)


def _settings_beside(folder: Path) -> Path:
    """Return the config.toml in a finetuning's folder, or in the run's. Raises CheckpointError."""
    folder = Path(os.path.abspath(folder))
    of_run = [folder.parent.parent] if folder.parent.name == "finetune" else []
    for place in (folder, *of_run):
        if (place / ours.SETTINGS).is_file():
            return place / ours.SETTINGS
    raise CheckpointError(
        f"The file {ours.SETTINGS} is missing: the finetuning does not say what model it started from",
        got=str(folder),
        cause="An earlier version made the finetuning, and kept the configuration only in the run's folder",
        fix=f"Copy {ours.SETTINGS} of the run into this folder, or give RUN/finetune/{folder.name}",
    )


def _recipe(values: Mapping[str, Any]) -> FinetuneRecipe:
    """Return the recipe of a finetuning. Values of other versions are left out, as they are only for training."""
    known = {field.name for field in dataclasses.fields(FinetuneRecipe)}
    given: dict[str, Any] = {name: value for name, value in values.items() if name in known}
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = tuple(value)
    recipe = FinetuneRecipe(**given)
    if recipe.interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"The interpolation {recipe.interpolation!r} is not known")
    return recipe


def _check_pictures(config: Config, about: Mapping[str, Any], where: Path) -> None:
    """Raise CheckpointError if a configuration is for other pictures than the finetuning noted."""
    views = config.views
    here = {"size": views.size, "mean": list(views.mean), "std": list(views.std), "fit": views.fit}
    there = {"fit": "crop", **{name: about[name] for name in here if name in about}}
    wrong = [
        f"{name} {here[name]}, in the finetuning {there[name]}" for name in there if here[name] != there[name]
    ]
    if wrong:
        raise CheckpointError(
            f"The configuration in {where} is not of the model that the finetuning started from",
            got="; ".join(wrong),
            fix=f"Copy {ours.SETTINGS} of the run that the finetuning started from into the finetuning's folder",
        )


def _filled(
    config: Config, names: tuple[str, ...], recipe: FinetuneRecipe, weights: Mapping[str, Tensor], where: Path
) -> Model:
    """Return the model with a classifier for its image tower. Raises CheckpointError if the weights do not fit."""
    head = weights.get("head.weight")
    if head is not None and len(head) != len(names):
        raise CheckpointError(
            "The classifier's head has another number of classes than there are names",
            got=f"{len(names)} names, {len(head)} rows in head.weight of {where}",
            fix="Copy the folder anew: its files are not of one finetuning",
        )
    try:
        with torch.device("meta"):
            model = described(config, ())
            classifier = Classifier(model.image_tower, len(names), recipe)
    except (ConfigError, RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The configuration of {where} makes no model", cause=str(error).splitlines()[0]
        ) from None
    if told := differences(classifier.state_dict(), weights):
        raise CheckpointError(
            "The weights are not those of a classifier on the model's image tower", got=told, cause=str(where)
        )
    if bad := not_finite(weights):
        raise CheckpointError(
            f"{len(bad)} of {len(weights)} weights of the classifier "
            f"hold{'s' * (len(bad) == 1)} numbers that are not finite",
            got=", ".join(bad[:3]),
        )
    fill(classifier, weights)
    module: Any = classifier.requires_grad_(False)
    model.image_tower = module
    return model.eval()
