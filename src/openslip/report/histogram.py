"""Histograms, drawn as `charts` draws lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openslip.report.charts import Bar, Figure, nice_ticks, samples

_BINS = 8


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, each bin equally wide on the page.

    edges: (B + 1,) ascending; counts: (B,); ticks: (value, words) pairs of the axis below, within the edges.
    levels: (words, value) pairs marked by a line. said: the histogram in words, for people who cannot see it.
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
        """Count one or more `values` (N,); values beyond the edges are in the outermost bins."""
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), bins=np.asarray(edges, float))[0]
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        named = [(tick, f"{tick:g}") for tick in ticks]
        if high > edges[-1] and named and named[-1][0] == edges[-1]:
            named[-1] = (named[-1][0], named[-1][1] + "+")
        said = f"{title}: {low:,.4g} to {high:,.4g}, middle {middle:,.4g}"
        return cls(title, note, edges, counts.tolist(), named, said, colour, levels)

    def figure(self) -> Figure:
        """Return the histogram as it is drawn."""
        top = max(1, *self.counts)
        width = 100 / len(self.counts)
        heights = [100 * count / top for count in self.counts]
        return Figure(
            self.title,
            self.note,
            self.said,
            grid=[(100 - 100 * tick / top, samples(tick)) for tick in nice_ticks(0, top, 3)],
            ticks=[(self._left(tick), name) for tick, name in self.ticks],
            marks=[(self._left(level), name) for name, level in self.levels],
            bars=[
                Bar((k + 0.08) * width, 100 - height, 0.84 * width, height)
                for k, height in enumerate(heights)
                if height
            ],
            colour=self.colour,
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
