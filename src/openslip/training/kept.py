"""Outputs of models that do not change, computed once and kept: which these are, and where a batch finds them.

A tower that is wholly frozen gives the same output for the same view. Views are functions of (seed, epoch, record), so
its outputs are computed once, for `training.keep_features` epochs of views (`openslip.training.keeping`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openslip.config import Config
from openslip.data.data import Data
from openslip.data.kept import Kept
from openslip.data.record import Batch
from openslip.errors import ConfigError
from openslip.models.tuning import is_frozen
from openslip.needs import TEXT, Need
from openslip.objectives import Loss
from openslip.training.saving.features import FOLDER, TYPE
from openslip.training.student import POOLED, Student

Key = tuple[str, Need]
"""An output as `Inputs.kept` names it: the objective whose fixed model gives it, "" for the student; and which."""


@dataclass(frozen=True)
class Output:
    """An output that is kept. view: the view, or TEXT, that it is computed from; source: the part of the run folder's
    features that it lies in, which but for captions is the option that names the source; width: its numbers a row."""

    by: str
    need: Need
    view: str
    source: str
    width: int

    @property
    def key(self) -> Key:
        return self.by, self.need

    @property
    def name(self) -> str:
        """The name of its file."""
        return ".".join(filter(None, [self.by, self.view, self.need.out]))


@dataclass(frozen=True)
class Keeping:
    """What is kept of a run: `outputs`, for `epochs` of views.

    kept: the same for the data, which number the rows. computed: in words, what does not change either and is computed
    at every step all the same.
    """

    epochs: int
    outputs: tuple[Output, ...] = ()
    kept: Kept = field(default_factory=Kept)
    computed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.outputs)

    def of(self, source: str) -> list[Output]:
        """Return the outputs that lie in one part of the features."""
        return [output for output in self.outputs if output.source == source]

    def rows(self, source: str, data: Data) -> int:
        """Return how many rows outputs from the pictures of a source have."""
        return len(data.sources[source]) * (self.epochs if self.of(source) else 1)

    def size(self, data: Data) -> int:
        """Return the bytes of the outputs of pictures. How many captions there are is known after the pass alone."""
        return TYPE.itemsize * sum(
            output.width * self.rows(output.source, data) for output in self.outputs if output.source != TEXT
        )

    def described(self, data: Data, run: Path) -> str:
        """Return in words what is kept, how much that is, and when views repeat."""
        lines = []
        for output in self.outputs:
            what = f"{output.need.out}s of {'captions' if output.view == TEXT else output.view}"
            whose = f"by the fixed model of {output.by}" if output.by else "by the frozen tower"
            rows = "every caption" if output.source == TEXT else f"{self.rows(output.source, data):,}"
            lines.append(f"{what} {whose}: {rows} × {output.width:,} in fp16")
        size = f"{self.size(data) / 2**30:.3g} GiB in {run / FOLDER}, computed once before the first step"
        if self.kept.repeated:
            often = f"after {self.epochs:,} epochs" if self.epochs > 1 else "in every epoch"
            names = sorted(self.kept.repeated)
            size += f"; {', '.join(names)} repeat{'s' * (len(names) == 1)} {often}"
        return "\n".join([*lines, size, *self.computed])


def keeping(config: Config, loss: Loss, student: Student, *, ssl: bool) -> Keeping:
    """Return what is kept of a run. ssl: whether scheduled views have pictures of their own.

    Raises ConfigError where something is to be kept and nothing can be.
    """
    epochs = config.training.keep_features
    if not epochs:
        return NO_KEEPING
    views = {view.name: view for view in loss.views}
    sources = {name: "ssl" if ssl and view.scheduled else "train" for name, view in views.items()} | {
        TEXT: TEXT
    }
    outputs: dict[Key, Output] = {}
    drawn_for: dict[str, list[Key | None]] = {}
    """By the view what is computed from it; None for what is computed at every step."""
    computed: dict[str, None] = {}
    towers: dict[bool, Any] = {False: student.model.image_tower, True: student.model.text_tower}
    frozen = {of_text: tower is not None and is_frozen(tower) for of_text, tower in towers.items()}
    by_student = [n for n in loss.needs if n.by == "student" and n.out not in ("logit_scale", "labels")]
    # One pass of a view gives its patch tokens and its feature.
    online = {need.view for need in by_student if need.masked or need.out == "tokens"}
    for need in by_student:
        of_text = need.view == TEXT
        key = None
        if frozen[of_text] and need.out in POOLED and need.view not in online:
            key = ("", replace(need, out="feature"))
            outputs[key] = Output(*key, need.view, sources[need.view], int(towers[of_text].width))
        elif frozen[of_text] and need.out != "ids":
            why = "masked patches and patch tokens are not kept"
            computed[f"{need.view} passes the frozen tower at every step: {why}"] = None
        drawn_for.setdefault(need.view, []).append(key)
    for need in loss.needs:
        if need.by == "teacher":
            drawn_for.setdefault(need.view, []).append(None)
    if not outputs:
        raise ConfigError(
            "There are no features to keep: no model stays as it is",
            got=f"--training.keep-features {epochs}",
            cause="; ".join(computed),
            fix="Leave --training.keep-features out"
            + ("" if computed else ", or freeze a tower with --model.image.freeze all"),
        )
    kept = frozenset(output.view for output in outputs.values())
    undrawn = frozenset(view for view, keys in drawn_for.items() if view in kept and None not in keys)
    return Keeping(
        epochs,
        tuple(outputs.values()),
        Kept(epochs, kept, kept - {TEXT}, undrawn),
        tuple(computed),
    )


NO_KEEPING = Keeping(0)
"""Where everything is computed at every step."""


class KeptFeatures:
    """The outputs that are kept, by row. kept: what the data need to know to number the rows."""

    def __init__(self, arrays: Mapping[Output, np.ndarray], kept: Kept) -> None:
        self.arrays, self.kept = dict(arrays), kept

    def of(self, batch: Batch, device: torch.device) -> dict[Key, Tensor]:
        """Return the outputs of a batch's rows on `device`, in fp32: (N, width) each."""
        found = {}
        for output, array in self.arrays.items():
            rows = batch.rows.get(output.view)
            if rows is not None and len(rows):
                taken = torch.from_numpy(np.take(array, rows, axis=0))
                found[output.key] = taken.to(device, non_blocking=True).float()
        return found


NOTHING = KeptFeatures({}, Kept())
"""The same."""


def check_epochs(keeping: Keeping, epochs: float) -> str:
    """Return a warning where as many epochs of views are kept as are trained on; "" where some repeat."""
    if not keeping.kept.repeated or epochs > keeping.epochs:
        return ""
    return (
        f"training.keep_features {keeping.epochs} is no less than the {epochs:.3g} epochs: no view repeats, so that "
        "computing features once saves nothing"
    )


def check_room(keeping: Keeping, data: Data, run: Path) -> None:
    """Raise ConfigError where the disk has no room for what is kept of pictures, beside what is there of it."""
    folder = run
    while not folder.exists():
        folder = folder.parent
    there = sum(path.stat().st_size for path in (run / FOLDER).glob("*/*.npy"))
    free, needed = shutil.disk_usage(folder).free + there, keeping.size(data)
    if needed > free:
        raise ConfigError(
            "The disk has no room for the features that are to be kept",
            got=f"{needed / 2**30:.2f} GiB in {run / FOLDER}, {free / 2**30:.2f} GiB free",
            fix="Lower --training.keep-features, give another --out, or leave --training.keep-features out",
        )
