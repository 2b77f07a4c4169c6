from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from openslip.report import render
from openslip.report.render import ordinal

TEMPLATES = {
    file.name: file.read_text(encoding="utf-8")
    for file in (resources.files("openslip.report") / "templates").iterdir()
}
"""As an installed package has them."""


def filled(template: str, **data: object) -> str:
    return render._environment().from_string(template).render(data)


def test_text_is_escaped_in_words_and_attributes() -> None:
    html = filled(
        '<p title="{{ title }}">{{ text }}<b>{{ number }}</b></p>', title="\"x'", text="a < b & c", number=1
    )
    assert html == '<p title="&#34;x&#39;">a &lt; b &amp; c<b>1</b></p>'


def test_macros_and_filters_escape() -> None:
    nasty = "<script>`<i>`"
    macros = (
        '{% from "macros.html.j2" import quoted, sentence, who, with_code %}'
        "{{ quoted(x) }}{{ who(x, x) }}{{ with_code(x) }}{{ sentence([x]) }}{{ [x, x]|join(x) }}"
    )
    html = filled(macros, x=nasty)
    assert html.count("&lt;script&gt;") == 8
    assert "<code>&lt;i&gt;</code>" in html
    assert "<script" not in html
    assert "<i>" not in html


@pytest.mark.parametrize("name", sorted(name for name in TEMPLATES if name.endswith(".j2")))
def test_no_template_turns_escaping_off(name: str) -> None:
    source = TEMPLATES[name]
    render._environment().parse(source)
    assert not re.search(r"\|\s*safe\b|\bMarkup\b|\bautoescape\b", source)


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
    reader.feed(filled('<p title="{{ value }}">{{ text }}</p>', text=text, value=value))
    reader.close()
    assert reader.tags == ("p",)
    assert reader.words == text
    assert reader.value == value


def test_control_characters_are_in_no_page() -> None:
    html = filled('<p title="{{ title }}">{{ text }}</p>', text="a\x1b[31m\tb\n\x00", title="\x07")
    assert html == '<p title="\ufffd">a\ufffd[31m\tb\n\ufffd</p>'


def test_what_is_not_given_is_an_error() -> None:
    for template in ("{{ nothing }}", "{% if nothing %}{% endif %}", "{{ row.nothing }}"):
        with pytest.raises(UndefinedError):
            filled(template, row=object())


def test_line_breaks_between_tags_are_left_out_those_in_texts_stay() -> None:
    template = "<p>\n  {% if x %}\n  <b>{{ x }}</b> <i>c</i>\n  {% endif %}\n  <u>d\n  e</u>\n</p>\n"
    assert filled(template, x="a\n<b>\nb") == "<p><b>a\n&lt;b&gt;\nb</b> <i>c</i><u>d\n  e</u></p>"


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1003)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th", "1,003rd"),
    ]


def test_the_package_holds_its_templates_and_styles() -> None:
    assert TEMPLATES.keys() >= {"report.html.j2", "data_page.html.j2", "page.css", "data_page.css"}
