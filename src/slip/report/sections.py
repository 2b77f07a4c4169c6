"""The parts of the page, each a function from plain data to markup; a part with nothing to show is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slip import config as configuration
from slip.report import words
from slip.report.charts import Chart
from slip.report.gallery import Answer, Gallery, Picture, Reading
from slip.report.html import Html, div, join, quoted, span, tag
from slip.report.runs import Run
from slip.report.table import Column, columns, interval, lower_is_better, number

Runs = Mapping[str, Run]
Colours = Mapping[str, str]
NOTHING = Html()


def header(runs: Runs, colours: Colours, gallery: Gallery, title: str, intro: str) -> Html:
    """Title, what was measured in a sentence or two, and a strip of pictures drawn at random."""
    strip = div("strip", *(_image(picture) for picture in gallery.pool[:12])) if gallery.pool else None
    return tag(
        "header",
        tag("p", tag("b", "openslip"), " · training report", class_="eyebrow"),
        tag("h1", title),
        tag("p", headline(runs, colours), class_="headline"),
        tag("p", intro, class_="quiet") if intro else None,
        strip,
    )


def headline(runs: Runs, colours: Colours) -> Html:
    """Say what was compared and what is certain about it: only leads whose intervals lie clear of all others'."""
    names = [_who(name, colours) for name in runs]
    towers = {repr(run.config.model.image) + str(run.config.views.size) for run in runs.values()}
    same = " with the same image tower" if len(runs) > 1 and len(towers) == 1 else ""
    trained = words.trained_on(list(runs.values()))
    found = columns(list(runs.values()))
    if not found:
        return join([_enumerate(names), same, trained, ". Final measurements are not in yet."])
    if len(runs) == 1:
        said = [join([_measured(column), " ", _value(column, next(iter(runs)))]) for column in found[:3]]
        return join([_enumerate(names), trained, ": ", _enumerate(said), "."])
    clear: dict[str, list[Column]] = {}
    for column in found:
        clear.setdefault(column.best() or "", []).append(column)
    open_ = clear.pop("", [])
    said = [
        join([_who(name, colours), " is clearly best in ", _measurements(where, found), "."]) for name, where in clear.items()
    ]
    if open_:
        rest = "the others" if said and len(open_) > 2 else _measurements(open_, found)
        said.append(join(["In ", rest, " no one is clearly ahead: the intervals overlap."]))
    return join([_enumerate(names), same, trained, ". ", join(said, " ")])


def results(runs: Runs, colours: Colours) -> Html:
    """The table: runs as rows, measurements as columns, each number with its interval; all others behind a fold."""
    found = columns(list(runs.values()))
    if not found:
        return _section("Results", "No results yet: they appear when the run is finished or measured with `slip evaluate`.")
    heads = [tag("th", class_="corner", scope="col", aria_label="method", style="--order:0")]
    heads += [_column_head(column, i) for i, column in enumerate(found, start=1)]
    rows = [tag("tr", *heads)]
    for k, name in enumerate(runs, start=1):
        cells = [tag("th", name, class_=colours[name], scope="row")]
        cells += [_cell(column, name, runs[name], colours[name], 100 * i + k) for i, column in enumerate(found, start=1)]
        rows.append(tag("tr", *cells))
    table = tag("table", tag("thead", rows[0]), tag("tbody", *rows[1:]), class_="results", style=f"--columns:{len(found)}")
    everything = columns(list(runs.values()), everything=True)
    fold = tag("details", tag("summary", f"All {len(everything)} measurements"), _all_numbers(everything, runs, colours))
    return _section(
        "Results",
        "Bars start at zero, each column has its own scale. The bracket is the 95 % interval.",
        div("scroll", table),
        tag(
            "p",
            "Intervals say where a number would lie with other test samples of the same kind; another training seed moves it too. ",
            "“Best” is said only where the interval lies clear of all others; numbers with overlapping intervals may still differ."
            if len(runs) > 1
            else None,
            class_="note",
        ),
        fold if len(everything) > len(found) else None,
    )


def charts(title: str, note: str, drawn: Sequence[Chart]) -> Html:
    """Line charts side by side."""
    return _section(title, note, div("charts", *(chart.html() for chart in drawn))) if drawn else NOTHING


def examples(gallery: Gallery, model: str) -> Html:
    """Pictures at random with the three likeliest classes."""
    if not gallery.examples:
        return NOTHING
    judged = [reading.right for reading in gallery.examples if reading.right is not None]
    score = f" Right on {sum(judged)} of these {len(judged)}." if judged else ""
    return _section(
        f"What {model} sees",
        f"Pictures drawn at random, not picked, with the three likeliest names and how sure the model is.{score}",
        div("examples", *(_example(reading) for reading in gallery.examples)),
    )


