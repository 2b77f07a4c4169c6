"""Tables: columns guessed and chosen, quoting, encodings, and errors that name the line."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.captions import texts
from openslip.data.sources.table import Table
from openslip.errors import DataError


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


def test_numbers_behind_image_names(table):
    source = table("image\tcaption\na.jpg#0\tone\na.jpg#1\ttwo\nb.jpg#0\tthree\n", "t.txt")
    assert pairs(source) == [("a.jpg", ("one", "two")), ("b.jpg", ("three",))]
    assert "the numbers of their captions (#0), which are cut off" in source.note


def test_image_cells_that_say_that_there_is_none(table):
    source = table("image,caption\na.jpg,one\nNULL,two\nnan,three\n")
    assert pairs(source) == [("a.jpg", ("one",))]
    assert source.contents.left_out["the row names no image"].count == 2


def test_thousands_of_columns(table):
    names = [f"f{i}" for i in range(2000)]
    row = ",".join(["a.jpg", "a dog", *["0.1"] * len(names)])
    source = table("\n".join([",".join(["image", "caption", *names]), *[row] * 20]) + "\n")
    assert pairs(source) == [("a.jpg", ("a dog",) * 20)]


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
    assert (
        source.note == "Columns of t.csv: image from 'path' (guessed); no captions (other columns: 'label')"
    )
    source = table(text, captions_required=False, image_column="path")
    assert source.note == "Columns of t.csv: no captions (other columns: 'label')"
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
        "(guessed). 6 rows name 3 images: each image is one record, with its rows' captions"
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


def test_rows_without_an_image_are_left_out_and_counted(table):
    source = table('{"image": "a.jpg", "caption": "x"}\n{"caption": "y"}\n{"caption": "z"}', "t.jsonl")
    assert len(source) == 1
    assert source.contents.reasons() == ["2 × the row names no image, for example row 2"]
    assert "rows name" not in source.note
    assert "as in merged cells, write the picture's name into each row" in source.note


def test_jsonl_rows_may_lack_columns(table):
    rows = [{"image": "a.jpg"}, {"image": "b.jpg", "caption": ["x", "y"]}, {"caption": "z"}, {"image": 5}]
    source = table("\n".join(map(json.dumps, rows)), "t.jsonl")
    assert pairs([source[0], source[1]]) == [("a.jpg", ()), ("b.jpg", ("x", "y"))]
    assert (len(source), source.contents.lost) == (2, 2)


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
        (
            "a.jpg,a dog\nb.jpg,a cat\n",
            "t.csv",
            "first line of the table must name its columns.*put a line of names",
        ),
        ("a.jpg#0\ta dog\na.jpg#1\ta cat\n", "t.txt", "put a line of names above it"),
        ("image^caption\na.jpg^a dog\n", "t.csv", "comma, semicolon, tab or pipe between them; it has none"),
        ("image,caption\n'x.jpg',a dog\n", "t.csv", "in quotes of a kind that is not recognised"),
        ('image,caption\n"=IMAGE(""a.jpg"")",a dog\n', "t.csv", "spreadsheet formulas"),
        ('image,caption\n"a.jpg, b.jpg",a dog\n', "t.csv", "names several files: write one row for each"),
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
            "Line 3 of .* not UTF-8.*CP1252: read that way, it says 'b.jpg,Straße'.*iconv -f CP1252",
        ),
        ("image,caption\na.jpg,x\n".encode("utf-16"), "t.csv", "Line 1 of .* UTF-16"),
        ('{"image": "a.jpg", "caption": "x"}\n{"image": "b.j', "t.jsonl", "Line 2 of .* not valid JSON"),
        ('{"image": "a.jpg", "caption": "x"}\n[1]', "t.jsonl", "Line 2 of .* not a JSON object"),
        ('{\n "image": "a.jpg"\n}\n', "t.jsonl", r"several lines.*jq -c \. "),
        ('[\n{"image": "a.jpg"}]\n', "t.jsonl", r"one list.*jq -c '\.\[\]'"),
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


@pytest.mark.parametrize(
    ("header", "image", "captions"),
    [
        ("Photo,Product name", "Photo", ("Product name",)),
        ("Picture,Name", "Picture", ("Name",)),
        ("Bild,Beschreibung", "Bild", ("Beschreibung",)),
        ("Dateiname,Artikel-Bezeichnung", "Dateiname", ("Artikel-Bezeichnung",)),
        ("Nom du fichier,Légende", "Nom du fichier", ("Légende",)),
        ("Imagen,Descripción", "Imagen", ("Descripción",)),
        ("Imagem,Descrição do produto", "Imagem", ("Descrição do produto",)),
        ("Картинка,Описание", "Картинка", ("Описание",)),
        ("画像,説明", "画像", ("説明",)),
        ("Resim,Açıklama", "Resim", ("Açıklama",)),
        ("imageName,productDisplayName", "imageName", ("productDisplayName",)),
        ("file,caption (en)", "file", ("caption (en)",)),
        ("file,blip_caption", "file", ("blip_caption",)),
        ("my pic,Caption", "my pic", ("Caption",)),  # by its cells
    ],
)
def test_headings_are_guessed(table, header, image, captions):
    source = table(f"{header}\na.jpg,a dog\nb.jpg,a cat\n")
    assert (source.image_column, source.caption_columns) == (image, captions)


def test_cells_tell_paths_from_numbers(table):
    source = table("image,image_path,caption\n0,a.jpg,x\n1,b.jpg,y\n")
    assert pairs(source) == [("a.jpg", ("x",)), ("b.jpg", ("y",))]
    assert "image from 'image_path' (among 'image_path', 'image')" in source.note
    assert table("url,file,name\nhttp://x.y/a.jpg,a.jpg,a dog\n").image_column == "file"
    assert table("image,name,title\na.jpg,a.jpg,a dog\n").caption_columns == ("title",)
    assert table("image,caption,text\na.jpg,1,a dog\nb.jpg,2,a cat\n").caption_columns == ("text",)
    assert table("name,title\na.jpg,a dog\n").image_column == "name"
    rows = [{"image": 1, "path": "a.jpg", "caption": "x"}]
    assert table("\n".join(map(json.dumps, rows)), "t.jsonl").image_column == "path"


def test_what_was_chosen_among_what_is_said(table):
    note = table("image,title,description,score\na.jpg,x,y,1\n").note
    assert (
        note
        == "Columns of t.csv: image from 'image', caption from 'title' (among 'title', 'description') (guessed)"
    )


def test_a_column_that_names_no_image(table):
    with pytest.raises(
        DataError, match="'image' .* names no image in its first 2 rows.*Got: '5'.*not of type int"
    ):
        table('{"image": 5, "caption": "x"}\n{"image": 6, "caption": "y"}', "t.jsonl")
    with pytest.raises(
        DataError,
        match="not where they were looked for.*name the column that does with --data.image-column: f",
    ):
        table("image,f,caption\nx,a.jpg,y\n", image_column="image")
    with pytest.raises(DataError, match="if 'image' does not name the files, name the column that does"):
        table("image,caption\n1,x\n2,y\n")
    with pytest.raises(DataError, match="'caption' of .* holds no texts.*Got: .*5, of type int"):
        table('{"image": "a.jpg", "caption": 5}', "t.jsonl")
    with pytest.raises(DataError, match="looks like the caption"):
        table("image,name\na.jpg,n01440764\nb.jpg,n01440765\n")
    with pytest.raises(DataError, match="first line of the table must name"):
        table("a.jpg\nb.jpg\n", captions_required=False)
    assert pairs(table('{"images": ["a.jpg"], "caption": "x"}', "t.jsonl")) == [("a.jpg", ("x",))]
    assert table("image,caption\n\ufeffa.jpg\u200b,x\n")[0].key == "a.jpg"


def test_columns_of_one_name(table):
    source = table("image,caption,caption,Caption\na.jpg,x,y,z\nb.jpg,,v,\n")
    assert pairs(source) == [("a.jpg", ("x", "y", "z")), ("b.jpg", ("v",))]
    assert "2 columns are called 'caption': each is a caption" in source.note
    assert table("image,caption,caption.1,caption.2\na.jpg,x,y,z\n")[0].captions == ("x", "y", "z")
    assert pairs(table("image,image,caption\n7,a.jpg,x\n"))[0][0] == "a.jpg"
    with pytest.raises(DataError, match="2 columns .* are called 'image'.*a.jpg, b.jpg"):
        table("image,image,caption\na.jpg,b.jpg,x\n")
    with pytest.raises(DataError, match="Several columns .* may be the image.*Image, image"):
        table("Image,image,caption\na.jpg,b.jpg,x\n")
    with pytest.raises(DataError, match="Several columns .* may be the image.*left, right"):
        table("left,right,caption\na.jpg,b.jpg,x\n")
    with pytest.raises(DataError, match="'caption' twice in one object"):
        table('{"image": "a.jpg", "caption": "x", "caption": "y"}', "t.jsonl")


def test_texts_that_spell_lists(table):
    source = table('filename,raw\na.jpg,"[""a dog"", ""it runs""]"\nb.jpg,"[\'a cat\' \'asleep\']"\n')
    assert pairs(source) == [("a.jpg", ("a dog", "it runs")), ("b.jpg", ("a cat", "asleep"))]
    assert source.note.endswith("Rows whose text spells a list: 2; each text in it is a caption")


def test_captions_as_objects(table):
    rows = [{"image": "a.jpg", "captions": [{"text": "x", "lang": "en"}, {"text": "y"}]}, {"image": "b.jpg"}]
    source = table("\n".join(map(json.dumps, rows)), "t.jsonl")
    assert [record.captions for record in source] == [("x", "y"), ()]
    assert "caption from 'captions.text'" in source.note
    assert source.note.endswith("The cells of 'captions' are objects with 'text', 'lang'")
    assert table("\n".join(map(json.dumps, rows)), "t.jsonl", caption_column="captions.lang")[0].captions == (
        "en",
    )
    with pytest.raises(DataError, match="'captions' .* holds objects, without a key 'txt'"):
        table("\n".join(map(json.dumps, rows)), "t.jsonl", caption_column="captions.txt")
    deep = json.dumps({"image": "a.jpg", "caption": {"en": {"short": "x"}, "de": "y"}})
    with pytest.raises(
        DataError, match="holds objects, not texts.*'en', 'de'.*--data.caption-column caption.en"
    ):
        table(deep, "t.jsonl")
    assert table(deep, "t.jsonl", caption_column="caption.en.short, caption.de")[0].captions == ("x", "y")
    spelled = 'image,captions\na.jpg,"[{""text"": ""x""}]"\n'
    assert table(spelled)[0].captions == ("x",)


def test_placeholders_are_counted(table):
    source = table('image,caption\na.jpg,nan\nb.jpg,NULL\nb.jpg,"None"\na.jpg,a dog\n')
    assert source[0].captions == ("nan", "a dog")
    assert "Captions that are placeholders for a missing text: 3, such as 'nan'" in source.note


def test_what_lies_in_a_table(table):
    source = table("image,caption\na.jpg,x\n,,\n \n\n,no picture\nb.jpg,&nbsp;\nb.jpg\n")
    assert [record.captions for record in source] == [("x",), ()]
    assert source.contents.to_dict() == {
        "things": "rows",
        "seen": 7,
        "used": 3,
        "left_out": {
            "the row is empty": {"count": 3, "example": "row 2", "lost": False},
            "the row names no image": {"count": 1, "example": "row 5", "lost": True},
        },
    }
    assert "Rows with fewer fields than there are columns: 1, the first in line 8" in source.note
    pickle.loads(pickle.dumps(source))


@pytest.mark.parametrize("form", ["base64", "data URI", "bytes"])
def test_pictures_written_as_text(table, jpeg, form):
    text = base64.b64encode(jpeg).decode()
    cell = {"base64": text, "data URI": f"data:image/jpeg;base64,{text}", "bytes": repr(jpeg)}[form]
    with pytest.raises(DataError, match="'image' of .* holds pictures written as text") as error:
        table(json.dumps({"image": cell, "caption": "x"}), "t.jsonl")
    assert len(str(error.value)) < 700
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("image", "caption"), (cell, "x")])
    with pytest.raises(DataError, match="holds pictures written as text"):
        table(buffer.getvalue())


def test_paths_in_objects(table):
    assert pairs(table('{"image": {"path": "a.jpg", "bytes": null}, "caption": "x"}', "t.jsonl")) == [
        ("a.jpg", ("x",))
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", ",".join(f"c{k}" for k in range(20_000)) + "\na.jpg,a dog\n"),
        ("t.jsonl", json.dumps({f"c{k}": 1 for k in range(20_000)}) + "\n"),
    ],
)
def test_far_too_many_columns(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="too many columns.*20,000 columns"):
        Table(tmp_path / name)
