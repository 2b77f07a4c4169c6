from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from openslip.report.html import Html, div, join, tag


def test_text_is_escaped_markup_is_not() -> None:
    assert tag("p", "a < b & c", tag("b", "d"), None, title='"x"') == (
        '<p title="&quot;x&quot;">a &lt; b &amp; c<b>d</b></p>'
    )


def test_attributes() -> None:
    assert (
        tag("img", alt="", class_=None, hidden=True, aria_label="x") == '<img alt="" hidden aria-label="x">'
    )
    assert tag("meta", name="viewport") == '<meta name="viewport">'
    assert div("a b", "text") == '<div class="a b">text</div>'
    assert isinstance(join(["<", Html("<br>")]), Html)
    assert join(["<", Html("<br>")]) == "&lt;<br>"


WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]))


@given(WORDS, WORDS)
def test_whatever_goes_in_comes_out_as_text(text: str, value: str) -> None:
    class Reader(HTMLParser):
        tags: tuple[str, ...] = ()
        words = ""
        value: str | None = None

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags += (tag,)
            self.value = dict(attrs)["title"]

        def handle_data(self, data: str) -> None:
            self.words += data

    reader = Reader()
    reader.feed(tag("p", text, title=value))
    reader.close()
    assert reader.tags == ("p",)
    assert reader.words == text
    assert reader.value == value


def test_control_characters_are_in_no_page() -> None:
    assert tag("p", "a\x1b[31m\tb\n\x00", title="\x07") == '<p title="\ufffd">a\ufffd[31m\tb\n\ufffd</p>'
