"""What a name of labelled images stands for."""

from __future__ import annotations

import os

import pytest

from openslip.data.labelled import dataset_name, load_labelled, open_labelled
from openslip.errors import DataError
from openslip.evaluation.finetune import Finetune
from openslip.evaluation.knn import Knn
from openslip.evaluation.linear import Linear
from oracle import put


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("scenes", "scenes"),
        ("scenes:test:50", "scenes"),
        ("scenes:heldout:50", "scenes:heldout"),
        ("scenes:val:50", "scenes:val"),
        ("/a/cifar10", "cifar10"),
        ("/a/cifar10/data/", "cifar10"),
        ("/a/cifar10/test-00000-of-00001.parquet", "cifar10"),
        ("/a/birds.parquet", "birds"),
        ("/a/flickr8k-test-*.tar", "flickr8k-test"),
        ("/a/b-{00..03}.tar", "b"),
        ("/a/shards/*.tar", "shards"),
        ("/a/v1.5", "v1.5"),
        ("/a/imagenet/val.tar", "imagenet"),
        ("/a/imagenet/val-{000..063}.tar", "imagenet"),
        ("/a/birds/test.csv", "birds"),
        ("/a/birds/captions.txt", "captions"),
        ("/a/valley.csv", "valley"),
    ],
)
def test_dataset_name(spec, name):
    assert dataset_name(spec) == name


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.parquet")
    for place in (tmp_path / "a.parquet", "/dev/zero"):
        with pytest.raises(DataError, match="come from a folder or a .parquet file"):
            load_labelled(str(place))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("birds.zip", "Unpack it"),
        ("birds.tar.gz", "Unpack it"),
        ("labels.txt", r"Convert it to a \.csv"),
        ("pathmnist.npz", "Write its pictures as files"),
        ("cat.png", "Name the folder of its set"),
    ],
)
def test_a_file_that_is_not_read_says_what_to_do(tmp_path, name, fix):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"Labelled images come from.*{fix}"):
        open_labelled(str(tmp_path / name))


def test_splits_without_a_class_in_common(tmp_path):
    """Numbers in one split and names in the other: nothing that is learned could be right."""
    for folder in ("train/0", "train/1", "test/cat", "test/dog"):
        put(tmp_path / folder / "1.png", 0)
    for protocol in (Knn, Linear, Finetune):
        with pytest.raises(DataError, match="no class in common.*train: 0, 1; test: cat, dog"):
            protocol(str(tmp_path)).check()
