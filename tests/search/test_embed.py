from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distributed.ranks import run_on
from openslip.data.record import reasons
from openslip.data.sources import open_source
from openslip.encoder import Encoder
from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.evaluation import fingerprint
from openslip.pictures import chunks_ahead
from openslip.processes import joined
from openslip.search import embed as module
from openslip.search.embed import Embedded, absolute, embed
from openslip.search.index import Index
from search.collections import BROKEN, COUNT, PLACES, make, png, price, small_model
from toys import ToySource


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "CHUNKS", 1)


@pytest.fixture(scope="module")
def model() -> Encoder:
    return small_model()


def run(model: Encoder | str | Path, source: Any, out: Path, **options: Any) -> Embedded:
    options = {"precision": "fp32", "batch": 2, **options}
    return embed(model, source, out, **options)


def files(out: Path) -> dict[str, bytes]:
    """Return all files of an index."""
    return {path.name: path.read_bytes() for path in out.iterdir()}


class Killed(BaseException):
    pass


def killed_after(batches: int, monkeypatch) -> None:
    """Have the next run end after so many batches."""

    def some(self: Any, pixels: Any, original: Any = module._Work._embedded) -> Any:
        nonlocal batches
        batches -= 1
        if batches < 0:
            raise Killed
        return original(self, pixels)

    monkeypatch.setattr(module._Work, "_embedded", some)


