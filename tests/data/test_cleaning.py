"""Raw titles and descriptions made readable, and metadata made of YFCC100M's table."""

from __future__ import annotations

import bz2
import gzip
import re
import time
from html import escape
from urllib.parse import quote_plus

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data import cleaning
from openslip.data.cleaning import clean, make_metadata, raw_rows, tidy
from openslip.data.sources.yfcc import read_metadata
from openslip.errors import DataError


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("IMG_0520", "IMG_0520"),
        ("", ""),
        ("My+vacation%2C+day+1", "My vacation, day 1"),
        ("2%2B2+%3D+4", "2+2 = 4"),
        ("100%+of+it", "100% of it"),
        ("broken+%E9+%zz+%", "broken \ufffd %zz %"),
        ("caf%C3%A9+%E9%B3%A5+%F0%9F%90%A6", "café 鳥 🐦"),
        ("%D8%B7%D8%A7%D8%A6%D8%B1", "طائر"),
        ("%3Cb%3Ebold%3C%2Fb%3E+word", "bold word"),
        (
            "See+%3Ca+href%3D%22http%3A%2F%2Fx.com%22+rel%3D%22nofollow%22%3Ethis+page%3C%2Fa%3E.",
            "See this page.",
        ),
        ("%3Ci%3EBufo%3C%2Fi%3E%3Cbr+%2F%3Ebufo", "Bufo bufo"),
        ("in<b>side</b>rs<p>next<!-- note -->one<IMG SRC='a.jpg'>end", "insiders next one end"),
        ("<b<i>nested</i></b> <scr<b>ipt>", "<bnested"),
        ("a < b > c <3 x<y <", "a < b > c <3 x<y <"),
        ("<joe@example.org> wrote", "wrote"),
        ("Tom &amp; Jerry &quot;live&quot; &#233;&#x42; &nbsp;&hearts;", 'Tom & Jerry "live" éB ♥'),
        ("&amp;amp;amp; &lt;b&gt;x&lt;/b&gt; &amp;lt;i&amp;gt;y", "& x y"),
        ("&bogus; &; & &#0; &#" + "9" * 5000 + "; x", "&bogus; &; & \ufffd x"),
        ("at http://flic.kr/p/abc?d=1&e=2, and more", "at , and more"),
        ("HTTPS://EXAMPLE.ORG/A_(b) end", ") end"),
        ("(see www.example.org/x.)", "(see .)"),
        ("look%3Awww.example.org", "look:"),
        ("awww. www. http:// httpd ftp://x.org/y", "awww. www. http:// httpd"),
        ("wwwhttp://x.org http<b></b>://y.org", "wwwhttp://x.org"),
        ("%00NUL%01\x7f\x85in\u2028it\r\n\tand\x1f", "NUL in it and"),
        ("half \ud83d!", "half !"),
        ("  %20 ", ""),
        ("👩‍🚀 \u200fعربي\u200f", "👩‍🚀 \u200fعربي\u200f"),
    ],
)
def test_clean(raw, text):
    assert clean(raw) == text


