"""A temperature and a threshold, chosen on one half of a labelled sample and checked on the other half.

Logits divided by the right temperature give probabilities that match how often answers are right (Guo et al. 2017). The
temperature is the one of maximum likelihood. The threshold is the one with the best mean of two shares. One half of the
sample chooses both; the report comes from the other half.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openslip.classifier import Classifier, FinetunedClassifier, LinearClassifier, ZeroShotClassifier
from openslip.classifying.classes import nearly
from openslip.classifying.labels import BATCH, Image, Rule, go_through
from openslip.data.labelled import Labelled, LabelledSet
from openslip.data.labelled.classes import as_words, folded
from openslip.data.preprocess import Preprocess
from openslip.errors import CheckpointError, ConfigError, DataError
from openslip.evaluation import fingerprint
from openslip.evaluation.metrics import wilson
from openslip.files import expand, read_json, unwritable, write_json
from openslip.models.weights import digest

FORMAT = "openslip.calibration"
VERSION = 1
LEAST = 20
"""The fewest pictures of the classes, and of others if there are any, that a calibration needs."""
FEW = 200
"""With fewer pictures, a note says that the shares are uncertain."""
BINS = 15
"""Bins of the expected calibration error, as many as in Guo et al."""
COLDEST, HOTTEST = 0.05, 20.0
"""The range of temperatures that is searched."""
OTHER = -1
"""The label of a picture that belongs to none of the classes."""


@dataclass(frozen=True)
class Share:
    """The share of `hits` in `count` pictures, with its 95 % interval (Wilson)."""

    hits: int
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.count)

    def __str__(self) -> str:
        if not self.count:
            return "none of none"
        low, high = self.interval
        return f"{self.hits / self.count:.1%} ({100 * low:.1f} – {100 * high:.1f}; {self.hits:,} of {self.count:,})"

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval
        value = self.hits / self.count if self.count else None
        return {"value": value, "low": low, "high": high, "hits": self.hits, "count": self.count}


@dataclass(frozen=True)
class Report:
    """How a calibration does on the half of the sample that it was not chosen on.

    right: of pictures of the classes, those whose most probable class is the right one, before any threshold. With the
    threshold, of pictures of the classes: `answered` got a class, `kept_right` got the right class. accepted_right: of
    all pictures that got a class, including other pictures, those that got the right class. rejected: of the other
    pictures, those that got no class. before, after: expected calibration error on pictures of the classes, without the
    temperature and with it, in [0, 1].
    """

    right: Share
    answered: Share
    kept_right: Share
    accepted_right: Share
    rejected: Share
    before: float
    after: float

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, ready for JSON."""
        return {
            name: value.to_dict() if isinstance(value, Share) else value for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Calibration:
    """A temperature and a threshold for one classifier.

    criterion: what the threshold maximises, in words. classifier: a digest of everything that the logits depend on.
    sample: the labelled sample: its name, a digest of its pictures, and counts. report: `Report` in its JSON form.
    """

    temperature: float
    threshold: float
    criterion: str
    classifier: str
    sample: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    def rule(self, none: str) -> Rule:
        """Return the rule from logits to an answer by this calibration; none: the name for pictures of no class."""
        return Rule(self.temperature, self.threshold, none)

    def save(self, path: Path) -> None:
        """Write the calibration as JSON, whole or not at all. Raises ConfigError if it cannot be written."""
        try:
            write_json(expand(path), {"format": FORMAT, "version": VERSION, **asdict(self)})
        except OSError as error:
            raise ConfigError(
                "The calibration cannot be written", got=str(path), cause=error.strerror or str(error)
            ) from None


def check_place(path: Path, *, written: bool) -> None:
    """Raise ConfigError if a calibration cannot be `written` to a path, or if there is none to read."""
    path = expand(path)
    if not written:
        if path.is_file():
            return
        raise ConfigError(
            "There is no such calibration",
            got=str(path),
            fix="Make one with --calibrate SAMPLE --calibration FILE",
        )
    if os.path.lexists(path) and not _holds_one(path):
        raise ConfigError(
            "The file for the calibration already holds something else",
            got=str(path),
            fix="Name a file that does not exist yet",
        )
    if why := unwritable(path) if path.absolute().parent.is_dir() else "There is no such folder":
        raise ConfigError(
            "The calibration cannot be written there", got=str(path), cause=why, fix="Name another path"
        )


def _holds_one(path: Path) -> bool:
    try:
        return read_json(path)["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        return False


def read(path: Path, classifier: Classifier) -> Calibration:
    """Read the file that `Calibration.save` wrote.

    Raises CheckpointError for any other file, and for the calibration of another classifier.
    """
    try:
        found = read_json(expand(path))
        if found["format"] != FORMAT or found["version"] != VERSION:
            raise ValueError(f"It is {found['format']} {found['version']}")
        temperature, threshold = float(found["temperature"]), float(found["threshold"])
        if not (COLDEST <= temperature <= HOTTEST and 0 <= threshold <= 1):
            raise ValueError(f"The temperature is {temperature}, and the threshold {threshold}")
        texts = str(found["criterion"]), str(found["classifier"])
        kept = Calibration(temperature, threshold, *texts, dict(found["sample"]), dict(found["report"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            "The calibration cannot be read",
            got=str(path),
            cause=f"{type(error).__name__}: {error}",
            fix="Give a file that `slip classify … --calibrate SAMPLE --calibration FILE` wrote",
        ) from None
    if kept.classifier != digest_of(classifier):
        raise CheckpointError(
            "The calibration belongs to another classifier",
            got=str(path),
            cause="That classifier has another model, other classes or other templates, so its probabilities differ",
            fix="Calibrate this classifier with --calibrate SAMPLE",
        )
    return kept


def digest_of(classifier: Classifier) -> str:
    """Return a digest of a classifier's classes, model and preprocessing, which tells it from other classifiers."""
    model, prepared = classifier.model.model, classifier.model.preprocess
    parts = [*classifier.names, *(repr(getattr(prepared, one.name)) for one in fields(Preprocess))]
    if isinstance(classifier, ZeroShotClassifier):
        # Not the embeddings of the classes: their last bits differ between machines.
        return fingerprint.of_all([*parts, *classifier.words, "", *classifier.templates, digest(model)])
    parts.append(digest(model.image_tower))
    if isinstance(classifier, FinetunedClassifier):
        parts.append(repr(classifier.recipe))
    if isinstance(classifier, LinearClassifier):
        probe = classifier.probe
        parts += [array.tobytes().hex() for array in (probe.mean, probe.scale, probe.weight, probe.bias)]
    return fingerprint.of_all(parts)


@dataclass(frozen=True)
class Sample:
    """The K usable pictures of a labelled sample.

    logits: (K, C) float64. labels: (K,), OTHER for none of the classes. digests: equal for equal pictures. skipped: how
    many pictures cannot be used. notes: sentences on how the classes of the sample were matched.
    """

    name: str
    logits: np.ndarray
    labels: np.ndarray
    digests: Sequence[bytes]
    skipped: int
    notes: tuple[str, ...]


def untrained(classifier: Classifier, labelled: LabelledSet) -> Labelled:
    """Return the pictures of a set that the classifier was not trained on, as far as the set tells.

    For zero-shot classification, that is the whole of a set without splits. A probe or a finetuned classifier may have
    been trained on four fifths of such a set; so the other fifth is returned. Raises DataError for a set that has
    training pictures alone.
    """
    if isinstance(classifier, ZeroShotClassifier):
        return labelled.untrained()
    return labelled.split("test")


def read_sample(
    classifier: Classifier,
    labelled: Labelled,
    none: str,
    *,
    batch: int = BATCH,
    workers: int = -1,
    advance: Callable[[int], object] = lambda done: None,
) -> Sample:
    """Run the classifier on a labelled sample. Classes of the sample that the classifier lacks become OTHER.

    none: a class of the sample that becomes OTHER, too. Raises ConfigError if the classifier has none of the classes.
    """
    labels_of, notes = match(labelled.class_names, classifier, none)
    present = set(np.unique(labelled.labels).tolist())
    if all(labels_of[label] == OTHER for label in present):
        raise ConfigError(
            "The sample has no class that the classifier has",
            got=", ".join(labelled.class_names[label] for label in sorted(present)[:5]),
            cause=f"The classifier has {', '.join(classifier.names[:5])}{', …' if len(classifier.names) > 5 else ''}",
            fix="Give the classes of the sample the names that the classifier uses",
        )
    rows, kept, digests, skipped = [], [], [], 0

    def read(index: int) -> tuple[str, Image]:
        return f"picture {index}", labelled.images[index]

    seen = go_through(classifier, read, str, len(labelled), batch=batch, workers=workers, images=True)
    for chunk in seen:
        for one in chunk:
            if one.logits is None:
                skipped += 1
                continue
            rows.append(one.logits.double().numpy())
            kept.append(one.index)
            digests.append(fingerprint.of_picture(one.image))
        advance(len(chunk))
    if not rows:
        raise DataError(f"None of the {len(labelled):,} pictures of {labelled.name} can be used")
    labels = np.array(labels_of)[labelled.labels[kept]]
    return Sample(labelled.name, np.stack(rows), labels, digests, skipped, tuple(notes))


def match(sample: Sequence[str], classifier: Classifier, none: str) -> tuple[list[int], list[str]]:
    """Return the classifier's label for each class of a sample, OTHER if it has none, and sentences on the match.

    Names are compared without regard to capitals, `-` and `_`. In zero-shot classification, a class of the sample may
    also match the words for a class.
    """
    words = getattr(classifier, "words", classifier.names)
    known = {folded(as_words(word)): label for label, word in enumerate(words)}
    known |= {folded(as_words(name)): label for label, name in enumerate(classifier.names)}
    found = [
        OTHER if folded(name) == folded(none) else known.get(folded(as_words(name)), OTHER) for name in sample
    ]
    others = [name for name, label in zip(sample, found) if label == OTHER]
    lacking = [name for label, name in enumerate(classifier.names) if label not in found]
    notes = []
    if others:
        near = next((f" {told}" for name in others if (told := nearly(name, classifier.names))), "")
        notes.append(
            f"The classifier lacks {len(others)} of {len(sample)} classes of the sample, and they count as "
            f"{none!r}: {_some(others)}.{near}"
        )
    if lacking:
        notes.append(f"The sample has no pictures of {len(lacking)} classes: {_some(lacking)}.")
    return found, notes


def calibrate(
    classifier: Classifier, sample: Sample, *, keep_temperature: bool = False
) -> tuple[Calibration, Report, list[str]]:
    """Choose a temperature and a threshold on one half of a sample, and check them on the other half.

    Returns the calibration, the report of the other half, and notes for the user. Equal pictures are always in the same
    half, and the order of the sample changes no half. keep_temperature: choose the threshold alone, and keep the
    probabilities of the model.

    Raises DataError for fewer than LEAST pictures of the classes, or for fewer than LEAST other pictures if there are
    any.
    """
    logits, labels = sample.logits, sample.labels
    known, others = int((labels != OTHER).sum()), int((labels == OTHER).sum())
    _check_size(sample.name, known, others)
    first = halves(labels, sample.digests)
    notes = []
    temperature = 1.0
    if not keep_temperature:
        chosen = first & (labels != OTHER)
        temperature = fit_temperature(logits[chosen], labels[chosen])
        every = (logits[chosen].argmax(axis=1) == labels[chosen]).all()
        if every or not COLDEST * 1.01 < temperature < HOTTEST / 1.01:
            temperature = 1.0
            notes.append(
                "The sample cannot determine a temperature, because almost every answer is right or none is. "
                "Probabilities stay as they are."
            )
    threshold = fit_threshold(_probabilities(logits[first], temperature), labels[first])
    report = report_on(logits[~first], labels[~first], temperature, threshold)
    if others:
        criterion = (
            "the best mean of two shares: of pictures of the classes that get the right class, and of other pictures "
            "that get none"
        )
    else:
        criterion = (
            "the best mean of two shares: of right answers that are kept, and of wrong ones that are dropped (the "
            "sample has no pictures of other classes)"
        )
        notes.append(
            "The sample has no pictures of other classes, so the threshold tells right from wrong answers. Whether "
            "other pictures fall below the threshold is not known. To find out, add some to the sample, in a class "
            "called none."
        )
    if min(known, others or known) < FEW:
        notes.append(
            f"The sample is small: {known:,} pictures of the classes"
            + (f" and {others:,} others" if others else "")
            + ". One half chose, and the other half is reported. The intervals say how uncertain the shares are."
        )
    counts = {"known": known, "others": others, "chose": int(first.sum()), "checked": int((~first).sum())}
    about = {
        "name": sample.name,
        "content": fingerprint.of_labelled(
            sample.digests, (labels + 1).tolist(), ("none of the classes", *classifier.names)
        ),
        **counts,
        "skipped": sample.skipped,
    }
    kept = Calibration(temperature, threshold, criterion, digest_of(classifier), about, report.to_dict())
    return kept, report, notes


def _check_size(name: str, known: int, others: int) -> None:
    if known < LEAST or 0 < others < LEAST:
        raise DataError(
            f"{name} is too small to calibrate on",
            got=f"{known:,} pictures of the classes, {others:,} of others",
            cause=f"Half of the pictures choose and half check, which needs at least {LEAST} of each kind",
            fix="Take more pictures, some hundreds of each kind; or give a threshold with --threshold",
        )


def halves(labels: np.ndarray, digests: Sequence[bytes]) -> np.ndarray:
    """Return which of K pictures choose, (K,) bool: every second picture of each class, in the order of digests.

    Pictures with the same digest stay together. So no picture is checked on a copy of itself.
    """
    side: dict[bytes, bool] = {}
    for label in np.unique(labels):
        members = sorted({digests[i] for i in np.flatnonzero(labels == label).tolist()})
        # If every class started alike, the odd picture of each class would fall into the same half.
        start = int(label) % 2
        for rank, member in enumerate(members):
            side.setdefault(member, (rank + start) % 2 == 0)
    return np.array([side[one] for one in digests], dtype=bool)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of maximum likelihood, within [COLDEST, HOTTEST].

    logits: (K, C); labels: (K,) in [0, C). The likelihood is concave in the inverse b of the temperature. Its slope is
    the mean of the label's logit minus the expected logit at b. Bisection finds where the slope is 0.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(60):
        middle = (low + high) / 2
        p = _softmax(logits * math.exp(middle))
        slope = float((own - (p * logits).sum(axis=1)).mean())
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def fit_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold with the best mean of two shares. Of equally good thresholds, return the lowest.

    probabilities: (K, C); labels: (K,), OTHER for none of the classes. With other pictures the shares are: of pictures
    of the classes, those that get the right class; of other pictures, those that get none. Without other pictures: of
    right answers, those that are kept; of wrong answers, those that are dropped. Candidates are 0 and the midpoints of
    neighbouring probabilities.
    """
    best = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    others = labels == OTHER
    if others.any():
        good, bad = right, others
        count_good = int((~others).sum())
    else:
        good, bad = right, ~right
        count_good = int(right.sum())
    if not bad.any() or not good.any():
        return 0.0
    values = np.unique(best)
    candidates = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])
    kept = len(best[good]) - np.searchsorted(np.sort(best[good]), candidates, "left")
    dropped = np.searchsorted(np.sort(best[bad]), candidates, "left")
    mean = kept / count_good + dropped / int(bad.sum())
    return float(candidates[int(np.flatnonzero(mean >= mean.max() - 1e-12)[0])])


def report_on(logits: np.ndarray, labels: np.ndarray, temperature: float, threshold: float) -> Report:
    """Return the report of a temperature and a threshold on pictures that did not choose them."""
    p = _probabilities(logits, temperature)
    known = labels != OTHER
    accepted = p.max(axis=1) >= threshold
    right = p.argmax(axis=1) == labels
    count = int(known.sum())
    return Report(
        right=Share(int(right[known].sum()), count),
        answered=Share(int(accepted[known].sum()), count),
        kept_right=Share(int((right & accepted)[known].sum()), count),
        accepted_right=Share(int((right & accepted).sum()), int(accepted.sum())),
        rejected=Share(int((~accepted)[~known].sum()), int((~known).sum())),
        before=expected_calibration_error(_softmax(logits[known]), labels[known]),
        after=expected_calibration_error(p[known], labels[known]),
    )


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error, in [0, 1] (Naeini et al. 2015; Guo et al. 2017).

    The error is the mean distance of confidence and accuracy over BINS bins of equal width, weighted by their counts.
    """
    best, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(best * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right.astype(float) - best, minlength=BINS)
    return float(np.abs(gaps).sum() / max(1, len(best)))


def told(calibration: Calibration, report: Report, none: str) -> list[str]:
    """Return the lines that describe a calibration to the user."""
    sample = calibration.sample
    lines = [
        f"{sample['name']}: {sample['chose']:,} pictures chose, the other {sample['checked']:,} say:",
        f"  temperature {calibration.temperature:.4g}: expected calibration error {report.before:.1%} before, "
        f"{report.after:.1%} with it",
        f"  threshold {calibration.threshold:.4g}: {calibration.criterion}",
        f"  right without a threshold: {report.right}",
        f"  right with it: {report.kept_right} of all; {report.accepted_right} of those that get a class",
        f"  of pictures of the classes, {report.answered} get one, right or wrong",
    ]
    if report.rejected.count:
        lines.append(f"  of other pictures, {report.rejected} get {none!r}")
    return lines


def _probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    # Computed by the rule itself, so that a threshold means the same here and there.
    found: Tensor = Rule(temperature).probabilities(torch.from_numpy(logits).float())
    return found.double().numpy()


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
