"""How tables, and what is like them, find the images that they name; what they say of it."""

from __future__ import annotations

import json
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.record import Record
from openslip.data.sources import open_source
from openslip.errors import DataError

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def csv(path, names):
    path.write_text(
        "".join(
            f"{line}\n" for line in ["image,caption", *(f"{name},one {i}" for i, name in enumerate(names))]
        )
    )


def jsonl(path, names):
    path.write_text(
        "".join(json.dumps({"image": name, "caption": f"one {i}"}) + "\n" for i, name in enumerate(names))
    )


def parquet(path, names):
    pq.write_table(pa.table({"image": names, "caption": [f"one {i}" for i in range(len(names))]}), path)


def coco(path, names):
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    captions = [{"id": i, "image_id": i, "caption": f"one {i}"} for i in range(len(names))]
    path.write_text(json.dumps({"images": images, "annotations": captions}))


def conceptual(path, names):
    entries = [{"image_name": name, "captions": [f"one {i}"]} for i, name in enumerate(names)]
    np.save(path, np.array(entries, dtype=object), allow_pickle=True)


WRITERS = {"t.csv": csv, "t.jsonl": jsonl, "t.parquet": parquet, "t.json": coco, "t.npy": conceptual}
KINDS = pytest.mark.parametrize("kind", WRITERS)


@pytest.fixture
def make(tmp_path, jpeg):
    """Write images of these names, and a table that names them so; return the table's path."""

    def write(kind: str, there: list[str], named: list[str]) -> str:
        for name in there:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(jpeg + name.encode())
        WRITERS[kind](tmp_path / kind, named)
        return str(tmp_path / kind)

    return write


def picture(record: Record) -> bytes:
    assert isinstance(record.image, bytes)
    return record.image


@KINDS
@pytest.mark.parametrize(
    ("there", "named", "said"),
    [
        (
            ["in/a.jpg", "in/b.jpg"],
            ["in\\a.jpg", "in\\b.jpg"],
            "2 of 2 image names looked at have backslashes",
        ),
        (["a.JPG", "b.jpg"], ["a.jpg", "b.jpg"], "1 of 2 image names looked at differ .* case"),
        ([f"{NFD}.jpg", "b.jpg"], [f"{NFC}.jpg", "b.jpg"], "1 of 2 .*NFD"),
        (["a.JPG", "b.png"], ["a", "b"], "2 of 2 .* ending"),
        (["a.png", "b.png"], ["a.jpg", "b.jpg"], "2 of 2 .* ending"),
        (["in/a.jpg", "in/b.jpg"], ["/in/a.jpg", "/in/b.jpg"], "2 of 2 .* begin with a slash"),
    ],
    ids=["backslashes", "case", "accents", "no ending", "other ending", "leading slash"],
)
def test_spelled_otherwise(make, kind, there, named, said):
    source = open_source(make(kind, there, named))
    for i, name in enumerate(there):
        assert picture(source[i]).endswith(name.encode())
        assert source[i].captions == (f"one {i}",)
    assert [record.key for record in source] == named
    assert re.search(said, source.note)


@KINDS
@pytest.mark.parametrize("root", ["", "."])
def test_a_leading_slash_and_a_root(make, tmp_path, kind, root):
    path = make(kind, ["in/a.jpg"], ["/in/a.jpg"])
    assert picture(open_source(path, image_root=str(tmp_path / root))[0]).endswith(b"in/a.jpg")


@KINDS
def test_plain_names_are_not_remarked(make, kind):
    source = open_source(make(kind, ["a.jpg", "in/b.jpg"], ["a.jpg", "in/b.jpg"]))
    assert "image names" not in source.note
    assert "lead out" not in source.note


@KINDS
def test_a_file_of_another_format_is_not_taken_for_one_that_is_missing(make, kind):
    """It may be a depth map, or a mask."""
    source = open_source(make(kind, ["a.jpg", "a.png", "b.png"], ["a.jpg", "b.jpg"]))
    with pytest.raises(DataError, match=r"does not exist.*has 'b\.png'"):
        source[1]


@pytest.mark.parametrize("kind", ["t.csv", "t.jsonl", "t.parquet", "t.json"])
@pytest.mark.parametrize("folder", ["photos", "Pictures", "img", "Bilder"])
def test_the_usual_folders_beside_a_table(make, kind, folder):
    if kind == "t.json" and folder[0].isupper():
        pytest.skip("COCO files have folders of their own")
    source = open_source(make(kind, [f"{folder}/a.jpg"], ["A.jpg"]))
    assert picture(source[0]).endswith(b"a.jpg")
    assert kind == "t.json" or f"/{folder} (guessed)" in source.note


