from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_fakes import Captioned, ColorEncoder, color_folder, picture, png

from openslip.evaluation import Result, results, suite
from openslip.evaluation.classification import classification
from openslip.evaluation.compare import (
    compare,
    difference,
    headlines,
    mean_per_class_interval,
    median_interval,
    proportion_interval,
    table,
    verdict,
)
from openslip.evaluation.fewshot import FewShot
from openslip.evaluation.geometry import Geometry
from openslip.evaluation.outcomes import Outcomes
from openslip.evaluation.retrieval import Retrieval


def of_hits(before, after, metric="top1", task="knn:birds", **outcomes):
    """Return the difference of two models' hits."""
    pair = []
    for hits in (before, after):
        known = Outcomes(np.asarray(hits), **outcomes)
        pair.append(Result(task, metric, known.value(), len(hits), 0.0, 1.0, content="same", outcomes=known))
    return difference(*pair)


def test_the_formula_in_its_obvious_form() -> None:
    """Bonett and Price 2012: one more gained, one more lost, Wald's interval of what is then there."""
    before = [1] * 30 + [1] * 2 + [0] * 9 + [0] * 20
    after = [1] * 30 + [0] * 2 + [1] * 9 + [0] * 20
    gained = sum(b < a for b, a in zip(before, after)) + 1
    lost = sum(b > a for b, a in zip(before, after)) + 1
    n = len(before) + 2
    up, down = gained / n, lost / n
    half = 1.959963984540054 * ((up + down - (up - down) ** 2) / n) ** 0.5
    low, high = proportion_interval(np.array(before), np.array(after))
    assert (low, high) == pytest.approx((up - down - half, up - down + half), abs=1e-12)
    assert low < 7 / 61 < high


def test_the_verdict_agrees_with_the_exact_test_where_nothing_was_lost() -> None:
    """McNemar's exact test rejects from 6 changes to none on: 2 / 2^6 < 0.05 < 2 / 2^5."""
    from scipy.stats import binomtest

    for changed in range(12):
        before, after = np.zeros(200), np.arange(200) < changed
        exact = binomtest(changed, changed).pvalue if changed else 1.0
        assert (of_hits(before, after).verdict == "better") == (exact < 0.05)
        assert (of_hits(after, before).verdict == "worse") == (exact < 0.05)


def test_equal_models_differ_in_nothing_and_nothing_is_certain() -> None:
    hits = np.arange(50) % 3 == 0
    for one in (
        of_hits(hits, hits),
        of_hits(hits, hits, statistic="mean_per_class", classes=np.arange(50) % 5),
    ):
        assert one.value == 0
        assert one.low < 0 < one.high
        assert one.verdict == "undecided"
    assert of_hits(np.ones(1), np.zeros(1)).verdict == "undecided"


