"""Small line charts: the places of lines and words in a drawing, which the template `figure.html.j2` lays out.

Colours are classes of the page's style (`c0`, `c1`, …), so that a chart is right in light and dark.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

MAX_POINTS = 240
"""The most points of a drawn line; longer lines are averaged in bins."""
SMOOTHING = 0.05
"""Share of the points that the strong line is fitted to at a time."""
LABEL_GAP = 8.0
"""Least distance of two line labels, in percent of the chart's height."""
LONGEST_LABEL = 9
"""The most characters of a label beside a chart. If one is longer, all labels are below, the highest line's first."""
MOST_LABELS = 12
"""The most labels of a chart; of more lines only the highest and the lowest are named."""


@dataclass(frozen=True)
class Point:
    """A point of a curve: x, y, and the weight of y, for example the number of steps that it is a mean over."""

    x: float
    y: float
    weight: float


@dataclass(frozen=True)
class Line:
    """One run's curve: label, colour class, x ascending, y; nan where no finite value could be measured.

    Lines of one label are drawn alike and named once. weights: of each y, for example the steps that it is a mean over.
    """

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    weights: Sequence[float] = ()

    def pieces(self) -> list[list[Point]]:
        """Return the points, cut where y is nan; at least one piece has points."""
        points = map(Point, self.x, self.y, self.weights or [1.0] * len(self.x))
        runs = groupby(points, key=lambda point: math.isfinite(point.y))
        return [list(piece) for finite, piece in runs if finite]


@dataclass(frozen=True)
class Stroke:
    """A drawn line. d: its path, as SVG writes it; style: CSS classes; name: what a browser shows about it."""

    d: str
    style: str
    name: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: its left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class End:
    """The label of a line, in its colour, at the height where the line ends."""

    label: str
    colour: str
    top: float


