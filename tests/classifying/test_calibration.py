"""A temperature and a threshold are the best of those there are, and are reported on pictures that chose nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

import openslip
from openslip.classifying import calibration
from openslip.classifying.calibration import (
    OTHER,
    Sample,
    Share,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
    halves,
    match,
)
from openslip.data.labelled import load_labelled, open_labelled
from openslip.errors import CheckpointError, ConfigError, DataError
from openslip.evaluation.metrics import wilson
from toys import make_tiny_config, save_photos


def problem(count=600, classes=4, others=0, scale=1.0, seed=0):
    """Logits whose softmax is the true distribution of the labels, times `scale`; `others` have flat ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    labels = np.array([rng.choice(classes, p=softmax(row)) for row in logits])
    flat = rng.normal(0, 0.3, (others, classes))
    return (
        scale * np.concatenate([logits, flat]),
        np.concatenate([labels, np.full(others, OTHER)]),
    )


@pytest.mark.parametrize("scale", [0.3, 1.0, 8.0])
def test_the_temperature_is_that_of_maximum_likelihood(scale) -> None:
    logits, labels = problem(scale=scale)

    def loss(t: float) -> float:
        return -log_softmax(logits / t, axis=1)[np.arange(len(labels)), labels].mean()

    oracle = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    assert fit_temperature(logits, labels) == pytest.approx(oracle, rel=1e-4)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.15)


