"""Readers of other libraries' formats, and one `load` for all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from openslip.config import TextTowerConfig
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError, did_you_mean
from openslip.files import expand
from openslip.interop import (
    downloads,
    foreign,
    hub,
    huggingface,
    open_clip,
    ours,
    reference,
    released,
    timm,
    torch_files,
)
from openslip.interop.filling import encoder_of
from openslip.interop.weight_files import is_safetensors, read_config, read_weights
from openslip.models.weights import Pretrained, not_finite
from openslip.training.saving import metadata

WHICH = ("latest", "best")
READERS = {"timm": timm.read, "open_clip": open_clip.read, "hf": huggingface.read}
"""The reader of each format that is written before a colon."""
WRITTEN = "timm:NAME, open_clip:NAME/TAG or hf:owner/name"
"""How formats are written, for messages."""
CONFIGS = (open_clip.SETTINGS, "config.json")
"""Files that mark a folder as the model of another library."""


def load(path: str | Path, *, which: Literal["latest", "best"] = "latest") -> Encoder:
    """Load a model in evaluation mode. Nothing that is read is executed.

    path: a run folder, one of its checkpoint folders, what `slip consolidate` wrote, or copies of these: a checkpoint's
    folder alone, `config.toml` beside `model.safetensors`, or `model.safetensors` alone. Also a released SLIP `.pt`
    file, weights with SLIP's names or ours that `torch.save` wrote, and whatever else `read` takes.

    which: the checkpoint of a run folder, either the latest or the one with the best score during training. If none has
    a score, the latest is taken, with a warning.

    The optimiser's state and the objective are for training: neither needs to be there, or known.

    Raises CheckpointError if a file is missing (the message names it), is damaged, does not fit the configuration, or
    is another project's; ConfigError for another `which`, or one that has no effect.
    """
    return encoder_of(read(path, which))


def read(spec: str | Path, which: Literal["latest", "best"] = "latest") -> Pretrained:
    """Return the configuration and weights of a trained model. No model is built.

    spec: a path as `load` takes it; the name of a released SLIP model (`slip-vit-b16-yfcc15m-25ep`); or a format and
    what the format takes. `timm:NAME[.TAG]`, `open_clip:NAME/TAG` and `hf:owner/name` are fetched; `timm:NAME@FILE` and
    `open_clip:NAME@FILE` name the architecture of weights in a file. A folder that these libraries wrote needs no
    format.

    Nothing that is on this disk is fetched: released models are kept in the cache folder, models of the hub in the
    hub's own cache. Raises the errors of `load`; CheckpointError also if something cannot be fetched.
    """
    found = _read(spec, which)
    if bad := not_finite(found.weights):
        raise CheckpointError(
            f"{len(bad)} of {len(found.weights)} weights of {found.origin.spec} "
            f"hold{'s' * (len(bad) == 1)} numbers that are not finite",
            got=", ".join(bad[:3]) + (", …" if len(bad) > 3 else ""),
            cause="Training diverged before they were written, or the file is damaged",
            fix="Take an earlier checkpoint, or fetch the file again",
        )
    return found


def _read(spec: str | Path, which: Literal["latest", "best"]) -> Pretrained:
    if which not in WHICH:
        raise ConfigError(
            "There is no such checkpoint to pick", got=which, fix=did_you_mean(str(which), WHICH)
        )
    text = os.fspath(spec)
    path = expand(spec)
    if not os.path.exists(path):
        kind, colon, rest = text.partition(":")
        if kind in READERS and colon:
            ours.check_alone(path, which)
            if not rest:
                raise CheckpointError("Nothing follows the format", got=text, fix=f"Write {WRITTEN}")
            return READERS[kind](rest, text)
        if url := released.address(text):
            ours.check_alone(path, which)
            found = read(downloads.fetch(url))
            return replace(found, origin=replace(found.origin, spec=text))
        raise _nothing(text, path)
    if foreign.a_classifier(path):
        raise foreign.no_embeddings(path)
    if foreign.a_probe(path):
        raise foreign.a_layer(path)
    if path.suffix in foreign.GRAPHS or (os.path.isdir(path) and foreign.holds_graphs(path)):
        raise foreign.graphs(path)
    if os.path.isdir(path):
        return _of_folder(path, which)
    ours.check_alone(path, which)
    if is_safetensors(path):
        return _of_safetensors(path)
    if path.name in ("config.toml", "state.json"):
        raise CheckpointError(
            "This file holds no weights", got=str(path), fix=f"Give the folder it lies in: {path.parent}"
        )
    return _of_torch(path)


def check_place(spec: str | Path) -> None:
    """Raise CheckpointError for a text that is neither a path nor a name of anything. Nothing is read or fetched."""
    text, path = os.fspath(spec), expand(spec)
    kind, colon, _ = text.partition(":")
    if not (os.path.exists(path) or (colon and kind in READERS) or released.address(text)):
        raise _nothing(text, path)


def has_text(spec: str | Path) -> bool | None:
    """Say whether a model has a text tower, without reading weights; None if that is not known."""
    path = expand(spec)
    if os.path.exists(path):
        return ours.has_text(path)
    return False if os.fspath(spec).startswith("timm:") else None


def _nothing(text: str, path: Path) -> CheckpointError:
    """Return the error for a text that is neither a path nor a name of anything."""
    kind = re.match(r"([A-Za-z][\w-]*):(?!//)", text)
    if kind:
        return CheckpointError(
            f"There is no format {kind[1]!r}, and no file or folder of that name",
            got=text,
            fix=f"{did_you_mean(kind[1].replace('-', '_'), READERS)} Write {WRITTEN}",
        )
    fix = (
        "Give the folder that `slip train` wrote, a file that `slip consolidate` wrote, or a released .pt file. Public "
        f"models are written {WRITTEN}"
    )
    page = re.match(r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", text)
    name = page[1] if page else text if hub.is_name(text) and not path.parent.exists() else ""
    if name:
        fix = f"For a model of the hub, write hf:{name}. {fix}"
    return CheckpointError("There is no such file or folder", got=text if page else str(path), fix=fix)


def _of_folder(folder: Path, which: str) -> Pretrained:
    """Return the model of a folder: one of ours, else one of the library whose configuration the folder has."""
    if not ours.is_ours_folder(folder):
        if reader := _reader_for(folder):
            ours.check_alone(folder, which)
            return reader.read_folder(folder, str(folder))
        if (folder / ours.WEIGHTS).is_file():
            return _of_safetensors(folder / ours.WEIGHTS)
    return ours.read_folder(folder, which)


def _reader_for(folder: Path, configs: Collection[str] = CONFIGS) -> Any:
    """Return the module that reads a folder of another library, by the folder's configuration; None if it has none."""
    if open_clip.SETTINGS in configs and (folder / open_clip.SETTINGS).is_file():
        return open_clip
    config = folder / "config.json"
    if config.name in configs and config.is_file():
        return timm if "architecture" in read_config(config) else huggingface
    return None


