from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import openslip
from openslip.errors import DataError
from openslip.pictures import chunks_ahead


def _tree(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pictures_of_a_folder_and_below_in_order(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        "b.JPG",
        "a.png",
        "notes.txt",
        ".hidden.jpg",
        "z/1.webp",
        "c/2.jpeg",
        ".cache/3.jpg",
        "c/d/4.tif",
    )
    found = [os.path.relpath(path, tmp_path) for path in openslip.find_pictures(tmp_path)]
    assert found == ["a.png", "b.JPG", "c/2.jpeg", "c/d/4.tif", "z/1.webp"]
    assert openslip.find_pictures(f"{tmp_path}/*.png") == [str(tmp_path / "a.png")]
    assert openslip.find_pictures(str(tmp_path / "a.png")) == [str(tmp_path / "a.png")]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    _tree(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"no picture in this folder.*Endings that count:.* jpg"):
        openslip.find_pictures(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        openslip.find_pictures(tmp_path / "gone")


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch) -> None:
    _tree(tmp_path, "a.png", "closed/b.png")
    scandir = os.scandir

    def closed(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match="folder cannot be read.*closed.*Permission denied"):
        openslip.find_pictures(tmp_path)


@pytest.mark.parametrize("threads", [-1, 0, 1, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_chunks_are_in_order(threads: int, count: int) -> None:
    with chunks_ahead(lambda n: n * n, range(count), 3, threads) as chunks:
        found = list(chunks)
    squares = [n * n for n in range(count)]
    assert found == [squares[i : i + 3] for i in range(0, count, 3)]


def test_no_more_than_one_chunk_is_made_ahead() -> None:
    taken: list[int] = []

    def numbers():
        for n in range(100):
            taken.append(n)
            yield n

    with chunks_ahead(lambda n: n, numbers(), 5, 2) as chunks:
        assert next(chunks) == [0, 1, 2, 3, 4]
        assert len(taken) == 10


def test_what_is_not_begun_is_dropped_when_the_block_is_left() -> None:
    begun, go = [], threading.Event()

    def prepare(n: int) -> int:
        begun.append(n)
        if n == 10:
            go.wait(10)
        return n

    def use() -> None:
        with chunks_ahead(prepare, range(1000), 10, 1) as chunks:
            next(chunks)
            go.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert len(begun) <= 20


def test_what_goes_wrong_in_a_thread_is_raised_by_the_caller() -> None:
    with pytest.raises(ZeroDivisionError), chunks_ahead(lambda n: 1 // n, [1, 0, 1], 2, 2) as chunks:
        list(chunks)
