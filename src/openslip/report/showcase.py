"""What the model says about pictures, as markup; a part that the gallery has nothing for is empty."""

from __future__ import annotations

from collections.abc import Sequence

from openslip.report.gallery import Answer, Gallery, Picture, Reading
from openslip.report.html import Html, div, quoted, span, tag
from openslip.report.parts import NOTHING, image, section


def examples(gallery: Gallery, model: str) -> Html:
    """Pictures at random with the three likeliest classes."""
    if not gallery.examples:
        return NOTHING
    judged = [reading.right for reading in gallery.examples if reading.right is not None]
    score = f" Right on {sum(judged)} of these {len(judged)}." if judged else ""
    return section(
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
        rank = (
            f"its own picture comes {_place(search.rank)} of {len(gallery.pool):,}" if search.rank else None
        )
        asked = div(
            "", tag("p", quoted(str(search.query)), class_="query"), span("quiet", rank) if rank else None
        )
        rows.append(div("search", asked, _hits(search.found, search.own)))
    return section(
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
        said = None
        if reading.rank and not any(answer.right for answer in reading.answers):
            said = tag(
                "p", f"its own comes {_place(reading.rank)}: ", quoted(reading.truth or ""), class_="truth"
            )
        cards.append(div("reading", image(reading.picture), div("", _answers(reading.answers), said)))
    return section(
        f"What {model} says",
        f"Pictures at random and the three most similar of {gallery.captions:,} captions; green: the picture's own.",
        div("readings", *cards),
    )


def neighbours(gallery: Gallery, model: str) -> Html:
    """Picture to pictures, for models without text."""
    if not gallery.neighbours:
        return NOTHING
    rows = [
        div("search", div("asked", image(search.query)), _hits(search.found, search.own))
        for search in gallery.neighbours
        if isinstance(search.query, Picture)
    ]
    return section(
        f"What {model} finds alike",
        "This model has no text tower: pictures at random and their five nearest of "
        f"{len(gallery.pool):,}; framed: the same class.",
        div("searches", *rows),
    )


def _hits(found: Sequence[Picture], own: Sequence[bool]) -> Html:
    return div("hits", *(image(picture, "own" if mine else None) for picture, mine in zip(found, own)))


def _answers(answers: Sequence[Answer]) -> Html:
    items = []
    for answer in answers:
        name = span("", quoted(answer.text), "\u00a0✓" if answer.right else None)
        row = div("row", name, None if answer.share is None else span("percent", _sure(answer.share)))
        sure = (
            None
            if answer.share is None
            else div("sure", tag("i", style=f"width:{100 * answer.share:.1f}%"), aria_hidden="true")
        )
        items.append(tag("li", row, sure, class_="answer right" if answer.right else "answer"))
    return tag("ol", *items)


def _example(reading: Reading) -> Html:
    said = None
    if reading.truth is not None and not any(answer.right for answer in reading.answers):
        place = f", its {_place(reading.rank)} guess" if reading.rank else ""
        said = tag("p", "really: ", tag("b", quoted(reading.truth)), place, class_="truth")
    return div("example", image(reading.picture), div("", _answers(reading.answers), said))


def _sure(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _place(rank: int | None) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th` …"""
    if rank is None:
        return "nowhere"
    ending = "th" if 10 <= rank % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{ending}"
