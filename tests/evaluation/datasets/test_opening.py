"""What a name of labelled images stands for."""

from __future__ import annotations

import os

import pytest

from slip.errors import DataError
from slip.evaluation.datasets import dataset_name, load_labelled


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