PIECES = st.sampled_from(
    [
        "<",
        ">",
        "<b>",
        "</a>",
        "<a href=",
        "&",
        "amp;",
        "&lt;",
        "&gt",
        "#60;",
        "http://",
        "www.",
        "x",
        ".",
        " ",
        "\0",
        "é",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text())
def test_what_is_tidy_stays_so(text):
    once = tidy(text)
    assert tidy(once) == once
    assert once == " ".join(once.split())
    assert not re.search(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]|</?b>", once)


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), max_size=6).map(" ".join))
def test_words_come_through_escaping(text):
    text = " ".join(text.split())
    assert clean(quote_plus(escape(f"<i>{escape(text)}</i>"))) == text


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a",
        "<a ",
        "a",
        "&",
        "&amp;",
        "&#",
        "&#9",
        "9",
        "http://",
        "www.",
        "www.!",
        "%",
        "%E9",
        "+",
        ">",
        "<!--",
        "\0",
    ],
)
def test_time_grows_with_length_only(piece):
    def seconds(text):
        best = []
        for _ in range(2):
            start = time.process_time()
            clean(text)
            best.append(time.process_time() - start)
        return min(best)

    for start in ("", "<a", "&#", "www."):
        text = start + piece * (100_000 // len(piece))
        assert seconds(text) < 2  # what grows with the square takes minutes


def test_make_metadata(tmp_path):
    rows = [
        (3, "A+title", "%3Cb%3Etext%3C%2Fb%3E"),
        (5, "http%3A%2F%2Fx.org", "%3Cbr%3E"),
        (99999999, "", "www.x.org+only+this"),
    ]
    assert make_metadata(iter(rows), tmp_path / "a.parquet") == (2, 1)
    assert list(read_metadata(tmp_path / "a.parquet")) == [
        (3, "A title", "text"),
        (99999999, "", "only this"),
    ]


def line(index, title="", description="", columns=25):
    fields = [str(index), f"60{index}", *["x"] * (columns - 2)]
    if columns > 9:
        fields[8:10] = title, description
    return "\t".join(fields) + "\n"


OPENERS = {"yfcc100m_dataset": open, "yfcc100m_dataset.gz": gzip.open, "yfcc100m_dataset.bz2": bz2.open}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Write lines as the raw table; indices are below 1000, so that no test takes 100 MB."""
    monkeypatch.setattr(cleaning, "INDICES", 1000)

    def write(lines, name="yfcc100m_dataset"):
        with OPENERS.get(name, open)(tmp_path / name, "wb") as file:
            file.write("".join(lines).encode())
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", OPENERS)
def test_raw_rows(table, name):
    path = table([line(0, "My+title", "a%0Ab"), line(1), "\n", line(998, "é")], name)
    assert list(raw_rows(path)) == [(0, "My+title", "a%0Ab"), (1, "", ""), (998, "é", "")]


def test_only_what_all_lists_have(table, tmp_path):
    path = table([line(i, f"title {i}") for i in range(10)])
    subset = table([f"{i}\t60{i}\tabcdef\n" for i in (1, 2, 3, 5, 999)], "subset.tsv")
    np.save(tmp_path / "ids.npy", np.array([5, 2, 7, 998]))
    assert [index for index, *_ in raw_rows(path, [subset])] == [1, 2, 3, 5]
    assert [index for index, *_ in raw_rows(path, [subset, tmp_path / "ids.npy"])] == [2, 5]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(0), line(1, columns=9)], "Line 2 .* has 9 columns, but 10 are needed"),
        (["index\ttitle\n"], "Line 1 .* has 2 columns"),
        ([line("-5")], "Line 1 .* does not begin with an image's index.*'-5'"),
        ([line("123456789")], "at most 8 digits"),
        ([line("٣")], "does not begin"),
    ],
)
def test_other_tables(table, lines, message):
    with pytest.raises(DataError, match=message):
        list(raw_rows(table(lines)))


def test_damaged_files(table, tmp_path):
    path = table([line(i) for i in range(500)], "yfcc100m_dataset.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read beyond line"):
        list(raw_rows(path))
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"cannot be read\. .* gzip"):
        list(raw_rows(path))
    with pytest.raises(DataError, match=r"does not exist.*none\.bz2"):
        list(raw_rows(tmp_path / "none.bz2"))
    path = table([line(1)])
    for array, message in [
        (np.array([1.5]), "does not list image indices.*float64"),
        (np.array([-1]), "does not list"),
        (np.array([1000]), "does not list"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ]:
        np.save(tmp_path / "ids.npy", array)
        with pytest.raises(DataError, match=message):
            list(raw_rows(path, [tmp_path / "ids.npy"]))


def test_hostile_tables_and_lists(table, tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "TEXT_BYTES", 1000)
    with pytest.raises(DataError, match="Line 2 goes on for more than 1,000 bytes"):
        list(raw_rows(table([line(1), line(2, "x" * 2000)], "yfcc100m_dataset.gz")))
    path = table([line(1)], "yfcc100m_dataset.gz")
    content = bytearray(path.read_bytes())
    content[-16:-10] = b"\xff" * 6
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        list(raw_rows(path))
    np.savez(tmp_path / "list.npz", a=np.array([1]))
    (tmp_path / "list.npz").rename(tmp_path / "list.npy")
    with pytest.raises(DataError, match="zip of arrays"):
        list(raw_rows(table([line(1)]), [tmp_path / "list.npy"]))
