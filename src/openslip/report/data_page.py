"""One self-contained HTML page about a set of pictures and captions, from what `openslip.tools.check` found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from openslip.data.record import Source
from openslip.errors import DataError
from openslip.files import write_bytes
from openslip.report.album import Album, spread
from openslip.report.histogram import Histogram, steps
from openslip.report.html import Html, div, join, quoted, span, tag
from openslip.report.page import ICON, POLICY
from openslip.report.parts import NOTHING, image, section, with_code
from openslip.tools.check import Summary, Verdict
from openslip.tools.check.against import CAPTION, NEAR, PICTURE, Against, against_pairs
from openslip.tools.check.facts import MOST_TOKENS
from openslip.tools.check.verdict import megabytes, percent
from openslip.tools.check.words import normal, useless

_LISTED = 100  # records in the list of those that cannot be used
_GROUPS, _MEMBERS, _TILES, _CAPTIONS = 8, 8, 8, 10


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
    """Write the page to `path` and return it; the pictures shown are read from `source` once more.

    view: side of a view in pixels, of the recipe that the verdict is for. against: what the source has in common with
    a second one, `other`.

    Raises DataError when the file cannot be written.
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
) -> Html:
    """Return the whole page as HTML text; the options are those of `write_data_page`."""
    album = Album(source, summary)
    body = tag(
        "main",
        _header(summary, verdict, album),
        _findings(verdict),
        _contents(summary),
        _in_common(against, album, Album(other, against.there)) if against and other else NOTHING,
        _pictures(summary, view),
        _captions(summary, album),
        _twice(summary, album),
        _extremes(summary, album),
        _blank(summary, album),
        _troubles(summary),
        tag("footer", tag("p", f"{summary.name} · written by slip data check")),
    )
    styles = [
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "data_page.css")
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"Data check: {summary.name}"),
        tag("link", rel="icon", href=ICON),
        tag("style", Html("\n".join(styles))),
    )
    return join([Html("<!doctype html>\n"), tag("html", head, tag("body", body), lang="en"), Html("\n")])


def _header(summary: Summary, verdict: Verdict, album: Album) -> Html:
    """The verdict, the numbers in a sentence, and pictures spread over the set."""
    part = "" if summary.checked == summary.total else f" of {summary.total:,}, spread over all"
    size = megabytes(int(summary.records["bytes"].sum(dtype=np.uint64)))
    words = f"{summary.checked:,} records{part}; {len(summary.captions):,} captions; {size} of image files."
    fine = np.flatnonzero(summary.fine)
    chosen = fine[np.linspace(0, len(fine) - 1, min(12, len(fine))).round().astype(int)] if len(fine) else []
    strip = [image(picture) for picture in map(album.picture, chosen) if picture is not None]
    return tag(
        "header",
        tag("p", tag("b", "openslip"), " · data check", class_="eyebrow"),
        tag("h1", quoted(summary.name.rstrip("/").rpartition("/")[2] or summary.name)),
        tag(
            "p",
            span("verdict good" if verdict.good else "verdict stop", verdict.sentence + "."),
            class_="headline",
        ),
        tag("p", words, class_="quiet"),
        div("strip", *strip) if strip else None,
    )


def _findings(verdict: Verdict) -> Html:
    if not verdict.findings:
        return section("Nothing to put right", "No damaged, odd or repeated records were found.")
    items = [
        tag(
            "li",
            tag("p", f"{finding.count:,}", tag("small", percent(finding.share)), class_="number"),
            tag("p", finding.what),
            div(
                "advice",
                tag("p", with_code(finding.advice), class_="quiet"),
                *(tag("pre", command) for command in finding.commands),
            ),
            class_=finding.level,
        )
        for finding in verdict.findings
    ]
    return section("What was found", "Most important first.", tag("ul", *items, class_="findings"))