def _of_safetensors(path: Path) -> Pretrained:
    """Return the model of a safetensors file: one of ours or the reference's, or of another library."""
    entries, texts = metadata.read_header(path)
    if metadata.KEY in texts or ours.is_ours(entries) or "DCP_SHARDING_INFO" in texts:
        return ours.read_file(path)
    if reference.is_reference(entries):
        return reference.read(read_weights(path)[0], path)
    return _of_others(path, entries)


def _of_others(path: Path, entries: Collection[str]) -> Pretrained:
    """Return the model of a file with others' names. A file beside it, or its own name, tells the architecture.

    Raises CheckpointError, which says whose names they are.
    """
    kind = foreign.kind_of(entries)
    if reader := _reader_for(path.parent, kind.configs if kind.pattern else CONFIGS):
        return reader.read_folder(path.parent, str(path), weights=path)
    if kind.may_be_timms and (card := timm.guessed(path)):
        found = timm.read_file(path, card, str(path))
        return replace(found, notes=(timm.taken_for(path, card), *found.notes))
    raise foreign.unknown(path, entries)


def _of_torch(path: Path) -> Pretrained:
    """Return the model of weights that torch saved: with the reference's names, ours, or others'."""
    state = torch_files.plain_names(torch_files.read_checkpoint(path)["state_dict"])
    if reference.is_reference(state):
        return reference.read(state, path)
    if not ours.is_ours(state):
        return _of_others(path, state)
    if settings := ours.settings_beside(path.parent):
        notes: list[str] = []
        config = ours.read_settings(settings, str(settings), notes.append)
        return ours.pretrained_of(config, state, path, files=[path, settings], notes=notes)
    return _without_settings(path, state)


def _without_settings(path: Path, state: dict[str, Tensor]) -> Pretrained:
    """Return the model of weights with our names that come without a configuration.

    Shapes tell the whole configuration only for the reference's models, whose number of heads is known.
    """
    try:
        found = reference.read({reference.to_reference(name): value for name, value in state.items()}, path)
    except CheckpointError:
        raise ours.no_settings(path) from None
    if found.has_text and found.config.model.text.width != TextTowerConfig().width:
        raise ours.no_settings(path)
    told = (
        f"{path} does not say how its pictures were normalised, nor how many attention heads it has. Both are taken "
        "from the paper's recipes. A config.toml beside the file would tell"
    )
    return replace(found, origin=replace(found.origin, format="openslip"), notes=(told,))
