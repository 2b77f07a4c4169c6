from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evaluation_fakes import Captioned, ColorEncoder, color_folder, picture, png
from openslip.evaluation import Result, results, suite
from openslip.evaluation.classification import classification
from openslip.evaluation.compare import (
    compare,
    difference,
    difference_of_seeds,
    headlines,
    interval,
    mean_per_class_interval,
    median_interval,
    proportion_interval,
    sentences,
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
        (replace(pair[0], content="other"), "different pictures"),
        (replace(pair[0], outcomes=None), "single samples are not known"),
        (replace(pair[0], outcomes=Outcomes(before[:399, 0])), "not the same"),
        (replace(pair[0], outcomes=Outcomes(before[:, 0], groups=labels)), "not the same"),
    ):
        one = difference(other, pair[1])
        assert why in one.unpaired
        assert one.value == paired.value
        assert one.high - one.low > paired.high - paired.low
        assert f"* wider than necessary, because samples are not paired: {one.unpaired}" in table([one])
        below = np.hypot(pair[1].value - pair[1].low, pair[0].high - pair[0].value)
        assert one.low == pytest.approx(one.value - below)
    assert difference(replace(pair[0], content=""), replace(pair[1], content="")).unpaired


def test_results_of_other_settings_are_not_compared() -> None:
    one = Result("knn:birds", "top1", 0.5, 9, 0.2, 0.8, data="/a", settings="k=5")
    assert compare([one], [replace(one, value=0.6, checkpoint="step-00000002")])[0].value == pytest.approx(
        0.1
    )
    changed: dict[str, Any]
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
        assert outcomes is not None
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


def test_samples_are_no_part_of_tables_and_lists(tmp_path) -> None:
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


# The same samples in another order


def shuffled(result, rows, **names):
    """Return a result as of data that lie in another order, with groups and classes of other numbers."""
    outcomes = result.outcomes.rows(rows)
    for field, of in names.items():
        outcomes = replace(outcomes, **{field: of[getattr(outcomes, field)]})
    return replace(result, outcomes=outcomes, data="/elsewhere")


@pytest.mark.parametrize("statistic", ["mean", "median", "mean_per_class", "roc_auc", "ece"])
def test_samples_are_found_in_whatever_order_they_lie(statistic) -> None:
    rng = np.random.default_rng(0)
    count, names = 120, np.random.default_rng(1).permutation(5)
    classes = np.arange(count) % (2 if statistic == "roc_auc" else 5)
    groups, samples = np.arange(count) // 3 % 5, rng.permutation(count).astype(np.uint64)
    values = [rng.random((count, 2)) if statistic == "ece" else rng.random(count) < 0.5 for _ in "ab"]
    pair = []
    for of in values:
        known = Outcomes(of, statistic, classes, groups if statistic == "median" else None, samples)
        pair.append(
            Result("t:d", "top1", known.value(), count, 0.0, 1.0, content="same", data="/d", outcomes=known)
        )
    expected = difference(*pair)
    rows = rng.permutation(count)
    renamed = {} if statistic == "roc_auc" else {"classes": names}
    other = shuffled(pair[0], rows, **renamed, **({"groups": names} if statistic == "median" else {}))
    found = difference(other, pair[1])
    assert not found.unpaired
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    # Other samples, other classes of the same ones, and samples that do not say which they are.
    apart = replace(other.outcomes, samples=other.outcomes.samples + np.uint64(1))
    wrong = replace(other.outcomes, classes=rng.permutation(classes))
    unknown = replace(other.outcomes, samples=None)
    for changed, why in (
        (apart, "not the same"),
        (wrong, "not the same"),
        (unknown, "which samples are the same"),
    ):
        assert why in difference(replace(other, outcomes=changed), pair[1]).unpaired
    assert pair[0].outcomes is not None
    in_order = replace(pair[0], outcomes=replace(pair[0].outcomes, samples=None))
    assert not difference(in_order, pair[1]).unpaired


