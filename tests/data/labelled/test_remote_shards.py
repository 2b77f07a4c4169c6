"""Shards of labelled images behind an address, as CLIP_benchmark leaves them on the hub."""

from __future__ import annotations

import pytest

from labelled_forms import tar
from openslip.data.labelled import open_labelled, remote_shards
from openslip.errors import DataError
from stored import server  # noqa: F401


def put(server, tmp_path, **splits):  # noqa: F811
    for split, classes in splits.items():
        members = [
            (f"{i}.{end}", data)
            for i, label in enumerate(classes)
            for end, data in (("jpg", f"{split} {i}".encode()), ("cls", str(label).encode()))
        ]
        tar(tmp_path / f"{split}.tar", members)
        server.files[f"/set/{split}/0.tar"] = (tmp_path / f"{split}.tar").read_bytes()
        server.files[f"/set/{split}/nshards.txt"] = b"1\n"


def test_splits_names_and_prompts(server, tmp_path):  # noqa: F811
    put(server, tmp_path, train=[0, 1, 2], test=[1, 0])
    server.files["/set/classnames.txt"] = b"fox\nbee\nowl\n"
    server.files["/set/zeroshot_classification_templates.txt"] = b"a photo of a {c}"
    found = open_labelled(f"{server.url}/set/")
    assert {split: len(some) for split, some in found.splits.items()} == {"train": 3, "test": 2}
    assert (found.class_names, found.templates) == (("fox", "bee", "owl"), ("a photo of a {}",))
    assert list(found.split("test").images) == [b"test 0", b"test 1"]
    assert found.split("test").labels.tolist() == [1, 0]
    assert found.location == f"{server.url}/set/"
    # What the server no longer has is no longer used.
    del server.files["/set/classnames.txt"]
    assert not open_labelled(f"{server.url}/set").named


def test_a_test_set_alone_and_counts_that_are_none(server, tmp_path):  # noqa: F811
    put(server, tmp_path, test=[1, 0])
    assert list(open_labelled(f"{server.url}/set").splits) == ["test"]
    server.files["/set/test/nshards.txt"] = b"many"
    with pytest.raises(DataError, match="number of shards is invalid.*many"):
        open_labelled(f"{server.url}/set")
    assert remote_shards.find_remote(f"{server.url}/other") is None
    with pytest.raises(DataError):
        open_labelled(f"{server.url}/other")


def test_shards_for_training_alone_are_a_set_without_splits(server, tmp_path):  # noqa: F811
    put(server, tmp_path, train=[0, 1, 2])
    assert list(open_labelled(f"{server.url}/set").splits) == ["all"]


def test_a_page_of_the_hub_stands_for_its_files(monkeypatch):
    asked = []
    monkeypatch.setattr(remote_shards, "_text", asked.append)
    base = "https://huggingface.co/datasets/clip-benchmark/wds_cars"
    for page, revision in (("", "main"), ("/tree/main", "main"), ("/tree/v2", "v2"), ("/resolve/v2", "v2")):
        assert remote_shards.find_remote(f"{base}{page}") is None
        assert asked[-1].startswith(f"{base}/resolve/{revision}/")