@dataclass(frozen=True)
class Figure:
    """A drawing for `figure.html.j2`. Places are in percent of the plot, from its left and from its top.

    said: the drawing in words, for people who cannot see it. grid: horizontal lines (top, text). ticks: words below
    (left, text). levels: horizontal marks (top, text). marks: vertical marks (left, text). ends: labels beside the
    plot. legend: labels below the plot. colour: the class of the bars.
    """

    title: str
    note: str
    said: str
    grid: Sequence[tuple[float, str]]
    ticks: Sequence[tuple[float, str]]
    levels: Sequence[tuple[float, str]] = ()
    marks: Sequence[tuple[float, str]] = ()
    strokes: Sequence[Stroke] = ()
    bars: Sequence[Bar] = ()
    ends: Sequence[End] = ()
    legend: Sequence[End] = ()
    colour: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart: a title, a note below it, its lines, and level marks such as chance.

    noisy: draw the values as a faint line, and the smoothed values as a strong line; else straight lines and dots.
    If several lines have one label, only the smoothed lines are drawn. zero: the y axis starts at 0. text: how a y
    value reads.
    """

    title: str
    note: str
    lines: Sequence[Line]
    text: Callable[[float], str] = "{:g}".format
    noisy: bool = True
    zero: bool = False
    levels: Sequence[tuple[str, float]] = ()

    def figure(self) -> Figure:
        """Return the chart as it is drawn."""
        low, high, ticks = self._range()
        right = max(max(line.x) for line in self.lines) or 1.0

        def top_of(y: float) -> float:
            return 100 * (high - y) / (high - low)

        def stroke(points: Sequence[Point], style: str, name: str = "") -> Stroke:
            places = [f"{100 * point.x / right:.2f} {top_of(point.y):.2f}" for point in points]
            # A dot is a line without length: its round caps stay round however the drawing is stretched.
            return Stroke("M" + "L".join(places * 2 if style.startswith("dot") else places), style, name)

        strokes: list[Stroke] = []
        alone = Counter(line.label for line in self.lines)
        ends: dict[str, list[float]] = {}
        for line in self.lines:
            for piece in line.pieces():
                drawn = thin(piece) if self.noisy else piece
                strong = smooth(drawn) if self.noisy else drawn
                if self.noisy and alone[line.label] == 1 and len(drawn) > 1:
                    strokes.append(stroke(drawn, f"faint {line.colour}"))
                if not self.noisy or len(drawn) == 1:
                    strokes += [stroke([point], f"dot {line.colour}") for point in drawn]
                several = " several" if alone[line.label] > 1 else ""
                strokes.append(stroke(strong, f"line{several} {line.colour}", line.label))
            ends.setdefault(line.label, []).append(strong[-1].y)
        last = {label: math.fsum(values) / len(values) for label, values in ends.items()}
        colours = {line.label: line.colour for line in self.lines}
        named = _outermost(sorted(last, key=lambda label: top_of(last[label])))
        tops = spread([top_of(last[label]) for label in named])
        labels = [End(label, colours[label], top) for label, top in zip(named, tops)]
        beside = all(len(label) <= LONGEST_LABEL for label in named)
        few = (
            f"; of {len(last)} lines the highest and the lowest {MOST_LABELS // 2} are named"
            if len(named) < len(last)
            else ""
        )
        said = "; ".join(f"{label} ends at {self.text(last[label])}" for label in last)
        return Figure(
            self.title,
            self.note + few,
            f"{self.title} over samples seen: {said}",
            grid=[(top_of(tick), self.text(tick)) for tick in ticks],
            ticks=[(100 * x / right, samples(x)) for x in nice_ticks(0, right, 4)],
            levels=[(top_of(level), name) for name, level in self.levels if low <= level <= high],
            strokes=strokes,
            ends=labels if beside else [],
            legend=[] if beside else labels,
        )

    def _range(self) -> tuple[float, float, list[float]]:
        """Return bottom, top and ticks of the y axis; the levels are within it."""
        values = [point.y for line in self.lines for piece in line.pieces() for point in piece]
        values += [level for _, level in self.levels]
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


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Return a line of at most `most` points, each the weighted mean of neighbours, at the last one's x.

    A point of much less weight than the others, such as the last line of a log that stands for one step, is noise that
    would bend the line's end. It is joined to its neighbours until they have half the usual weight together.
    """
    total, usual = math.fsum(point.weight for point in points), median(point.weight for point in points)
    enough = max(total / most, usual / 2) * (1 - 1e-9)
    joined: list[list[Point]] = [[]]
    for point in points:
        if math.fsum(other.weight for other in joined[-1]) >= enough:
            joined.append([])
        joined[-1].append(point)
    if len(joined) > 1 and math.fsum(point.weight for point in joined[-1]) < enough:
        rest = joined.pop()
        joined[-1] += rest
    return [_mean(some) for some in joined]


def _mean(points: Sequence[Point]) -> Point:
    weight = math.fsum(point.weight for point in points)
    return Point(points[-1].x, math.fsum(point.y * point.weight for point in points) / weight, weight)


def smooth(points: Sequence[Point], share: float = SMOOTHING) -> list[Point]:
    """Return the weighted straight-line fit of each point's neighbourhood, at that point (Cleveland 1979, section 2).

    In the middle that is about the running mean; at the ends, with neighbours on one side only, it still follows a
    slope. The weights are those of the points.
    """
    size, count, fits = max(3, round(len(points) * share)) | 1, len(points), []
    for i, point in enumerate(points):
        start = max(0, min(i - size // 2, count - size))
        near = points[start : start + size]
        total = math.fsum(p.weight for p in near)
        x, y = (
            math.fsum(p.weight * v for p, v in zip(near, of)) / total
            for of in zip(*((p.x, p.y) for p in near))
        )
        spread_ = math.fsum(p.weight * (p.x - x) ** 2 for p in near)
        slope = math.fsum(p.weight * (p.x - x) * p.y for p in near) / spread_ if spread_ else 0.0
        fits.append(Point(point.x, y + slope * (point.x - x), point.weight))
    return fits


def _outermost(names: Sequence[str]) -> list[str]:
    """Return the first and the last of the names if there are more than MOST_LABELS, else all."""
    half = MOST_LABELS // 2
    return [*names[:half], *names[-half:]] if len(names) > MOST_LABELS else [*names]


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
