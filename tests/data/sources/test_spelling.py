"""Names that the disk spells otherwise: found where one file can be meant, refused where two can."""

from __future__ import annotations

import os
import pickle
import unicodedata

import pytest

from openslip.data.sources import spelling
from openslip.data.sources.image_root import advice, beside, choose
from openslip.data.sources.spelling import ACCENTS, BACKSLASHES, BELOW, CASE, ENDING, ESCAPED, Spelling
from openslip.errors import DataError

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path):
    """A folder with files of these names, each holding its name."""

    def make(*names: str) -> str:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        if (
            len({path.name.lower() for path in tmp_path.rglob("*")})
            and (tmp_path / names[0].swapcase()).exists()
        ):
            pytest.skip("names differ in more than case here")
        return str(tmp_path)

    return make


@pytest.mark.parametrize("whole", [True, False], ids=["few names", "many names"])
@pytest.mark.parametrize(
    ("there", "named", "how"),
    [
        ("a.jpg", "a.jpg", ()),
        ("a.jpg", "./a.jpg", ()),
        ("in/a.jpg", "in\\a.jpg", (BACKSLASHES,)),
        ("in/a.jpg", ".\\in\\a.jpg", (BACKSLASHES,)),
        ("in/a.jpg", "\\in\\a.jpg", (BACKSLASHES, BELOW)),
        ("in/a.jpg", "C:\\in\\a.jpg", (BACKSLASHES, BELOW)),
        ("in/a.jpg", "/in/a.jpg", (BELOW,)),
        ("in/a b.jpg", "in/a%20b.jpg", (ESCAPED,)),
        ("a.JPG", "a.jpg", (CASE,)),
        ("a.jpg", "a.JPG", (CASE,)),
        (f"{NFC}.jpg", f"{NFD}.jpg", (ACCENTS,)),
        (f"{NFD}.jpg", f"{NFC}.jpg", (ACCENTS,)),
        (f"{NFD}.JPG", f"{NFC}.jpg", (CASE, ACCENTS)),
        ("a.JPG", "a", (ENDING,)),
        ("a.jpeg", "a.jpg", (ENDING,)),
        ("a.tiff", "a.TIF", (ENDING,)),
        ("IMG_2023.05.jpg", "IMG_2023.05", (ENDING,)),
    ],
)
def test_found_as_it_is_spelled(folder, monkeypatch, there, named, how, whole):
    root = folder(there, "other.jpg")
    monkeypatch.setattr(spelling, "MOST_NAMES", 1000 if whole else 0)
    found = pickle.loads(pickle.dumps(Spelling())).find(root, named)
    assert found is not None
    assert (os.path.normpath(found.path), found.how) == (os.path.join(root, there), how)


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ("In/A.JPG", "in/a.jpg"),
        ("In/a.jpg", "\\IN\\A"),
        (f"{NFD}/A.jpeg", f"{NFC.upper()}/a"),
        ("ab/STRASSE.jpg", "AB/straße"),
    ],
)
def test_folders_are_spelled_otherwise_too(folder, there, named):
    found = Spelling().find(folder(there, "in.jpg", "IN2/a.jpg"), named)
    assert found is not None
    assert found.path.endswith(there)


@pytest.mark.parametrize(
    "named",
    [
        "b.jpg",
        "a.png",
        "a.jpg.jpg",
        "a.jpg/b.jpg",
        "../none/a.jpg",
        "",
        "/",
        "..",
        "a" * 300,
        "a\0b",
        "\ud800",
    ],
)
def test_not_there(folder, named):
    root = folder("a.jpg", "a.csv")
    assert Spelling().find(root, named) is None
    assert Spelling().find(root + "/none", named) is None


def test_two_could_be_meant(folder):
    root = folder("A.JPG", "a.JPG", "b.jpg", "b.png", "Images/c.jpg", "IMAGES/c.jpg", "IMAGES/d.jpg")
    for named in ("a.jpg", "b", "images/c.jpg"):
        with pytest.raises(DataError, match=r"two could be meant.*Write the name"):
            Spelling().find(root, named)
    for named in ("a.JPG", "b.png", "images/d.jpg", "IMAGES/C.jpg"):
        assert Spelling().find(root, named)


def test_new_files_are_seen(folder, tmp_path):
    root, known = folder("a.jpg"), Spelling()
    assert known.find(root, "b.JPG") is None
    folder("b.jpg")
    os.utime(root, ns=(1, 1))  # file systems need not tell times closer than this test is fast
    assert known.find(root, "b.JPG")


def test_what_is_nearly_there(folder):
    root, known = folder("in/a.png", "in/b.txt"), Spelling()
    assert "'a.png'" in known.nearly(root, "in/a.jpg")
    assert known.nearly(root, "out/a.jpg") == f"'{root}' has no folder 'out'"
    assert known.nearly(root + "/x", "a.jpg") == ""


def test_folders_beside_a_table(folder, tmp_path):
    root = folder("Photos/a.jpg", "pairs/a.jpg", "other/in/b.jpg", "pairs.csv")
    assert [path.name for path in beside(tmp_path / "pairs.csv")] == ["Photos", "pairs"]
    assert choose(["A.JPG"], [tmp_path, tmp_path / "Photos"])[0] == tmp_path / "Photos"
    assert "other': give that folder" in advice(root, "in\\b.jpg")
    assert "other/in/b.jpg' is there: put" in advice(root, "C:\\pictures\\b.jpg")
    assert advice(root, "c.jpg") == advice(root + "/none", "c.jpg") == ""
