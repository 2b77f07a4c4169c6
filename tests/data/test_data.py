"""A run's data as one object."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from openslip.data.contents import Contents
from openslip.data.data import Data
from openslip.data.record import Record
from openslip.data.sources.mixture import Mixture
from openslip.data.subset import HeldOut, Subset
from openslip.errors import DataError
from openslip.needs import IMAGE, SSL_VIEWS
from toys import ToySource, make_tiny_config

VIEWS = (IMAGE, *SSL_VIEWS)
NAMES = ["image", "ssl_1", "ssl_2"]


class Plain:
    """A source of a program's own."""

    name, note, block = "mine", "Guessed.", 8

    def __init__(self) -> None:
        self.contents = Contents("rows", 70)
        self.contents.leave_out("the row names no image", "row 3", 6)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Record:
        return replace(ToySource()[index], source=self.name)


def test_one_source_or_two() -> None:
    own: Any = Plain()
    alone, both = Data(ToySource(8)), Data(Mixture([ToySource(8), ToySource(4)], [1, 2]), own)
    assert (list(alone.sources), list(both.sources)) == (["train"], ["train", "ssl"])
    assert (alone.epoch_length, both.epoch_length) == (8, 16)
    assert (alone.longest_block, both.longest_block) == (1, 8)
    assert alone.identity(captioned=True).keys() == {"train"}
    assert pickle.loads(pickle.dumps(both)).identity(captioned=True) == both.identity(captioned=True)


def test_what_there_is_in_words() -> None:
    own: Any = Plain()
    data = Data(ToySource(8), own)
    assert data.described() == {
        "train": "8 records from toy",
        "ssl": "64 records from mine\nGuessed.\nmine: 70 rows seen, 64 used; left out:\n"
        "  6 × the row names no image, for example row 3",
    }
    assert data.losses() == [
        "6 of 70 rows of mine are not used: 6 × the row names no image, for example row 3"
    ]


def test_what_is_held_out_is_part_of_the_identity() -> None:
    about = HeldOut(0.1, 1, 1, 8, "digest")
    data = Data(Subset(ToySource(8), [3], about))
    assert data.held_out is about
    assert data.identity(captioned=False)["held_out"][0]["digest"] == "digest"
    assert Data(ToySource(8), Subset(ToySource(8), [3], about)).held_out is None  # of `train` alone


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_reads_a_plain_class_like_ours(workers: int) -> None:
    config = make_tiny_config()
    config = replace(config, data=replace(config.data, workers=workers))
    batches = []
    own: Any = Plain()
    own.block = 1
    for source in (ToySource(), own):
        batches.append(next(iter(Data(source).loader(40, config, VIEWS, captions=1))))
    one, other = batches
    assert (one.keys, one.position) == (other.keys, 48)
    assert list(one.views) == NAMES
    assert all(torch.equal(one.views[name], other.views[name]) for name in NAMES)
    assert one.tokens is not None
    assert other.tokens is not None
    assert torch.equal(one.tokens, other.tokens)


def test_the_loader_follows_the_configuration() -> None:
    config = make_tiny_config()
    config = replace(config, data=replace(config.data, augment="loader"))
    loader = Data(ToySource()).loader(0, config, (IMAGE,), captions=0, rank=1, world=2)
    batch = next(iter(loader))
    assert (len(batch.keys), batch.tokens, list(batch.views)) == (4, None, ["image"])
    assert np.ptp(batch.parameters["image"].numpy(), axis=0).max() == 0  # they are applied
    with pytest.raises(DataError, match="no records"):
        Data(ToySource(0)).loader(0, config, (IMAGE,), captions=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_several_captions_of_a_record_travel_together(workers: int) -> None:
    """Also where a batch is joined of worker batches, each as long as its longest caption."""
    config = make_tiny_config()
    config = replace(config, data=replace(config.data, workers=workers, drop_words=0.3))
    loader = Data(ToySource(8)).loader(0, config, (), captions=2)
    batch = next(iter(loader))
    assert batch.tokens is not None
    assert batch.tokens.shape[:2] == (8, 2)
    assert (batch.tokens[:, :, 0] == 49_406).all()
    assert (batch.tokens[:, 0] != batch.tokens[:, 1]).any(1).all()
