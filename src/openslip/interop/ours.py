"""Our own weights, in a run folder, in one of its checkpoints, or in copies of some of its files.

Two things are needed: the weights, and the configuration of their model. A folder has the configuration in its
config.toml, a file in its header. If one of the two is missing, the other is used.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from openslip import toml
from openslip.config import FOR_TRAINING, Config
from openslip.errors import CheckpointError, ConfigError
from openslip.interop.digests import Digests
from openslip.interop.filling import PARTS, described, in_full_precision, note, of_model
from openslip.models.lora import merged
from openslip.models.vision import names_a_place
from openslip.models.weights import Origin, Pretrained
from openslip.training.saving import checkpoint, metadata
from openslip.training.saving.tensors import files_of, read_tensors

WEIGHTS = "model.safetensors"
SETTINGS = "config.toml"
LARGEST_VIEW = 1 << 13
"""Largest side, in pixels, of a model's pictures. With larger pictures, encoding would take all memory."""
OBJECTIVE = "objective."
EARLIER = {"ssl_head.": f"{OBJECTIVE}simclr.head."}
"""Beginnings of names in earlier versions, and what the names begin with now."""
ENCODING = ("name", "views", "model", "objective.loss")
"""The keys of a configuration that embeddings depend on, or that messages show. The rest is for training."""


def is_ours(names: Mapping[str, object]) -> bool:
    """Say whether weights have our names."""
    return any(name.startswith("image_tower.") for name in names)


def is_ours_folder(folder: Path) -> bool:
    """Say whether a folder is a run, a checkpoint or a copy of one, by the files in it."""
    if any((folder / name).exists() for name in (SETTINGS, "state.json")) or pick(folder, "latest"):
        return True
    weights = folder / WEIGHTS
    if not weights.is_file():
        return (
            any(folder.glob("model-*-of-*.safetensors")) and not (folder / f"{WEIGHTS}.index.json").exists()
        )
    entries, texts = metadata.read_header(weights)
    return metadata.KEY in texts or is_ours(entries)


def has_text(place: Path) -> bool | None:
    """Say whether our model at `place`, a run, a checkpoint or a file, has a text tower, by the names in its files.

    No tensor is read. None if the names do not tell: there are no names, or none of ours.
    """
    try:
        if place.is_dir():
            files = files_of((pick(place, "latest", lambda _: None) or place) / WEIGHTS)
        else:
            files = [place]
        names = {name: None for file in files for name in metadata.read_header(file)[0]}
    except CheckpointError:
        return None
    return any(name.startswith("text_tower.") for name in names) if is_ours(names) else None


def read_folder(folder: Path, which: str) -> Pretrained:
    """Return the model of a run folder, of a checkpoint's folder, or of a folder with copies of their files.

    Raises CheckpointError, which names the missing file; ConfigError for a `which` that has no effect.
    """
    notes: list[str] = []
    if found := pick(folder, which, notes.append):
        return _read(found, folder, notes)
    if not _has_weights(folder):
        raise _nothing_in(folder)
    check_alone(folder, which)
    return _read(folder, folder, notes)


def read_file(path: Path) -> Pretrained:
    """Return the model of one safetensors file: by its header, else by a config.toml beside it or that of its run.

    Raises CheckpointError.
    """
    _, texts = metadata.read_header(path)
    if "DCP_SHARDING_INFO" in texts:
        raise CheckpointError(
            "This file is one part of several, which the processes of a run wrote",
            got=str(path),
            fix=f"Give the folder they lie in: {path.parent}",
        )
    notes: list[str] = []
    if metadata.KEY in texts:
        config = read_settings(texts[metadata.KEY], str(path), notes.append)
    elif settings := settings_beside(path.parent):
        config = read_settings(settings, str(settings), notes.append)
    else:
        raise no_settings(path)
    if path.name == WEIGHTS and (path.parent / "state.json").is_file():
        checkpoint.verify(path.parent, WEIGHTS)
    return pretrained_of(config, read_tensors(path), path, notes=notes)


def check_alone(path: Path, which: str) -> None:
    """Raise ConfigError if `which` picks one of a run's checkpoints, and there is only one set of weights."""
    if which != "latest":
        raise ConfigError(
            f"which={which!r} picks one of a run's checkpoints, and this is not a run",
            got=str(path),
            fix="Leave it out, or give the run folder",
        )


def no_settings(path: Path) -> CheckpointError:
    """Return the error for weights with our names that come without a configuration."""
    return CheckpointError(
        f"The file {SETTINGS} is missing: the weights do not say what model they are of",
        got=str(path),
        cause="An earlier version or another program wrote them without the model's configuration",
        fix=f"Copy {SETTINGS} from the weights' run folder into the folder that holds the weights",
    )