def test_captioned_pictures_are_found_in_whatever_order_they_lie() -> None:
    """What the protocol says of its queries: pictures by their bytes, captions with their pictures."""
    rng = np.random.default_rng(2)
    colors = [["red", "green", "blue"][k] for k in rng.integers(0, 3, 24)]
    records: list[tuple[bytes | np.ndarray, tuple[str, ...]]] = [
        (png(picture(c, rng)), (f"a {c} thing", f"{c} {k // 2}")) for k, c in enumerate(colors)
    ]

    class Blind(ColorEncoder):
        def encode_text(self, texts, *, normalize=True):
            return super().encode_text([text.replace("blue", "red") for text in texts], normalize=normalize)

    turned = [records[k] for k in rng.permutation(24)]
    task = "retrieval:given"
    before = Retrieval(Captioned(records), task=task).evaluate(Blind())
    expected = []
    for source in (records, turned):
        after = Retrieval(Captioned(source), task=task).evaluate(ColorEncoder())
        found = [(one.value, one.low, one.high, one.unpaired) for one in compare(before, after)]
        assert len(found) == 8
        if source is records:
            expected = found
        for one, other in zip(found, expected, strict=True):
            assert one[:3] == pytest.approx(other[:3], abs=0.5 if max(map(abs, one[:3])) > 1 else 1e-9)
            assert not one[3]


def test_a_picture_that_is_there_twice_is_paired_with_either() -> None:
    samples = np.array([7, 7, 8, 9], dtype=np.uint64)
    pair = [
        Result(
            "t:d",
            "top1",
            0.5,
            4,
            0,
            1,
            content="c",
            outcomes=Outcomes(np.array(hits), samples=samples[order]),
        )
        for hits, order in (([1, 1, 0, 0], [0, 1, 2, 3]), ([0, 1, 0, 1], [3, 0, 2, 1]))
    ]
    assert not difference(*pair).unpaired
    assert difference(*pair).low == proportion_interval(np.array([1, 1, 0, 0]), np.array([1, 1, 0, 0]))[0]


# Against exact tests


def test_the_verdict_agrees_with_mcnemar_s_exact_test() -> None:
    """Where that is sure (p < 0.02) there is a verdict, and where there is a verdict it is nearly sure (p < 0.11)."""
    for gained in range(0, 40, 3):
        for lost in range(0, 40, 3):
            p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            kind = np.arange(300)
            before, after = kind < lost, (kind >= lost) & (kind < lost + gained)
            decided = of_hits(before, after).verdict != "undecided"
            assert decided or p >= 0.02
            assert not decided or p < 0.11


def test_the_verdict_of_medians_agrees_with_a_permutation_test() -> None:
    """Under equality either model might have had either rank: swap them, and see how often as much comes out."""
    for shift, sure in ((0, False), (12, True)):
        rng = np.random.default_rng(3)
        before = rng.geometric(0.03, 150)
        after = np.maximum(1, before + rng.integers(-4, 5, 150) - shift)
        seen = np.median(after) - np.median(before)
        swaps = rng.random((2000, 150)) < 0.5
        moved = np.median(np.where(swaps, before, after), 1) - np.median(np.where(swaps, after, before), 1)
        p = float((np.abs(moved) >= abs(seen)).mean())
        assert (p < 0.05) == sure
        assert (of_hits(before, after, "text_median_rank", statistic="median").verdict != "undecided") == sure


# Seeds


def seeds_of(hits, metric="top1", **outcomes):
    """Return a result for each seed's hits (S, N)."""
    found = []
    for one in hits:
        known = Outcomes(np.asarray(one), **outcomes)
        half = 1.96 * float(np.std(known.values)) / len(one) ** 0.5
        value = known.value()
        found.append(
            Result(
                "knn:birds", metric, value, len(one), value - half, value + half, content="c", outcomes=known
            )
        )
    return found


def worlds(rng, seeds, count, spread, gain=0.0, groups=None):
    """Draw samples and seeds anew: hits (S, N) of two models; harder samples are harder for all, and a seed is better
    or worse as a whole by `spread`."""
    ease = rng.normal(0, 1, count if groups is None else groups.max() + 1)
    ease = ease if groups is None else ease[groups]
    sides = []
    for shift in (0.0, gain):
        level = shift + spread * rng.normal(size=(seeds, 1))
        sides.append((ease + level + 0.5 * rng.normal(size=(seeds, count)) > 0).astype(float))
    return sides


