from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import astuple, dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.config import ViewsConfig
from openslip.data.augment import augment_early
from openslip.data.builder import Builder
from openslip.data.data import Data
from openslip.data.order import Order, Stream, generator, stream_of
from openslip.data.record import Record, Source, Tally
from openslip.data.schedule import Schedule
from openslip.data.sources.mixture import Mixture
from openslip.data.tokenizer import Tokenizer
from openslip.data.views import UNCHANGED, Parameter, crop, draw
from openslip.errors import ConfigError, DataError
from openslip.needs import IMAGE, SSL_VIEWS, View

CONFIG = ViewsConfig(size=8)
VIEWS = (IMAGE, *SSL_VIEWS)
NAMES = ("image", "ssl_1", "ssl_2")


@dataclass(eq=False)
class Squares(Source):
    """Pictures of noise, with captions or without; `broken` ones cannot be read. `words`: captions of many lengths."""

    name: str
    count: int
    captioned: bool = True
    broken: tuple[int, ...] = ()
    words: bool = False

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int) -> np.ndarray:
        seed = [index, *self.name.encode()]
        return np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)

    def __getitem__(self, index: int) -> Record:
        if index in self.broken:
            raise DataError("The image is damaged")
        caption = f"{self.name} {index}" + self.words * index * " more"
        captions = (caption,) if self.captioned else ()
        return Record(self.picture(index), captions, f"{self.name}/{index}", self.name)


PAIRS, PICTURES = Squares("pairs", 11), Squares("pictures", 7, captioned=False)


def reads(built: dict) -> int:
    """Return how many records were read for a batch."""
    return sum(tally.read for tally in built["tallies"])


def build(position: int, source=PAIRS, ssl=None, *, batch: int = 6, rank: int = 0, world: int = 1) -> dict:
    return Builder(Data(source, ssl), VIEWS, CONFIG, Tokenizer(), batch, 5, rank=rank, world=world).build(
        position
    )


def expected_view(source: Squares, epoch: int, index: int, name: str) -> torch.Tensor:
    config = CONFIG.image if name == "image" else CONFIG.ssl
    box, _ = draw(config, 12, 10, generator(5, epoch, index, Stream[name.upper()]))
    return torch.from_numpy(crop(source.picture(index), box, CONFIG.size))


@pytest.mark.parametrize("position", [0, 6, 18])
def test_self_supervision_on_pictures_of_their_own(position: int) -> None:
    built = build(position, ssl=PICTURES)
    pairs = Order(PAIRS.parts, 5)
    pictures = Order(PICTURES.parts, 5, Stream.SSL_ORDER)
    assert built["position"] == position + 6
    assert reads(built) == 12
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
    builder = Builder(Data(PAIRS, PICTURES), VIEWS, CONFIG, Tokenizer(), 1, 5)
    drawn = [[reader.order.locate(p)[1] for p in range(77)] for reader in builder.readers]
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


PICTURES_APART = replace(PICTURES, broken=(2,))
LONG = replace(PAIRS, broken=(3,), words=True)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 5),
    st.sampled_from([(1, 0), (2, 1), (3, 0)]),
    st.sets(st.integers(1, 11)),
    st.sampled_from([None, PICTURES_APART]),
    st.sampled_from([Schedule(12), Schedule(12, every=2, share=0.5)]),
    st.sampled_from([None, augment_early]),
)
def test_any_pieces_are_together_the_batch(step, process, cuts, ssl, schedule, early) -> None:
    world, rank = process
    builder = Builder(
        Data(LONG, ssl),
        VIEWS,
        CONFIG,
        Tokenizer(),
        12,
        5,
        rank=rank,
        world=world,
        schedule=schedule,
        early=early,
    )
    whole = builder.build(12 * step)
    edges = [builder.rows.start, *sorted(cuts & set(builder.rows[1:])), builder.rows.stop]
    parts = [builder.build(12 * step, range(*ends)) for ends in itertools.pairwise(edges)]
    assert [key for part in parts for key in part["keys"]] == whole["keys"]
    assert [s for part in parts for s in part["skipped"]] == whole["skipped"]
    assert [sum(t, Tally()) for t in zip(*(part["tallies"] for part in parts))] == whole["tallies"]
    assert {part["position"] for part in parts} == {12 * step + 12}
    for kind in ("views", "parameters"):
        assert {name for part in parts for name in part[kind]} == set(whole[kind])
        for name in whole[kind]:
            joined = torch.cat([part[kind][name] for part in parts if name in part[kind]])
            assert torch.equal(joined, whole[kind][name])
    rows = [row[row > 0].tolist() for part in parts for row in part["tokens"]]
    assert rows == [row[row > 0].tolist() for row in whole["tokens"]]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 90), st.sampled_from([1, 8, 64, 1000]))
