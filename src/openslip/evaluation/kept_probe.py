"""The file of a linear probe, `RUN/linear/NAME/probe.safetensors`, which lets the probe classify later.

The file holds the four arrays of a `Probe`. Its header names, in JSON, the classes, how the probe was fitted, and the
model: the place of the model, and a fingerprint of its image tower and preprocessing.

Probes that differ in the model, the pictures, the classes or the settings are kept side by side: the folder of the
second probe has the name of the first folder with a digest. A probe whose checkpoint is gone is replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openslip.errors import CheckpointError, note
from openslip.evaluation import fingerprint
from openslip.evaluation.linear import Probe
from openslip.files import expand, parse_json, whole_or_not
from openslip.models.weights import digest
from openslip.training.saving import metadata
from openslip.training.saving.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from openslip.encoder import Encoder

FILE = "probe.safetensors"
ARRAYS = ("mean", "scale", "weight", "bias")
_IDENTITY = ("model", "preprocess", "content", "classes", "penalties", "seed")
_OF_MODELS = (".toml", ".safetensors", ".json", ".bin")
"""Endings of files in the folder of a model of any format."""
_AGAIN = "Run `slip evaluate MODEL linear:DATA` again to fit the probe anew"


@dataclass(frozen=True)
class Origin:
    """The model that a probe belongs to, for loading it later.

    spec: the path or name that `openslip.load` took. run: the run folder, if the model is a run. checkpoint: the name
    of the run's checkpoint.
    """

    spec: str
    run: Path | None = None
    checkpoint: str = ""

    def noted(self, folder: Path) -> dict[str, str]:
        """Return the plain form for a probe in `folder`: the name of a public model, or the path of the model relative
        to `folder`. So both may move together, and the file has no absolute path of the machine."""
        place = self.run or expand(self.spec)
        if not os.path.exists(place):
            return {"name": self.spec, "path": "", "checkpoint": ""}
        path = os.path.relpath(os.path.abspath(place), os.path.abspath(folder))
        return {"name": "", "path": path, "checkpoint": self.checkpoint if self.run else ""}


@dataclass(frozen=True)
class KeptProbe:
    """A probe as it was read. about: its header; path: the path of its file."""

    probe: Probe
    names: tuple[str, ...]
    about: Mapping[str, Any]
    path: Path

    def model(self) -> str:
        """Return the path or name with which `openslip.load` loads the probe's model.

        Raises CheckpointError if the model is no longer there.
        """
        origin = self.about["origin"]
        if origin["name"]:
            return origin["name"]
        place = Path(os.path.normpath(self.path.parent.absolute() / origin["path"]))
        for checkpoint in (place / "checkpoints" / origin["checkpoint"], place / origin["checkpoint"]):
            if origin["checkpoint"] and os.path.isdir(checkpoint):
                return str(checkpoint)
        if os.path.isfile(place) or (
            os.path.isdir(place) and any(path.suffix in _OF_MODELS for path in place.glob("*"))
        ):
            return str(place)
        raise CheckpointError(
            "The model of the linear probe is not where it was",
            got=str(place),
            cause=f"The probe {self.path} holds a layer on the model's features, and not the model itself",
            fix="Say where the model is: --encoder MODEL, or in Python LinearClassifier(PATH, model=MODEL)",
        )

    def check(self, encoder: Encoder) -> None:
        """Raise CheckpointError unless `encoder` gives the features that the probe was fitted on."""
        here, there = described(encoder), self.about
        wrong = [
            f"{name} {here[name]} in the model, {there[name]} in the probe"
            for name in here
            if here[name] != there[name]
        ]
        if not wrong:
            return
        checkpoint = there["origin"]["checkpoint"]
        raise CheckpointError(
            "The linear probe belongs to other weights than this model's, and would answer at random",
            got=f"{self.path}: {'; '.join(wrong)}",
            cause=f"The probe was fitted on {checkpoint}; the run has since gone on, or another checkpoint is loaded"
            if checkpoint
            else "The file of weights was replaced, or the probe belongs to another model",
            fix=_AGAIN,
        )


def described(encoder: Encoder) -> dict[str, Any]:
    """Return everything that features depend on: a fingerprint of the image tower's weights, and the preprocessing."""
    tower = digest(encoder.model.image_tower)[:16]
    return json.loads(json.dumps({"model": tower, "preprocess": asdict(encoder.preprocess)}))


