from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from evaluation_fakes import ColorEncoder, color_folder
from openslip.evaluation import linear


def problem(samples=400, dims=10, classes=4, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dims))
    labels = rng.integers(0, classes, samples)
    values = centres[labels] + spread * rng.normal(size=(samples, dims))
    return values.astype(np.float32), labels


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_fit_is_scikit_learns_optimum(l2):
    values, labels = problem()
    oracle = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-9, max_iter=5000).fit(
        values.astype(float), labels
    )
    x, y = torch.from_numpy(values).double(), torch.from_numpy(labels)
    weight, bias = linear.fit(x, y, 4, l2, tolerance=1e-9)
    # the bias is free up to a constant: softmax does not see it
    assert weight.numpy() == pytest.approx(oracle.coef_, abs=1e-4)
    assert (bias - bias.mean()).numpy() == pytest.approx(
        oracle.intercept_ - oracle.intercept_.mean(), abs=1e-4
    )


def test_gradient_of_the_closure_is_autograds(monkeypatch):
    """One L-BFGS step from zero goes down the gradient: compare its direction with autograd's, in two row chunks."""
    monkeypatch.setattr(linear, "ROWS", 150)
    values, labels = problem(samples=200)
    x, y = torch.from_numpy(values).double(), torch.from_numpy(labels)
    theta = torch.randn(
        4, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ theta[:, :-1].T + theta[:, -1], y)
    (loss + 0.05 * theta[:, :-1].square().sum()).backward()
    start = theta.detach()[:, :-1].clone(), theta.detach()[:, -1].clone()
    weight, bias = linear.fit(x, y, 4, 0.1, start=start, max_iterations=1)
    step = torch.cat([weight - start[0], (bias - start[1])[:, None]], dim=1)
    gradient = theta.grad
    assert gradient is not None
    cosine = -(step * gradient).sum() / (step.norm() * gradient.norm())
    assert float(cosine) == pytest.approx(1.0, abs=1e-9)


def test_optimum_does_not_depend_on_start_precision_or_row_chunks(monkeypatch):
    values, labels = problem()
    x, y = torch.from_numpy(values).double(), torch.from_numpy(labels)
    reference, _ = linear.fit(x, y, 4, 1e-2, tolerance=1e-8)
    warm, _ = linear.fit(x, y, 4, 1e-2, start=linear.fit(x, y, 4, 1.0), tolerance=1e-8)
    single, _ = linear.fit(x.float(), y, 4, 1e-2)
    monkeypatch.setattr(linear, "ROWS", 64)
    chunked, _ = linear.fit(x, y, 4, 1e-2, tolerance=1e-8)
    for other, tolerance in ((warm, 1e-5), (chunked, 1e-5), (single.double(), 1e-2)):
        assert torch.allclose(other, reference, atol=tolerance)


def test_probe_standardises_and_matches_scikit_learn():
    values, labels = problem()
    scaled = values * np.logspace(-2, 2, 10, dtype=np.float32) + 5
    probe = linear.fit_probe(scaled, labels, 4)
    mean, std = scaled.mean(axis=0), scaled.std(axis=0)
    oracle = LogisticRegression(C=1 / (probe.l2 * len(labels)), tol=1e-9, max_iter=5000)
    oracle.fit(((scaled - mean) / std).astype(float), labels)
    assert probe.weight == pytest.approx(oracle.coef_, abs=2e-3)
    guesses = probe.scores(scaled).argmax(axis=1)
    assert (guesses == oracle.predict((scaled - mean) / std)).mean() > 0.99


def test_given_samples_choose_the_penalty_and_all_are_fitted():
    values, labels = problem(samples=300, dims=100, spread=6.0)
    usual = linear.fit_probe(values, labels, 4)
    given = linear.fit_probe(values, labels, 4, chosen_on=linear.validation_mask(labels))
    assert np.array_equal(given.weight, usual.weight)
    probe = linear.fit_probe(values, labels, 4, chosen_on=np.arange(300) >= 200)
    scaled = ((values - values.mean(axis=0)) / values.std(axis=0)).astype(float)
    some = LogisticRegression(C=1 / (probe.l2 * 200), tol=1e-6, max_iter=5000).fit(scaled[:200], labels[:200])
    assert probe.validation_top1 == pytest.approx(some.score(scaled[200:], labels[200:]), abs=0.02)
    whole = LogisticRegression(C=1 / (probe.l2 * 300), tol=1e-9, max_iter=5000).fit(scaled, labels)
    assert probe.weight == pytest.approx(whole.coef_, abs=2e-3)


def test_penalty_follows_the_data():
    """Few noisy samples in many dimensions want a strong penalty, many clean ones a weak one."""
    noisy_values, noisy_labels = problem(samples=120, dims=100, spread=6.0)
    clean_values, clean_labels = problem(samples=3000, dims=5, spread=0.7)
    noisy = linear.fit_probe(noisy_values, noisy_labels, 4)
    clean = linear.fit_probe(clean_values, clean_labels, 4)
    assert noisy.l2 > clean.l2
    assert 0 < noisy.validation_top1 < clean.validation_top1 <= 1


def test_validation_mask_is_stratified_and_fixed():
    labels = np.repeat([0, 1, 2], [10, 1, 25])
    mask = linear.validation_mask(labels)
    assert [int(mask[labels == c].sum()) for c in range(3)] == [2, 0, 5]
    assert np.array_equal(mask, linear.validation_mask(labels))
    assert not np.array_equal(mask, linear.validation_mask(labels, seed=1))


def test_constant_feature_and_absent_class_do_no_harm():
    values, labels = problem()
    values[:, 3] = 7.0
    probe = linear.fit_probe(values, labels, 6)
    assert probe.scores(values).shape == (400, 6)
    assert np.isfinite(probe.scores(values)).all()
    assert set(probe.scores(values).argmax(axis=1)) <= {0, 1, 2, 3}


def test_a_public_set_with_a_validation_split_is_fitted_on_both(tmp_path):
    counts = {"red": 6, "green": 8, "blue": 7}
    spec = str(color_folder(tmp_path / "colors", counts, splits=("train", "val", "test")))
    (alone, *_), (public, *_) = (
        task.evaluate(ColorEncoder()) for task in (linear.Linear(spec), linear.Linear(f"dtd@{spec}"))
    )
    assert (alone.settings, public.settings) == ("", "fitted on train and val")
    assert alone.content != public.content
    assert (alone.count, public.count, public.value) == (21, 21, 1.0)
    task, encoder = linear.Linear(f"dtd@{spec}"), ColorEncoder()
    task.check()
    assert (
        "linear:dtd is fitted on train and val of colors, 42 images; val chooses the penalty." in task.lines()
    )
    assert task.about()["settings"] == public.settings
    task.evaluate(encoder)
    assert encoder.encoded == 3 * 21
    # EuroSAT's card has no validation split.
    assert linear.Linear(f"eurosat@{spec}").evaluate(ColorEncoder())[0].settings == ""


def test_finds_the_colours(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 6, "green": 8, "blue": 7, "gold": 5}))
    top1, per_class, *_ = linear.Linear(spec).evaluate(ColorEncoder(("ssl_1", "ssl_2")))
    assert (top1.key, top1.value, top1.count) == ("linear:colors/top1", 1.0, 26)
    assert (per_class.metric, per_class.value) == ("mean_per_class", 1.0)
