"""One self-contained HTML page about a set of pictures and captions, from what `openslip.tools.check` found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openslip.data.record import Source
from openslip.errors import DataError
from openslip.files import write_bytes
from openslip.report.album import Album, Tile, spread
from openslip.report.charts import Figure
from openslip.report.gallery import Picture
from openslip.report.histogram import Histogram, steps
from openslip.report.render import render
from openslip.tools.check import Summary, Verdict
from openslip.tools.check.against import CAPTION, NEAR, PICTURE, Against, against_pairs
from openslip.tools.check.caption_text import normal, useless
from openslip.tools.check.facts import MOST_TOKENS
from openslip.tools.check.verdict import megabytes, percent

_LISTED = 100  # records in the list of those that cannot be used
_GROUPS, _MEMBERS, _TILES, _CAPTIONS = 8, 8, 8, 10


@dataclass(frozen=True)
class Group:
    """Thumbnails side by side, and how many more there would be."""

    tiles: Sequence[Tile]
    more: int = 0


@dataclass(frozen=True)
class Share:
    """One kind of pictures or captions: how many there are, and their share of all, in [0, 1]."""

    name: str
    count: int
    share: float


@dataclass(frozen=True)
class Extent:
    """The least, the middle (median) and the largest of some numbers."""

    least: int
    middle: float
    most: int

    @classmethod
    def of(cls, values: np.ndarray) -> Extent | None:
        """Return the extent of `values` (N,), None for no values."""
        return cls(int(values.min()), float(np.median(values)), int(values.max())) if len(values) else None


def write_data_page(
    path: str | Path,
    summary: Summary,
    verdict: Verdict,
    source: Source,
    *,
    view: int,
    against: Against | None = None,
    other: Source | None = None,
) -> Path:
    """Write the page to `path` and return the path; the pictures shown are read from `source` once more.

    view: side of a view in pixels, for the recipe of the verdict. against: what the source has in common with a second
    source, `other`.

    Raises DataError if the file cannot be written.
    """
    path = Path(path)
    html = page(summary, verdict, source, view=view, against=against, other=other)
    try:
        # Captions from the web may hold half characters, which UTF-8 cannot; they become "?".
        write_bytes(path, html.encode("utf-8", errors="replace"))
    except OSError as error:
        raise DataError("The page cannot be written", got=str(path), cause=str(error)) from None
    return path


def page(
    summary: Summary,
    verdict: Verdict,
    source: Source,
    *,
    view: int,
    against: Against | None = None,
    other: Source | None = None,
) -> str:
    """Return the whole page as HTML text; the options are those of `write_data_page`."""
    album = Album(source, summary)
    return render(
        "data_page.html.j2",
        summary=summary,
        verdict=verdict,
        percent=percent,
        title=summary.name.rstrip("/").rpartition("/")[2] or summary.name,
        weight=megabytes(int(summary.records["bytes"].sum(dtype=np.uint64))),
        strip=_strip(summary, album),
        left_out=_left_out(summary),
        against=against,
        in_common=_in_common(against, album, Album(other, against.there)) if against and other else [],
        short=Extent.of(summary.sizes.min(axis=1)),
        long=Extent.of(summary.sizes.max(axis=1)),
        picture_figures=_picture_figures(summary, view),
        formats=_shares(summary.formats(), len(summary.sizes)),
        tokens=Extent.of(summary.captions["tokens"]),
        caption_figures=_caption_figures(summary),
        scripts=_shares(summary.scripts(), len(summary.captions)),
        repeated=_repeated(summary, album),
        useless=album.tiles(spread(summary.useless, _TILES), said=useless),
        twice=_twice(summary, album),
        recaptioned=int(summary.recaptioned.sum()),
        extremes=_extremes(summary, album),
        blank=album.tiles(spread(summary.flat, _TILES)),
        troubles=[
            (f"{trouble.index:,}", trouble.key, trouble.reason) for trouble in summary.troubles[:_LISTED]
        ],
    )


def _strip(summary: Summary, album: Album) -> list[Picture]:
    """Return pictures spread over the set."""
    fine = spread(np.flatnonzero(summary.fine), 12)
    return [picture for picture in map(album.picture, fine.tolist()) if picture is not None]


def _left_out(summary: Summary) -> list[tuple[str, ...]]:
    """Return the unused things in the source: how many, why, an example, and which of several sources."""
    several = len(summary.contents) > 1
    return [
        (f"{left.count:,}", reason, left.example, *([name] if several else []))
        for name, contents in summary.contents
        for reason, left in contents.left_out.items()
    ]


def _picture_figures(summary: Summary, view: int) -> list[Figure]:
    """Return the figures of sizes, beside the size of a view, and of shapes."""
    if not len(summary.sizes):
        return []
    short = summary.sizes.min(axis=1)
    edges = steps(float(short.min()), float(short.max()))
    shapes = [0.25, 0.32, 0.4, 0.5, 0.57, 0.65, 0.72, 0.8, 0.95, 1.05, 1.25, 1.4, 1.55, 1.75, 2, 2.5, 3.2, 4]
    sizes = Histogram.of(
        short,
        title="Short side",
        note=f"in pixels, images; a view has {view}",
        edges=edges,
        ticks=_some(edges),
        levels=[(f"{view}", view)] if edges[0] < view < edges[-1] else [],
    )
    ratios = Histogram.of(
        summary.sizes[:, 0] / summary.sizes[:, 1],
        title="Shape",
        note="width divided by height, images",
        edges=shapes,
        ticks=[0.25, 0.5, 1, 2, 4],
        colour="c4",
    )
    return [sizes.figure(), ratios.figure()]


def _caption_figures(summary: Summary) -> list[Figure]:
    """Return the figures of lengths, and of captions per record if a record has more than one."""
    if not len(summary.captions):
        return []
    tokens = summary.captions["tokens"]
    last = int(min(MOST_TOKENS, max(summary.context + 3, tokens.max())))
    size = -(-last // 40)
    edges = [float(edge) for edge in range(0, last + size, size)]
    lengths = Histogram.of(
        tokens,
        title="Length",
        note=f"in tokens, captions; a model reads {summary.context}",
        edges=edges,
        ticks=[tick for tick in (0, 20, 40, 60, 80, 120, 160, 200, 250) if tick <= edges[-1]],
        levels=[(f"{summary.context}", summary.context)],
    )
    each = summary.records["captions"]
    most = int(each.max())
    if most <= 1:
        return [lengths.figure()]
    numbers = Histogram.of(
        each,
        title="Captions of a record",
        note="records",
        edges=[k - 0.5 for k in range(min(most, 12) + 2)],
        ticks=list(range(min(most, 12) + 1)),
        colour="c4",
    )
    return [lengths.figure(), numbers.figure()]


def _extremes(summary: Summary, album: Album) -> list[tuple[str, list[Tile]]]:
    """Return the smallest and the largest pictures, if sizes differ."""
    order = summary.by_size()
    if len(order) < 2 or (summary.sizes == summary.sizes[0]).all():
        return []
    few = min(_TILES, len(order) // 2)
    return [("Smallest", album.tiles(order[:few])), ("Largest", album.tiles(order[::-1][:few]))]


def _repeated(summary: Summary, album: Album) -> list[tuple[str, str]]:
    """Return the most frequent texts, each after the number of times."""
    found = [
        (times, which, album.captions(position))
        for times, position, which in summary.most_repeated(_CAPTIONS)
    ]
    return [(f"{times:,}\u00a0×", texts[which][:300]) for times, which, texts in found if which < len(texts)]


def _twice(summary: Summary, album: Album) -> list[tuple[str, list[Group]]]:
    """Return pictures that are there more than once, side by side, under titles."""
    found = []
    for title, firsts in (("The same bytes", summary.twins), ("Nearly the same", summary.lookalikes)):
        groups = [
            Group(album.tiles(group[:_MEMBERS], weight=True), max(0, len(group) - _MEMBERS))
            for group in summary.groups(firsts, _GROUPS)
        ]
        found.append((f"{title}: the largest groups", groups))
    return [(title, groups) for title, groups in found if groups]


def _in_common(against: Against, here: Album, there: Album) -> list[tuple[str, list[Group]]]:
    """Return pairs of records, one of each set, that have a picture or a caption in common, under titles."""
    titles = {PICTURE: "The same picture", NEAR: "Nearly the same picture", CAPTION: "The same caption"}
    found = []
    for what, title in titles.items():
        groups = [
            _pair(here, there, one, two, captions=what == CAPTION)
            for one, two in against_pairs(against, what, _GROUPS)
        ]
        found.append((f"{title}: {len(against.positions(what)):,}", groups))
    return [(title, groups) for title, groups in found if groups]


def _pair(here: Album, there: Album, one: int, two: int, *, captions: bool) -> Group:
    """Return two records side by side; with `captions`, each with a caption that both have."""
    if not captions:
        return Group([*here.tiles([one]), *there.tiles([two])])
    ours, theirs = ({normal(text) for text in album.captions(k)} for album, k in ((here, one), (there, two)))
    return Group(
        [
            *here.tiles([one], said=lambda text: normal(text) in theirs),
            *there.tiles([two], said=lambda text: normal(text) in ours),
        ]
    )


def _shares(counts: Mapping[str, int], of: int) -> list[Share]:
    """Return shares, largest first."""
    return [
        Share(name, count, count / of) for name, count in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _some(edges: Sequence[float]) -> list[float]:
    """Return about six of the edges, the ends among them."""
    step = max(1, round((len(edges) - 1) / 6))
    return [*edges[: -step or None : step], edges[-1]] if len(edges) > step else list(edges)