def searches(gallery: Gallery, model: str) -> Html:
    """Text to pictures."""
    if not gallery.searches:
        return NOTHING
    own = any(search.rank for search in gallery.searches)
    drawn = "Captions drawn at random; framed: a picture that carries this caption." if own else ""
    rows = []
    for search in gallery.searches:
        rank = f"its own picture comes {_place(search.rank)} of {len(gallery.pool):,}" if search.rank else None
        asked = div("", tag("p", quoted(str(search.query)), class_="query"), span("quiet", rank) if rank else None)
        rows.append(div("search", asked, _hits(search.found, search.own)))
    return _section(
        f"What {model} finds",
        f"The five most similar of {len(gallery.pool):,} pictures. {drawn}",
        div("searches", *rows),
    )


def readings(gallery: Gallery, model: str) -> Html:
    """Picture to captions."""
    if not gallery.readings:
        return NOTHING
    cards = []
    for reading in gallery.readings:
        truth = "" if reading.right else f"its own comes {_place(reading.rank)}: " if reading.rank else ""
        said = tag("p", truth, quoted(reading.truth or ""), class_="truth") if truth else None
        cards.append(div("reading", _image(reading.picture), div("", _answers(reading.answers), said)))
    return _section(
        f"What {model} says",
        f"Pictures at random and the three most similar of {gallery.captions:,} captions; green: the picture's own.",
        div("readings", *cards),
    )


def neighbours(gallery: Gallery, model: str) -> Html:
    """Picture to pictures, for models without text."""
    if not gallery.neighbours:
        return NOTHING
    rows = [
        div("search", div("asked", _image(search.query)), _hits(search.found, search.own))
        for search in gallery.neighbours
        if isinstance(search.query, Picture)
    ]
    return _section(
        f"What {model} finds alike",
        "This model has no text tower: pictures at random and their five nearest of "
        f"{len(gallery.pool):,}; framed: the same class.",
        div("searches", *rows),
    )


def setup(runs: Runs, colours: Colours) -> Html:
    """What was trained and how it went, in words, then as TOML."""
    said = {name: words.configuration(run) for name, run in runs.items()}
    entries: list[Html] = []
    fullest_first = sorted(said.values(), key=len, reverse=True)
    for topic in dict.fromkeys(topic for topics in fullest_first for topic in topics):
        texts = {name: topics[topic] for name, topics in said.items() if topic in topics}
        if len(set(texts.values())) == 1 and (len(texts) == len(runs) or len(texts) > 1):
            values = [div("", next(iter(texts.values())))]
        else:
            values = [div("", _who(name, colours), " ", text) for name, text in texts.items()]
        entries += [tag("dt", topic), tag("dd", *values)]
    went = {name: words.course(run) for name, run in runs.items()}
    topics = dict.fromkeys(topic for course in went.values() for topic in course)
    head = tag("tr", tag("th"), *(tag("th", name, class_=colours[name], scope="col") for name in runs))
    rows = [tag("tr", tag("th", topic, scope="row"), *(tag("td", went[name][topic]) for name in runs)) for topic in topics]
    folds = [
        tag("details", tag("summary", f"{name}: the whole configuration as TOML"), tag("pre", configuration.to_toml(run.config)))
        for name, run in runs.items()
    ]
    return _section(
        "How it was made",
        "",
        tag("dl", *entries, class_="words"),
        tag("h3", "The runs"),
        div("scroll", tag("table", tag("thead", head), tag("tbody", *rows), class_="facts", style="margin:0 0 28px")),
        *folds,
    )


def commands(pairs: Sequence[tuple[str, str]]) -> Html:
    """The next steps, to be copied."""
    if not pairs:
        return NOTHING
    cells = [div("", tag("p", what), tag("pre", command)) for what, command in pairs]
    return _section("With your own pictures", "", div("commands", *cells))


def footer(runs: Sequence[Run]) -> Html:
    """Versions, and what could not be read."""
    lines = []
    for versions in dict.fromkeys(tuple(run.versions.items()) for run in runs if run.versions):
        lines.append(tag("p", " · ".join(f"{name} {version}" for name, version in versions)))
    damaged = sum(run.damaged for run in runs)
    if damaged:
        lines.append(tag("p", f"{damaged} unreadable line{'s' * (damaged > 1)} of metrics.jsonl left out."))
    return tag("footer", *lines)


def _section(title: str, note: str, *content: object) -> Html:
    return tag("section", tag("h2", title), tag("p", note, class_="quiet") if note else None, *content)


def _who(name: str, colours: Colours) -> Html:
    return span(f"who {colours[name]}", name)


def _enumerate(parts: Sequence[Html]) -> Html:
    """Return `a, b and c`."""
    if len(parts) < 2:
        return join(parts)
    return join([join(parts[:-1], ", "), " and ", parts[-1]])