@pytest.mark.parametrize(
    ("seeds", "count", "spread"),
    [(3, 400, 0.0), (3, 400, 0.1), (3, 4000, 0.1), (2, 400, 0.1), (6, 200, 0.05)],
)
def test_the_interval_of_seeds_covers_the_truth(seeds, count, spread) -> None:
    """Equal configurations differ by 0 in the mean over all seeds and samples."""
    held = 0
    for number in range(300):
        before, after = worlds(np.random.default_rng(number), seeds, count, spread)
        one = difference_of_seeds(seeds_of(before), seeds_of(after))
        assert not one.unpaired
        held += one.low <= 0 <= one.high
    assert held / 300 >= 0.92


def test_samples_alone_would_not_cover_other_seeds() -> None:
    held = 0
    for number in range(300):
        before, after = worlds(np.random.default_rng(number), 1, 4000, 0.1)
        one = difference(seeds_of(before)[0], seeds_of(after)[0])
        held += one.low <= 0 <= one.high
    assert held / 300 < 0.6


def test_a_true_lead_is_found_and_pairing_by_sample_helps() -> None:
    decided = {True: 0, False: 0}
    for number in range(60):
        sides = worlds(np.random.default_rng(number), 3, 600, 0.03, gain=0.3)
        pair = [seeds_of(hits) for hits in sides]
        for paired in decided:
            if not paired:
                pair[0] = [replace(result, outcomes=None) for result in pair[0]]
            one = difference_of_seeds(*pair)
            assert bool(one.unpaired) != paired
            decided[paired] += one.verdict == "better"
    assert decided[True] > 50
    assert decided[False] < decided[True]


def test_the_interval_of_seeds_is_made_of_welch_s_and_that_of_the_samples() -> None:
    sides = worlds(np.random.default_rng(5), 3, 500, 0.2, gain=0.2)
    one = difference_of_seeds(*(seeds_of(hits) for hits in sides))
    means = [hits.mean(axis=1) for hits in sides]
    ends = stats.ttest_ind(means[1], means[0], equal_var=False).confidence_interval(0.95)
    drawn = bootstrap(lambda rows: sides[1][:, rows].mean() - sides[0][:, rows].mean(), n=500)
    half = np.hypot((ends[1] - ends[0]) / 2, (drawn[1] - drawn[0]) / 2)
    assert one.value == pytest.approx(means[1].mean() - means[0].mean())
    assert (one.low, one.high) == pytest.approx((one.value - half, one.value + half), abs=0.008)
    assert one.spreads == pytest.approx(tuple(np.std(mean, ddof=1) for mean in means))
    assert (one.seeds, one.covers) == ((3, 3), "seeds")


def test_runs_of_equal_seeds_may_belong_together() -> None:
    rng = np.random.default_rng(6)
    ease, level = rng.normal(size=500), rng.normal(0, 0.5, (4, 1))
    before = (ease + level > 0).astype(float)
    after = (ease + level + 0.2 + 0.02 * rng.normal(size=(4, 1)) > 0).astype(float)
    pair = [seeds_of(before), seeds_of(after)]
    apart, together = (difference_of_seeds(*pair, by_seed=by_seed) for by_seed in (False, True))
    assert apart.verdict == "undecided"
    assert together.verdict == "better"
    t = stats.t.interval(0.95, 3, scale=stats.sem(after.mean(axis=1) - before.mean(axis=1)))[1]
    samples = proportion_interval(before.mean(axis=0), after.mean(axis=0))
    assert together.high - together.value == pytest.approx(np.hypot(t, samples[1] - together.value), rel=1e-3)
    with pytest.raises(ValueError, match="cannot be paired"):
        difference_of_seeds(pair[0][:3], pair[1], by_seed=True)


