"""Relative links of the Markdown files lead to files and headings that exist, with the anchors that GitHub gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if GENERATED not in page.parents)])
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    text = FENCED.sub("", path.read_text())
    return {anchor(title) for title in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)}


def anchor(title: str) -> str:
    """Return the anchor of a heading: of a link its text, lower case, without signs, a hyphen for each space."""
    title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))
    for link in LINK.findall(text):
        place, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        target = (page.parent / place).resolve() if place else page
        if target.is_relative_to(GENERATED):
            continue
        assert target.exists(), link
        if heading:
            assert heading in anchors(target), link


def test_anchors_are_those_of_github() -> None:
    assert anchor("What `--init` takes") == "what---init-takes"
    assert (
        anchor("Locked, tuned or from scratch: product titles")
        == "locked-tuned-or-from-scratch-product-titles"
    )
