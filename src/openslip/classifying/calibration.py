"""A temperature and a threshold, chosen on pictures whose classes are known and checked on others of them.

Logits divided by a temperature give probabilities that say how often answers are right (Guo et al. 2017). The
temperature is the one of maximum likelihood. The threshold is the one with the best mean of two shares. One half of the
sample chooses; what is reported comes from the other half.
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
"""Pictures of the classes, and others where there are any, below which nothing can be chosen and checked."""
FEW = 200
"""Pictures below which it is said that the shares are uncertain."""
BINS = 15
"""Of the expected calibration error, as Guo et al. have it."""
COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures that are looked through."""
OTHER = -1
"""The label of a picture that is of none of the classes."""


@dataclass(frozen=True)
class Share:
    """So many of `count` pictures, with the 95 % interval (Wilson) of the share."""

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
    """What the pictures that chose nothing say of a calibration.

    right: pictures of the classes whose most probable class is theirs, before any threshold. Of these pictures with the
    threshold: `answered` got a class, `kept_right` the right one. accepted_right: of all pictures that got a class, the
    others among them, those that got the right one. rejected: of the other pictures, those that got none. before and
    after: expected calibration error of pictures of the classes, without the temperature and with it, in [0, 1].
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
    """A temperature and a threshold of one classifier.

    criterion: what the threshold is the best of, in words. classifier: a digest of what gives the logits. sample: what
    they were chosen on: its name, a digest of its pictures, and counts. report: of the other half, as JSON has it.
    """

    temperature: float
    threshold: float
    criterion: str
    classifier: str
    sample: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    def rule(self, none: str) -> Rule:
        """Return how logits become an answer by it; none: what pictures of no class are called."""
        return Rule(self.temperature, self.threshold, none)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all. Raises ConfigError where it cannot be written."""
        try:
            write_json(expand(path), {"format": FORMAT, "version": VERSION, **asdict(self)})
        except OSError as error:
            raise ConfigError(
                "The calibration cannot be written", got=str(path), cause=error.strerror or str(error)
            ) from None


def check_place(path: Path, *, written: bool) -> None:
    """Raise ConfigError where a calibration is to be `written` and cannot be, or is to be read and is not there."""
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
            "The file that the calibration is to be written to holds something else",
            got=str(path),
            fix="Name a file that is not there yet",
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
    """Return what `Calibration.save` wrote. Raises CheckpointError for anything else, and for another classifier's."""
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
            cause="Its model, classes or templates are others, and its probabilities say something else",
            fix="Calibrate anew: --calibrate SAMPLE",
        )
    return kept


def digest_of(classifier: Classifier) -> str:
    """Return what tells a classifier from others: its classes, its model, and its preprocessing."""
    model, prepared = classifier.model.model, classifier.model.preprocess
    parts = [*classifier.names, *(repr(getattr(prepared, one.name)) for one in fields(Preprocess))]
    if isinstance(classifier, ZeroShotClassifier):
        # Not the classes' embeddings, in whose last bits machines differ.
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
    """K pictures of a labelled sample that could be used: logits (K, C) float64, labels (K,), OTHER for none of the
    classes, and digests by which equal pictures are known. notes: which classes were taken for which, in sentences."""

    name: str
    logits: np.ndarray
    labels: np.ndarray
    digests: Sequence[bytes]
    skipped: int
    notes: tuple[str, ...]


