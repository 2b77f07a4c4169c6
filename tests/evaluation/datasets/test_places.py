"""Where data sets are found: by their names in folders of data sets, or at the place that is said."""

from __future__ import annotations

import os

import pytest

from openslip.errors import DataError
from openslip.evaluation.datasets import cards, places


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch) -> None:
    monkeypatch.setenv(places.ROOTS, "")


def test_a_set_is_found_in_any_spelling_and_the_first_folder_counts(tmp_path, monkeypatch) -> None:
    for folder in ("a/Food-101", "b/food101", "b/wds_vtab-caltech101", "b/else"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "b/cifar10").write_text("no folder")
    monkeypatch.setenv(places.ROOTS, os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert places.place_of("food101") == str(tmp_path / "a/Food-101")
    assert places.place_of("food-101", "classes") == str(tmp_path / "a/Food-101")
    assert places.place_of("caltech101") == str(tmp_path / "b/wds_vtab-caltech101")
    assert places.on_disk(cards()["cifar10"]) is None
    places.add_roots([tmp_path / "b"])
    assert places.place_of("food101") == str(tmp_path / "b/food101")
    with pytest.raises(DataError, match="this is not a folder"):
        places.add_roots([tmp_path / "b/cifar10"])


def test_a_place_that_is_said_and_paths_that_win(tmp_path, monkeypatch) -> None:
    assert places.place_of("food101@/data/mine") == "/data/mine"
    assert places.short_name("Food-101@/data/mine") == "food101"
    assert places.named("food101@/data/mine") is cards()["food101"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "food101").mkdir()
    assert places.named("food101") is None
    assert places.place_of("food101") == "food101"
    for spec in (
        "scenes",
        "scenes:heldout",
        "https://x.org/food101",
        "/data/food101",
        "birds",
        "food101*.tar",
    ):
        assert places.named(spec) is None
        assert places.place_of(spec) == spec


def test_a_set_that_is_not_there_says_where_to_get_it(tmp_path, monkeypatch) -> None:
    with pytest.raises(
        DataError, match=r"CIFAR-10 is not on this machine.*--datasets FOLDER.*OPENSLIP_DATASETS.*kriz"
    ):
        places.place_of("cifar10")
    monkeypatch.setenv(places.ROOTS, str(tmp_path))
    with pytest.raises(DataError) as error:
        places.place_of("fer2013")
    assert str(tmp_path) in str(error.value)
    assert "https://www.kaggle.com" in str(error.value)
    assert "clip-benchmark/wds_fer2013" in str(error.value)
    assert "fer2013@FOLDER" in str(error.value)


def test_what_is_nearly_a_name_and_sets_of_another_kind() -> None:
    with pytest.raises(DataError, match=r"neither such a folder.*Did you mean 'food101'"):
        places.place_of("fod101")
    with pytest.raises(DataError, match=r"Flickr30k has captions, and the task is for classes"):
        places.place_of("flickr30k", "classes")


def test_of_captions_the_file_or_the_test_shards_are_measured(tmp_path) -> None:
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    assert places.place_of(f"flickr8k@{folder}") == str(folder)
    (folder / "flickr8k-test-00000.tar").touch()
    assert places.place_of(f"flickr8k@{folder}") == str(folder / "*-test-*.tar")
    (folder / "dataset_flickr8k.json").touch()
    assert places.place_of(f"flickr8k@{folder}") == str(folder / "dataset_flickr8k.json")
