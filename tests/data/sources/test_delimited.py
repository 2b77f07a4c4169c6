"""CSV and its kin as spreadsheets and scripts leave them: the rows that are read, and the errors that name a line."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.sources.delimited import read_delimited
from openslip.data.sources.lines import read_lines
from openslip.errors import DataError

PLAIN = [["image", "caption"], ["a.jpg", "a dog"], ["b.jpg", "two cats"]]


def read(folder, text, name="t.csv", wanted=()):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    sheet = read_delimited(path, wanted)
    return [sheet.columns, *map(list, sheet.rows)]


@pytest.mark.parametrize(
    "text",
    [
        "image,caption\na.jpg,a dog\nb.jpg,two cats\n",
        "image, caption\na.jpg, a dog\nb.jpg, two cats",
        'image, caption\na.jpg, "a dog"\nb.jpg,  "two cats"\n',
        "image;caption\r\na.jpg;a dog\r\nb.jpg;two cats\r\n",
        "image,caption\ra.jpg,a dog\rb.jpg,two cats\r",
        "image,caption\r\r\na.jpg,a dog\r\r\nb.jpg,two cats\r\r\n",
        "image\tcaption\na.jpg\ta dog\nb.jpg\ttwo cats\n",
        "image|caption\na.jpg|a dog\nb.jpg|two cats\n",
        'image|caption\na.jpg|"a dog"\nb.jpg|two cats\n',
        "sep=;\nimage;caption\na.jpg;a dog\nb.jpg;two cats\n",
        '"sep=|"\r\nimage|caption\r\na.jpg|a dog\r\nb.jpg|two cats\r\n',
        "sep=^\nimage^caption\na.jpg^a dog\nb.jpg^two cats\n",
        "\ufeffsep=,\nimage,caption\na.jpg,a dog\nb.jpg,two cats\n",
        "\ufeffimage,caption\na.jpg,a dog\nb.jpg,two cats\n",
        ",,\nimage,caption\na.jpg,a dog\nb.jpg,two cats\n",
        'image,"caption"\n"a.jpg",a dog\nb.jpg,two cats\n',
    ],
)
def test_forms_of_the_same_table(tmp_path, text):
    assert read(tmp_path, text) == PLAIN


def width(rows, count):
    return [row[:count] for row in rows]


def test_columns_without_a_name(tmp_path):
    assert width(read(tmp_path, "image,caption,,\na.jpg,a dog,,\nb.jpg,two cats,,\n"), 2) == PLAIN
    index = read(tmp_path, ",image,caption\n0,a.jpg,a dog\n1,b.jpg,two cats\n")
    assert [row[1:] for row in index] == PLAIN
    for header in ("image,caption,,", "image,caption,,note", "image,caption,Unnamed: 2,Unnamed: 3"):
        with pytest.raises(DataError, match=r"Line 3 of .* without a name.*a cat.*old.*double quotes"):
            read(tmp_path, f"{header}\na.jpg,a dog,,\nb.jpg,a cat, old and worn,\n")


def test_the_separator_is_the_one_that_makes_a_table(tmp_path):
    tie = "filename;caption, English\na.jpg;a dog\nb.jpg;a cat, asleep\n"
    assert read(tmp_path, tie)[0] == ["filename", "caption, English"]
    more = "filename;year, month, day;caption, short, English\na.jpg;2021;a dog\n"
    assert read(tmp_path, more)[1] == ["a.jpg", "2021", "a dog"]
    assert read(tmp_path, "image,caption;tags\na.jpg,a dog; b\n")[1] == ["a.jpg", "a dog; b"]
    odd = "what, if;which|ever\n1;2, 3|4\n2;3|4\n"
    assert read(tmp_path, odd, wanted=["which|ever"])[0] == ["what, if", "which|ever"]
    assert read(tmp_path, "image, caption\na.jpg, a dog\n", "t.tsv")[1] == ["a.jpg", "a dog"]
    assert read(tmp_path, "image\tcaption, long\na.jpg\ta dog, big\n", "t.tsv")[1] == ["a.jpg", "a dog, big"]
    assert read(tmp_path, '"image" "caption"\n"a.jpg" "a dog"\n')[1] == ["a.jpg", "a dog"]
    flickr = "image_name| comment_number| comment\na.jpg| 0| Two dogs , one cat .\na.jpg| 1   A dog\n"
    assert read(tmp_path, flickr)[1:] == [
        ["a.jpg", " 0", " Two dogs , one cat ."],
        ["a.jpg", " 1   A dog", ""],
    ]


def test_a_title_above_the_names(tmp_path):
    assert read(tmp_path, "Table 1\nimage,caption\na.jpg,a dog\nb.jpg,two cats\n") == PLAIN
    assert read(tmp_path, "Export, 2024;;\n;;\nimage;caption\na.jpg;a dog\nb.jpg;two cats\n") == PLAIN
    assert read(tmp_path, "this,that,more\na.jpg,image,caption\n")[0] == ["this", "that", "more"]
    assert read(tmp_path, "id,words\nimage,caption\n", wanted=["words"])[0] == ["id", "words"]


def test_row_names_as_r_writes_them(tmp_path):
    for names in (("1", "2"), ("dog", "cat")):
        text = '"image","caption"\n' + "".join(
            f'"{name}","{image}","{caption}"\n' for name, (image, caption) in zip(names, PLAIN[1:])
        )
        sheet = read(tmp_path, text)
        assert [row[1:] for row in sheet] == PLAIN
        assert [row[0] for row in sheet] == ["", *names]
    tabs = '"image"\t"caption"\n"1"\t"a.jpg"\t"a dog"\n"2"\t"b.jpg"\t"two cats"\n'
    assert [row[1:] for row in read(tmp_path, tabs, "t.tsv")] == PLAIN
    commas = "image,caption\na.jpg,a dog, running\nb.jpg,a cat, asleep\n"
    with pytest.raises(DataError, match=r"Line 2 of .* 3 fields, its header has 2.*row names.*double quotes"):
        read(tmp_path, commas)


def test_quotes_between_tabs_are_text(tmp_path):
    rows = [
        ("a.jpg", '"a dog'),
        ("b.jpg", 'a "big" cat'),
        ("c.jpg", '"Hello" she said'),
        ("d.jpg", 'the end"'),
        ("e.jpg", '"'),
    ]
    text = "image\tcaption\n" + "".join("\t".join(row) + "\n" for row in rows)
    assert read(tmp_path, text, "t.tsv")[1:] == [list(row) for row in rows]
    assert read(tmp_path, text.replace("\t", "|"))[1:] == [list(row) for row in rows]
    quoted = 'image\tcaption\na.jpg\t"one\nor two\t""big"" lines"\nb.jpg\t"x"\n'
    assert read(tmp_path, quoted, "t.tsv")[1:] == [["a.jpg", 'one\nor two\t"big" lines'], ["b.jpg", "x"]]
    last = 'caption\timage\n"a dog\ta.jpg\na cat"\tb.jpg\n'
    assert read(tmp_path, last, "t.tsv")[1:] == [['"a dog', "a.jpg"], ['a cat"', "b.jpg"]]


def test_a_quote_does_not_swallow_rows(tmp_path):
    text = 'image,caption\na.jpg,"a dog\nb.jpg,a cat\nc.jpg,a bird"\nd.jpg,a fish\n'
    with pytest.raises(
        DataError, match=r"runs from line 2 to line 4, across what looks like rows.*lone double quote"
    ):
        read(tmp_path, text)
    with pytest.raises(DataError, match="runs from line 2 to line 4"):
        read(tmp_path, 'image,caption\np1,"a dog\np2,a cat\np3,a bird"\n')
    many = "image,caption\n" + 'x,"x\n' + "".join(f"{n},caption {n}\n" for n in range(2, 60)) + '60,x"\n'
    with pytest.raises(DataError, match="runs from line 2 to line 61"):
        read(tmp_path, many)
    named = 'image\tcaption\np1\t"a dog\np2\ta cat\np3\ta bird"\n'
    assert read(tmp_path, named, "t.tsv")[1:] == [["p1", '"a dog'], ["p2", "a cat"], ["p3", 'a bird"']]
    lines = 'image,caption\na.jpg,"a dog, running\na cat, asleep\nboth, at home"\n'
    assert read(tmp_path, lines)[1] == ["a.jpg", "a dog, running\na cat, asleep\nboth, at home"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\na.jpg,a dog\rb.jpg,a cat\n", "Line 2 .*carriage return.*one kind of line ends"),
        ("image\tcaption\na.jpg\ta dog\rb.jpg\ta cat\n", "Line 2 .*carriage return"),
        ('image,caption\na.jpg,"a, dog" \nb.jpg,x\n', "Line 2 .*blank between a closing double quote"),
        ('image,caption\n"a.jpg" ,"a, dog"\n', "Line 2 .*blank between"),
        ('image,caption\na.jpg,"a \\"big\\" dog"\n', "Line 2 .*escaped with backslashes"),
        ("image,caption\n" + "/9j/" * 50_000 + ",x\n", "Line 2 .*picture in base64"),
        ("image,caption\na.jpg," + "x" * (17 << 20), "Line 2 of .* too long"),
        ("image,caption\na.jpg,x\n".encode("utf-16-le"), "UTF-16"),
        (b"PK\x03\x04\x14\xff\xfe", "zip archive.*workbooks"),
        (b"\x1f\x8b\x08\xff\xff", "gunzip"),
    ],
)
def test_errors(tmp_path, text, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        read(tmp_path, text)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, rows, separator, end):
    rows = [("x.jpg", "image", "caption"), *(("y.jpg", *row) for row in rows)]
    buffer = io.StringIO()
    # Before Python 3.13 the module puts no quotes around line breaks other than `end`, which then end a row as well.
    quoting = (
        csv.QUOTE_ALL if {*"\r\n"} & {*"".join(cell for row in rows for cell in row)} else csv.QUOTE_MINIMAL
    )
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([("file", "n", "text"), *rows])
    found = read(tmp_path_factory.mktemp("csv"), buffer.getvalue())
    # What stands at the beginning of a line ends nowhere else: blanks before fields go.
    assert [[cell.strip() for cell in row] for row in found[1:]] == [
        [cell.strip() for cell in row] for row in rows
    ]


@settings(max_examples=200, deadline=None)
@given(
    captions=st.lists(st.text("ab \"'\\,;", max_size=6), min_size=1, max_size=9),
    separator=st.sampled_from("\t|"),
)
def test_no_row_is_lost_without_quoting(tmp_path_factory, captions, separator):
    text = f"image{separator}caption\n" + "".join(f"{n}.jpg{separator}{c}\n" for n, c in enumerate(captions))
    found = read(tmp_path_factory.mktemp("tsv"), text)
    assert [row[0] for row in found[1:]] == [f"{n}.jpg" for n in range(len(captions))]
    for row, caption in zip(found[1:], captions):
        assert row[1].strip(' "').replace('""', '"') == caption.strip(' "').replace('""', '"')


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        ("the sailor’s “old” café – 5 €", "cp1252", "CP1252"),
        ("Straße nach Köln", "latin1", "CP1252"),
        ("собака бежит по пляжу", "cp1251", "CP1251"),
        ("собака бежит по пляжу", "koi8-r", "KOI8-R"),
        ("σκύλος στην παραλία", "cp1253", "CP1253"),
        ("沙滩上的狗在跑", "gb18030", "GB18030"),
        ("犬がビーチで走っている", "shift_jis", "SHIFT_JIS"),
        ("개가 해변에서 달린다", "euc-kr", "EUC-KR"),
    ],
)
def test_another_encoding_is_named(tmp_path, text, encoding, name):
    path = tmp_path / "t.csv"
    path.write_bytes(f"image,caption\na.jpg,plain\nb.jpg,{text}\n".encode(encoding))
    with pytest.raises(
        DataError, match=f"(?s)Line 3 of .* not UTF-8.*{name}.*{text}.*iconv -f {name} "
    ) as error:
        list(read_lines(path))
    assert "LATIN1" not in str(error.value)


def test_encodings_of_old_macs_and_of_single_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("image,caption\ra.jpg,the sailor’s café\r".encode("mac_roman"))
    with pytest.raises(DataError, match="Line 2 of .*sailor’s café.*iconv -f MACINTOSH"):
        list(read_lines(path))
    path.write_bytes("image,caption\na.jpg,Köln\nb.jpg,Füße\nc.jpg,Öl\n".encode() + b"d.jpg,Caf\xe9\n")
    with pytest.raises(DataError, match="Line 5 of .*Most of the file is.*would spoil the other lines"):
        list(read_lines(path))