def settings_beside(folder: Path) -> Path | None:
    """Return the config.toml in a folder of weights, or in the run folder that contains the checkpoint, or None."""
    folder = Path(os.path.abspath(folder))  # the checkpoint's path tells the run
    of_run = [folder.parent.parent] if folder.parent.name == "checkpoints" else []
    return next((parent / SETTINGS for parent in (folder, *of_run) if (parent / SETTINGS).is_file()), None)


def read_settings(settings: Path | str, where: str, say: Callable[[str], None]) -> Config:
    """Return the configuration in a config.toml, or in the text of a header, as far as embeddings depend on it.

    What only training needs may be of an unknown version or objective. It is left out then, and `say` gets a warning.
    Raises CheckpointError.
    """
    try:
        text = toml.read(settings) if isinstance(settings, Path) else settings
        try:
            return toml.loads(text)
        except ConfigError as error:
            config = toml.loads(text, only=ENCODING)
            say(f"from the configuration in {where}, only what embeddings depend on is used: {error}")
            return config
    except ConfigError as error:
        raise CheckpointError(
            f"The model's configuration in {where} cannot be used", cause=str(error)
        ) from None


def pretrained_of(
    config: Config,
    weights: Mapping[str, Tensor],
    given: Path,
    *,
    where: Path | None = None,
    files: Sequence[Path] = (),
    form: str = "openslip",
    notes: Sequence[str] = (),
) -> Pretrained:
    """Return the model that a configuration describes with these weights.

    The weights tell which towers the model has. The objective of the training does not matter, and may be unknown.
    given: the path that the user named. where: the path that holds the weights, if another one. files: all files that
    were read, if others. Raises CheckpointError if the weights are not those of the model.
    """
    check_settings(config, where or given)
    weights = merged({_renamed(name): value for name, value in weights.items()})
    other = [
        name for name in weights if name.partition(".")[0] not in PARTS and not name.startswith(OBJECTIVE)
    ]
    unused = dict.fromkeys(other, "no part of this version's models")
    weights = in_full_precision({name: value for name, value in weights.items() if name not in unused})
    _check_fit(config, of_model(weights), where or given)
    origin = Origin(str(given), form, Digests(files or [given]))
    return Pretrained(config, weights, origin, unused, tuple(notes))


def _renamed(name: str) -> str:
    for earlier, now in EARLIER.items():
        if name.startswith(earlier):
            return now + name.removeprefix(earlier)
    return name


def _read(folder: Path, given: Path, notes: list[str]) -> Pretrained:
    """Return the model of the weights in a folder. Only files that are read are verified."""
    if (folder / "state.json").exists():
        checkpoint.verify(folder, "model")
    first, *others = files_of(folder / WEIGHTS)
    _, texts = metadata.read_header(first)
    stated = texts.get(metadata.KEY)
    settings = settings_beside(folder)
    if settings:
        config = _placed(read_settings(settings, str(settings), notes.append), stated)
        _compare(config, stated, settings, notes.append)
    elif stated is not None:
        config = read_settings(stated, str(first), notes.append)
    else:
        raise no_settings(first)
    files = [first, *others, *([settings] if settings else [])]
    tensors = read_tensors(folder / WEIGHTS)
    form = "a run" if settings else "openslip"
    return pretrained_of(config, tensors, given, where=folder, files=files, form=form, notes=notes)


def _placed(config: Config, stated: str | None) -> Config:
    """Return a configuration. An image tower that is named by a place gets the name that the weights state instead.

    Loading a run neither fetches what the run names, nor looks at it on this disk.
    """
    if stated is None or not names_a_place(config.model.image.name):
        return config
    own = read_settings(stated, "the header of the weights", lambda _: None).model.image.name
    return replace(config, model=replace(config.model, image=replace(config.model.image, name=own)))


def _compare(config: Config, stated: str | None, settings: Path, say: Callable[[str], None]) -> None:
    """Call `say` if a config.toml describes another model than the weights' own header."""
    try:
        own = config if stated is None else toml.loads(stated, only=ENCODING)
    except ConfigError:  # of another version: config.toml is what counts
        return
    here, there = _described(config), _described(own)
    differ = [f"{key} is {here[key]}, in the weights {there[key]}" for key in here if here[key] != there[key]]
    if differ:
        say(f"{settings} differs from the header of its weights, and is followed: {'; '.join(differ)}")


def _described(config: Config) -> dict[str, Any]:
    """Return what embeddings depend on, by key."""
    views, model = config.views, toml.to_dict(config.model)
    names = ("size", "mean", "std", "interpolation", "fit")
    keys: dict[str, Any] = {f"views.{name}": getattr(views, name) for name in names}
    for part, value in model.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        keys |= {f"model.{part}.{name}".rstrip("."): leaf for name, leaf in inner}
    return {key: value for key, value in keys.items() if key.rpartition(".")[2] not in FOR_TRAINING}


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folders below `folder` that have a checkpoint's name and weights, the oldest first."""
    return sorted(
        path for path in folder.glob(f"{checkpoint.PREFIX}*") if _is_step(path) and _has_weights(path)
    )


