from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.report.histogram import Histogram, steps
from report_fakes import drawn


def draw(values, edges, **options) -> str:
    defaults: dict[str, Any] = {"title": "Length", "note": "tokens", "ticks": [edges[0], edges[-1]]}
    return drawn(Histogram.of(np.asarray(values), edges=edges, **(defaults | options)))


def test_bars_are_as_high_as_their_counts() -> None:
    html = draw([0.5, 1.5, 1.6, 3.9, 99], [0, 1, 2, 3, 4])
    bars = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', html)
    assert [(float(x), float(height)) for x, _, _, height in bars] == [(2, 50), (27, 100), (77, 100)]
    assert all(float(y) + float(height) == 100 for _, y, _, height in bars)
    assert ">4+<" in html  # one lies beyond
    assert "Length: 0.5 to 99, middle 1.6" in html


def test_levels_and_ticks_lie_where_the_edges_say() -> None:
    html = draw([10, 20], [1, 10, 100], ticks=[1, 10, 100], levels=[("here", 55)])
    assert re.findall(r'class="x" style="left:([\d.]+)%"', html) == ["0.00", "50.00", "100.00"]
    assert re.findall(r'class="mark" style="left:([\d.]+)%"', html) == ["75.00"]


def test_titles_are_escaped() -> None:
    assert "<b>" not in draw([1], [0, 1, 2], title="<b>", levels=[("<b>", 1)])
    HTMLParser().feed(draw([1], [0, 1, 2]))


@given(st.floats(1, 1e6), st.floats(1, 1e3))
def test_steps_hold_the_values(low: float, ratio: float) -> None:
    edges = steps(low, low * ratio)
    assert edges[0] <= low
    assert edges[-1] > min(low * ratio, 7e7)
    assert len(edges) >= 9
    assert all(1.2 < b / a < 1.3 for a, b in itertools.pairwise(edges))


@pytest.mark.parametrize("values", [[1], [1, 1, 1], list(range(1, 2000))])
def test_any_values(values) -> None:
    edges = steps(min(values), max(values))
    histogram = Histogram.of(np.array(values), title="", note="", edges=edges, ticks=[])
    assert sum(histogram.counts) == len(values)
    assert drawn(histogram)