def bootstrap(statistic, *, seed=0, resamples=4000, groups=None, n=None):
    """The slow twin: draw samples anew, or whole groups, and look where the statistic falls."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)] if groups is not None else None
    found = []
    for _ in range(resamples):
        if members is None:
            rows = rng.integers(0, n, n)
        else:
            rows = np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])
        found.append(statistic(rows))
    return np.quantile(found, [0.025, 0.975])


def test_intervals_are_those_of_a_bootstrap_by_loops() -> None:
    rng = np.random.default_rng(1)
    before = rng.random(600) < 0.5
    after = np.where(rng.random(600) < 0.3, rng.random(600) < 0.8, before)
    twin = bootstrap(lambda rows: after[rows].mean() - before[rows].mean(), n=600)
    assert proportion_interval(before, after) == pytest.approx(tuple(twin), abs=0.006)


def test_groups_widen_the_interval_as_a_bootstrap_of_whole_groups_does() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(150), 5)
    moved = np.repeat(rng.random(150) < 0.2, 5)
    before = rng.random(750) < 0.4
    after = np.where(moved, True, before)
    twin = bootstrap(lambda rows: after[rows].mean() - before[rows].mean(), groups=groups)
    found = proportion_interval(before, after, groups)
    assert found == pytest.approx(tuple(twin), abs=0.012)
    alone = proportion_interval(before, after)
    assert alone[1] - alone[0] < 0.8 * (found[1] - found[0])


def test_mean_per_class_is_that_of_a_bootstrap_within_classes() -> None:
    rng = np.random.default_rng(3)
    classes = rng.choice(6, size=500, p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.02])
    before = rng.random(500) < 0.5
    after = np.where(rng.random(500) < 0.3, rng.random(500) < 0.2, before)
    members = [np.flatnonzero(classes == c) for c in range(6)]

    def drawn(_rows):
        rows = [rng.choice(m, len(m)) for m in members]
        return np.mean([after[r].mean() - before[r].mean() for r in rows])

    twin = bootstrap(drawn, n=1, resamples=3000)
    found = mean_per_class_interval(before, after, classes)
    assert found == pytest.approx(tuple(twin), abs=0.03)
    value = np.mean([after[m].mean() - before[m].mean() for m in members])
    assert np.mean(found) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_medians_are_those_of_a_bootstrap_by_loops(grouped) -> None:
    rng = np.random.default_rng(4)
    before = rng.geometric(0.05, 301)
    after = np.maximum(1, before - rng.integers(0, 12, 301))
    groups = np.repeat(np.arange(101), 3)[:301] if grouped else None
    twin = bootstrap(lambda rows: np.median(after[rows]) - np.median(before[rows]), groups=groups, n=301)
    found = median_interval(before, after, groups)
    assert found == pytest.approx(tuple(twin), abs=1.0)
    assert median_interval(before, after, groups) == found  # by chance, and yet always the same
    low, high = found
    assert low <= np.median(after) - np.median(before) <= high


def covers(draw, interval, truth, times=600):
    """Return the share of simulated measurements whose interval holds the truth."""
    held = 0
    for seed in range(times):
        low, high = interval(*draw(np.random.default_rng(seed)))
        held += low <= truth <= high
    return held / times


@pytest.mark.parametrize(("count", "gain", "loss"), [(20, 0.2, 0.1), (100, 0.05, 0.05), (500, 0.01, 0.03)])
def test_the_interval_of_shares_covers_the_truth(count, gain, loss) -> None:
    """Of 600 intervals that hold the truth with a chance of 0.95, fewer than 0.92 do with a chance of 0.1 %."""

    def draw(rng):
        kind = rng.random(count)
        before = rng.random(count) < 0.5
        return np.where(kind < gain + loss, kind >= gain, before), np.where(
            kind < gain + loss, kind < gain, before
        )

    assert 0.92 <= covers(draw, proportion_interval, gain - loss) <= 0.995


@pytest.mark.parametrize("sizes", [(10,) * 20, (400, 100, 20, 5)])
def test_the_interval_of_means_over_classes_covers_the_truth(sizes) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    gain = np.linspace(0.02, 0.2, len(sizes))

    def draw(rng):
        kind, before = rng.random(len(classes)), rng.random(len(classes)) < 0.5
        gained, lost = kind < gain[classes], kind > 0.95
        return (
            np.where(gained, False, np.where(lost, True, before)),
            np.where(gained, True, np.where(lost, False, before)),
            classes,
        )

    assert 0.92 <= covers(draw, mean_per_class_interval, gain.mean() - 0.05) <= 0.998


def test_the_interval_of_grouped_shares_covers_the_truth() -> None:
    groups = np.repeat(np.arange(60), 5)

    def draw(rng):
        moved = np.repeat(rng.random(60), 5)
        before = rng.random(300) < 0.5
        return np.where(moved < 0.3, moved >= 0.2, before), np.where(moved < 0.3, moved < 0.2, before), groups

    assert 0.92 <= covers(draw, proportion_interval, 0.1) <= 0.995
    assert (
        covers(lambda rng: draw(rng)[:2], proportion_interval, 0.1) < 0.85
    )  # as if captions were on their own


@pytest.mark.slow
def test_the_interval_of_medians_covers_the_truth() -> None:
    def draw(rng):
        shared = rng.exponential(20, 101)
        return shared + rng.exponential(5, 101), shared + rng.exponential(5, 101)

    assert covers(draw, median_interval, 0.0, times=300) >= 0.92


def test_fewer_false_verdicts_than_one_in_twenty() -> None:
    """Models that differ by chance alone: of 600 comparisons, 30 or so may be decided, hardly ever 49."""
    decided = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        kind, before = rng.random(150), rng.random(150) < 0.5
        after = np.where(kind < 0.2, ~before, before)
        decided += of_hits(before, after).verdict != "undecided"
    assert decided < 49


def test_ranks_are_better_where_they_are_lower() -> None:
    before = np.arange(1, 201)
    one = of_hits(before, np.maximum(1, before - 60), "text_median_rank", statistic="median")
    assert one.value < 0
    assert one.verdict == "better"
    assert "100.5  " in table([one])


def test_results_that_cannot_be_paired_have_the_wider_interval_and_say_so() -> None:
    rng = np.random.default_rng(5)
    before = rng.random((400, 10))
    labels = rng.integers(0, 10, 400)
    after = before + 0.2 * np.eye(10)[labels]
    pair = [classification("knn:birds", scores, labels, content="same")[0] for scores in (before, after)]
    paired = difference(*pair)
    assert not paired.unpaired
    for other, why in (
        (replace(pair[0], content="other"), "other pictures"),
        (replace(pair[0], outcomes=None), "single samples is not known"),
        (replace(pair[0], outcomes=Outcomes(before[:399, 0])), "not the same"),
        (replace(pair[0], outcomes=Outcomes(before[:, 0], groups=labels)), "not the same"),
    ):
        one = difference(other, pair[1])
        assert why in one.unpaired
        assert one.value == paired.value
        assert one.high - one.low > paired.high - paired.low
        assert f"* wider than it need be, as samples are not paired: {one.unpaired}" in table([one])
        below = np.hypot(pair[1].value - pair[1].low, pair[0].high - pair[0].value)
        assert one.low == pytest.approx(one.value - below)
    assert difference(replace(pair[0], content=""), replace(pair[1], content="")).unpaired


def test_results_of_other_settings_are_not_compared() -> None:
    one = Result("knn:birds", "top1", 0.5, 9, 0.2, 0.8, data="/a", settings="k=5")
    assert compare([one], [replace(one, value=0.6, checkpoint="step-00000002")])[0].value == pytest.approx(
        0.1
    )
    for changed in (
        {"settings": ""},
        {"data": "/b"},
        {"prompts": "{}"},
        {"metric": "top5"},
        {"split": "val"},
    ):
        assert not compare([one], [replace(one, **changed)])


def test_what_protocols_measure_is_paired(tmp_path) -> None:
    spec = str(color_folder(tmp_path / "colors", {"red": 6, "green": 8, "blue": 7}))
    rng = np.random.default_rng(0)
    captioned = Captioned(
        [
            (png(picture(c, rng)), (f"a {c} thing", f"{c} {i}"))
            for i, c in enumerate(("red", "green", "blue") * 3)
        ]
    )
    tasks = [f"zeroshot:{spec}", f"knn:{spec}", f"linear:{spec}", Retrieval(captioned)]

    class Blind(ColorEncoder):
        def encode_text(self, texts, *, normalize=True):
            return super().encode_text(["red"] * len(texts), normalize=normalize)

    before, after = (suite.run(encoder, tasks) for encoder in (Blind(), ColorEncoder()))
    found = compare(before, after)
    assert len(found) == len(after) == 3 + 2 + 3 + 8
    assert not any(one.unpaired for one in found)
    for one in found:
        outcomes = one.after.outcomes
        assert outcomes.value() == one.after.value
        assert len(outcomes.values) == one.after.count
    told = {f"{one.after.task}/{one.after.metric}": one.verdict for one in found}
    assert told["zeroshot:colors/top1"] == "better"
    assert told["knn:colors/top1"] == "undecided"
    assert verdict(found) == ("Better on 1 of 4 tasks (zeroshot:colors top1 0.0% → 100.0%), undecided on 3.")


def test_few_shot_and_geometry_are_paired_where_they_have_samples(tmp_path) -> None:
    spec = str(color_folder(tmp_path / "colors", {"red": 4, "green": 4}))
    rng = np.random.default_rng(0)
    colors = ("red", "green", "blue", "gold") * 3
    captioned = Captioned(
        [(png(picture(c, rng)), (f"a {c} thing", f"{c} {i}")) for i, c in enumerate(colors)]
    )
    tasks = [FewShot(spec, shots=(1, 2), draws=2), Geometry(captioned)]

    class Far(ColorEncoder):
        def encode_text(self, texts, *, normalize=True):
            return -super().encode_text(texts, normalize=normalize)

    found = compare(*(suite.run(encoder, tasks) for encoder in (Far(), ColorEncoder())))
    without = {"logit_scale", "top1_spread@1shot", "top1_spread@2shot"}
    assert {one.after.metric for one in found if one.unpaired} == without
    assert all(one.low <= one.value <= one.high for one in found)
    told = {one.after.metric: one.verdict for one in found}
    assert (told["alignment"], told["text_uniformity"], told["modality_gap"]) == (
        "better",
        "undecided",
        "undecided",
    )
    for one in found:
        if one.after.outcomes is not None:
            assert one.after.outcomes.value() == pytest.approx(one.after.value)


def test_samples_stay_in_memory(tmp_path) -> None:
    one = classification("knn:birds", np.eye(6), np.arange(6), content="x")
    assert all(result.outcomes is not None and "outcomes" not in result.to_dict() for result in one)
    assert "outcomes" not in repr(one[0])
    for name in ("r.json", "r.csv"):
        results.save(one, tmp_path / name)
        assert "outcomes" not in (tmp_path / name).read_text()
    assert results.read(tmp_path / "r.json") == one  # but for what files do not have
    results.save(one, tmp_path / "b.json", [{"verdict": "better"}, {}, {}])
    assert results.read(tmp_path / "b.json") == one
    assert json.loads((tmp_path / "b.json").read_text())[0]["verdict"] == "better"


def test_the_verdict_counts_tasks_by_their_first_metric() -> None:
    up, down = (np.zeros(100), np.ones(100)), (np.ones(100), np.zeros(100))
    same = (np.ones(100), np.ones(100))
    own = [
        of_hits(*up, task="zeroshot:a"),
        of_hits(*down, "mean_per_class", task="zeroshot:a"),
        of_hits(*same, task="knn:a"),
    ]
    assert [one.after.metric for one in headlines(own)] == ["top1", "top1"]
    general = [of_hits(*down, task="zeroshot:b"), of_hits(*same, task="knn:b")]
    assert verdict(own, general) == (
        "Better on 1 of 2 own tasks (zeroshot:a top1 0.0% → 100.0%), undecided on 1. "
        "Worse on 1 of 2 general tasks (zeroshot:b top1 100.0% → 0.0%), undecided on 1."
    )
    assert verdict([own[2]]) == "Undecided on 1 of 1 task."
    assert verdict([], general[:1]) == "Worse on 1 of 1 general task (zeroshot:b top1 100.0% → 0.0%)."
    assert verdict([]) == ""