def slow_threshold(p: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the best mean of two shares and the lowest threshold that has it, by trying all."""
    values = sorted(set(p.max(axis=1).tolist()))
    best = (-1.0, 0.0)
    for t in [0.0, *((a + b) / 2 for a, b in pairwise(values))]:
        accepted, right, known = p.max(axis=1) >= t, p.argmax(axis=1) == labels, labels != OTHER
        if (~known).any():
            mean = (right & accepted)[known].mean() + (~accepted)[~known].mean()
        else:
            mean = accepted[right].mean() + (~accepted)[~right].mean()
        if mean > best[0] + 1e-12:
            best = (mean, t)
    return best


@pytest.mark.parametrize("others", [0, 60])
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_best_of_all(others, seed) -> None:
    logits, labels = problem(80, others=others, seed=seed)
    p = softmax(logits, axis=1)
    assert fit_threshold(p, labels) == pytest.approx(slow_threshold(p, labels)[1], abs=1e-12)


def test_where_nothing_is_wrong_nothing_is_rejected() -> None:
    logits = np.eye(3)[np.arange(30) % 3] * 5
    assert fit_threshold(softmax(logits, axis=1), np.arange(30) % 3) == 0.0


def test_the_calibration_error_is_that_of_the_definition() -> None:
    logits, labels = problem(500)
    p = softmax(logits * 2, axis=1)
    best, right = p.max(axis=1), p.argmax(axis=1) == labels
    total = 0.0
    for i in range(15):
        inside = (best > i / 15) & (best <= (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - best[inside].mean())
    assert expected_calibration_error(p, labels) == pytest.approx(total)


def test_halves_are_of_every_class_and_keep_copies_together() -> None:
    labels = np.repeat([OTHER, 0, 1, 2], [50, 40, 41, 1])
    digests = [f"{i:03d}".encode() for i in range(len(labels))]
    digests[60] = digests[61] = digests[62]
    first = halves(labels, digests)
    for label, count in ((OTHER, 50), (0, 40), (1, 41)):
        assert abs(int(first[labels == label].sum()) - count / 2) <= 2
    assert first[60] == first[61] == first[62]
    order = np.random.default_rng(0).permutation(len(labels))
    assert np.array_equal(halves(labels[order], [digests[i] for i in order]), first[order])


@pytest.fixture(scope="module")
def classify():
    torch.manual_seed(0)
    return openslip.ZeroShotClassifier(openslip.create(make_tiny_config()), {"Reds": "red", "Blues": "blue"})


def sample_of(logits, labels) -> Sample:
    return Sample("mine", logits, labels, [str(i).encode() for i in range(len(labels))], 0, ())


def test_what_is_reported_chose_nothing(classify) -> None:
    logits, labels = problem(500, classes=2, others=300, scale=5)
    sample = sample_of(logits, labels)
    found, report, notes = calibrate(classify, sample)
    first = halves(labels, sample.digests)
    known = first & (labels != OTHER)
    assert found.temperature == pytest.approx(fit_temperature(logits[known], labels[known]))
    assert found.temperature == pytest.approx(5, rel=0.3)
    assert report.after < report.before
    rest = ~first
    p = softmax(logits[rest] / found.temperature, axis=1)
    accepted = p.max(axis=1) >= found.threshold
    rejected = ~accepted & (labels[rest] == OTHER)
    assert (report.rejected.hits, report.rejected.count) == (rejected.sum(), (labels[rest] == OTHER).sum())
    assert report.right.count == int((labels[rest] != OTHER).sum())
    assert report.rejected.interval == wilson(report.rejected.hits, report.rejected.count)
    assert not notes
    changed = logits.copy()
    changed[rest] = changed[rest][:, ::-1]
    assert calibrate(classify, sample_of(changed, labels))[0].threshold == found.threshold
    lines = calibration.told(found, report, "none")
    assert f"{report.rejected.hits:,} of {report.rejected.count:,}" in lines[-1]


def test_the_temperature_may_stay(classify) -> None:
    logits, labels = problem(500, classes=2, scale=5)
    assert calibrate(classify, sample_of(logits, labels), keep_temperature=True)[0].temperature == 1.0


def test_honest_words_about_samples(classify) -> None:
    logits, labels = problem(100, classes=2)
    notes = " ".join(calibrate(classify, sample_of(logits, labels))[2])
    assert "no pictures of other classes" in notes
    assert "sample is small: 100 pictures" in notes
    sure = np.eye(2)[np.arange(60) % 2] * 9
    found, _, notes = calibrate(classify, sample_of(sure, np.arange(60) % 2))
    assert (found.temperature, found.threshold) == (1.0, 0.0)
    assert "cannot determine a temperature" in " ".join(notes)
    for count, others in ((19, 0), (19, 50), (50, 3)):
        with pytest.raises(DataError, match="too small to calibrate on"):
            calibrate(classify, sample_of(*problem(count, classes=2, others=others)))


def test_places_of_a_calibration(tmp_path) -> None:
    file = tmp_path / "x.json"
    calibration.check_place(file, written=True)
    with pytest.raises(ConfigError, match="no such calibration"):
        calibration.check_place(file, written=False)
    for content in ("[]", '{"format": "x"}', ""):
        file.write_text(content)
        with pytest.raises(ConfigError, match="something else"):
            calibration.check_place(file, written=True)
    with pytest.raises(ConfigError, match="no such folder"):
        calibration.check_place(tmp_path / "gone" / "x.json", written=True)


def test_kept_and_read(classify, tmp_path) -> None:
    found, _, _ = calibrate(classify, sample_of(*problem(100, classes=2, others=50)))
    file = tmp_path / "calibration.json"
    found.save(file)
    read = calibration.read(file, classify)
    assert read == found
    rule = read.rule("else")
    assert (rule.temperature, rule.threshold, rule.none) == (found.temperature, found.threshold, "else")
    assert json.loads(file.read_text())["report"]["rejected"]["count"] == found.report["rejected"]["count"]
    others = (
        openslip.ZeroShotClassifier(classify.model, {"Blues": "blue", "Reds": "red"}),
        openslip.ZeroShotClassifier(classify.model, {"Reds": "red", "Blues": "blue"}, ["{}"]),
        openslip.ZeroShotClassifier(openslip.create(make_tiny_config()), {"Reds": "red", "Blues": "blue"}),
    )
    for other in others:
        with pytest.raises(CheckpointError, match="belongs to another classifier"):
            calibration.read(file, other)
    content = json.loads(file.read_text())
    damaged = ({"threshold": 2}, {"temperature": 0}, {"temperature": 1e-310}, {"temperature": float("nan")})
    for wrong in (*damaged, {"format": "x"}, {"version": 9}, {"report": None}):
        file.write_text(json.dumps(content | wrong))
        with pytest.raises(CheckpointError, match="cannot be read"):
            calibration.read(file, classify)
    file.write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read"):
        calibration.read(file, classify)
    with pytest.raises(ConfigError, match="cannot be written"):
        found.save(tmp_path / "gone" / "x.json")


def test_classes_of_a_sample_meet_those_of_the_classifier(classify) -> None:
    found, notes = match(["blues", "RED", "None", "green", "Red_s"], classify, "none")
    assert found == [1, 0, OTHER, OTHER, OTHER]
    assert "lacks 3 of 5 classes of the sample" in notes[0]
    assert "'Redss' may mean 'Reds'" in match(["Redss", "blue"], classify, "none")[1][0]
    assert match(["reds", "Blues"], classify, "none") == ([0, 1], [])
    assert "no pictures of 1 classes: Blues" in match(["reds", "x"], classify, "none")[1][1]


def test_a_sample_is_gone_through(classify, tmp_path) -> None:
    photos = save_photos(tmp_path / "photos", test=3)
    (photos / "test" / "none").mkdir()
    (photos / "test" / "none" / "x.png").write_bytes((photos / "test/red/0.png").read_bytes())
    (photos / "test" / "red" / "broken.png").write_bytes(b"no picture")
    sample = calibration.read_sample(classify, load_labelled(str(photos), "test"), "none")
    assert sorted(sample.labels.tolist()) == [OTHER, 0, 0, 0, 1, 1, 1]
    assert sample.skipped == 1
    paths = [*sorted((photos / "test/blue").glob("*.png")), photos / "test/none/x.png"]
    paths += sorted((photos / "test/red").glob("[0-9].png"))
    np.testing.assert_allclose(sample.logits, classify.logits(paths).numpy(), rtol=1e-4, atol=1e-5)
    assert len(set(sample.digests)) == 6


def test_what_a_classifier_may_have_been_trained_on_is_no_sample(classify, tmp_path) -> None:
    labelled = open_labelled(str(save_photos(tmp_path / "photos", test=0) / "train"))
    assert len(calibration.untrained(classify, labelled)) == 24
    trained = openslip.LinearClassifier.__new__(openslip.LinearClassifier)
    assert len(calibration.untrained(trained, labelled)) == 4


def test_a_sample_of_other_classes_alone(classify, tmp_path) -> None:
    folder = Path(save_photos(tmp_path / "photos", test=2))
    labelled = open_labelled(str(folder)).split("test")
    other: Any = SimpleNamespace(names=("cat", "dog"), words=("cat", "dog"), model=classify.model)
    with pytest.raises(ConfigError, match="no class that the classifier has"):
        calibration.read_sample(other, labelled, "none")


def test_shares_say_their_counts() -> None:
    assert str(Share(1, 2)).endswith("1 of 2)")
    assert str(Share(0, 0)) == "none of none"
    assert Share(0, 0).to_dict()["value"] is None