def save(
    folder: Path, name: str, encoder: Encoder, origin: Origin, probe: Probe, about: Mapping[str, Any]
) -> Path | None:
    """Keep a probe in `folder`, or beside `folder` if it holds another probe. Return the folder; None if the probe
    cannot be written.

    name: the task's name, for messages. about: `classes`, `content`, `images`, `penalties` and `seed`.
    """
    told = {**described(encoder), **json.loads(json.dumps(dict(about)))}
    identity = fingerprint.of_all([json.dumps([told[key] for key in _IDENTITY], sort_keys=True)])
    place = folder
    if (other := _held_by_another(folder, told)) is not None:
        place = folder.with_name(f"{folder.name}-{identity[:8]}")
        note(f"{name}: {folder} keeps another probe ({other}). The new probe is kept beside it, in {place}.")
    header = {**told, "l2": probe.l2, "validation_top1": probe.validation_top1, "origin": origin.noted(place)}
    tensors = {key: torch.from_numpy(np.ascontiguousarray(getattr(probe, key))) for key in ARRAYS}
    try:
        place.mkdir(parents=True, exist_ok=True)
        with whole_or_not(place / FILE) as file:
            write_tensors(
                Path(file.name), tensors, metadata={metadata.PROBE: json.dumps(header, sort_keys=True)}
            )
    except OSError as error:
        note(f"{name}: the probe is not kept, because {place} cannot be written ({error.strerror or error}).")
        return None
    return place


def _held_by_another(folder: Path, told: Mapping[str, Any]) -> str | None:
    """Return how the probe in a folder differs from a new probe; None if the new probe may replace it."""
    if not (folder / FILE).exists():
        return None
    try:
        found = read(folder).about
    except CheckpointError:
        return None  # damaged and useless
    differences = [key for key in _IDENTITY if found[key] != told[key]]
    if not differences:
        return None
    origin = found["origin"]
    places = (folder / origin["path"] / "checkpoints", folder / origin["path"])
    gone = origin["checkpoint"] and not any(os.path.exists(place / origin["checkpoint"]) for place in places)
    if gone and differences == ["model"]:
        return None  # the same probe of a model that is gone
    words = {"content": "pictures", "preprocess": "preprocessing"}
    return "it differs in " + ", ".join(words.get(key, key) for key in differences)


def file_of(path: str | Path) -> Path:
    """Return the file of weights for a path to a probe: the path itself, or the file in the folder."""
    given = expand(path)
    return given / FILE if os.path.isdir(given) else given


def read(path: str | Path) -> KeptProbe:
    """Read a kept probe: `RUN/linear/NAME`, a copy of that folder, or the file in it.

    Raises CheckpointError if there is no probe, or if it is damaged.
    """
    file = file_of(path)
    if not file.is_file():
        raise CheckpointError(
            "There is no linear probe",
            got=str(path),
            cause=f"There is no {FILE} in it"
            if os.path.isdir(expand(path))
            else "There is no such file or folder",
            fix="Give RUN/linear/NAME, which `slip evaluate RUN linear:DATA` keeps",
        )
    try:
        about = parse_json(metadata.read_header(file)[1][metadata.PROBE])
        names, origin = tuple(about["classes"]), about["origin"]
        tensors = read_tensors(file)
        arrays = {key: tensors[key].numpy().astype(np.float32) for key in ARRAYS}
        classes, width = arrays["weight"].shape
        shapes = {"mean": (width,), "scale": (width,), "weight": (classes, width), "bias": (classes,)}
        if {key: array.shape for key, array in arrays.items()} != shapes or classes != len(names):
            raise ValueError(
                f"It has {len(names)} classes, and arrays of {[a.shape for a in arrays.values()]}"
            )
        if not all(isinstance(name, str) for name in names):
            raise ValueError("The classes are not named")
        if not all(isinstance(origin[key], str) for key in ("name", "path", "checkpoint")):
            raise ValueError("The model is not named")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("It holds numbers that are not finite")
        missing = [key for key in _IDENTITY if key not in about]
        if missing:
            raise ValueError(f"It does not say {', '.join(missing)}")
        probe = Probe(**arrays, l2=float(about["l2"]), validation_top1=float(about["validation_top1"]))
    except (CheckpointError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            "The linear probe cannot be read",
            got=str(file),
            cause=error.cause if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}",
            fix=f"Copy the folder anew. {_AGAIN}",
        ) from None
    return KeptProbe(probe, names, about, file)