def _contents(summary: Summary) -> Html:
    """What lies in the source, what of it is used, and why the rest is not."""
    rows = [
        tag(
            "tr",
            tag("td", f"{left.count:,}"),
            tag("td", quoted(reason)),
            tag("td", quoted(left.example)),
            tag("td", quoted(name)) if len(summary.contents) > 1 else None,
        )
        for name, contents in summary.contents
        for reason, left in contents.left_out.items()
    ]
    if not rows:
        return NOTHING
    titles = ("How many", "Why", "Example", "Source")[: 4 if len(summary.contents) > 1 else 3]
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in titles)))
    note = "; ".join(f"{c.seen:,} {c.things} seen, {c.used:,} used" for _, c in summary.contents) + "."
    return section("Left out", note, div("scroll", tag("table", head, tag("tbody", *rows), class_="facts")))


def _pictures(summary: Summary, view: int) -> Html:
    """Sizes, beside that of a view, shapes and formats."""
    if not len(summary.sizes):
        return NOTHING
    short, long = summary.sizes.min(axis=1), summary.sizes.max(axis=1)
    edges = steps(float(short.min()), float(short.max()))
    width, height = summary.sizes[:, 0], summary.sizes[:, 1]
    shapes = [0.25, 0.32, 0.4, 0.5, 0.57, 0.65, 0.72, 0.8, 0.95, 1.05, 1.25, 1.4, 1.55, 1.75, 2, 2.5, 3.2, 4]
    charts = [
        Histogram.of(
            short,
            title="Short side",
            note=f"in pixels, images; a view has {view}",
            edges=edges,
            ticks=_some(edges),
            levels=[(f"{view}", view)] if edges[0] < view < edges[-1] else [],
        ),
        Histogram.of(
            width / height,
            title="Shape",
            note="width divided by height, images",
            edges=shapes,
            ticks=[0.25, 0.5, 1, 2, 4],
            colour="c4",
        ),
    ]
    note = (
        f"Short side {short.min():,} to {short.max():,} pixels, middle {np.median(short):,.0f}; long side up to "
        f"{long.max():,}."
    )
    shares = _shares(summary.formats(), len(summary.sizes))
    return section("Pictures", note, div("charts", *(chart.html() for chart in charts)), shares)


