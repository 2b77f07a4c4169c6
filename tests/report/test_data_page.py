"""The page about a source: self-contained, complete, and safe with whatever captions and keys hold."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from check_fakes import Odds, index_of
from openslip.data.record import Record
from openslip.errors import DataError
from openslip.report.data_page import page, write_data_page
from openslip.tools.check import check, judge
from openslip.tools.check.against import compare
from tools.check.test_against import TEST, TRAIN


def written(source, view: int = 64, **options) -> str:
    summary = check(source, processes=1, **options)
    assert summary is not None
    return page(summary, judge(summary), source, view=view)


@pytest.fixture(scope="module")
def html() -> str:
    return written(Odds())


class Balance(HTMLParser):
    """Fails on a tag that is closed before what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("meta", "link", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.stack.pop() == tag


def test_well_formed(html: str) -> None:
    parser = Balance()
    parser.feed(html)
    assert parser.stack == []


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    assert "Content-Security-Policy" in html
    assert "<script" not in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) > 20
    assert all(source.startswith("data:") for source in sources)


def test_everything_is_on_it(html: str) -> None:
    titles = re.findall(r"<h[123]>(.*?)</h[123]>", re.sub(r"</?bdi.*?>", "", html))
    assert titles == [
        *("odds", "What was found", "Pictures", "Captions", "The texts that come most often"),
        *("Captions that say nothing", "More than once", "The same bytes: the largest groups"),
        *("Nearly the same: the largest groups", "Smallest and largest", "Smallest", "Largest", "Blank"),
        "Damaged or not to be read",
    ]
    for finding in judge(check(Odds(), processes=1)).findings:  # type: ignore[arg-type]
        assert finding.what in html
    for key in (3, 30, 31, 4, 32, 33, 34, index_of("small"), index_of("large"), index_of("IMG_2034.JPG")):
        assert f">key/{key}<" in html
    assert "The file is gone." in html
    assert "20 × 10" in html
    assert len(re.findall("<figure", html)) == 4


def test_the_same_twice(html: str) -> None:
    assert written(Odds()) == html


def test_the_size_of_a_view_is_marked_among_the_pictures(html: str) -> None:
    for view, text in ((64, html), (50, written(Odds(), view=50)), (2000, written(Odds(), view=2000))):
        marks = re.findall(r'class="mark"[^>]*>(\d+)<', text)
        assert marks == [str(view), "77"][view == 2000 :]  # beyond all pictures there is no place to mark
        assert f"images; a view has {view}<" in text


class Hostile(Odds):
    """Markup, half characters and direction marks wherever people can put them."""

    def __getitem__(self, index: int) -> Record:
        nasty = "<script>alert(1)</script>\u202e\ud800\0"
        record = super().__getitem__(index)
        return dataclasses.replace(record, captions=(nasty, "IMG_1"), key=nasty + str(index))


def test_nothing_of_it_is_markup(tmp_path) -> None:
    source = Hostile(name="<script>")
    summary = check(source, processes=1)
    assert summary is not None
    text = write_data_page(tmp_path / "page.html", summary, judge(summary), source, view=64).read_text(
        "utf-8"
    )
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_small_and_broken_sources() -> None:
    class Broken(Odds):
        def __getitem__(self, index: int) -> Record:
            raise DataError("The disk is gone")

    assert "The disk is gone" in written(Broken(3))
    assert "60 pixels" in written(Odds(1))


def test_nothing_to_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openslip.tools.check.verdict.SMALL", 32)
    assert "Nothing to put right" in written(Odds(3))


def test_a_source_that_has_gone_since(html: str) -> None:
    summary = check(Odds(), processes=1)

    class Gone(Odds):
        def __getitem__(self, index: int) -> Record:
            raise DataError("The disk is gone")

    assert summary is not None
    text = page(summary, judge(summary), Gone(), view=64)
    assert "Damaged or not to be read" in text
    assert "<img" not in text


def test_a_place_that_cannot_be_written(tmp_path) -> None:
    summary = check(Odds(2), processes=1)
    assert summary is not None
    with pytest.raises(DataError, match="cannot be written"):
        write_data_page(tmp_path / "no" / "page.html", summary, judge(summary), Odds(2), view=64)


def test_pairs_of_two_sets_side_by_side() -> None:
    here, there = check(TRAIN, processes=1), check(TEST, processes=1)
    assert here is not None
    assert there is not None
    against = compare(here, there)
    html = page(here, judge(here), TRAIN, view=64, against=against, other=TEST)
    plain = re.sub(r"</?bdi.*?>", "", html)
    titles = re.findall(r"<h[23]>(.*?)</h[23]>", plain)
    start = titles.index("In both sets")
    assert titles[start : start + 4] == [
        "In both sets", "The same picture: 2", "Nearly the same picture: 1", "The same caption: 1",
    ]  # fmt: skip
    section = plain[plain.index("In both sets") :].partition("</section>")[0]
    assert section.count("<img") == 8
    for words in (
        "train/1",
        "test/1",
        "train/2",
        "test/2",
        "that is THERE",
        "That is there",
        "second in test.",
    ):
        assert words in section
    assert "In both sets" not in page(here, judge(here), TRAIN, view=64)
