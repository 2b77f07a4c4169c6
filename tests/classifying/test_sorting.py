"""Pictures in folders of classes: nothing is overwritten, nothing leads out, and the same again changes nothing."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openslip.classifying import sorting
from openslip.classifying.labels import Label, Names
from openslip.classifying.sorting import Sorter, ending_of, folder_names, safe_name
from openslip.data.sources import open_source
from openslip.errors import ConfigError, DataError
from toys import ToySource


def picture(value: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def photos(tmp_path) -> Path:
    """Pictures of one name in two folders, and one without a right ending."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("a/1.png", "b/1.png", "b/2.png", "b/c/1.PNG")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return folder


def sort(photos: Path, into: Path, answers: list[str], **options) -> tuple[Sorter, list[str]]:
    source = open_source(str(photos), captions_required=False)
    sorter = Sorter(into, ["dress", "shirt"], "none", source, str(photos), **options)
    called = Names(source)
    labels = [Label(called(i), answer, index=i) for i, answer in enumerate(answers)]
    return sorter, [sorter(label, source[label.index].image) for label in labels]


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), os.lstat(path).st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_picture_once_and_the_same_again_changes_nothing(photos, tmp_path) -> None:
    into, answers = tmp_path / "sorted", ["dress", "dress", "none", "dress"]
    sorter, placed = sort(photos, into, answers)
    assert (sorter.placed, sorter.found) == (4, 0)
    assert placed[0] == "dress/1.png"
    assert placed[2] == "none/2.png"
    assert len({name.lower() for name in placed}) == 4
    found = tree(into)
    assert {name: content for name, (content, _) in found.items()} == {
        name: picture(number) for number, name in enumerate(placed)
    }
    assert {time for _, time in found.values()} <= {time for _, time in tree(photos).values()}
    again, placed_again = sort(photos, into, answers)
    assert (again.placed, again.found) == (0, 4)
    assert placed_again == placed
    assert tree(into) == found


def test_what_is_added_before_moves_nothing(photos, tmp_path) -> None:
    into = tmp_path / "sorted"
    _, before = sort(photos, into, ["dress"] * 4)
    (photos / "0").mkdir()
    (photos / "0" / "1.png").write_bytes(picture(77))
    sorter, after = sort(photos, into, ["dress"] * 5)
    assert after[1:] == before
    assert (sorter.placed, sorter.found) == (1, 4)
    assert (into / after[0]).read_bytes() == picture(77)


def test_another_file_of_the_name_stays(photos, tmp_path) -> None:
    into = tmp_path / "sorted"
    (into / "dress").mkdir(parents=True)
    (into / "dress" / "1.png").write_bytes(b"mine")
    _, placed = sort(photos, into, ["dress"])
    assert placed[0].startswith("dress/1-")
    assert (into / "dress" / "1.png").read_bytes() == b"mine"
    assert (into / placed[0]).read_bytes() == picture(0)


def test_two_equal_pictures_are_two(photos, tmp_path) -> None:
    (photos / "b" / "1.png").write_bytes(picture(0))
    sorter, placed = sort(photos, tmp_path / "sorted", ["dress", "dress"])
    assert sorter.placed == 2
    assert len(set(placed)) == 2


def test_a_picture_that_changes_lies_beside_what_it_was(photos, tmp_path) -> None:
    into = tmp_path / "sorted"
    for value in range(100, 105):
        (photos / "a" / "1.png").write_bytes(picture(value))
        _, placed = sort(photos, into, ["dress"])
        assert (into / placed[0]).read_bytes() == picture(value)
    assert len(tree(into)) == 5


def test_names_do_not_depend_on_where_the_pictures_lie(photos, tmp_path, monkeypatch) -> None:
    _, placed = sort(photos, tmp_path / "one", ["dress"] * 4)
    monkeypatch.chdir(photos.parent)
    assert sort(Path("photos"), tmp_path / "one", ["dress"] * 4)[1] == placed
    moved = photos.rename(tmp_path / "moved")
    assert sort(moved, tmp_path / "two", ["dress"] * 4)[1] == placed


def test_a_picture_that_is_named_twice_is_there_twice(photos, tmp_path) -> None:
    (photos / "list.csv").write_text("image\na/1.png\na/1.png\na/1.png\n")
    source = open_source(str(photos / "list.csv"), captions_required=False)
    sorter = Sorter(tmp_path / "sorted", ["dress"], "none", source, "list.csv")
    placed = [sorter(Label("a/1.png", "dress", index=i), source[i].image) for i in range(len(source))]
    assert len({*placed}) == len(source)