@pytest.mark.parametrize("place", PLACES)
def test_every_source_becomes_an_index(place, tmp_path, model) -> None:
    spec = make(place, tmp_path)
    done = run(model, spec, tmp_path / "index")
    kept = [n for n in range(COUNT) if n % (COUNT // 2 if place == "mixture" else COUNT) != BROKEN]
    index = Index.open(tmp_path / "index", model=model)
    source = open_source(spec, captions_required=False)
    assert (done.rows, done.new, done.reused, done.gone) == (len(kept), len(kept), 0, 0)
    records = index.records(range(len(index))).to_pylist()
    for row, found in enumerate(records):
        record = source[found["record"]]
        assert (found["key"], tuple(found["captions"])) == (record.key, record.captions)
        assert found["caption"] == (record.captions[0] if record.captions else None)
        alone = model.encode_image(record.image, numpy=True)[0]
        assert np.abs(index.vectors[row] - alone).max() < 1e-3  # half precision
        assert index.picture(row) == record.image
        if found["path"]:
            assert Path(found["path"]).read_bytes() == record.image
    assert [found["record"] for found in records] == sorted(
        {*range(len(source))} - {s.index for s in done.skipped}
    )
    if place == "labels":
        assert {found["class"] for found in records} == {"cat", "dog"}
    elif place != "mixture":
        assert [found["price"] for found in records] == [price(n) for n in kept]


def test_what_has_no_embedding_is_listed(tmp_path, model) -> None:
    done = run(model, make("tar", tmp_path), tmp_path / "index")
    assert [(one.index, one.key) for one in done.skipped] == [(BROKEN, f"{BROKEN:02d}")]
    lines = (tmp_path / "index" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [done.skipped[0].reason]
    assert json.loads((tmp_path / "index" / "index.json").read_text())["skipped"] == 1
    assert reasons(done.skipped)[0].startswith("1 × ")


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path, model) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"none")
    with pytest.raises(DataError, match="None of 1 picture can be used"):
        run(model, str(tmp_path / "pictures"), tmp_path / "index")
    assert not (tmp_path / "index").exists() or not os.listdir(tmp_path / "index")


@pytest.mark.parametrize("place", PLACES)
def test_a_second_run_embeds_nothing_and_changes_no_byte(place, tmp_path, model, monkeypatch) -> None:
    spec = make(place, tmp_path)
    first = run(model, spec, tmp_path / "index", captions=True)
    before = files(tmp_path / "index")
    monkeypatch.setattr(module._Work, "_embedded", lambda *_: pytest.fail("embedded again"))
    monkeypatch.setattr(module, "encode_texts", lambda *_: pytest.fail("embedded again"))
    done = run(model, spec, tmp_path / "index", captions=True)
    assert (done.new, done.reused, done.gone) == (0, first.rows, 0)
    assert files(tmp_path / "index") == before


def test_only_new_and_changed_files_are_read(tmp_path, model, monkeypatch) -> None:
    spec = make("folder", tmp_path)
    run(model, spec, tmp_path / "index")
    (tmp_path / "pictures" / "00.png").unlink()
    (tmp_path / "pictures" / "01.png").write_bytes(png(77))
    (tmp_path / "pictures" / "20.png").write_bytes(png(20))
    os.utime(tmp_path / "pictures" / "01.png", ns=(1, 1))
    shutil.move(tmp_path / "pictures" / "05.png", tmp_path / "pictures" / "06b.png")
    read: list[str] = []
    monkeypatch.setattr(module, "read_image", lambda path: read.append(path[-7:]) or Path(path).read_bytes())
    done = run(model, spec, tmp_path / "index")
    # One that was moved is read, and known by its content; one that is broken is tried again.
    assert sorted(read) == sorted([f"/{n}" for n in ("01.png", "03.png", "20.png")] + ["06b.png"])
    assert (done.new, done.gone) == (2, 2)
    fresh = run(model, spec, tmp_path / "fresh")
    assert fresh.rows == done.rows
    mine, anew = Index.open(tmp_path / "index"), Index.open(tmp_path / "fresh")
    assert mine.column("key").to_pylist() == anew.column("key").to_pylist()
    assert np.abs(mine.vectors.astype(float) - anew.vectors.astype(float)).max() < 1e-3


def test_captions_of_pictures_that_stay_are_read_anew(tmp_path, model) -> None:
    spec = make("folder", tmp_path)
    run(model, spec, tmp_path / "index", captions=True)
    (tmp_path / "pictures" / "02.txt").write_text("another caption")
    done = run(model, spec, tmp_path / "index", captions=True)
    index = Index.open(tmp_path / "index", model=model)
    row = index.column("record").to_pylist().index(2)
    assert done.new == 0
    assert index.column("caption").to_pylist()[row] == "another caption"
    texts = np.load(tmp_path / "index" / "captions.npy")
    assert np.abs(texts[row] - model.encode_text("another caption", numpy=True)[0]).max() < 1e-3


def test_captions_have_a_row_each(tmp_path, model) -> None:
    run(model, ToySource(6, silent=frozenset([2])), tmp_path / "index", captions=True)
    index = Index.open(tmp_path / "index")
    every = [text for texts in index.column("captions").to_pylist() for text in texts]
    texts = np.load(tmp_path / "index" / "captions.npy")
    assert len(every) == len(texts) == 12
    assert np.abs(texts - model.encode_text(every, numpy=True)).max() < 1e-3
    run(model, ToySource(6), tmp_path / "index")
    assert not (tmp_path / "index" / "captions.npy").exists()


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("place", ["folder", "tar"])
def test_killed_and_run_again_is_uninterrupted(batches, place, tmp_path, model, monkeypatch) -> None:
    spec = make(place, tmp_path)
    run(model, spec, tmp_path / "whole", captions=True)
    with monkeypatch.context() as patch:
        killed_after(batches, patch)
        with pytest.raises(Killed):
            run(model, spec, tmp_path / "index", captions=True)
    with pytest.raises(DataError, match="not finished"):
        Index.open(tmp_path / "index")
    done = run(model, spec, tmp_path / "index", captions=True)
    assert files(tmp_path / "index") == files(tmp_path / "whole")
    assert (done.reused > 0) == (batches >= 2)  # two batches are a chunk


def test_killed_twice_loses_nothing_of_either(tmp_path, model, monkeypatch) -> None:
    spec = make("tar", tmp_path)
    for batches in (2, 2):
        with monkeypatch.context() as patch:
            killed_after(batches, patch)
            with pytest.raises(Killed):
                run(model, spec, tmp_path / "index")
    done = run(model, spec, tmp_path / "index")
    assert done.reused == done.rows - done.new == 7


@pytest.mark.parametrize("moment", ["vectors.npy", "records.parquet", "index.json"])
def test_killed_while_it_is_written_no_index_is_half_old(moment, tmp_path, model, monkeypatch) -> None:
    spec = make("folder", tmp_path)
    run(model, spec, tmp_path / "index")
    (tmp_path / "pictures" / "20.png").write_bytes(png(20))
    original = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == moment:
            raise Killed
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            run(model, spec, tmp_path / "index")
    with pytest.raises(DataError, match="not finished"):
        Index.open(tmp_path / "index")
    done = run(model, spec, tmp_path / "index")
    assert (done.rows, done.new) == (COUNT, 0)
    run(model, spec, tmp_path / "whole")
    assert Index.open(tmp_path / "index").column("key") == Index.open(tmp_path / "whole").column("key")


def embed_here(spec: str, out: Path, captions: bool) -> tuple[int, int]:
    """Embed as one of several processes."""
    vars(module).update(CHUNK=4, CHUNKS=1)
    with joined() as ranks:
        done = run(small_model(), spec, out, captions=captions, ranks=ranks)
    return done.rows, done.new


@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_write_the_same_bytes(world, tmp_path, model) -> None:
    spec = make("tar", tmp_path, 11)
    run(model, spec, tmp_path / "one", captions=True)
    found = run_on(world, embed_here, spec, tmp_path / "many", True)
    assert found == [(10, 10)] + [(0, 0)] * (world - 1)
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_another_model_or_other_pictures_are_not_mixed(tmp_path, model) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = make("folder", tmp_path / "a"), make("tar", tmp_path / "b")
    run(model, one, tmp_path / "index")
    before = files(tmp_path / "index")
    with pytest.raises(ConfigError, match="another model"):
        run(small_model(1), one, tmp_path / "index")
    with pytest.raises(ConfigError, match="would be dropped"):
        run(model, other, tmp_path / "index")
    assert files(tmp_path / "index") == before
    done = run(model, f"{one} + {other}", tmp_path / "index")
    assert (done.rows, done.new, done.gone) == (
        2 * COUNT - 2,
        0,
        0,
    )  # the same bytes need no second embedding
    done = run(small_model(1), other, tmp_path / "index", replace=True)
    assert (done.rows, done.new) == (COUNT - 1, COUNT - 1)


def test_a_folder_of_something_else_is_left_alone(tmp_path, model) -> None:
    spec = make("folder", tmp_path)
    with pytest.raises(ConfigError, match="is not an index"):
        run(model, spec, tmp_path / "pictures")
    assert len(os.listdir(tmp_path / "pictures")) == 3 * COUNT


def test_weights_and_wrong_numbers_are_refused(tmp_path, model) -> None:
    spec = make("folder", tmp_path)
    with pytest.raises(ConfigError, match="no weights"):
        run(model, f"{spec} + 0.5 * {spec}", tmp_path / "index")
    with pytest.raises(ConfigError, match="batch 0"):
        run(model, spec, tmp_path / "index", batch=0)
    assert not (tmp_path / "index").exists()


def test_captions_need_a_text_tower(tmp_path) -> None:
    from dataclasses import replace

    from toys import make_tiny_config, with_loss

    images_alone = Encoder.from_config(replace(with_loss(make_tiny_config(), "simclr"), init=""))
    spec = make("folder", tmp_path)
    with pytest.raises(EvaluationError, match="text tower"):
        run(images_alone, spec, tmp_path / "index", captions=True)
    assert run(images_alone, spec, tmp_path / "index").rows == COUNT - 1


def test_a_column_of_ones_own_keeps_its_values_beside_ours(tmp_path, model) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(0))
    (tmp_path / "table.csv").write_text("image,title,key,digest\npictures/a.png,a text,17,0\n")
    run(model, str(tmp_path / "table.csv"), tmp_path / "index")
    found = pq.read_table(tmp_path / "index" / "records.parquet").to_pylist()[0]
    assert (found["key"], found["key_2"], found["digest_2"]) == ("pictures/a.png", 17, 0)
    assert found["digest"] == fingerprint.of_picture(png(0)).hex()