@pytest.mark.parametrize("statistic", ["median", "mean_per_class", "ece"])
def test_other_numbers_over_seeds_are_those_of_a_bootstrap_by_loops(statistic) -> None:
    rng = np.random.default_rng(7)
    classes = np.arange(240) % 4
    shape = (2, 240, 2) if statistic == "ece" else (2, 240)
    sides = [rng.random(shape) * 0.5 + shift for shift in (0.0, 0.2)]
    if statistic == "mean_per_class":
        sides = [(side > 0.3).astype(float) for side in sides]
    pair = [seeds_of(side, statistic=statistic, classes=classes) for side in sides]
    one = difference_of_seeds(*pair)

    def changed(rows):
        means = [np.mean([Outcomes(run, statistic, classes).value(rows) for run in side]) for side in sides]
        return means[1] - means[0]

    drawn = bootstrap(changed, n=240, resamples=1000)
    values = [[result.value for result in side] for side in pair]
    ends = stats.ttest_ind(values[1], values[0], equal_var=False).confidence_interval(0.95)
    half = np.hypot((drawn[1] - drawn[0]) / 2, (ends[1] - ends[0]) / 2)
    assert (one.high - one.low) / 2 == pytest.approx(half, rel=0.15)


def test_one_run_against_several_is_for_other_samples_alone() -> None:
    before, after = worlds(np.random.default_rng(8), 3, 300, 0.1)
    one = difference_of_seeds(seeds_of(before)[:1], seeds_of(after))
    assert (one.covers, one.seeds, one.spreads[0]) == ("", (1, 3), None)
    assert (
        difference_of_seeds(seeds_of(before)[:1], seeds_of(after)[:1]).value
        == after[0].mean() - before[0].mean()
    )


def test_numbers_beyond_shares_are_drawn_anew() -> None:
    rng = np.random.default_rng(9)
    before = rng.normal(3, 1, 300)
    after = before + rng.normal(0.5, 0.2, 300)
    one = of_hits(before, after, metric="alignment")
    twin = bootstrap(lambda rows: (after - before)[rows].mean(), n=300)
    assert (one.low, one.high) == pytest.approx(tuple(twin), abs=0.01)
    assert one.verdict == "worse"  # less of it is better


def test_sentences_name_who_is_ahead() -> None:
    up, down = (np.zeros(100), np.arange(100) < 30), (np.arange(100) < 30, np.zeros(100))
    same = np.arange(100) % 2, np.arange(100) % 2
    ranks = np.arange(1, 201), np.maximum(1, np.arange(1, 201) - 60)
    found = [of_hits(*up), of_hits(*down, task="knn:cats"), of_hits(*same, task="knn:dogs")]
    told = sentences(found, "A", "B")
    assert told[0].startswith("B is ahead of A by 30.0 points (")
    assert told[0].endswith(") on knn:birds (top1).")
    assert told[1].startswith("A is ahead of B by 30.0 points (")
    assert "Undecided on knn:dogs (top1), +0.0 points (-" in told[2]
    (rank,) = sentences([of_hits(*ranks, "text_median_rank", statistic="median")], "A", "B")
    assert rank.startswith("B is ahead of A by 60.0 ranks (")
    many = [of_hits(*same, task=f"knn:{number}") for number in range(5)]
    assert sentences(many, "A", "B") == ["Undecided in 5 of 5 numbers."]


def test_the_table_has_spreads_over_seeds() -> None:
    before, after = worlds(np.random.default_rng(8), 3, 300, 0.1)
    one = difference_of_seeds(seeds_of(before), seeds_of(after))
    shown = table([one], ("clip", "slip"))
    assert "clip" in shown
    assert one.spreads[0] is not None
    assert f"{100 * one.before.value:.1f}% ± {100 * one.spreads[0]:.1f}" in shown


def test_areas_under_curves_compare_where_a_resample_has_one_class() -> None:
    rng = np.random.default_rng(0)
    classes = (np.arange(40) < 2).astype(np.int64)  # every eighth resample has none of the two
    one, other = (Outcomes(rng.normal(size=40), "roc_auc", classes) for _ in range(2))
    low, high = interval(one, other)
    assert -1 <= low <= other.value() - one.value() <= high <= 1
