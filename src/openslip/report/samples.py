"""Right and wrong answers with their pictures, which are read again from where they were measured.

Nothing is downloaded, and a picture is shown only if it is still the picture that was measured.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from openslip.addresses import is_url
from openslip.data.decode import decode
from openslip.data.labelled import LabelledSet
from openslip.data.labelled.labelled_set import Labelled
from openslip.errors import DataError, SlipError
from openslip.evaluation import Result
from openslip.evaluation.fingerprint import of_picture
from openslip.evaluation.opened import labelled_set, shared
from openslip.files import expand
from openslip.report.answered import Said, Task
from openslip.report.gallery import Answer, Picture, Reading

EACH = 8
"""Pictures that are shown of each kind."""
SIDE = 112
"""Side of a picture in pixels: about 4 kB."""
_TRIES = 3
"""How many times `each` pictures are tried, because some may have changed or gone."""


@dataclass(frozen=True)
class Sample:
    """A picture with a row's answers. others: the answers of other rows, (label, colour class, answer)."""

    reading: Reading
    others: Sequence[tuple[str, str, Answer]]


@dataclass(frozen=True)
class Samples:
    """Pictures of a task with the answers of one row. kinds: (title, what they are, pictures) for each kind that has
    pictures. missing: why all or some pictures are missing; else empty."""

    row: Said
    kinds: Sequence[tuple[str, str, Sequence[Sample]]]
    missing: str = ""


def samples(tasks: Sequence[Task], each: int = EACH) -> list[Samples | None]:
    """Return pictures of each task, with the answers of its last row, `each` of a kind; None for a task without.

    Of several tasks on the same data, only the first has pictures.
    """
    places = [task.said[-1].result.data for task in tasks]
    with shared():
        return [
            _of_task(task, each) if each and place not in places[:number] else None
            for number, (task, place) in enumerate(zip(tasks, places))
        ]


def _of_task(task: Task, each: int) -> Samples:
    row = task.said[-1]
    try:
        labelled = reopened(row.result)
    except DataError as error:
        return Samples(row, (), str(error))
    places = [{number: place for place, number in enumerate(one.answers.rows.tolist())} for one in task.said]
    changed: set[int] = set()

    def shown(order: Iterable[int]) -> list[Sample]:
        readable = filter(
            None, (_sample(task, places, labelled, i, changed) for i in islice(order, _TRIES * each))
        )
        return list(islice(readable, each))

    kinds = [(title, what, shown(order.tolist())) for title, what, order in chosen(row)]
    missing = (
        "Pictures that are no longer what was measured, or cannot be read, are left out."
        if changed and any(found for *_, found in kinds)
        else f"No picture is shown: the pictures at {row.result.data} are no longer what was measured."
        if changed
        else ""
    )
    return Samples(row, [kind for kind in kinds if kind[2]], missing)


def chosen(row: Said) -> list[tuple[str, str, np.ndarray]]:
    """Return for each kind its title, what is in it, and its samples in order. Copies of a picture are one sample."""
    answers, right = row.answers, row.correct
    sure = answers.probabilities[:, 0]
    first = np.full(len(right), True)
    known: set[bytes] = set()
    for i, digest in enumerate(answers.digests):
        first[i] = not digest or digest not in known
        known.add(digest)
    wrong, fine = np.flatnonzero(first & ~right), np.flatnonzero(first & right)
    drawn = np.random.Generator(np.random.Philox(0)).permutation(np.flatnonzero(first))
    if not np.isfinite(sure).all():
        worst = wrong[np.argsort(-answers.ranks[wrong], kind="stable")]
        return [
            ("Furthest from right", "wrong answers whose right class comes last", worst),
            ("Drawn at random", "pictures, not picked", drawn),
        ]
    return [
        (
            "Surest and wrong",
            "wrong answers with the highest probability",
            wrong[np.argsort(-sure[wrong], kind="stable")],
        ),
        (
            "Right, and least sure",
            "right answers with the lowest probability",
            fine[np.argsort(sure[fine], kind="stable")],
        ),
        ("Drawn at random", "pictures, not picked", drawn),
    ]


def reopened(result: Result) -> Labelled:
    """Return the split that a result was measured on, from its place. Raises DataError if it cannot be opened."""
    place, columns = result.data, {}
    if not place:
        raise DataError("No picture is shown: the result does not say where its data are.")
    if is_url(place):
        raise DataError(f"No picture is shown: a report downloads nothing, and the data are at {place}")
    if not os.path.lexists(expand(place)) and (found := re.fullmatch(r"(.+) \(([^()]+)\)", place, re.DOTALL)):
        place, columns = found[1], {"label_column": found[2]}
    try:
        opened: LabelledSet = labelled_set(place, columns)
        return opened.splits[result.split] if result.split in opened.splits else opened.split(result.split)
    except (SlipError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"No picture is shown: the data cannot be opened at {place} any more ({reason:.200})"
        ) from None


def _sample(
    task: Task, places: Sequence[dict[int, int]], labelled: Labelled, i: int, changed: set[int]
) -> Sample | None:
    """Return a sample of the last row with its picture, None if it is not the picture that was measured."""
    row = task.said[-1]
    number, digest = int(row.answers.rows[i]), row.answers.digests[i]
    try:
        image = labelled.images[number]
        if not digest or of_picture(image) != digest:
            raise DataError("Another picture lies there")
        pixels = decode(image, SIDE)
    except (DataError, IndexError, OSError):
        changed.add(number)
        return None
    reading = _reading(row, i, pixels)
    others = []
    for one, of in zip(task.said[:-1], places):
        place = of.get(number)
        if place is not None and one.answers.digests[place] == digest:
            others.append((one.row, one.colour, _answers(one, place)[0]))
    return Sample(reading, others)


def _reading(row: Said, i: int, pixels: np.ndarray) -> Reading:
    label, answers = int(row.answers.labels[i]), _answers(row, i)
    truth, first = row.names[label], answers[0]
    sure = "" if first.share is None else f" with {first.percent}"
    said = f"{truth}, recognised{sure}" if first.right else f"{truth}, called {first.text}{sure}"
    picture = Picture(pixels, (said,), label, SIDE)
    return Reading(picture, answers, truth, int(row.answers.ranks[i]))


def _answers(row: Said, i: int, most: int = 3) -> tuple[Answer, ...]:
    """Return the likeliest classes. The first class is right if and only if the sample counts as right."""
    label, ranks = int(row.answers.labels[i]), int(row.answers.ranks[i])
    found = []
    for k, (best, share) in enumerate(
        zip(row.answers.best[i, :most].tolist(), row.answers.probabilities[i].tolist())
    ):
        right = best == label and (k > 0 or ranks == 1)
        found.append(Answer(row.names[best], share if np.isfinite(share) else None, right))
    return tuple(found)
