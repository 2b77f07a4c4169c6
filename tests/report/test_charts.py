from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.report.charts import (
    LABEL_GAP,
    MOST_LABELS,
    Chart,
    Line,
    Point,
    nice_ticks,
    samples,
    smooth,
    spread,
    thin,
)
from report_fakes import drawn

numbers = st.floats(-1e6, 1e6)


@given(low=numbers, size=st.floats(1e-6, 1e6))
def test_ticks_are_round_within_the_range_and_few(low: float, size: float) -> None:
    high = low + size
    if high - low < 1e-7 * max(1.0, abs(low)):
        return
    ticks = nice_ticks(low, high, 4)
    slack = 1e-6 * size
    assert 1 <= len(ticks) <= 6
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        mantissa = step / 10.0 ** math.floor(math.log10(step * 1.0000001))
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_are_apart_and_keep_their_order(tops: list[float]) -> None:
    placed = spread(tops)
    order = sorted(range(len(tops)), key=lambda i: tops[i])
    for upper, lower in pairwise(order):
        assert placed[lower] - placed[upper] >= LABEL_GAP - 1e-6
    assert sum(placed) == pytest.approx(sum(tops), abs=1e-6)


def test_labels_far_apart_stay_where_they_are() -> None:
    assert spread([80.0, 10.0, 40.0]) == [80.0, 10.0, 40.0]


def points(values: Sequence[float], weights: Sequence[float] | None = None) -> list[Point]:
    return [Point(x, y, w) for x, (y, w) in enumerate(zip(values, weights or [1.0] * len(values)))]


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1, 20)), min_size=1, max_size=600))
def test_thinning_keeps_the_weighted_mean_the_end_and_few_points(pairs: list[tuple[float, float]]) -> None:
    whole = points(*zip(*pairs))
    few = thin(whole, most=50)
    assert 1 <= len(few) <= 50
    assert [point.x for point in few] == sorted({point.x for point in few})
    assert few[-1].x == whole[-1].x
    weight = math.fsum(point.weight for point in whole)
    assert math.fsum(point.weight for point in few) == pytest.approx(weight)
    mean = math.fsum(point.y * point.weight for point in whole) / weight
    assert math.fsum(point.y * point.weight for point in few) / weight == pytest.approx(mean, abs=1e-6)


def test_equal_points_that_are_few_stay_as_they_are() -> None:
    whole = points([3.0, 1.0, 2.0], [10, 10, 10])
    assert thin(whole) == whole


def test_a_last_point_of_little_weight_is_joined_to_the_one_before() -> None:
    joined = thin(points([3.0, 2.0, 99.0], [10, 10, 1]))
    mean: Any = pytest.approx((20 + 99) / 11)
    assert joined == [Point(0, 3.0, 10), Point(2, mean, 11)]
    assert thin(points([3.0, 2.0, 9.0], [10, 10, 6]))[-1] == Point(2, 9.0, 6)  # more than half of the usual


