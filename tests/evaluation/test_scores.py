from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from openslip.evaluation import Result
from openslip.evaluation.metrics import wilson
from openslip.evaluation.scores import Score, ahead, score, welch


def of(value: float, low: float, high: float) -> Score:
    return Score(value, low, high, None, 1, (100,))


def measured(value: float, low: float, high: float, count: int = 100, metric: str = "top1") -> Result:
    return Result("knn:x", metric, value, count, low, high)


def test_welch_s_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for one, other in ((2, 2), (3, 3), (3, 5), (2, 9)):
        before, after = rng.normal(0, 1, one), rng.normal(2, 3, other)
        low, high = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
        assert welch(before.tolist(), after.tolist()) == pytest.approx((high - low) / 2, rel=1e-3)
    assert welch([0.5, 0.5], [0.7, 0.7]) == 0


def test_one_run_is_as_it_was_measured() -> None:
    assert score([measured(0.5, 0.4, 0.6)]) == Score(0.5, 0.4, 0.6, None, 1, (100,))


def test_several_seeds_are_their_mean_with_both_sources_of_chance() -> None:
    values = [0.40, 0.46, 0.43]
    found = score([measured(value, value - 0.03, value + 0.04) for value in values])
    sd = float(np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=sd / math.sqrt(3))
    seeds = (high - low) / 2
    assert found.value == pytest.approx(np.mean(values))
    assert found.spread == pytest.approx(sd)
    assert found.value - found.low == pytest.approx(math.hypot(0.03, seeds), rel=1e-3)
    assert found.high - found.value == pytest.approx(math.hypot(0.04, seeds), rel=1e-3)
    assert (found.runs, found.counts) == (3, (100,))


def test_intervals_stay_where_values_can_be() -> None:
    shares = score([measured(0.01, 0.0, 0.02), measured(0.99, 0.98, 1.0)])
    assert (shares.low, shares.high) == (0.0, 1.0)
    ranks = score([measured(value, 1, 9, metric="text_median_rank") for value in (1.0, 5.0)])
    assert ranks.low == 1.0
    assert ranks.high > 9


def test_a_seed_that_is_not_a_number_makes_no_mean() -> None:
    found = score([measured(0.5, 0.4, 0.6), measured(math.nan, math.nan, math.nan)])
    assert not found.certain
    assert math.isnan(found.value)


def test_ahead_needs_a_difference_that_is_clear_of_every_other() -> None:
    assert ahead({"a": of(0.5, 0.4, 0.6), "b": of(0.8, 0.7, 0.9)}, lower=False) == "b"
    assert ahead({"a": of(0.7, 0.6, 0.8), "b": of(0.8, 0.75, 0.9)}, lower=False) is None
    # Clear of the second, not of the third, which was measured on fewer samples.
    third = {"a": of(0.9, 0.85, 0.95), "b": of(0.8, 0.79, 0.81), "c": of(0.7, 0.4, 0.98)}
    assert ahead(third, lower=False) is None
    assert ahead({"a": of(12.0, 10.0, 14.0), "b": of(3.0, 2.0, 4.0)}, lower=True) == "b"
    assert ahead({"a": of(0.6, 0.6, 0.6), "b": of(0.6, 0.6, 0.6)}, lower=False) is None


def test_ahead_needs_someone_to_compare_with() -> None:
    alone = {"a": of(0.9, 0.85, 0.95)}
    assert ahead(alone, lower=False) is None
    assert ahead(alone | {"b": of(math.nan, 0.0, 0.0)}, lower=False) is None
    assert ahead(alone | {"b": of(0.1, math.nan, 0.2)}, lower=False) is None


@pytest.mark.parametrize(("rows", "seeds"), [(2, 1), (4, 1), (2, 3), (3, 5)])
def test_equals_are_rarely_said_to_be_ahead(rows: int, seeds: int) -> None:
    """The slow twin: equal methods, seeds that move what is right by 2 points, samples drawn anew each time."""
    rng, count, trials, said = np.random.default_rng(0), 500, 1500, 0
    for _ in range(trials):
        table = {}
        for row in range(rows):
            results = []
            for truth in 0.4 + (0.02 if seeds > 1 else 0.0) * rng.standard_normal(seeds):
                hits = rng.binomial(count, truth)
                results.append(measured(hits / count, *wilson(hits, count), count))
            table[str(row)] = score(results)
        said += ahead(table, lower=False) is not None
    assert said / trials < 0.06


def test_a_real_lead_is_found() -> None:
    rng, count, said = np.random.default_rng(1), 1000, 0
    for _ in range(200):
        table = {
            name: score(
                [measured(hits / count, *wilson(hits, count)) for hits in rng.binomial(count, truth, 3)]
            )
            for name, truth in (("a", 0.3), ("b", 0.4))
        }
        said += ahead(table, lower=False) == "b"
    assert said > 180