def untrained(classifier: Classifier, labelled: LabelledSet) -> Labelled:
    """Return the pictures of a set that the classifier was not trained on, as far as the set tells.

    Of a set without splits that is all of it for zero-shot classification. A probe or a finetuning may have been
    trained on four fifths of it; so the other fifth is taken. Raises DataError for a set of training pictures alone.
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
    """Go through a labelled sample; classes that the classifier does not have count as none of its classes.

    none: a class of the sample that is none of them, too. Raises ConfigError where no class is the classifier's.
    """
    labels_of, notes = match(labelled.class_names, classifier, none)
    present = set(np.unique(labelled.labels).tolist())
    if all(labels_of[label] == OTHER for label in present):
        raise ConfigError(
            "The sample has no class that the classifier has",
            got=", ".join(labelled.class_names[label] for label in sorted(present)[:5]),
            cause=f"The classifier has {', '.join(classifier.names[:5])}{', …' if len(classifier.names) > 5 else ''}",
            fix="Call the classes of the sample as those of the classifier",
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
    """Return for each class of a sample which of the classifier's it is, OTHER for none, and sentences on it.

    Classes meet by their names in spite of capitals, `-` and `_`; in zero-shot classification also by their words.
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
            f"{len(others)} of {len(sample)} classes of the sample are none of the classifier's, and count as "
            f"{none!r}: {_some(others)}.{near}"
        )
    if lacking:
        notes.append(f"The sample has no pictures of {len(lacking)} classes: {_some(lacking)}.")
    return found, notes


def calibrate(
    classifier: Classifier, sample: Sample, *, keep_temperature: bool = False
) -> tuple[Calibration, Report, list[str]]:
    """Choose a temperature and a threshold on one half of a sample; return them, what the other half says, and
    sentences that people should read.

    Equal pictures are in one half, and so is the same picture in whatever order the sample lies. keep_temperature:
    choose the threshold alone, for probabilities as the model gives them.

    Raises DataError for a sample of fewer than LEAST pictures of the classes, or of others where there are some.
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
                "The sample does not tell a temperature, as almost every answer is right or none is. Probabilities "
                "stay as they are."
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
            "pictures of something else fall below it is not known: add some, in a class of the sample called none."
        )
    if min(known, others or known) < FEW:
        notes.append(
            f"The sample is small: {known:,} pictures of the classes"
            + (f" and {others:,} others" if others else "")
            + ", half of which chose and half of which are reported. The intervals say how uncertain the shares are."
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
            cause=f"Half of them choose and half check, and fewer than {LEAST} of a kind say nothing",
            fix="Take more pictures, some hundreds of each kind; or give a threshold with --threshold",
        )


def halves(labels: np.ndarray, digests: Sequence[bytes]) -> np.ndarray:
    """Return which of K pictures choose: every second one of each class, in the order of their digests.

    Pictures of one digest go together, so that none is checked on a copy of itself.
    """
    side: dict[bytes, bool] = {}
    for label in np.unique(labels):
        members = sorted({digests[i] for i in np.flatnonzero(labels == label).tolist()})
        # Where classes have few pictures, the odd ones would all fall on one side.
        start = int(label) % 2
        for rank, member in enumerate(members):
            side.setdefault(member, (rank + start) % 2 == 0)
    return np.array([side[one] for one in digests], dtype=bool)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of maximum likelihood, within [COLDEST, HOTTEST].

    logits: (K, C); labels: (K,) in [0, C). The likelihood is concave in the inverse b of the temperature; its slope,
    the mean of logit of the label minus the expected logit at b, is 0 at the maximum, which bisection finds.
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
    """Return the threshold with the best mean of two shares; of equally good ones the lowest, which rejects least.

    probabilities: (K, C); labels: (K,), OTHER for none of the classes. With other pictures the shares are: of pictures
    of the classes, those that get the right class; of other pictures, those that get none. Without: of right answers,
    those that are kept; of wrong ones, those that are dropped. A threshold lies halfway between two probabilities.
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
    """Return what pictures say that chose nothing."""
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
    """Return the mean distance of confidence and accuracy over BINS bins of confidence of equal width, weighted by
    their counts (Naeini et al. 2015; Guo et al. 2017), in [0, 1]."""
    best, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(best * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right.astype(float) - best, minlength=BINS)
    return float(np.abs(gaps).sum() / max(1, len(best)))


def told(calibration: Calibration, report: Report, none: str) -> list[str]:
    """Return a calibration in lines for people."""
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
    # As the rule computes them, so that a threshold means the same there.
    found: Tensor = Rule(temperature).probabilities(torch.from_numpy(logits).float())
    return found.double().numpy()


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
