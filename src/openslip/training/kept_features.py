"""Outputs of models that do not change, computed once and kept: which outputs are kept, and how a batch finds them.

A wholly frozen tower, or a fixed model of an objective, gives the same output for the same view. Views are functions of
(seed, epoch, record), so such outputs are computed once, for `training.keep_features` epochs of views
(`openslip.training.keep_pass`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
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
from openslip.needs import LOGIT_SCALE, OF_RECORDS, TEXT, Need
from openslip.training.saving.feature_files import FOLDER, TYPE
from openslip.training.student import POOLED, Student

NOT_POOLED = "patch tokens, and outputs of masked patches, are not kept"
SEVERAL = "outputs of several captions of a record are not kept"
WORDS_DROPPED = "with data.drop_words captions differ in every epoch"
Key = tuple[str, Need]
"""An output as `Inputs.kept` names it: the objective whose fixed model gives it ("" for the student), and the need."""


@dataclass(frozen=True)
class Output:
    """An output that is kept. view: the view, or TEXT, that it is computed from. source: its folder in the run folder's
    features, named after the source's option, or TEXT for captions. width: its numbers a row."""

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
    """What a run keeps: `outputs`, for `epochs` of views.

    kept: the same in the form that the data need to number the rows. computed: in words, which other outputs do not
    change and are still computed at every step.
    """

    epochs: int
    outputs: tuple[Output, ...] = ()
    kept: Kept = field(default_factory=Kept)
    computed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.outputs)

    @property
    def without_fixed(self) -> bool:
        """Whether all outputs of fixed models are kept."""
        return bool(self.outputs) and not self.computed

    def of(self, source: str) -> list[Output]:
        """Return the outputs in one folder of the features."""
        return [output for output in self.outputs if output.source == source]

    def rows(self, source: str, data: Data) -> int:
        """Return the number of rows of an output from a source's pictures."""
        return len(data.sources[source]) * (self.epochs if self.of(source) else 1)

    def size(self, data: Data) -> int:
        """Return the bytes of the outputs of pictures. The number of captions is known only after the pass."""
        return TYPE.itemsize * sum(
            output.width * self.rows(output.source, data) for output in self.outputs if output.source != TEXT
        )

    def described(self, data: Data, run: Path) -> str:
        """Return in words what is kept, how large it is, and when views repeat."""
        lines = []
        for output in self.outputs:
            what = f"{output.need.out}s of {'captions' if output.view == TEXT else output.view}"
            whose = f"by the fixed model of {output.by}" if output.by else "by the frozen tower"
            rows = "every caption" if output.source == TEXT else f"{self.rows(output.source, data):,}"
            lines.append(f"{what} {whose}: {rows} × {output.width:,} in fp16")
        gib = self.size(data) / 2**30
        size = f"{gib:.2f} GiB" if gib >= 0.1 else f"{1024 * gib:.3g} MiB"
        size += f" in {run / FOLDER}, computed once before the first step"
        if self.kept.repeated:
            often = f"after {self.epochs:,} epochs" if self.epochs > 1 else "in every epoch"
            names = sorted(self.kept.repeated)
            size += f"; {', '.join(names)} repeat{'s' * (len(names) == 1)} {often}"
        return "\n".join([*lines, size, *self.computed])


def keeping(config: Config, student: Student, *, ssl: bool) -> Keeping:
    """Return what a run keeps. ssl: whether scheduled views have pictures of their own.

    Raises ConfigError if features should be kept and none can be.
    """
    epochs = config.training.keep_features
    if not epochs:
        return NO_KEEPING
    outputs, computed, uses = [], dict[str, None](), dict[str, list[bool]]()
    sources = {view.name: "ssl" if ssl and view.scheduled else "train" for view in student.views} | {
        TEXT: TEXT
    }
    for use in _uses(student, drop_words=config.data.drop_words > 0):
        kept = use.width > 0 and not use.why
        uses.setdefault(use.view, []).append(kept)
        if kept:
            outputs.append(Output(*use.key, use.view, sources[use.view], use.width))
        elif use.width:
            computed[f"{use.view} is still computed at every step: {use.why}"] = None
    if not outputs:
        raise ConfigError(
            "There are no features to keep: no tower is frozen, and no model is fixed"
            if not computed
            else "There are no features to keep",
            got=f"--training.keep-features {epochs}",
            cause="; ".join(computed),
            fix="Leave --training.keep-features out"
            + ("" if computed else ", or freeze a tower with --model.image.freeze all"),
        )
    kept_views = frozenset(output.view for output in outputs)
    shown = {view.name: view.like or view.name for view in student.views}
    repeated = {name for name, shows in shown.items() if shows in {shown.get(view) for view in kept_views}}
    undrawn = frozenset(view for view in kept_views if all(uses[view]))
    return Keeping(
        epochs,
        tuple(dict.fromkeys(outputs)),
        Kept(epochs, kept_views, frozenset(repeated), undrawn),
        tuple(computed),
    )


@dataclass(frozen=True)
class _Use:
    """What is computed from a view, or from captions (TEXT).

    width: the width of an output of a model that does not change, else 0. why: the reason why the output is not kept.
    """

    view: str
    key: Key
    width: int = 0
    why: str = ""


def _uses(student: Student, *, drop_words: bool) -> Iterator[_Use]:
    """Yield all that a run computes from views and captions."""

    def why_not(need: Need, online: set[str]) -> str:
        if need.view == TEXT and (need.captions > 1 or drop_words):
            return SEVERAL if need.captions > 1 else WORDS_DROPPED
        return NOT_POOLED if need.view in online else ""

    loss = student.objective.written
    towers: dict[bool, Any] = {False: student.model.image_tower, True: student.model.text_tower}
    by_student = [n for n in loss.needs if n.by == "student" and n not in (LOGIT_SCALE, *OF_RECORDS)]
    online = {need.view for need in by_student if need.masked or need.out == "tokens"}
    for need in by_student:
        tower = towers[need.view == TEXT]
        width = int(tower.width) if tower is not None and is_frozen(tower) and need.out != "ids" else 0
        yield _Use(need.view, ("", replace(need, out="feature")), width, why_not(need, online))
    for term in loss.terms:
        needs, name = term.kind.needs_for(term.config), term.kind.name
        for need in needs:
            if need.by == "teacher":
                yield _Use(need.view, (name, need))
        own = [need for need in needs if need.by == "fixed"]
        if own:
            fixed = student.fixed.models[student.fixed.spec(name)]
            # One pass of a view gives both its patch tokens and its feature.
            online = {need.view for need in own if need.out not in POOLED}
            for need in own:
                view = TEXT if need.view == TEXT else fixed.drawn[need.view].name
                yield _Use(view, (name, need), fixed.width_of(need), why_not(need, online))


NO_KEEPING = Keeping(0)
"""Nothing is kept: everything is computed at every step."""


class KeptFeatures:
    """The outputs that are kept, by row. kept: what the data need to number the rows."""

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
"""No outputs are kept."""


def check_epochs(keeping: Keeping, epochs: float) -> str:
    """Return a warning if as many epochs of views are kept as are trained on; "" if some views repeat."""
    if not keeping.kept.repeated or epochs > keeping.epochs:
        return ""
    return (
        f"training.keep_features {keeping.epochs} is at least the run's number of epochs, {epochs:.3g}: no view "
        "repeats, so computing features once saves nothing"
    )


def check_room(keeping: Keeping, data: Data, run: Path) -> None:
    """Raise ConfigError if the disk has no room for the outputs of pictures, counting the outputs already there."""
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