def test_advice_that_can_help(make, tmp_path):
    for there, named, advised in (
        ("deep/er/a.jpg", "er/a.jpg", "The images are in '.*/deep': give that folder with --data.image-root"),
        ("deep/er/a.jpg", "/home/me/a.jpg", "'.*/deep/er/a.jpg' is there"),
        ("deep/er/a.jpg", "b.jpg", "Give the folder that the paths are relative to with --data.image-root"),
    ):
        with pytest.raises(DataError, match=f"None of the .* is there.*{advised}"):
            open_source(make("t.csv", [there], [named]))
    with pytest.raises(DataError, match=r"There is no folder '.*/none'.*Give the folder"):
        open_source(make("t.csv", ["deep/er/a.jpg"], ["er/b.jpg"]), image_root=str(tmp_path / "none"))


@KINDS
def test_paths_that_lead_out_are_said(make, tmp_path, kind):
    """A table from elsewhere could bring any picture of this machine into shards and pages."""
    (tmp_path / "set").mkdir()
    outside = make("t.csv", ["secret.jpg", "set/a.jpg"], ["-"]).removesuffix("t.csv") + "secret.jpg"
    for named in (
        "../secret.jpg",
        "..\\secret.jpg",
        "in/../../secret.jpg",
        outside,
        f"file://{outside}",
        "%2e%2e/secret.jpg",
    ):
        WRITERS[kind](tmp_path / "set" / kind, ["a.jpg", named])
        note = open_source(str(tmp_path / "set" / kind)).note
        assert "1 of 2 paths lead out of the" in note, named
        assert f"such as {named}: check" in note
    inside = str(tmp_path / "set" / "a.jpg")
    WRITERS[kind](tmp_path / "set" / kind, ["a.jpg", "../set/a.jpg", inside, "100%.jpg", "a..b.jpg"])
    assert "lead out" not in open_source(str(tmp_path / "set" / kind)).note


def test_what_only_seems_a_place_on_this_machine_is_not_opened(make, tmp_path):
    """Where paths with a leading slash are found below the folder, none of them is looked for elsewhere."""
    path = make("t.csv", ["in/a.jpg"], ["/in/a.jpg", f"{tmp_path}/later.jpg"])
    source = open_source(path)
    (tmp_path / "later.jpg").write_bytes(b"secret")
    assert picture(source[0]).endswith(b"in/a.jpg")
    with pytest.raises(DataError, match="does not exist"):
        source[1]
    assert "lead out" not in source.note
    (tmp_path / "set").mkdir()
    WRITERS["t.csv"](tmp_path / "set/t.csv", ["/a.jpg", f"{tmp_path}/later.jpg"])
    (tmp_path / "set/a.jpg").write_bytes(b"a")
    note = open_source(str(tmp_path / "set/t.csv")).note
    assert f"1 of 2 paths lead out of the table's folder, such as {tmp_path}/later.jpg" in note


def test_rows_with_a_path_in_place_of_a_picture(tmp_path, jpeg, capsys):
    """These are not looked through when the file is opened."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/A.JPG").write_bytes(jpeg + b"a")
    (tmp_path / "secret.jpg").write_bytes(jpeg)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = ["x.jpg", "a.jpg", "../secret.jpg", "../secret.jpg", str(tmp_path / "secret.jpg")]
    images = [{"bytes": None if i else jpeg, "path": path} for i, path in enumerate(paths)]
    pq.write_table(
        pa.table({"image": pa.array(images, kind), "caption": list("abcde")}), tmp_path / "set/t.parquet"
    )
    source = open_source(str(tmp_path / "set/t.parquet"))
    assert picture(source[1]).endswith(b"a")
    assert capsys.readouterr().err == ""
    assert [source[i].image for i in (2, 3, 4)] == [jpeg] * 3
    assert capsys.readouterr().err.count("outside of its folder, such as ../secret.jpg: check") == 1


def test_files_from_a_server_know_no_place_on_this_machine(tmp_path, server, jpeg):
    (tmp_path / "secret.jpg").write_bytes(jpeg)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": jpeg, "path": ""}, {"bytes": None, "path": str(tmp_path / "secret.jpg")}]
    pq.write_table(pa.table({"image": pa.array(images, kind), "caption": ["a", "b"]}), tmp_path / "t.parquet")
    server.files["/t.parquet"] = (tmp_path / "t.parquet").read_bytes()
    with pytest.raises(DataError, match="only the image's name"):
        open_source(f"{server.url}/t.parquet")[1]