def test_names_have_no_dots_which_other_programs_do_not_take(tmp_path, model) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(0))
    (tmp_path / "pictures" / "a.json").write_text(
        json.dumps({"attributes": {"colour": "red"}, "unit.price": 3})
    )
    run(model, str(tmp_path / "pictures"), tmp_path / "index")
    found = pq.read_table(tmp_path / "index" / "records.parquet").to_pylist()[0]
    assert (found["attributes_colour"], found["unit_price"]) == ("red", 3)


def test_columns_of_several_parts_whose_names_differ_by_a_dot_stay_two(tmp_path, model) -> None:
    (tmp_path / "pictures").mkdir()
    for n in range(8):
        (tmp_path / "pictures" / f"{n:02d}.png").write_bytes(png(n))
        told = {"unit.price": n} if n < 4 else {"unit_price": 10 * n}
        (tmp_path / "pictures" / f"{n:02d}.json").write_text(json.dumps(told))
    run(model, str(tmp_path / "pictures"), tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert index.column("unit_price").to_pylist() == [None] * 4 + [40, 50, 60, 70]
    assert index.column("unit_price_2").to_pylist() == [0, 1, 2, 3] + [None] * 4


def test_types_that_differ_between_chunks_are_joined(tmp_path, model) -> None:
    (tmp_path / "pictures").mkdir()
    values = [None, None, None, None, 1, 2, 3, 4, "many", 0.5]
    for n, value in enumerate(values):
        (tmp_path / "pictures" / f"{n:02d}.png").write_bytes(png(n))
        (tmp_path / "pictures" / f"{n:02d}.json").write_text(json.dumps({"size": value}))
    run(model, str(tmp_path / "pictures"), tmp_path / "index")
    found = Index.open(tmp_path / "index").column("size").to_pylist()
    assert found == [None] * 4 + ["1", "2", "3", "4", "many", "0.5"]


def test_numbers_that_no_fraction_holds_are_kept_exactly(tmp_path, model) -> None:
    (tmp_path / "pictures").mkdir()
    for n, value in enumerate([2**53 + 1] * 4 + [0.5] * 2):
        (tmp_path / "pictures" / f"{n:02d}.png").write_bytes(png(n))
        (tmp_path / "pictures" / f"{n:02d}.json").write_text(
            json.dumps({"size": value, "meta": {"x": 2 - value}})
        )
    run(model, str(tmp_path / "pictures"), tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert index.column("size").to_pylist() == ["9007199254740993"] * 4 + ["0.5"] * 2
    assert index.column("meta_x").to_pylist() == [-(2.0**53) + 1] * 4 + [1.5] * 2


def test_names_that_are_no_text_have_their_pictures(tmp_path, model) -> None:
    (tmp_path / "pictures").mkdir()
    name = os.fsdecode(b"\xff.png")
    try:
        (tmp_path / "pictures" / name).write_bytes(png(1))
    except OSError:
        pytest.skip("this file system takes no such name")
    run(model, str(tmp_path / "pictures"), tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert index.column("path").to_pylist() == [None]
    assert index.picture(0) == png(1)


def test_a_small_set_is_shared_out_among_many(tmp_path, model, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4096)
    monkeypatch.setattr(module, "CHUNKS", 4)
    chunks: list[int] = []
    original = module._Work._write
    monkeypatch.setattr(
        module._Work,
        "_write",
        lambda self, chunk, ready: (chunks.append(len(chunk)), original(self, chunk, ready)),
    )
    run(model, ToySource(40), tmp_path / "index")
    run(model, ToySource(3), tmp_path / "few")
    assert chunks == [10, 10, 10, 10, 2, 1]


def test_specs_hold_wherever_the_program_is_started(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a.csv + b/*.tar") == f"{tmp_path}/a.csv + {tmp_path}/b/*.tar"
    assert absolute("labels:photos") == f"labels:{tmp_path}/photos"
    for spec in ("scenes:train:8", "hf:owner/name", "https://x.org/a.tar", "/a/b.csv"):
        assert absolute(spec) == spec


def test_memory_holds_a_chunk_and_two_batches(tmp_path, model, monkeypatch) -> None:
    waiting: list[int] = []
    original = chunks_ahead

    def counted(prepare: Any, given: Any, chunk: int, threads: int) -> Any:
        def counting(index: int) -> Any:
            ready = prepare(index)
            waiting.append(index)
            return ready

        return original(counting, given, chunk, threads)

    seen: list[int] = []
    monkeypatch.setattr(module, "chunks_ahead", counted)
    monkeypatch.setattr(
        module._Work,
        "_write",
        lambda self, chunk, ready: [seen.append(len(waiting) - one.index) for one, _ in ready],
    )
    monkeypatch.setattr(module._Work, "finish", lambda self, *_, **__: None)
    run(model, ToySource(40), tmp_path / "index")
    assert len(seen) == 40
    assert max(seen) <= 3 * 2 + 1
