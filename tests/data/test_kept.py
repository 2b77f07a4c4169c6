from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openslip.config import ViewsConfig
from openslip.data.builder import Builder
from openslip.data.data import Data
from openslip.data.kept import Kept, Records
from openslip.data.record import Record, Skipped, Source
from openslip.data.storage import shared_array
from openslip.data.tokenizer import Tokenizer
from openslip.errors import DataError
from openslip.needs import IMAGE, SSL_VIEWS, TEXT

TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
KNOWN = st.one_of(
    st.tuples(TEXTS, st.sampled_from([("a photo of a dog", "a dog"), ("a cat",)]), st.integers(-1, 9)),
    st.tuples(TEXTS, st.lists(TEXTS, max_size=3).map(tuple), st.integers(-1, 9)),
    st.builds(Skipped, st.integers(0, 9), TEXTS, TEXTS, TEXTS),
)


@given(st.lists(KNOWN, max_size=8))
def test_records_are_what_was_learned_of_them(known: list) -> None:
    records = Records(known)
    every = records.every_caption()
    for index, record in enumerate(known):
        if isinstance(record, Skipped):
            assert records.unusable[index] == record
            assert records[index] == (record.key, (), -1)
        else:
            assert records[index] == record
            assert [every[records.caption_row(index, n)] for n in range(len(record[1]))] == list(record[1])
    lists = {record[1] for record in known if not isinstance(record, Skipped)}
    assert (len(records), len(every)) == (len(known), sum(map(len, lists)))


def test_processes_share_the_memory_of_records(monkeypatch) -> None:
    monkeypatch.setattr(shared_array, "SMALL", 0)
    records = Records([("a", ("one", "two"), 3), Skipped(1, "b", "source", "It is damaged"), ("c", (), -1)])
    payload = pickle.dumps(records)
    assert b"two" not in payload
    other = pickle.loads(payload)
    assert [other[index] for index in range(3)] == [records[index] for index in range(3)]
    assert other.unusable == records.unusable


CONFIG = ViewsConfig(size=8)
VIEWS = (IMAGE, *SSL_VIEWS)


@dataclass(eq=False)
class Noise(Source):
    """Pictures of noise, with two captions each. Records in `broken`, which may change, cannot be read."""

    count: int
    broken: set[int] = field(default_factory=set)
    name: str = "noise"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if index in self.broken:
            raise DataError("The image is damaged")
        image = np.random.default_rng(index).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        return Record(image, (f"one {index}", f"two {index}"), f"noise/{index}", self.name)


def builder(source: Source, kept: Kept | None = None, *, batch: int = 5, **options) -> Builder:
    return Builder(Data(source), VIEWS, CONFIG, Tokenizer(), batch, 5, kept=kept, **options)


def passed(source: Source, kept: Kept) -> tuple[dict[str, torch.Tensor], Records]:
    """Return the views of a pass over all records, and what it learns of them."""
    built = builder(source, kept, batch=kept.epochs * len(source), in_turn="train").build(0)
    return built["views"], Records(built["own_records"][: len(source)])


def kept_of(*views: str, epochs: int = 2, **others) -> Kept:
    names = frozenset(views)
    return Kept(epochs, names, names - {TEXT}, **others)


@pytest.mark.parametrize("batch", [5, 7])
def test_rows_name_the_views_of_a_pass(batch: int) -> None:
    source = Noise(11, {2, 7})
    views, records = passed(source, kept_of("image", "ssl_1", "ssl_2"))
    assert set(records.unusable) == {2, 7}
    some = builder(source, kept_of("image", "ssl_1"), batch=batch)
    usual = builder(source, batch=batch)
    names = kept_of("image", "ssl_1", "ssl_2", TEXT, undrawn=frozenset({"image", "ssl_1", "ssl_2"}))
    known = builder(
        source, Kept(2, names.views, names.repeated, names.undrawn, {"train": records}), batch=batch
    )
    captions = Tokenizer()(records.every_caption())
    for position in range(0, 5 * 11, batch):
        built, plain, numbered = (each.build(position) for each in (some, usual, known))
        for name in ("image", "ssl_1"):
            assert torch.equal(built["views"][name], views[name][built["rows"][name]])
            assert np.array_equal(built["rows"][name], numbered["rows"][name])
        # What is not kept does not repeat; captions follow the true epoch.
        if not built["skipped"]:
            assert torch.equal(built["views"]["ssl_2"], plain["views"]["ssl_2"])
        assert torch.equal(built["tokens"], numbered["tokens"])
        length = built["tokens"].shape[1]
        assert torch.equal(built["tokens"], captions[numbered["rows"][TEXT], :length])
        assert numbered["views"] == {}
        for field_name in ("keys", "skipped", "tallies", "position"):
            assert built[field_name] == numbered[field_name]
        assert built["records"].tolist() == [int(key.partition("/")[2]) for key in built["keys"]]
        assert torch.equal(built["records"], numbered["records"])


def test_views_repeat_after_the_epochs_that_are_kept() -> None:
    source = Noise(6)
    repeating, usual = builder(source, kept_of("image"), batch=6), builder(source, batch=6)

    def views(built: dict) -> dict[str, bytes]:
        return {key: view.numpy().tobytes() for key, view in zip(built["keys"], built["views"]["image"])}

    epochs = [views(repeating.build(6 * epoch)) for epoch in range(4)]
    assert epochs[:2] == [views(usual.build(6 * epoch)) for epoch in range(2)]
    assert epochs[2:] == epochs[:2]
    assert epochs[0] != epochs[1]


def test_a_record_that_is_lost_after_the_pass_is_stood_in_for_by_a_row_of_its_own() -> None:
    source = Noise(11, {2})
    views, records = passed(source, kept_of("image"))
    both = kept_of("image", records={"train": records})
    source.broken.update({4, 9})
    built = builder(source, both, batch=11).build(0)
    assert {skipped.key for skipped in built["skipped"]} == {"#2", "#4", "#9"}
    assert torch.equal(built["views"]["image"], views["image"][built["rows"]["image"]])
    assert not {4, 9} & set(built["rows"]["image"].tolist())
