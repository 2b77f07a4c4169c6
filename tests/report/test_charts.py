from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slip.report.charts import LABEL_GAP, Chart, Line, nice_ticks, samples, smooth, spread, thin

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


@given(st.lists(numbers, min_size=1, max_size=1000))
def test_thinning_keeps_the_mean(values: list[float]) -> None:
    x, y = thin(range(len(values)), values, most=50)
    assert len(x) == len(y) <= 50
    assert x == sorted(x)
    if len(values) % len(y) == 0:
        assert sum(y) / len(y) == pytest.approx(sum(values) / len(values), abs=1e-3)


def test_smoothing_keeps_straight_lines_and_calms_noise() -> None:
    line = [0.5 * i - 3 for i in range(40)]
    assert smooth(line, 0.2) == pytest.approx(line)
    noisy = [(-1) ** i for i in range(200)]
    assert max(abs(y) for y in smooth(noisy, 0.1)) < 0.3
    assert smooth([4.0]) == [4.0]


def test_numbers_of_samples() -> None:
    assert [samples(n) for n in (0, 500, 20_000, 1_500_000, 2e9)] == ["0", "500", "20k", "1.5M", "2G"]


def test_a_chart_has_its_words_and_shapes_inside() -> None:
    lines = [
        Line("CLIP", "c1", [10, 20, 30], [3.0, 2.0, 1.0]),
        Line("<b>", "c0", [10, 20, 30], [2.5, 2.0, 0.5]),
    ]
    html = Chart("Loss", "lower is better", lines, levels=[("chance", 4.0), ("far", 1e9)][:1]).html()
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
    html = Chart("Loss", "", [Line("a", "c0", list(range(len(y))), y)]).html()
    assert "nan" not in html
    assert "inf" not in html
