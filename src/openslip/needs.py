"""What an objective asks for: views of an image, and outputs of the towers for these views.

The data draw the views, the model computes the features, and neither knows which objective asked. Only the input
`TEXT`, the captions, is no view.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from openslip.errors import ConfigError

TEXT = "text"
"""The captions, in place of a view's name."""


@dataclass(frozen=True)
class View:
    """One crop that is drawn of each image in training.

    Objectives that name the same view share the crop, and one pass of it through the tower.
    """

    name: str
    """Part of the key of the view's randomness: another name draws other crops."""
    kind: str
    """The section of the configuration that says how the view is drawn: `ssl` is `views.ssl`."""
    scheduled: bool = True
    """Whether the view is drawn only on the steps and rows that `objective.ssl_every`, `ssl_from` and `ssl_share`
    choose, and from the images of `data.ssl` if there are any. Such a view needs no caption. Any other view is drawn
    for every row of every step."""
    size: int = 0
    """Side in pixels; 0: the size of the kind."""
    like: str = ""
    """Name of another view whose crop and augmentations this view shares; empty: none. Both views are of one kind, and
    scheduled alike."""


@dataclass(frozen=True)
class Need:
    """One input of an objective. The features of N rows of a view are a tensor whose first dimension is N.

    out: `feature` is the tower's pooled output (N, width). `embedding` is the feature projected to the space that
    images and texts share (N, embed_dim), not normalised. `tokens` are a vision transformer's patch tokens after the
    last norm (N, T, width). `ids` are the captions' token ids (N, L) int64. `logit_scale` is the model's logit scale, a
    scalar. `labels` are the records' classes (N,) int64, -1 for a record without a class. `records` are the records'
    numbers in the training source (N,) int64, the same in every epoch. Neither `labels` nor `records` needs captions.

    With several `captions` the features of a caption have them as a second dimension: (N, captions, embed_dim).
    """

    view: str
    """Name of a view, or `TEXT`."""
    out: Literal["feature", "embedding", "tokens", "ids", "logit_scale", "labels", "records"] = "feature"
    by: Literal["student", "teacher", "fixed"] = "student"
    """Which model's output: the student's, a teacher's, which follows the student, or a fixed model's. The objective
    names the fixed model (`Objective.fixed_model`), which does not change."""
    masked: bool = False
    """Whether the objective masks some of the view's patches before they enter the tower."""
    captions: int = 1
    """For `TEXT`: how many captions of each record. Needs of a single caption get the first of these captions."""


IMAGE = View("image", kind="image", scheduled=False)
"""The view that goes with the caption."""
SSL_VIEWS = (View("ssl_1", kind="ssl"), View("ssl_2", kind="ssl"))
"""Two strongly augmented views of one image, for self-supervision."""
LOGIT_SCALE = Need(TEXT, "logit_scale")
LABELS = Need(TEXT, "labels")
RECORDS = Need(TEXT, "records")
OF_RECORDS = (LABELS, RECORDS)
"""Needs that concern the record itself: no tower computes them, and no caption is read for them."""


def joined(views: Iterable[View]) -> tuple[View, ...]:
    """Return each view once: those that go with the caption first, otherwise in the order given.

    Raises ConfigError if two different views share a name, or if a view is like another view that is not drawn, or is
    drawn in another way.
    """
    found: dict[str, View] = {}
    for view in views:
        if found.setdefault(view.name, view) != view:
            raise ConfigError(
                f"Two objectives draw the view '{view.name}' in different ways",
                got=f"{found[view.name]} and {view}",
                fix="Give one of the two views another name",
            )
    for view in found.values():
        other = found.get(view.like) if view.like else None
        if view.like and (
            other is None or other.like or (other.kind, other.scheduled) != (view.kind, view.scheduled)
        ):
            raise ConfigError(
                f"The view '{view.name}' cannot have the crop of the view '{view.like}'",
                got=f"{view}; {other or 'no such view is drawn'}",
                fix="Name a view of the same kind that is scheduled alike and has a crop of its own",
            )
    return tuple(sorted(found.values(), key=lambda view: view.scheduled))