@given(
    st.lists(
        st.tuples(st.floats(-100, 100), st.floats(0.5, 20), st.floats(0.1, 10)), min_size=3, max_size=60
    ),
    st.floats(0.05, 1),
)
def test_smoothing_is_the_weighted_fit_of_a_line(
    rows: list[tuple[float, float, float]], share: float
) -> None:
    """The slow twin: numpy's least squares in each neighbourhood."""
    x = np.cumsum([step for *_, step in rows])
    y, weights = (np.array([row[k] for row in rows]) for k in (0, 1))
    size = max(3, round(len(rows) * share)) | 1
    expected = []
    for i in range(len(rows)):
        start = max(0, min(i - size // 2, len(rows) - size))
        near = slice(start, start + size)
        line = np.polyfit(x[near] - x[i], y[near], 1, w=np.sqrt(weights[near]))
        expected.append(line[1])
    found = smooth([Point(*row) for row in zip(x, y, weights)], share)
    assert [point.y for point in found] == pytest.approx(expected, abs=1e-6)
    assert [point.x for point in found] == list(x)


def test_smoothing_keeps_straight_lines_and_calms_noise() -> None:
    line = points([0.5 * i - 3 for i in range(40)])
    assert [point.y for point in smooth(line, 0.2)] == pytest.approx([point.y for point in line])
    noisy = points([(-1) ** i for i in range(200)])
    assert max(abs(point.y) for point in smooth(noisy, 0.1)) < 0.3
    assert smooth(points([4.0])) == points([4.0])


def test_numbers_of_samples() -> None:
    assert [samples(n) for n in (0, 500, 20_000, 1_500_000, 2e9)] == ["0", "500", "20k", "1.5M", "2G"]


def test_a_chart_has_its_words_and_shapes_inside() -> None:
    lines = [
        Line("CLIP", "c1", [10, 20, 30], [3.0, 2.0, 1.0]),
        Line("<b>", "c0", [10, 20, 30], [2.5, 2.0, 0.5]),
    ]
    html = drawn(Chart("Loss", "lower is better", lines, levels=[("chance", 4.0), ("far", 1e9)][:1]))
    assert html.count('class="line c') == 2
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert ">chance<" in html
    places = [
        float(number) for d in re.findall(r' d="([^"]+)"', html) for number in re.findall(r"-?\d+\.\d+", d)
    ]
    assert all(-0.01 <= place <= 100.01 for place in places)


@pytest.mark.parametrize("y", [[1.0], [0.0, 0.0], [5.0, 5.0, 5.0], [1e-9, 2e-9], [-3.0, 1e7]])
def test_flat_short_and_extreme_lines_can_be_drawn(y: list[float]) -> None:
    html = drawn(Chart("Loss", "", [Line("a", "c0", list(range(len(y))), y)]))
    assert "nan" not in html
    assert "inf" not in html


def shapes(html: str, class_: str) -> list[list[str]]:
    """Return the points of each path of a class."""
    return [
        re.findall(r"-?[\d.]+ -?[\d.]+", d)
        for d, classes in re.findall(r' d="([^"]*)" class="([^"]*)"', html)
        if class_ in classes.split()
    ]


def test_a_line_of_one_point_is_a_dot() -> None:
    html = drawn(Chart("Loss", "", [Line("a", "c0", [5], [2.0])]))
    ((one, two),) = shapes(html, "dot")
    assert one == two
    assert len(shapes(drawn(Chart("Loss", "", [Line("a", "c0", [5, 6], [2.0, 3.0])])), "dot")) == 0


def test_a_line_is_cut_where_nothing_was_finite() -> None:
    nan = float("nan")
    html = drawn(
        Chart("Loss", "", [Line("a", "c0", range(1, 8), [3, 2, nan, nan, 1, nan, nan])], noisy=False)
    )
    first, last = shapes(html, "line")
    assert [point.split()[0] for point in first + last] == ["14.29", "28.57", "71.43", "71.43"][
        : len(first + last)
    ]
    assert "a ends at 1" in html
    assert "nan" not in html


def test_lines_of_one_label_are_named_once_and_drawn_alike() -> None:
    lines = [Line("a", "c0", [1, 2, 3], [1.0, 2.0, y]) for y in (2.0, 4.0)]
    html = drawn(Chart("Loss", "", [*lines, Line("b", "c1", [1, 2, 3], [5.0, 5.0, 5.0])]))
    assert html.count('class="end c0"') == 1
    assert len(shapes(html, "several")) == 2
    assert len(shapes(html, "faint")) == 1  # of the one that is alone
    assert "a ends at 3;" in html


def test_of_many_lines_the_highest_and_the_lowest_are_named() -> None:
    html = drawn(
        Chart("Loss", "", [Line(f"r{i:02}", "c0", [1, 2], [0.0, i]) for i in range(30)], noisy=False)
    )
    named = re.findall(r'class="end c0"[^>]*>(\w+)<', html)
    assert named == [f"r{i:02}" for i in (29, 28, 27, 26, 25, 24, 5, 4, 3, 2, 1, 0)]
    assert len(named) == MOST_LABELS
    assert "of 30 lines" in html


def test_long_labels_stand_below() -> None:
    html = drawn(Chart("Loss", "", [Line(f"a very long name {i}", "c0", [1, 2], [0.0, i]) for i in range(3)]))
    assert 'class="end' not in html
    legend = html[html.index('class="legend"') :]
    assert re.findall(r"name (\d)<", legend) == ["2", "1", "0"]