def _measurements(where: Sequence[Column], found: Sequence[Column]) -> Html:
    """Return measurements as they stand in a sentence; a protocol alone where all its columns are among them."""
    parts: dict[Html, None] = {}
    for column in where:
        whole = all(other in where for other in found if other.protocol == column.protocol)
        parts[_protocol(column) if whole else _measured(column)] = None
    return _enumerate(list(parts))


def _measured(column: Column) -> Html:
    """Return a measurement as it stands in a sentence: `zero-shot on scenes (top-1)`."""
    return join([_protocol(column), f" on {column.dataset}" if column.dataset else "", f" ({column.metric})"])


def _protocol(column: Column) -> Html:
    return join([column.protocol if column.protocol.startswith("k-") else column.protocol.lower()])


def _value(column: Column, name: str) -> Html:
    result = column.results[name]
    unit = "" if column.lower_is_better else " %"
    return join([tag("b", number(column.key, result.value) + unit), f" ({interval(column.key, result)}, n = {result.count:,})"])


def _column_head(column: Column, order: int) -> Html:
    count = f", n = {column.count:,}" if column.count is not None else ""
    lines = [tag("strong", column.protocol), span("", column.dataset), span("", column.metric + count)]
    return tag("th", *lines, scope="col", style=f"--order:{100 * order}")


def _cell(column: Column, name: str, run: Run, colour: str, order: int) -> Html:
    method = span("method", name)
    result = column.results.get(name)
    if result is None:
        why = "no text tower" if run.method == "SimCLR" and column.key.startswith(("zeroshot", "retrieval")) else "not measured"
        return tag("td", method, span("none", why), class_=f"none {colour}", style=f"--order:{order}")
    top = max((r.high for r in column.results.values()), default=1.0) or 1.0
    left, right = 100 * result.low / top, 100 * result.high / top
    bar = div(
        "bar",
        tag("i", style=f"width:{100 * result.value / top:.2f}%"),
        tag("b", style=f"left:{left:.2f}%;width:{right - left:.2f}%"),
        aria_hidden="true",
    )
    value = div("value", number(column.key, result.value), None if column.lower_is_better else tag("small", "%"))
    count = f", n = {result.count:,}" if column.count is None else ""
    best = "best " if column.best() == name else ""
    words_ = div("interval", interval(column.key, result) + count)
    return tag("td", method, value, bar, words_, class_=best + colour, style=f"--order:{order}")


def _all_numbers(found: Sequence[Column], runs: Runs, colours: Colours) -> Html:
    head = tag("tr", tag("th", "measurement"), *(tag("th", name, class_=colours[name], scope="col") for name in runs), tag("th", "n"))
    rows = []
    for column in found:
        cells = []
        for name in runs:
            result = column.results.get(name)
            value = join([tag("b", number(column.key, result.value)), " ", span("interval", interval(column.key, result))]) if result else "–"
            cells.append(tag("td", value))
        counts = " / ".join(f"{c:,}" for c in dict.fromkeys(r.count for r in column.results.values()))
        what = ", ".join(filter(None, (column.protocol, column.dataset, column.metric)))
        rows.append(tag("tr", tag("th", what, scope="row"), *cells, tag("td", counts)))
    unit = "Percent, with 95 % intervals" + ("; ranks as they are." if any(lower_is_better(c.key) for c in found) else ".")
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="facts", style="margin:0 0 16px")
    return div("", tag("p", unit, class_="quiet"), div("scroll", table))


def _image(picture: Picture, class_: str | None = None) -> Html:
    alt = next((caption for caption in picture.captions if caption.strip()), "")
    return tag("img", src=picture.data_url(), alt=alt, class_=class_, loading="lazy")


def _hits(found: Sequence[Picture], own: Sequence[bool]) -> Html:
    return div("hits", *(_image(picture, "own" if mine else None) for picture, mine in zip(found, own)))


def _answers(answers: Sequence[Answer]) -> Html:
    items = []
    for answer in answers:
        name = span("", quoted(answer.text), "\u00a0✓" if answer.right else None)
        row = div("row", name, None if answer.share is None else span("percent", _sure(answer.share)))
        sure = None if answer.share is None else div("sure", tag("i", style=f"width:{100 * answer.share:.1f}%"), aria_hidden="true")
        items.append(tag("li", row, sure, class_="answer right" if answer.right else "answer"))
    return tag("ol", *items)


def _example(reading: Reading) -> Html:
    said = None
    if reading.truth is not None and not any(answer.right for answer in reading.answers):
        place = f", its {_place(reading.rank)} guess" if reading.rank else ""
        said = tag("p", "really: ", tag("b", quoted(reading.truth)), place, class_="truth")
    return div("example", _image(reading.picture), div("", _answers(reading.answers), said))


def _sure(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _place(rank: int | None) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th` …"""
    if rank is None:
        return "nowhere"
    ending = "th" if 10 <= rank % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{ending}"
