"""Tables: columns guessed and chosen, quoting, encodings, and errors that name the line."""

from __future__ import annotations

import csv
import io
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slip.data.captions import texts
from slip.data.sources.table import Table
from slip.errors import DataError


@pytest.fixture
def table(tmp_path, jpeg):
    """Write a table beside the images a.jpg and b.jpg, and open it."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(jpeg)

    def open_table(text, name="t.csv", encoding="utf-8", **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return Table(path, **options)

    return open_table


def pairs(source):
    return [(record.key, record.captions) for record in source]


def test_csv(table, tmp_path, jpeg):
    source = table('image,caption\na.jpg,"a ""big"" dog, running"\nb.jpg,"two\nlines"\n\n')
    assert pairs(source) == [("a.jpg", ('a "big" dog, running',)), ("b.jpg", ("two\nlines",))]
    assert (source.image_column, source.caption_columns) == ("image", ("caption",))
    assert source[0].image == jpeg
    assert source[0].source == source.name == str(tmp_path / "t.csv")
    assert pairs(pickle.loads(pickle.dumps(source))) == pairs(source)


@pytest.mark.parametrize(
    ("text", "name", "encoding"),
    [
        ("image\tcaption\r\na.jpg\tone, two\r\n", "t.tsv", "utf-8"),
        ("image;caption\na.jpg;one, two\n", "t.csv", "utf-8"),
        ("image\tcaption\na.jpg\tone, two\n", "t.CSV", "utf-8"),
        ('image,caption\na.jpg,"one, two"', "t.csv", "utf-8-sig"),
        ("id,Caption ,IMAGE PATH\n7,'one, two',a.jpg\n".replace("'", '"'), "t.csv", "utf-8"),
        (
            "\n\nfilename,score,text\na.jpg,1,one\\, two\n".replace("one\\, two", '"one, two"').lstrip(),
            "t.csv",
            "utf-8",
        ),
        ('{"image": "a.jpg", "caption": "one, two"}\n', "t.jsonl", "utf-8-sig"),
        ('\n{"captions": ["one, two", "", null], "n": 1, "File-Name": "a.jpg"}', "t.jsonl", "utf-8"),
    ],
)
def test_forms(table, text, name, encoding):
    assert pairs(table(text, name, encoding)) == [("a.jpg", ("one, two",))]


def test_the_best_known_name_wins(table):
    source = table("title,path,Caption,file\nt,a.jpg,c,b.jpg\n")
    assert (source.image_column, source.caption_columns) == ("file", ("Caption",))


def test_chosen_columns(table):
    text = "image,a,b,title\nb.jpg,a.jpg,one,two\n"
    assert pairs(table(text, image_column="a", caption_column="b")) == [("a.jpg", ("one",))]
    assert pairs(table(text, caption_column="TITLE")) == [("b.jpg", ("two",))]
    assert pairs(table(text, caption_column="title, b")) == [("b.jpg", ("two", "one"))]
    assert table('image,"x,y"\na.jpg,one\n', caption_column="x,y").caption_columns == ("x,y",)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({}, "Columns of t.csv: image from 'path', caption from 'title' (guessed)"),
        ({"image_column": "path"}, "Columns of t.csv: caption from 'title' (guessed)"),
        ({"caption_column": "note"}, "Columns of t.csv: image from 'path' (guessed)"),
        ({"image_column": "path", "caption_column": "title,note"}, ""),
    ],
)
def test_what_was_guessed_is_said(table, options, note):
    assert table("path,title,note\na.jpg,x,y\n", **options).note == note


def test_numbered_captions(table):
    source = table("image,caption_0,Caption 1,caption_old,caption_2\na.jpg,x,y,no,z\n")
    assert source[0].captions == ("x", "y", "z")
    assert source.note.endswith("captions from 'caption_0', 'Caption 1', 'caption_2' (guessed)")


def test_without_captions(table):
    text = "path,label\na.jpg,dog\nb.jpg,cat\n"
    with pytest.raises(DataError, match=r"looks like the caption.*--objective\.loss simclr"):
        table(text)
    source = table(text, captions_required=False)
    assert pairs(source) == [("a.jpg", ()), ("b.jpg", ())]
    assert source.note == "Columns of t.csv: image from 'path' (guessed); no captions"
    source = table(text, captions_required=False, image_column="path")
    assert source.note == "Columns of t.csv: no captions"
    assert pairs(table(text, captions_required=False, caption_column="label"))[0] == ("a.jpg", ("dog",))
    with pytest.raises(DataError, match="no column 'lable'.*Did you mean 'label'"):
        table(text, captions_required=False, caption_column="lable")
    captioned = table("path,title\na.jpg,x\n", captions_required=False)
    assert captioned[0].captions == ("x",)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_rows_of_an_image_are_one_record(table, name):
    rows = [("b.jpg", "1"), ("a.jpg", "2"), ("b.jpg", "3"), ("c.jpg", ""), ("a.jpg", ""), ("b.jpg", "4")]
    if name == "t.csv":
        text = "image,caption\n" + "".join(f"{image},{caption}\n" for image, caption in rows)
    else:
        text = "\n".join(json.dumps({"image": image, "caption": caption}) for image, caption in rows)
    source = table(text, name)
    assert [source._paths[i] for i in range(len(source))] == ["b.jpg", "a.jpg", "c.jpg"]
    assert pairs([source[0], source[1]]) == [("b.jpg", ("1", "3", "4")), ("a.jpg", ("2",))]
    assert source.note.endswith(
        "(guessed). 6 rows name 3 images: each is one record, with the captions of its rows"
    )
    assert pairs([pickle.loads(pickle.dumps(source))[0]]) == pairs([source[0]])


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("abcdef"), st.text("xyz", max_size=2)), min_size=1))
def test_merged_rows_equal_the_slow_twin(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    for name in "abcdef":
        (folder / name).touch()
    (folder / "t.csv").write_text("image,caption\n" + "".join(f"{i},{c}\n" for i, c in rows))
    twin: dict[str, tuple[str, ...]] = {}
    for image, caption in rows:
        twin[image] = twin.get(image, ()) + ((caption,) if caption else ())
    assert pairs(Table(folder / "t.csv")) == list(twin.items())


def test_rows_without_an_image_stay_apart(table):
    source = table('{"image": "a.jpg", "caption": "x"}\n{"caption": "y"}\n{"caption": "z"}', "t.jsonl")
    assert len(source) == 3
    assert "rows name" not in source.note


def test_jsonl_rows_may_lack_columns(table):
    rows = [{"image": "a.jpg"}, {"image": "b.jpg", "caption": ["x", "y"]}, {"caption": "z"}, {"image": 5}]
    source = table("\n".join(map(json.dumps, rows)), "t.jsonl")
    assert pairs([source[0], source[1]]) == [("a.jpg", ()), ("b.jpg", ("x", "y"))]
    for index in (2, 3):
        with pytest.raises(DataError, match="names no image"):
            source[index]


def test_image_root_and_absolute_paths(table, tmp_path, jpeg):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.jpg").write_bytes(jpeg)
    text = f"image,caption\nc.jpg,x\n{tmp_path / 'a.jpg'},y\n"
    assert [r.image for r in table(text, image_root=str(tmp_path / "deep"))] == [jpeg, jpeg]


@settings(max_examples=50, deadline=None)
@given(captions=st.lists(st.text(st.characters(codec="utf-8")), min_size=1), tab=st.booleans())
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, captions, tab):
    folder = tmp_path_factory.mktemp("csv")
    (folder / "a.jpg").touch()
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t" if tab else ",")
    writer.writerows([["image", "caption"], *(["a.jpg", caption] for caption in captions)])
    path = folder / ("t.tsv" if tab else "t.csv")
    path.write_bytes(buffer.getvalue().encode())
    expected = tuple(text for caption in captions for text in texts(caption))
    assert [record.captions for record in Table(path)] == [expected]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "image,label\na.jpg,dog\n",
            "t.csv",
            r"looks like the caption\. Got: 'image, label'.*--data\.caption-column",
        ),
        (
            "this,caption\nhere,dog\n",
            "t.csv",
            r"looks like the image\. Got: 'this, caption'.*--data\.image-column",
        ),
        ("a.jpg,a dog\nb.jpg,a cat\n", "t.csv", "first line of the table must name its columns"),
        ("", "t.csv", "has no rows"),
        ("image,caption\n", "t.csv", "has no rows"),
        ("\n \n", "t.jsonl", "has no rows"),
        (
            "image,caption\na.jpg,x\nb.jpg,a dog, running\n",
            "t.csv",
            r"Line 3 of .* 3 fields, its header has 2.*double quotes",
        ),
        ('image,caption\na.jpg,"two\nlines"\nb.jpg,"a" dog\n', "t.csv", "Line 4 of .* not valid CSV"),
        ('image,caption\na.jpg,x\nb.jpg,"never closed\n', "t.csv", "Line 3 of .* not valid CSV"),
        (
            "image,caption\na.jpg,x\nb.jpg,Stra\xdfe\n".encode("latin1"),
            "t.csv",
            "Line 3 of .* not UTF-8.*CP1252: so read, it says 'b.jpg,Straße'.*iconv -f CP1252",
        ),
        ("image,caption\na.jpg,x\n".encode("utf-16"), "t.csv", "Line 1 of .* UTF-16"),
        ('{"image": "a.jpg", "caption": "x"}\n{"image": "b.j', "t.jsonl", "Line 2 of .* not valid JSON"),
        ('{"image": "a.jpg", "caption": "x"}\n[1]', "t.jsonl", "Line 2 of .* not a JSON object"),
        ("[" * 100_000, "t.jsonl", "Line 1 of .* not valid JSON"),
        ("image,caption\nhttps://example.org/a.jpg,x\n", "t.csv", "web addresses.*img2dataset"),
        ("caption,url\nx,https://example.org/a.jpg\n", "t.csv", "'url' of .* web addresses"),
        ("image,caption\nimages/a.jpg,x\n", "t.csv", r"images/a\.jpg.*--data\.image-root"),
    ],
)
def test_errors(table, text, name, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        table(text, name)


def test_unknown_column_asked_for(table):
    with pytest.raises(DataError, match=r"no column 'captoin'.*Did you mean 'caption'"):
        table("image,caption\na.jpg,x\n", caption_column="captoin")
    with pytest.raises(DataError, match="no column 'titel'"):
        table("image,caption,title\na.jpg,x,y\n", caption_column="caption,titel")


def test_unreadable_table(tmp_path):
    with pytest.raises(DataError, match="table cannot be read"):
        Table(tmp_path / "none.csv")
