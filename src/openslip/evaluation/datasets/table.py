"""Cards as text and as plain values: all of them as a table, one in full."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from openslip.evaluation.datasets import Card, places
from openslip.evaluation.measures import measure

FIRST = 12
"""The most names of classes that a description shows."""


def facts(card: Card) -> dict[str, Any]:
    """Return the facts of a card, and where its set is found, ready for JSON."""
    found = places.on_disk(card)
    return {
        "name": card.name,
        "title": card.title,
        "aliases": list(card.aliases),
        "kind": card.kind,
        "metric": card.metric,
        "classes": card.classes,
        "splits": dict(card.splits),
        "paper": card.paper,
        "told_by": card.told_by if isinstance(card.told_by, str) else list(card.told_by),
        "prompts": card.prompts,
        "templates": list(card.templates),
        "labels": {key: list(names) for key, names in card.labels.items()},
        "names_from": card.names_from,
        "where": card.where,
        "shards": card.shards,
        "licence": card.licence,
        "note": card.note,
        "found": None if found is None else str(found),
    }


def listed(cards: Iterable[Card]) -> str:
    """Return a table of cards: name, title, kind, classes, metric, whether the paper has the set, where it is found."""
    from openslip.evaluation.results import aligned

    rows = [("name", "title", "kind", "classes", "metric", "paper", "found")]
    for card in cards:
        found = places.on_disk(card)
        rows.append(
            (
                card.name,
                card.title,
                card.kind,
                f"{card.classes:,}" if card.classes else "",
                measure(card.metric).title,
                "yes" if card.paper else "",
                "built in" if card.name == "scenes" else str(found or ""),
            )
        )
    text = "\n".join(aligned(rows, left=(0, 1, 2, 4, 5, 6)))
    roots = ", ".join(map(str, places.roots()))
    looked = (
        f"Looked for in {roots}." if roots else f"Folders to look in: --datasets FOLDER, or {places.ROOTS}."
    )
    return f"{text}\n\n{looked} `slip datasets show NAME` prints a card."


def describe(card: Card) -> str:
    """Return all facts of a card, in lines."""
    found = places.on_disk(card)
    names = [" or ".join(some) for some in card.labels.values()]
    aliases = ", ".join(card.aliases)
    told = {
        "labels": "all names of its classes",
        "imagenet": "ten or more names of ImageNet's classes, and no others",
        "name": f"its name alone: write {card.name}@FOLDER",
    }
    by = told.get(card.told_by) if isinstance(card.told_by, str) else ", ".join(card.told_by)
    lines = [
        ("name", card.name + (f" (also {aliases})" if aliases else "")),
        ("title", card.title),
        ("kind", card.kind),
        ("metric", f"{measure(card.metric).title} ({card.metric})" + ", as in the paper" * card.paper),
        ("classes", f"{card.classes:,}" if card.classes else ""),
        ("splits", ", ".join(f"{count:,} {split}" for split, count in card.splits.items())),
        ("told by", str(by) if card.kind == "classes" and card.name != "scenes" else ""),
        ("licence", card.licence),
        ("where", card.where),
        ("shards", card.shards),
        ("found", str(found or "") or ("" if card.name == "scenes" else "not on this machine")),
        ("note", card.note),
    ]
    if card.kind == "classes":
        lines += [
            ("names", f"{card.names_from}" + (f": {', '.join(names[:FIRST])}" if names else "")
             + (f", … ({len(names):,})" if len(names) > FIRST else "")),
            ("prompts", f"{len(card.templates)}, the set {card.prompts!r}" if card.prompts else "the default ones"),
        ]  # fmt: skip
    text = [_wrapped(name, value) for name, value in lines if value]
    return "\n".join([*text, *(f"{'':10}{template}" for template in card.templates)])


def _wrapped(name: str, value: str) -> str:
    return textwrap.fill(
        value,
        110,
        initial_indent=f"{name:<10}",
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )
