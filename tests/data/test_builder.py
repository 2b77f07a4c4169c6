from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from slip.config import ViewsConfig
from slip.data.builder import Builder
from slip.data.order import Order, Stream, generator, parts_of
from slip.data.record import Record
from slip.data.sources.mixture import Mixture
from slip.data.tokenizer import Tokenizer
from slip.data.views import UNCHANGED, crop, draw
from slip.errors import DataError

VIEWS = ViewsConfig(size=8)
NAMES = ("image", "ssl_1", "ssl_2")


@dataclass(frozen=True)
class Squares:
    """Pictures of noise, with captions or without; `broken` ones cannot be read."""

    name: str
    count: int
    captioned: bool = True
    broken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if index in self.broken:
            raise DataError("The image is damaged")
        seed = [index, *self.name.encode()]
        image = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        return Record(
            image, (f"{self.name} {index}",) if self.captioned else (), f"{self.name}/{index}", self.name
        )


PAIRS, PICTURES = Squares("pairs", 11), Squares("pictures", 7, captioned=False)


def build(position: int, source=PAIRS, ssl=None, *, batch: int = 6, rank: int = 0, world: int = 1) -> dict:
    return Builder(source, ssl, VIEWS, NAMES, Tokenizer(), batch, 5, rank=rank, world=world).build(position)


def expected_view(source: Squares, epoch: int, index: int, name: str) -> torch.Tensor:
    image = source[index].image
    config = VIEWS.image if name == "image" else VIEWS.ssl
    box, _ = draw(config, *image.shape[:2], generator(5, epoch, index, Stream[name.upper()]))
    return torch.from_numpy(crop(image, box, VIEWS.size))


@pytest.mark.parametrize("position", [0, 6, 18])
def test_self_supervision_on_pictures_of_their_own(position: int) -> None:
    built = build(position, ssl=PICTURES)
    pairs = Order(parts_of(PAIRS), 5)
    pictures = Order(parts_of(PICTURES), 5, Stream.SSL_ORDER)
    assert built["read"] == 2 * built["position"] == 2 * (position + 6)
    for row in range(6):
        epoch, index = pairs.locate(position + row)
        assert built["keys"][row] == f"pairs/{index}"
        assert torch.equal(built["views"]["image"][row], expected_view(PAIRS, epoch, index, "image"))
        epoch, index = pictures.locate(position + row)
        for name in ("ssl_1", "ssl_2"):
            assert torch.equal(built["views"][name][row], expected_view(PICTURES, epoch, index, name))
    alone = build(position)
    assert torch.equal(alone["tokens"], built["tokens"])
    assert torch.equal(alone["views"]["image"], built["views"]["image"])


def test_every_picture_once_an_epoch_in_both_lanes() -> None:
    builder = Builder(PAIRS, PICTURES, VIEWS, NAMES, Tokenizer(), 1, 5)
    drawn = [[lane.order.locate(p)[1] for p in range(77)] for lane in builder.lanes]
    assert np.bincount(drawn[0]).tolist() == [7] * 11
    assert np.bincount(drawn[1]).tolist() == [11] * 7


def test_unusable_pictures_of_either_lane_are_replaced_and_listed() -> None:
    source, ssl = replace(PAIRS, broken=(3,)), replace(PICTURES, broken=(1, 4))
    skipped = [s for position in range(0, 77, 7) for s in build(position, source, ssl, batch=7)["skipped"]]
    assert sorted((s.source, s.index) for s in skipped) == sorted(
        [("pairs", 3)] * 7 + [("pictures", 1)] * 11 + [("pictures", 4)] * 11
    )


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("ssl", [None, PICTURES])
def test_processes_share_a_batch(world: int, ssl: Squares | None) -> None:
    source = replace(PAIRS, broken=(3,))
    whole = build(12, source, ssl)
    shares = [build(12, source, ssl, rank=rank, world=world) for rank in range(world)]
    assert [key for share in shares for key in share["keys"]] == whole["keys"]
    for name in NAMES:
        for kind in ("views", "parameters"):
            assert torch.equal(torch.cat([share[kind][name] for share in shares]), whole[kind][name])
    assert [s for share in shares for s in share["skipped"]] == whole["skipped"]
    assert {share["position"] for share in shares} == {18}


def test_a_mixture_of_sources() -> None:
    mixture = Mixture([PAIRS, Squares("more", 5)], [1, 2])
    keys = [key for position in range(0, 42, 6) for key in build(position, mixture)["keys"]]
    assert sorted(keys) == sorted([f"pairs/{i}" for i in range(11)] * 2 + [f"more/{i}" for i in range(5)] * 4)


def halved(views: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    assert parameters.shape == (len(views), len(UNCHANGED))
    return views // 2


def test_views_can_be_finished_early() -> None:
    late = build(0)
    early = Builder(PAIRS, None, VIEWS, NAMES, Tokenizer(), 6, 5, early=halved).build(0)
    for name in NAMES:
        assert torch.equal(early["views"][name], late["views"][name] // 2)
        assert early["parameters"][name].dtype == torch.float32
        assert early["parameters"][name].tolist() == [list(UNCHANGED)] * 6