def test_pieces_cover_a_share_and_keep_blocks_whole(position, batch, size, block) -> None:
    source = Shards("shards", 200, block=block)
    builder = Builder(Data(source), VIEWS, CONFIG, Tokenizer(), 2 * batch, 5, rank=1, world=2)
    cut = builder.cut(position, size)
    assert [row for rows in cut for row in rows] == list(builder.rows)
    assert all(1 <= len(rows) <= size for rows in cut)
    assert (len(cut) == 1) == (batch <= size)
    if block <= size:
        edges = [(position + rows.stop) % 200 for rows in cut[:-1]]
        assert all(edge % block == 0 for edge in edges)


def test_views_are_put_where_they_are_asked_to_be() -> None:
    memory = []

    def allocate(size: int) -> torch.Tensor:
        memory.append(torch.zeros(size, dtype=torch.uint8))
        return memory[0]

    built = Builder(Data(PAIRS), VIEWS, CONFIG, Tokenizer(), 6, 5, early=halved).build(0, allocate=allocate)
    assert len(memory) == 1
    assert torch.equal(torch.cat([built["views"][name].flatten() for name in NAMES]), memory[0])
    assert built["views"]["ssl_2"].untyped_storage().data_ptr() == memory[0].data_ptr()


def test_a_mixture_of_sources() -> None:
    mixture = Mixture([PAIRS, Squares("more", 5)], [1, 2])
    keys = [key for position in range(0, 42, 6) for key in build(position, mixture)["keys"]]
    assert sorted(keys) == sorted([f"pairs/{i}" for i in range(11)] * 2 + [f"more/{i}" for i in range(5)] * 4)


