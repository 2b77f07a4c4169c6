"""Histograms, drawn as `charts` draws lines: an SVG for the bars, HTML for every word, the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openslip.report.charts import nice_ticks, samples
from openslip.report.html import Html, div, span, tag

_BINS = 8


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, each bin equally wide on the page.

    edges: (B + 1,) ascending; counts: (B,); ticks: (value, words) pairs of the axis below, within the edges.
    levels: (words, value) pairs marked by a line. said: the same in words, for those who cannot see it.
    """

    title: str
    note: str
    edges: Sequence[float]
    counts: Sequence[int]
    ticks: Sequence[tuple[float, str]]
    said: str
    colour: str = "c1"
    levels: Sequence[tuple[str, float]] = ()

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        *,
        title: str,
        note: str,
        edges: Sequence[float],
        ticks: Sequence[float],
        levels: Sequence[tuple[str, float]] = (),
        colour: str = "c1",
    ) -> Histogram:
        """Count `values` (N,), of which there is at least one; those beyond the edges are in the outermost bins."""
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), bins=np.asarray(edges, float))[0]
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        named = [(tick, f"{tick:g}") for tick in ticks]
        if high > edges[-1] and named and named[-1][0] == edges[-1]:
            named[-1] = (named[-1][0], named[-1][1] + "+")
        said = f"{title}: {low:,.4g} to {high:,.4g}, middle {middle:,.4g}"
        return cls(title, note, edges, counts.tolist(), named, said, colour, levels)

    def html(self) -> Html:
        """Return the histogram as a <figure>."""
        top = max(1, *self.counts)
        ticks = nice_ticks(0, top, 3)
        width = 100 / len(self.counts)
        shapes, words = [], []
        for tick in ticks:
            y = 100 - 100 * tick / top
            shapes.append(_line(0, y, 100, y, "grid"))
            words.append(span("y", samples(tick), style=f"top:{y:.2f}%"))
        for k, count in enumerate(self.counts):
            height = 100 * count / top
            if count:
                place = {"x": f"{(k + 0.08) * width:.3f}", "y": f"{100 - height:.3f}"}
                shapes.append(tag("rect", **place, width=f"{0.84 * width:.3f}", height=f"{height:.3f}"))
        for name, level in self.levels:
            x = self._left(level)
            shapes.append(_line(x, 0, x, 100, "level"))
            words.append(span("mark", name, style=f"left:{x:.2f}%"))
        words += [span("x", name, style=f"left:{self._left(tick):.2f}%") for tick, name in self.ticks]
        box = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "aria-hidden": "true"}
        return tag(
            "figure",
            tag("figcaption", tag("strong", self.title), " ", span("quiet", self.note)),
            div("plot", tag("svg", *shapes, **box), *words, role="img", aria_label=self.said),
            class_=f"chart histogram {self.colour}",
        )

    def _left(self, value: float) -> float:
        """Return where a value lies, in percent of the width."""
        return float(np.interp(value, self.edges, np.linspace(0, 100, len(self.edges))))


def steps(low: float, high: float) -> list[float]:
    """Return at least nine round edges around [low, high] that grow by a quarter: a scale of ratios. low > 0."""
    rounds = [r * 10.0**power for power in range(-1, 8) for r in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8)]
    first = max((k for k, value in enumerate(rounds) if value <= low), default=0)
    last = min((k for k, value in enumerate(rounds) if value > high), default=len(rounds) - 1)
    while last - first < _BINS:
        first, last = max(0, first - 1), min(len(rounds) - 1, last + 1)
    return rounds[first : last + 1]


def _line(x: float, y: float, to_x: float, to_y: float, class_: str) -> Html:
    return tag(
        "path",
        d=f"M{x:.2f} {y:.2f}L{to_x:.2f} {to_y:.2f}",
        class_=class_,
        vector_effect="non-scaling-stroke",
    )
