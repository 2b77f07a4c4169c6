"""The other parts of the page: head, charts, how it was made, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from openslip import toml
from openslip.addresses import without_keys
from openslip.report import words
from openslip.report.charts import Chart
from openslip.report.gallery import Gallery
from openslip.report.html import Html, div, span, tag
from openslip.report.parts import NOTHING, Colours, Rows, image, section, who
from openslip.report.runs import Run
from openslip.report.scoreboard import headline


def header(rows: Rows, colours: Colours, gallery: Gallery, title: str, intro: str) -> Html:
    """Title, what was measured in a sentence or two, and a strip of pictures drawn at random."""
    strip = div("strip", *(image(picture) for picture in gallery.pool[:12])) if gallery.pool else None
    return tag(
        "header",
        tag("p", tag("b", "openslip"), " · training report", class_="eyebrow"),
        tag("h1", title),
        tag("p", headline(rows, colours), class_="headline"),
        tag("p", intro, class_="quiet") if intro else None,
        strip,
    )


def charts(title: str, note: str, drawn: Sequence[Chart]) -> Html:
    """Line charts side by side."""
    return section(title, note, div("charts", *(chart.html() for chart in drawn))) if drawn else NOTHING


def setup(rows: Rows, colours: Colours) -> Html:
    """What was trained and how it went, in words, then as TOML."""
    said = {name: words.configuration(row) for name, row in rows.items()}
    entries: list[Html] = []
    fullest_first = sorted(said.values(), key=len, reverse=True)
    for topic in dict.fromkeys(topic for topics in fullest_first for topic in topics):
        texts = {name: topics[topic] for name, topics in said.items() if topic in topics}
        if len(set(texts.values())) == 1 and (len(texts) == len(rows) or len(texts) > 1):
            values = [div("", next(iter(texts.values())))]
        else:
            values = [div("", who(name, colours), " ", text) for name, text in texts.items()]
        entries += [tag("dt", topic), tag("dd", *values)]
    went = [
        (name, words.seed_of(row, run), words.course(run)) for name, row in rows.items() for run in row.runs
    ]
    topics = dict.fromkeys(topic for _, _, course in went for topic in course)
    head = tag("tr", tag("th", "run", scope="col"), *(tag("th", topic, scope="col") for topic in topics))
    lines = [
        tag(
            "tr",
            tag("th", span(f"who {colours[name]}", name), seed, scope="row"),
            *(tag("td", course[topic]) for topic in topics),
        )
        for name, seed, course in went
    ]
    folds = [
        tag(
            "details",
            tag("summary", f"{name}: the whole configuration as TOML", words.of_which_seed(row)),
            tag("pre", without_keys(toml.dumps(row.first.config))),
            class_="whole",
        )
        for name, row in rows.items()
    ]
    return section(
        "How it was made",
        "",
        tag("dl", *entries, class_="words"),
        tag("h3", "The runs"),
        div(
            "scroll",
            tag("table", tag("thead", head), tag("tbody", *lines), class_="facts runs"),
        ),
        *folds,
    )


def commands(pairs: Sequence[tuple[str, str]]) -> Html:
    """The next steps, to be copied."""
    if not pairs:
        return NOTHING
    cells = [div("", tag("p", what), tag("pre", command)) for what, command in pairs]
    return section("What to do next", "", div("commands", *cells))


def footer(runs: Sequence[Run]) -> Html:
    """Versions, and what could not be read."""
    lines = []
    for versions in dict.fromkeys(tuple(run.versions.items()) for run in runs if run.versions):
        lines.append(tag("p", " · ".join(f"{name} {version}" for name, version in versions)))
    damaged = sum(run.damaged for run in runs)
    if damaged:
        lines.append(tag("p", f"{damaged} unreadable line{'s' * (damaged > 1)} of metrics.jsonl left out."))
    return tag("footer", *lines)
