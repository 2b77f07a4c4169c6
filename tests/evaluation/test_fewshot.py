from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evaluation_fakes import ColorEncoder, color_folder
from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import suite
from openslip.evaluation.features import extract
from openslip.evaluation.fewshot import FewShot, drawn
from openslip.evaluation.measures import measure
from openslip.evaluation.suite import parse_task


class Blurred(ColorEncoder):
    """Sees colours through noise that is a function of the picture: probes on few pictures are wrong now and then."""

    def image_features(self, images, **options):
        made = np.asarray(super().image_features(images, **options)).reshape(len(images), -1)[:, :12]
        return made + 0.6 * np.sin(1e4 * made)


def test_draws_follow_from_pictures_and_seed_alone():
    rng = np.random.default_rng(0)
    labels, digests = rng.integers(0, 3, 40), [rng.bytes(16) for _ in range(40)]
    places = drawn(labels, digests, 0, 0)
    for label in range(3):
        assert sorted(places[labels == label]) == list(range((labels == label).sum()))
    order = rng.permutation(40)
    moved = drawn(labels[order], [digests[i] for i in order], 0, 0)
    assert np.array_equal(moved, places[order])
    for other in (drawn(labels, digests, 0, 1), drawn(labels, digests, 1, 0)):
        assert not np.array_equal(other, places)


def test_equals_a_probe_of_scikit_learn_on_the_drawn_pictures(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 6, "green": 6, "blue": 5, "gold": 6}))
    encoder, task = Blurred(), FewShot(spec, shots=(1, 4), draws=3)
    found = {r.metric: r for r in task.evaluate(encoder)}
    data = task.opened()
    train, test = data.split("train"), data.split("test")
    features = {one.split: extract(encoder, one.images) for one in (train, test)}
    for shots in (1, 4):
        accuracies = []
        for draw in range(3):
            rows = np.flatnonzero(drawn(train.labels, features["train"].digests, 0, draw) < shots)
            x, y = features["train"].values[rows].astype(np.float64), train.labels[rows]
            scaler: Any = StandardScaler().fit((x - x.mean(axis=0)).reshape(-1, 1))
            middle, scale = x.mean(axis=0), scaler.scale_[0]
            twin = LogisticRegression(C=1 / (task.penalty * len(rows)), tol=1e-8, max_iter=10_000)
            twin.fit((x - middle) / scale, y)
            accuracies.append(twin.score((features["test"].values - middle) / scale, test.labels))
        assert found[f"top1@{shots}shot"].value == pytest.approx(np.mean(accuracies), abs=1e-9)
        assert found[f"top1_spread@{shots}shot"].value == pytest.approx(np.std(accuracies, ddof=1), abs=1e-9)
    assert 0.3 < found["top1@4shot"].value < 1


def test_results_go_from_many_shots_to_few_with_intervals_and_outcomes(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 5, "green": 3, "blue": 2}))
    task = parse_task(f"fewshot:{spec}")
    results = suite.run(Blurred(), [task])
    assert [r.metric for r in results] == [
        *("top1@4shot", "top1@2shot", "top1@1shot"),
        *("top1_spread@4shot", "top1_spread@2shot", "top1_spread@1shot"),
    ]
    for result in results:
        assert result.low <= result.value <= result.high
        assert result.count == (5 if "spread" in result.metric else 10)
        if result.outcomes is not None:
            assert result.outcomes.value() == pytest.approx(result.value)
    assert isinstance(task, FewShot)
    lines = task.lines()
    assert any("2 of 3 classes have fewer than 4 training images" in line for line in lines)
    assert any("blue, green" in line for line in lines)
    assert any("no class of colors has 16 training images" in line for line in lines)


def test_the_same_pictures_in_another_place_give_the_same_numbers(tmp_path):
    specs = [str(color_folder(tmp_path / name, {"red": 5, "green": 5, "blue": 5})) for name in ("a", "b")]
    pictures = sorted((tmp_path / "b" / "train" / "red").iterdir())
    for number, path in enumerate(pictures):
        path.rename(path.with_name(f"{(7 * number) % 5}-{path.name}"))
    first, second = ([r.value for r in FewShot(spec, shots=(2,)).evaluate(Blurred())] for spec in specs)
    assert first == second


@pytest.mark.parametrize(
    "options", [{"shots": ()}, {"shots": (0,)}, {"draws": 1}, {"penalty": -1}, {"seed": -1}]
)
def test_settings_that_make_no_sense_are_errors(tmp_path, options):
    with pytest.raises(ConfigError, match="Few-shot takes"):
        FewShot(str(tmp_path), **options).check()


def test_data_without_enough_pictures_are_errors(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 2, "green": 2}))
    with pytest.raises(EvaluationError, match="as many training images as shots"):
        FewShot(spec, shots=(4,)).evaluate(ColorEncoder())


def test_metrics_are_named_in_words():
    assert measure("fewshot:x/top1@4shot").title == "top-1, 4 a class"
    assert (measure("top1_spread@4shot").title, measure("top1_spread@4shot").better) == (
        "spread of top-1, 4 a class",
        "",
    )