def pick(run: Path, which: str, say: Callable[[str], None] = note) -> Path | None:
    """Return the latest or the best of a run's checkpoints; None if there is none.

    If no checkpoint has a score, the latest is taken, and `say` gets a warning.
    """
    checkpoints = _checkpoints(run / "checkpoints") or _checkpoints(run)
    if not checkpoints or which == "latest":
        return checkpoints[-1] if checkpoints else None
    best = checkpoint.best(checkpoints)
    if best is None:
        say(
            f"no checkpoint of {run} has a score, so the latest, {checkpoints[-1].name}, is taken for the best: "
            "nothing was measured during training"
        )
    return best or checkpoints[-1]


def _is_step(folder: Path) -> bool:
    return re.fullmatch(checkpoint.PREFIX + r"\d+", folder.name) is not None


def _has_weights(folder: Path) -> bool:
    return os.path.lexists(folder / WEIGHTS) or any(folder.glob("model-*-of-*.safetensors"))


def _nothing_in(folder: Path) -> CheckpointError:
    """Return the error for a folder without weights of ours. The error says what is missing."""
    from openslip.interop.foreign import folder_of_others

    if other := folder_of_others(folder):
        return other
    steps = sorted(p.name for p in (folder / "checkpoints").glob(f"{checkpoint.PREFIX}*") if _is_step(p))
    if steps:
        missing = folder / "checkpoints" / steps[-1] / WEIGHTS
        return CheckpointError(
            "The weights are missing",
            got=str(missing),
            fix="Copy this file as well, or give another checkpoint",
        )
    if (folder / SETTINGS).is_file() or (folder / "state.json").is_file():
        return CheckpointError(
            "The run has no checkpoint yet, or its weights were not copied",
            got=str(folder),
            cause=f"There is neither {WEIGHTS} nor checkpoints/{checkpoint.PREFIX}…/{WEIGHTS} in it",
            fix="Copy the weights as well, or let the run train until its first checkpoint",
        )
    return CheckpointError(
        "This is neither a run folder nor a checkpoint's folder",
        got=str(folder),
        cause=f"There is neither {SETTINGS} nor {WEIGHTS} in it",
        fix="Give the folder that `slip train` wrote, a checkpoint's folder, or a file of weights",
    )


def check_settings(config: Config, where: Path) -> None:
    """Raise CheckpointError for a configuration, of the weights at `where`, that must not or cannot be followed."""
    _check_name(config, where)
    _check_views(config, where)


def _check_name(config: Config, where: Path) -> None:
    """Raise CheckpointError if the image tower is named by a place, which would be asked for the tower's layout."""
    name = config.model.image.name
    if name == "vit" or timm.is_model(name):
        return
    raise CheckpointError(
        "timm does not know the run's image tower by this name",
        got=name,
        cause="It names a place, and loading a run folder does not fetch what the folder names"
        if names_a_place(name)
        else "Another version of timm may know it",
        fix=f"If you trust the run, write timm's name of the architecture into the run's {SETTINGS}, of {where} "
        "(model.image.name; `timm.list_models()` lists the names)",
    )


def _check_views(config: Config, where: Path) -> None:
    """Raise CheckpointError if the size or the normalisation of pictures cannot be used."""
    views = config.views
    usable = all(map(math.isfinite, (*views.mean, *views.std))) and min(views.std) > 0
    if not (1 <= views.size <= LARGEST_VIEW and usable):
        raise CheckpointError(
            f"The model's configuration, of {where}, describes no pictures that can be used",
            got=f"views.size {views.size}, mean {views.mean}, deviation {views.std}",
            fix="Replace the configuration by the run's own",
        )


def _check_fit(config: Config, weights: Mapping[str, Tensor], where: Path) -> None:
    """Raise CheckpointError if the configuration makes no model, or a model that the weights do not fit.

    The model is only described, on no device, so that a wrong configuration takes neither memory nor time.
    """
    has_text = any(name.startswith("text_tower.") for name in weights)
    blocks = config.model.image.depth, config.model.text.depth if has_text else 0
    if max(blocks) > len(weights):  # a description of a billion blocks takes time, too
        raise _misfit(f"{len(weights)} entries for towers of {blocks[0]} and {blocks[1]} blocks")
    try:
        own = described(config, weights).state_dict()
    except ConfigError as error:
        raise CheckpointError("The run's configuration makes no model", cause=str(error)) from None
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise _misfit(f"config.toml ({str(error).splitlines()[0]})") from None
    wrong = sorted(own.keys() ^ weights.keys()) or [n for n in own if own[n].shape != weights[n].shape]
    if wrong:
        raise _misfit(
            f"{len(wrong)} {'entry differs' if len(wrong) == 1 else 'entries differ'}: {', '.join(wrong[:5])}",
            f"{where} may come from another run",
        )


def _misfit(got: str, cause: str = "") -> CheckpointError:
    return CheckpointError(
        "The weights do not fit the model that the run's config.toml describes", got=got, cause=cause
    )