def _captions(summary: Summary, album: Album) -> Html:
    """Lengths, scripts, and the texts that come most often or say nothing."""
    if not len(summary.captions):
        return NOTHING
    tokens = summary.captions["tokens"]
    last = int(min(MOST_TOKENS, max(summary.context + 3, tokens.max())))
    size = -(-last // 40)
    edges = [float(edge) for edge in range(0, last + size, size)]
    each = summary.records["captions"]
    most = int(each.max())
    charts = [
        Histogram.of(
            tokens,
            title="Length",
            note=f"in tokens, captions; a model reads {summary.context}",
            edges=edges,
            ticks=[tick for tick in (0, 20, 40, 60, 80, 120, 160, 200, 250) if tick <= edges[-1]],
            levels=[(f"{summary.context}", summary.context)],
        ),
        Histogram.of(
            each,
            title="Captions of a record",
            note="records",
            edges=[k - 0.5 for k in range(min(most, 12) + 2)],
            ticks=list(range(min(most, 12) + 1)),
            colour="c4",
        ),
    ][: 1 + (most > 1)]
    parts = [div("charts", *(chart.html() for chart in charts))]
    parts.append(_shares(summary.scripts(), len(tokens)))
    repeated = []
    for times, position, which in summary.most_repeated(_CAPTIONS):
        texts = album.captions(position)
        if which < len(texts):
            repeated.append(tag("tr", tag("td", f"{times:,}\u00a0×"), tag("td", quoted(texts[which][:300]))))
    if repeated:
        parts += [
            tag("h3", "The texts that come most often"),
            div("scroll", tag("table", tag("tbody", *repeated), class_="facts")),
        ]
    odd = [album.tile(int(position), said=useless) for position in spread(summary.useless, _TILES)]
    if odd:
        parts += [tag("h3", "Captions that say nothing"), div("tiles", *odd)]
    note = f"{len(tokens):,}, of {tokens.min()} to {tokens.max()} tokens, middle {np.median(tokens):,.0f}."
    return section("Captions", note, *parts)


def _twice(summary: Summary, album: Album) -> Html:
    """Pictures that are there more than once, side by side."""
    parts = []
    for title, firsts in (("The same bytes", summary.twins), ("Nearly the same", summary.lookalikes)):
        groups = summary.groups(firsts, _GROUPS)
        if groups:
            parts.append(tag("h3", f"{title}: the largest groups"))
            rows = [div("group", *album.members(group, _MEMBERS)) for group in groups]
            parts.append(div("groups", *rows))
    if not parts:
        return NOTHING
    other = int(summary.recaptioned.sum())
    note = f"{summary.copies:,} exact copies" + (f", {other:,} of them with other captions" if other else "")
    note += (
        f"; {summary.near_copies:,} near copies, whose brightness and colours are the same but for what resizing, "
        "compression, or the loss of a margin of a percent does: now and then mere likeness."
    )
    if not summary.all_compared:
        note += " So many pictures are alike that not all pairs were compared."
    return section("More than once", note, *parts)


def _in_common(against: Against, here: Album, there: Album) -> Html:
    """Pairs of records, one of each set, that have a picture or a caption in common."""
    titles = {PICTURE: "The same picture", NEAR: "Nearly the same picture", CAPTION: "The same caption"}
    parts = []
    for what, title in titles.items():
        pairs = against_pairs(against, what, _GROUPS)
        if pairs:
            parts.append(tag("h3", f"{title}: {len(against.positions(what)):,}"))
            rows = [_pair(here, there, one, two, captions=what == CAPTION) for one, two in pairs]
            parts.append(div("groups", *rows))
    if not parts:
        return NOTHING
    note = f"Of each pair the first is here, the second in {against.there.name}."
    return section("In both sets", note, *parts)


def _pair(here: Album, there: Album, one: int, two: int, *, captions: bool) -> Html:
    """Return two records side by side, with the caption that they have in common."""
    said = {normal(caption) for caption in there.captions(two)} if captions else set()
    shown = (lambda caption: normal(caption) in said) if captions else None
    ours = {normal(caption) for caption in here.captions(one)} if captions else set()
    theirs = (lambda caption: normal(caption) in ours) if captions else None
    return div("group", here.tile(one, said=shown), there.tile(two, said=theirs))


def _extremes(summary: Summary, album: Album) -> Html:
    """The smallest and largest pictures."""
    order = summary.by_size()
    if len(order) < 2 or (summary.sizes == summary.sizes[0]).all():
        return NOTHING
    few = min(_TILES, len(order) // 2)
    return section(
        "Smallest and largest",
        "",
        tag("h3", "Smallest"),
        album.tiles(order[:few]),
        tag("h3", "Largest"),
        album.tiles(order[::-1][:few]),
    )


def _blank(summary: Summary, album: Album) -> Html:
    if not len(summary.flat):
        return NOTHING
    return section(
        "Blank", f"{len(summary.flat):,} pictures of one colour.", album.tiles(spread(summary.flat, _TILES))
    )


def _troubles(summary: Summary) -> Html:
    """The list of records that cannot be used, and why."""
    count = summary.damaged + summary.unreadable
    if not count:
        return NOTHING
    rows = [
        tag(
            "tr",
            tag("td", f"{trouble.index:,}"),
            tag("td", quoted(trouble.key)),
            tag("td", quoted(trouble.reason)),
        )
        for trouble in summary.troubles[:_LISTED]
    ]
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in ("Record", "Key", "Why"))))
    note = f"{count:,} records" + (f", the first {len(rows)} of them." if len(rows) < count else ".")
    table = div("scroll", tag("table", head, tag("tbody", *rows), class_="facts"))
    return section("Damaged or not to be read", note, table)


def _shares(counts: Mapping[str, int], of: int) -> Html:
    """Bars of shares, largest first."""
    cells = []
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        bar = div("", tag("i", style=f"width:{100 * count / of:.2f}%"), aria_hidden="true")
        cells += [span("", name), bar, tag("b", f"{count:,} · {percent(count / of)}")]
    return div("shares", *cells)


def _some(edges: Sequence[float]) -> list[float]:
    """Return about six of the edges, the ends among them."""
    step = max(1, round((len(edges) - 1) / 6))
    return [*edges[: -step or None : step], edges[-1]] if len(edges) > step else list(edges)
