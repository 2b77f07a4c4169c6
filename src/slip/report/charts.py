"""Small line charts: an SVG for the lines, HTML for every word, so that text keeps its size at any width.

Colours come from the page's style (`c0`, `c1`, … and `--ink`), so that a chart is right in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slip.report.html import Html, div, join, span, tag

MAX_POINTS = 240
"""Points a drawn line has at most; longer ones are averaged in bins."""
SMOOTHING = 0.05
"""Share of the points that the strong line is fitted to at a time."""
LABEL_GAP = 8.0
"""Least distance of two line labels, in percent of the chart's height."""


@dataclass(frozen=True)
class Line:
    """One run's curve: label, colour class, x ascending, y."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A chart: a title, a note below it, its lines, and level marks such as chance.

    noisy: draw the values as they are as a faint line, smoothed as a strong one; else straight lines and dots.
    zero: the y axis starts at 0. text: how a y value reads.
    """

    title: str
    note: str
    lines: Sequence[Line]
    text: Callable[[float], str] = "{:g}".format
    noisy: bool = True
    zero: bool = False
    levels: Sequence[tuple[str, float]] = ()

    def html(self) -> Html:
        """Return the chart as a <figure>."""
        low, high, ticks = self._range()
        right = max(max(line.x) for line in self.lines) or 1.0

        def left_of(x: float) -> float:
            return 100 * x / right

        def top_of(y: float) -> float:
            return 100 * (high - y) / (high - low)

        shapes, words = [], []
        for tick in ticks:
            shapes.append(_path([(0, top_of(tick)), (100, top_of(tick))], "grid"))
            words.append(span("y", self.text(tick), style=f"top:{top_of(tick):.2f}%"))
        for name, level in self.levels:
            if low <= level <= high:
                shapes.append(_path([(0, top_of(level)), (100, top_of(level))], "level"))
                words.append(span("level", name, style=f"top:{top_of(level):.2f}%"))
        for x in nice_ticks(0, right, 4):
            words.append(span("x", samples(x), style=f"left:{left_of(x):.2f}%"))
        ends = []
        for line in self.lines:
            points = [(left_of(x), top_of(y)) for x, y in zip(*thin(line.x, line.y))]
            strong = [(x, y) for (x, _), y in zip(points, smooth([y for _, y in points]))]
            shapes += [_path(points, f"faint {line.colour}")] if self.noisy else [_dots(points, line.colour)]
            shapes.append(_path(strong if self.noisy else points, f"line {line.colour}"))
            ends.append((line, (strong if self.noisy else points)[-1][1]))
        for (line, _), top in zip(ends, spread([top for _, top in ends])):
            words.append(span(f"end {line.colour}", line.label, style=f"top:{top:.2f}%"))
        last = "; ".join(f"{line.label} ends at {self.text(line.y[-1])}" for line in self.lines)
        box = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "aria-hidden": "true"}
        return tag(
            "figure",
            tag("figcaption", tag("strong", self.title), " ", span("quiet", self.note)),
            div(
                "plot",
                tag("svg", *shapes, **box),
                *words,
                role="img",
                aria_label=f"{self.title} over samples seen: {last}",
            ),
            class_="chart",
        )

    def _range(self) -> tuple[float, float, list[float]]:
        """Return bottom, top and ticks of the y axis; the levels are within it."""
        values = [y for line in self.lines for y in line.y] + [level for _, level in self.levels]
        low, high = min(values), max(values)
        low = min(0.0, low) if self.zero else low
        if high - low < 1e-9:
            high = low + (abs(low) * 0.1 or 1.0)
        ticks = nice_ticks(low, high, 4)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
        bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return bottom, top, [bottom + i * step for i in range(round((top - bottom) / step) + 1)]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999) * power
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def samples(count: float) -> str:
    """Return a number of samples as an axis shows it: 500, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def thin(x: Sequence[float], y: Sequence[float], most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Return a line of at most `most` points: the means of equally many neighbours each."""
    size = math.ceil(len(x) / most)
    starts = range(0, len(x), size)
    return tuple([math.fsum(v[i : i + size]) / len(v[i : i + size]) for i in starts] for v in (x, y))  # type: ignore


def smooth(values: Sequence[float], share: float = SMOOTHING) -> list[float]:
    """Return the straight-line fit of each value's neighbourhood, at that value (Cleveland 1979, without weights).

    In the middle that is the running mean; at the ends, with neighbours on one side only, it still follows a slope.
    """
    size, count, fits = max(3, round(len(values) * share)) | 1, len(values), []
    for i in range(count):
        start = max(0, min(i - size // 2, count - size))
        near = values[start : start + size]
        middle, mean = (len(near) - 1) / 2, math.fsum(near) / len(near)
        spread_ = sum((k - middle) ** 2 for k in range(len(near)))
        slope = sum((k - middle) * y for k, y in enumerate(near)) / spread_ if spread_ else 0.0
        fits.append(mean + slope * (i - start - middle))
    return fits


def spread(tops: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """Return the positions moved just so far apart that no two are closer than `gap`, in the same order."""
    order = sorted(range(len(tops)), key=lambda i: tops[i])
    groups: list[list[int]] = []

    def middle(group: list[int]) -> float:
        return sum(tops[i] for i in group) / len(group)

    for i in order:
        groups.append([i])
        while len(groups) > 1:
            upper, lower = groups[-2:]
            if middle(lower) - middle(upper) >= gap * (len(upper) + len(lower)) / 2:
                break
            groups[-2:] = [upper + lower]
    placed = list(tops)
    for group in groups:
        for k, i in enumerate(group):
            placed[i] = middle(group) + gap * (k - (len(group) - 1) / 2)
    return placed


def _path(points: Sequence[tuple[float, float]], class_: str) -> Html:
    steps = "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
    return tag("path", d=f"M{steps}", class_=class_, vector_effect="non-scaling-stroke")


def _dots(points: Sequence[tuple[float, float]], colour: str) -> Html:
    """Dots as lines without length: their round caps stay round however the drawing is stretched."""
    return join(_path([point, point], f"dot {colour}") for point in points)