def test_links(photos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    into = tmp_path / "sorted"
    sorter, placed = sort(Path("photos"), into, ["dress", "dress"], link=True)
    assert sorter.placed == 2
    assert all((into / name).is_symlink() for name in placed)
    assert [(into / name).resolve() for name in placed] == [photos / "a/1.png", photos / "b/1.png"]
    again, placed_again = sort(Path("photos"), into, ["dress", "dress"], link=True)
    assert (again.placed, again.found, placed_again) == (0, 2, placed)


def test_a_link_leads_to_the_file_however_the_table_spells_it(photos, tmp_path) -> None:
    (photos / "list.csv").write_text("image\na/1.PNG\n")
    sorter, placed = sort(photos / "list.csv", tmp_path / "sorted", ["dress"], link=True)
    assert sorter.placed == 1
    assert (tmp_path / "sorted" / placed[0]).resolve() == photos / "a/1.png"


def test_pictures_that_cannot_be_used_are_not_copied(photos, tmp_path) -> None:
    source = open_source(str(photos), captions_required=False)
    sorter = Sorter(tmp_path / "sorted", ["dress"], "none", source, str(photos))
    assert sorter(Label("a", "", error="broken", index=0), None) == ""
    assert not (tmp_path / "sorted").exists()


def test_a_picture_sorted_where_it_lies_is_there(photos) -> None:
    """The folder for none is sorted once more, by another model."""
    into = photos.parent / "sorted"
    sort(photos, into, ["none"])
    sorter, placed = sort(into / "none", into, ["none"])
    assert (sorter.placed, sorter.found, placed) == (0, 1, ["none/1.png"])


def test_keys_and_endings_of_pictures_in_shards(tmp_path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (
            ("../../x.jpg", picture(1, "WEBP")),
            ("v1.5.jpg", picture(2, "JPEG")),
            ("..jpg", picture(3, "GIF")),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = open_source(str(tmp_path / "a.tar"), captions_required=False)
    into = tmp_path / "deep" / "sorted"
    sorter = Sorter(into, ["dress"], "none", source, str(tmp_path / "a.tar"))
    placed = []
    for index in range(len(source)):
        record = source[index]
        placed.append(sorter(Label(record.key, "dress", index=index), record.image))
    assert placed[0] == "dress/x.webp"
    assert all(Path(name).parent == Path("dress") for name in placed)
    assert [path for path in tmp_path.rglob("*.*") if into not in path.parents] == [tmp_path / "a.tar"]


def test_rendered_pictures_become_png(tmp_path) -> None:
    source = ToySource(count=1)
    sorter = Sorter(tmp_path / "sorted", ["red"], "none", source, "toy")
    placed = sorter(Label("toy/000", "red", index=0), source[0].image)
    assert placed == "red/000.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sorted" / placed)), source[0].image)


def test_links_are_for_files() -> None:
    with pytest.raises(ConfigError, match="not separate files"):
        Sorter(Path("x"), ["red"], "none", ToySource(), "toy", link=True)


@pytest.mark.parametrize("below", ["", "sorted", "b/c/sorted", "../photos/sorted"])
def test_a_folder_among_the_pictures(photos, below) -> None:
    with pytest.raises(ConfigError, match="is among the pictures"):
        sort(photos, photos / below, ["dress"])
    assert not (photos / "dress").exists()


def test_a_link_to_a_folder_among_the_pictures(photos, tmp_path) -> None:
    (tmp_path / "link").symlink_to(photos / "b")
    with pytest.raises(ConfigError, match="is among the pictures"):
        sort(photos, tmp_path / "link" / "sorted", ["dress"])


def test_what_is_in_the_way(photos, tmp_path) -> None:
    into = tmp_path / "sorted"
    into.write_text("a file")
    with pytest.raises(ConfigError, match="in the way of the folder to sort"):
        sort(photos, into, ["dress"])
    into.unlink()
    into.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (into / "shirt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="in the way of the folder of a class"):
        sort(photos, into, ["dress"])
    assert list(into.iterdir()) == [into / "shirt"]


def test_no_room(photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sorting.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ConfigError, match="no room for copies.*--link"):
        sort(photos, tmp_path / "sorted", ["dress"])
    assert not (tmp_path / "sorted").exists()
    sort(photos, tmp_path / "sorted", ["dress"], link=True)


def test_a_disk_that_fills_up(photos, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sorting.os, "link", full)
    monkeypatch.setattr(sorting.os, "rename", full)
    with pytest.raises(DataError, match="the same command goes on"):
        sort(photos, tmp_path / "sorted", ["dress"])
    assert list((tmp_path / "sorted" / "dress").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("red dress", "red dress"),
        ("a/b", "a_b"),
        ("..", "_"),
        (".", "_"),
        ("", "_"),
        ("../../etc", "__.._etc"),
        (".hidden", "_hidden"),
        ("coat...", "coat"),
        (" x ", "x"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("a:b*?", "a_b__"),
        ("caf\udce9", "caf_"),
        ("cafe\u0301", "café"),
    ],
)
def test_safe_names(name, safe) -> None:
    assert safe_name(name) == safe


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=130), max_size=5, unique=True))
@settings(max_examples=40)
def test_folders_of_any_classes_are_different_and_stay_inside(names) -> None:
    found = folder_names(names)
    assert len({folder.casefold() for folder in found.values()}) == len(names)
    for folder in found.values():
        assert os.path.basename(folder) == folder
        assert folder not in ("", ".", "..")
        assert len(folder.encode()) < 200
        assert not folder.startswith(".")
        assert not folder.endswith((".", " "))


def test_capitals_alone_make_no_other_folder() -> None:
    found = folder_names(["Shirt", "shirt", "a/b", "a_b"])
    assert found["Shirt"] == "Shirt"
    assert found["shirt"].startswith("shirt-")
    assert found["a_b"].startswith("a_b-")


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp"), ("TIFF", "tif"), ("PPM", "ppm")],
)
def test_endings_by_content(kind, ending) -> None:
    assert ending_of(picture(1, kind)) == ending