def halved(views: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    assert parameters.shape == (len(views), len(UNCHANGED))
    return views // 2


def test_views_can_be_finished_early() -> None:
    late = build(0)
    early = Builder(Data(PAIRS), VIEWS, CONFIG, Tokenizer(), 6, 5, early=halved).build(0)
    for name in NAMES:
        assert torch.equal(early["views"][name], late["views"][name] // 2)
        assert early["parameters"][name].dtype == torch.float32
        assert early["parameters"][name].tolist() == [list(UNCHANGED)] * 6


def scheduled(position: int, ssl: Squares | None = None, *, source=PAIRS, **options) -> dict:
    schedule = Schedule(6, every=2, share=0.5)
    views, config = options.pop("views", VIEWS), options.pop("config", CONFIG)
    return Builder(Data(source, ssl), views, config, Tokenizer(), 6, 5, schedule=schedule, **options).build(
        position
    )


def test_every_view_has_its_own_size() -> None:
    views = replace(CONFIG, ssl=replace(CONFIG.ssl, size=4))
    built = Builder(Data(PAIRS), VIEWS, views, Tokenizer(), 6, 5).build(0)
    same = build(0)
    assert torch.equal(built["views"]["image"], same["views"]["image"])
    assert built["views"]["ssl_1"].shape == built["views"]["ssl_2"].shape == (6, 3, 4, 4)
    assert torch.equal(built["parameters"]["ssl_1"], same["parameters"]["ssl_1"])
    epoch, index = Order(PAIRS.parts, 5).locate(2)
    box, _ = draw(CONFIG.ssl, 12, 10, generator(5, epoch, index, Stream.SSL_2))
    assert torch.equal(built["views"]["ssl_2"][2], torch.from_numpy(crop(PAIRS.picture(index), box, 4)))


def test_a_view_like_another_is_its_crop_at_another_size_with_the_same_colours() -> None:
    config = replace(CONFIG, ssl=replace(CONFIG.ssl, blur=1.0))
    larger = tuple(
        View(f"{view.name}@14", view.kind, view.scheduled, size=14, like=view.name) for view in VIEWS
    )
    built = Builder(Data(PAIRS), (*larger, *VIEWS), config, Tokenizer(), 6, 5).build(0)
    alone = Builder(Data(PAIRS), VIEWS, config, Tokenizer(), 6, 5).build(0)
    order = Order(PAIRS.parts, 5, Stream.ORDER)
    for name in NAMES:
        other = f"{name}@14"
        assert torch.equal(built["views"][name], alone["views"][name])
        drawn, again = built["parameters"][name], built["parameters"][other]
        assert torch.equal(drawn[:, : Parameter.BLUR], again[:, : Parameter.BLUR])
        torch.testing.assert_close(again[:, Parameter.BLUR], drawn[:, Parameter.BLUR] * 14 / 8)
        for row in range(6):
            _, index = order.locate(row)
            numbers = generator(5, 0, index, stream_of(name))
            box, _ = draw(config.of("image" if name == "image" else "ssl"), 12, 10, numbers)
            expected = torch.from_numpy(crop(PAIRS.picture(index), box, 14))
            assert torch.equal(built["views"][other][row], expected)
    assert float(built["parameters"]["ssl_1"][:, Parameter.BLUR].min()) > 0


@pytest.mark.parametrize(
    "odd",
    [
        View("odd", "image", False, like="nothing"),
        View("odd", "image", True, like="image"),
        View("odd", "ssl", False, like="image"),
    ],
    ids=str,
)
def test_a_view_is_like_one_that_is_drawn_and_scheduled_alike(odd) -> None:
    with pytest.raises(ConfigError, match="'odd' cannot have the crop of the view"):
        Builder(Data(PAIRS), (odd, *VIEWS), CONFIG, Tokenizer(), 6, 5)


def test_steps_without_self_supervision_are_those_of_a_run_without_it() -> None:
    built, clip = (scheduled(6, views=views) for views in (VIEWS, (IMAGE,)))
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
    order = Order(PICTURES.parts, 5, Stream.SSL_ORDER)
    seen = [scheduled(position, PICTURES) for position in range(0, 84, 6)]  # 14 steps, 7 with 3 pictures
    places = [order.locate(place) for place in range(21)]
    assert sorted(places) == [(epoch, index) for epoch in range(3) for index in range(7)]
    expected = [expected_view(PICTURES, epoch, index, "ssl_1") for epoch, index in places]
    assert torch.equal(
        torch.cat([b["views"]["ssl_1"] for b in seen if "ssl_1" in b["views"]]), torch.stack(expected)
    )
    assert [reads(b) for b in seen[:4]] == [9, 6, 9, 6]


@pytest.mark.parametrize("ssl", [None, PICTURES])
@pytest.mark.parametrize("position", [0, 6, 12])
def test_processes_share_a_scheduled_batch(ssl: Squares | None, position: int) -> None:
    whole = scheduled(position, ssl)
    shares = [scheduled(position, ssl, rank=rank, world=3) for rank in range(3)]
    for kind in ("views", "parameters"):
        for name in whole[kind]:
            assert torch.equal(torch.cat([share[kind][name] for share in shares]), whole[kind][name])
    assert sum(map(reads, shares)) == reads(whole)


# Views that an objective of somebody's own asks for

CROPS = (View("local_1", "local"), View("local_2", "local"))
SECOND = View("second", "image", scheduled=False)


def test_views_of_any_name_and_kind_are_drawn_of_the_same_records() -> None:
    built = Builder(Data(PAIRS), (*CROPS, *VIEWS, SECOND), CONFIG, Tokenizer(), 6, 5).build(0)
    assert list(built["views"]) == ["image", "second", "local_1", "local_2", "ssl_1", "ssl_2"]
    usual = build(0)
    assert built["keys"] == usual["keys"]
    assert all(torch.equal(built["views"][name], usual["views"][name]) for name in NAMES)
    config = CONFIG.of("local")
    for row in range(6):
        epoch, index = Order(PAIRS.parts, 5).locate(row)
        for name in ("local_1", "local_2"):
            box, _ = draw(config, 12, 10, generator(5, epoch, index, stream_of(name)))
            expected = torch.from_numpy(crop(PAIRS.picture(index), box, config.size))
            assert torch.equal(built["views"][name][row], expected)
    assert not torch.equal(built["views"]["local_1"], built["views"]["local_2"])
    assert not torch.equal(built["views"]["second"], built["views"]["image"])


def test_scheduled_views_come_from_pictures_of_their_own() -> None:
    """Whatever their kind; the others are made of every row of the captioned pictures."""
    odd = View("odd", "ssl", scheduled=False)
    views = (*CROPS, IMAGE, odd)
    first, second = (scheduled(position, PICTURES, views=views)["views"] for position in (0, 6))
    assert {name: len(view) for name, view in first.items()} == {
        "image": 6,
        "odd": 6,
        "local_1": 3,
        "local_2": 3,
    }
    assert {name: len(view) for name, view in second.items()} == {"image": 6, "odd": 6}
    epoch, index = Order(PICTURES.parts, 5, Stream.SSL_ORDER).locate(1)
    box, _ = draw(CONFIG.of("local"), 12, 10, generator(5, epoch, index, stream_of("local_1")))
    assert torch.equal(first["local_1"][1], torch.from_numpy(crop(PICTURES.picture(index), box, 16)))


def test_views_that_cannot_be_drawn_together() -> None:
    with pytest.raises(ConfigError, match="Two objectives draw the view 'image' in different ways"):
        Builder(Data(PAIRS), (IMAGE, View("image", "ssl")), CONFIG, None, 6, 5)
    with pytest.raises(ConfigError, match="no such kind of view.*Did you mean 'local'"):
        Builder(Data(PAIRS), (View("a", "locals"),), CONFIG, None, 6, 5)


# Records that stand in for others


def drawn(source, epochs: int, ssl=None) -> list[dict]:
    """Return what is built for each position of some epochs."""
    builder = Builder(Data(source, ssl), VIEWS, CONFIG, Tokenizer(), 1, 5)
    return [builder.build(position) for position in range(epochs * len(source))]


def test_a_stand_in_is_not_seen_twice() -> None:
    source = replace(PAIRS, broken=(3, 7))
    built = drawn(source, 4)
    for epoch in range(4):
        batches = built[11 * epoch : 11 * epoch + 11]
        assert sum(len(batch["skipped"]) for batch in batches) == 2
        for name in NAMES:
            views = {
                batch["views"][name].numpy().tobytes() + batch["parameters"][name].numpy().tobytes()
                for batch in batches
            }
            assert len(views) == 11


def test_a_stand_in_has_the_views_of_the_row_it_takes() -> None:
    source = replace(PAIRS, broken=(3,))
    position = next(p for p in range(11) if Order(source.parts, 5).locate(p)[1] == 3)
    built = build(position, source, batch=1)
    image = source.picture(int(built["keys"][0].removeprefix("pairs/")))
    box, parameters = draw(CONFIG.ssl, 12, 10, generator(5, 0, 3, Stream.SSL_1))
    assert torch.equal(built["views"]["ssl_1"][0], torch.from_numpy(crop(image, box, CONFIG.size)))
    assert built["parameters"]["ssl_1"][0].tolist() == pytest.approx(list(parameters))


def test_a_mixture_keeps_its_proportions() -> None:
    mixture = Mixture([replace(PAIRS, count=40), Squares("half", 40, broken=tuple(range(0, 40, 2)))], [1, 1])
    kinds = Counter(built["keys"][0].partition("/")[0] for built in drawn(mixture, 3))
    assert kinds == {"pairs": 120, "half": 120}


def test_a_source_that_fails_whole_is_stood_in_for_by_the_others() -> None:
    mixture = Mixture([PAIRS, Squares("gone", 4, broken=tuple(range(4)))], [1, 1])
    built = drawn(mixture, 2)
    assert all(b["keys"][0].startswith("pairs/") for b in built)
    totals = [sum_up(b["tallies"][part] for b in built) for part in range(2)]
    assert totals[0][:4] == (22, 22, 0, 8)
    assert totals[1][:4] == (8, 0, 8, 0)
    assert totals[1][4] > 8 * 10


@dataclass(eq=False)
class Shards(Squares):
    """Pictures in blocks of 8, of which one is held at a time; `fetched` lists the blocks fetched."""

    fetched: list[int] = field(default_factory=list)
    block: int = 8

    def __getitem__(self, index: int) -> Record:
        if self.fetched[-1:] != [index // self.block]:
            self.fetched.append(index // self.block)
        return super().__getitem__(index)


def test_a_stand_in_costs_no_request_where_its_block_has_one() -> None:
    source = Shards("shards", 200, broken=tuple(range(5, 200, 25)))
    drawn(source, 2)
    assert len(source.fetched) == 2 * 200 / 8


def test_a_block_that_fails_whole_costs_one_more() -> None:
    source = Shards("shards", 200, broken=tuple(range(16, 24)))
    built = drawn(source, 1)
    skipping = [b["keys"][0] for b in built if b["skipped"]]
    assert len(set(skipping)) == 8  # each stood in for by another record
    assert len({int(key.removeprefix("shards/")) // 8 for key in skipping}) == 1
    reads = [number for number, _ in itertools.groupby(source.fetched)]
    assert len(set(reads)) == 25
    assert len(reads) <= 25 + 2 * 8  # this test's source holds one block, and goes back and forth


def sum_up(tallies) -> tuple[int, ...]:
    return tuple(map(sum, zip(*map(astuple, tallies))))


@pytest.mark.parametrize("world", [1, 2])
def test_what_became_of_records_is_counted(world: int) -> None:
    mixture = Mixture([replace(PAIRS, broken=(1, 2)), Squares("more", 6, broken=(0, 3, 4))], [2, 1])
    ssl = replace(PICTURES, broken=(6,))
    built = [
        build(position, mixture, ssl, batch=14, rank=rank, world=world)
        for position in range(0, 84, 14)
        for rank in range(world)
    ]
    pairs, more, pictures = (Tally(*sum_up(b["tallies"][part] for b in built)) for part in range(3))
    assert (pairs.read, pairs.skipped, pairs.stood_in) == (66, 12, 12)
    assert (more.read, more.skipped, more.stood_in) == (18, 9, 9)
    assert (pictures.read, pictures.skipped, pictures.stood_in) == (84, 12, 12)
    assert all(tally.read == tally.used + tally.skipped for tally in (pairs, more, pictures))
    listed = Counter(s.source for b in built for s in b["skipped"])
    assert listed == {"pairs": 12, "more": 9, "pictures": 12}


@dataclass(eq=False)
class Sorted(Squares):
    """Pictures of three classes, of which every fourth is of none."""

    kinds: tuple[str, ...] = ("cat", "dog", "owl")

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.kinds

    def label(self, index: int) -> int | None:
        return index % 3 if index % 4 else None


def test_labels_are_those_of_the_records_in_the_rows() -> None:
    """Also of records that stand in for others, and none where nobody asked for them."""
    source = Sorted("sorted", 23, broken=(1, 2, 5))
    builder = Builder(Data(source), (IMAGE,), CONFIG, Tokenizer(8), 16, 0, labelled=True)
    for position in (0, 16, 32):
        built = builder.build(position)
        indices = [int(key.partition("/")[2].lstrip("#")) for key in built["keys"]]
        assert built["labels"].tolist() == [index % 3 if index % 4 else -1 for index in indices]
        assert built["records"].tolist() == indices
        assert built["skipped"] or position
    assert Builder(Data(source), (IMAGE,), CONFIG, Tokenizer(8), 16, 0).build(0)["labels"] is None


def test_records_are_counted_through_all_sources_of_a_mixture_whatever_their_weights() -> None:
    """Also where one is in a batch twice, and where the order straddles epochs."""
    first, second = Sorted("first", 5), Sorted("second", 3, broken=(1,))
    data = Data(Mixture([first, second], [1, 2.5]))
    assert (data.records, data.epoch_length) == (8, 13)
    builder, seen = Builder(data, (IMAGE,), CONFIG, Tokenizer(8), 10, 0), []
    for position in range(0, 60, 10):
        built = builder.build(position)
        for record, key in zip(built["records"].tolist(), built["keys"], strict=True):
            source, own = ("first", record) if record < 5 else ("second", record - 5)
            assert key == f"{source}/{own}"
        seen += built["records"].tolist()
    assert set(seen) == set(range(8)) - {6}
    assert max(map(seen.count, seen)) > seen.count(0)


def test_labels_of_a_source_without_classes_are_none_of_any() -> None:
    built = Builder(Data(PAIRS), (IMAGE,), CONFIG, Tokenizer(8), 6, 0, labelled=True).build(0)
    assert built["labels"].tolist() == [-1] * 6
    assert built["labels"].dtype == torch.int64


@dataclass(eq=False)
class Told(Squares):
    """Squares of up to four captions each, of eight different words."""

    def __getitem__(self, index: int) -> Record:
        each = tuple(
            " ".join(f"{index}:{caption}:{word}" for word in range(8)) for caption in range(1 + index % 4)
        )
        return replace(super().__getitem__(index), captions=(" ", *each))


def texts_of(position: int = 0, **options) -> list[list[str]]:
    """Return the captions of 24 rows, the captions of a row together."""
    told: list[str] = []

    def tokenizer(captions: list[str]) -> torch.Tensor:
        told.extend(captions)
        return torch.tensor([[len(caption), n] for n, caption in enumerate(captions)])

    builder = Builder(Data(Told("told", 24)), (IMAGE,), CONFIG, tokenizer, 24, 5, **options)  # type: ignore[arg-type]
    tokens, each = builder.build(position)["tokens"], options.get("captions", 1)
    rows = [told[start : start + each] for start in range(0, len(told), each)]
    assert tokens.shape == ((24, 2) if each == 1 else (24, each, 2))
    assert tokens.reshape(-1, 2).tolist() == [[len(caption), n] for n, caption in enumerate(told)]
    return rows


def test_several_captions_of_a_record_are_different_ones_as_long_as_there_are_some() -> None:
    one, three = texts_of(), texts_of(captions=3)
    assert [row[:1] for row in three] == one  # whatever their number, the first is the same
    for row in three:
        there = 1 + int(row[0].partition(":")[0]) % 4
        counts = Counter(row)
        assert len(counts) == min(3, there)
        assert max(counts.values()) - min(counts.values()) <= 1
    firsts = {tuple(row) for position in range(0, 24 * 120, 24) for row in texts_of(position, captions=2)}
    assert len(firsts) == sum(there * max(1, there - 1) for there in (1, 2, 3, 4)) * 6  # all orders come up


def test_words_are_dropped_anew_in_every_epoch_and_one_stays() -> None:
    whole = texts_of(captions=2)
    shares = []
    for rows in (texts_of(captions=2, drop_words=0.75), texts_of(captions=2, drop_words=0.75)):
        for row, complete in zip(rows, whole, strict=True):
            for caption, words in zip(row, complete, strict=True):
                left, words = caption.split(), words.split()
                assert left == [word for word in words if word in left]  # in their order
                assert left
                shares.append(len(left) / len(words))
    assert shares[:48] == shares[48:]
    # A quarter, and the one word that stays of captions that would lose all.
    assert 0.2 < sum(shares) / len(shares) < 0.36
    assert min(shares) == 1 / 8
    same = {tuple(map(tuple, sorted(texts_of(24 * epoch, drop_words=0.5)))) for epoch in range(3)}
    assert len(same) == 3
    assert texts_of(drop_words=0.0) == texts_of()
