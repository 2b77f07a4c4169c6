from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from slip.config import ViewsConfig
from slip.data.builder import Builder
from slip.data.order import Order, Stream, generator, parts_of
from slip.data.record import Record
from slip.data.schedule import Schedule
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


def scheduled(position: int, ssl: Squares | None = None, *, source=PAIRS, **options) -> dict:
    schedule = Schedule(6, every=2, share=0.5)
    names, views = options.pop("names", NAMES), options.pop("views", VIEWS)
    return Builder(source, ssl, views, names, Tokenizer(), 6, 5, schedule=schedule, **options).build(position)


def test_every_view_has_its_own_size() -> None:
    views = replace(VIEWS, ssl=replace(VIEWS.ssl, size=4))
    built = Builder(PAIRS, None, views, NAMES, Tokenizer(), 6, 5).build(0)
    same = build(0)
    assert torch.equal(built["views"]["image"], same["views"]["image"])
    assert built["views"]["ssl_1"].shape == built["views"]["ssl_2"].shape == (6, 3, 4, 4)
    assert torch.equal(built["parameters"]["ssl_1"], same["parameters"]["ssl_1"])
    epoch, index = Order(parts_of(PAIRS), 5).locate(2)
    box, _ = draw(VIEWS.ssl, 12, 10, generator(5, epoch, index, Stream.SSL_2))
    assert torch.equal(built["views"]["ssl_2"][2], torch.from_numpy(crop(PAIRS[index].image, box, 4)))


def test_steps_without_self_supervision_are_those_of_a_run_without_it() -> None:
    built, clip = (scheduled(6, names=names) for names in (NAMES, ("image",)))
    assert list(built["views"]) == list(built["parameters"]) == ["image"]
    assert torch.equal(built["views"]["image"], clip["views"]["image"])
    assert torch.equal(built["tokens"], clip["tokens"])


def test_a_share_of_the_rows_gets_self_supervised_views() -> None:
    built, whole = scheduled(12), build(12)
    assert torch.equal(built["views"]["image"], whole["views"]["image"])
    rows = [1, 3, 5]  # half of six, evenly
    for kind in ("views", "parameters"):
        for name in ("ssl_1", "ssl_2"):
            assert torch.equal(built[kind][name], whole[kind][name][rows])


def test_pictures_of_their_own_are_each_used_once_an_epoch() -> None:
    order = Order(parts_of(PICTURES), 5, Stream.SSL_ORDER)
    seen = [scheduled(position, PICTURES) for position in range(0, 84, 6)]  # 14 steps, 7 with 3 pictures
    places = [order.locate(place) for place in range(21)]
    assert sorted(places) == [(epoch, index) for epoch in range(3) for index in range(7)]
    expected = [expected_view(PICTURES, epoch, index, "ssl_1") for epoch, index in places]
    assert torch.equal(
        torch.cat([b["views"]["ssl_1"] for b in seen if "ssl_1" in b["views"]]), torch.stack(expected)
    )
    assert [b["read"] for b in seen[:4]] == [9, 15, 24, 30]


@pytest.mark.parametrize("ssl", [None, PICTURES])
@pytest.mark.parametrize("position", [0, 6, 12])
def test_processes_share_a_scheduled_batch(ssl: Squares | None, position: int) -> None:
    whole = scheduled(position, ssl)
    shares = [scheduled(position, ssl, rank=rank, world=3) for rank in range(3)]
    for kind in ("views", "parameters"):
        for name in whole[kind]:
            assert torch.equal(torch.cat([share[kind][name] for share in shares]), whole[kind][name])
    assert {share["read"] for share in shares} == {whole["read"]}
