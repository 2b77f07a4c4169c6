from __future__ import annotations

import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing.reductions import StorageWeakRef

from openslip.config import ViewConfig, ViewsConfig
from openslip.data.augment import augment_early
from openslip.data.data import Data
from openslip.data.decode import decode
from openslip.data.loader import MAX_WORKERS, Loader, default_workers
from openslip.data.order import Stream, generator, locate
from openslip.data.record import Batch, Record, Source, Tally
from openslip.data.schedule import Schedule
from openslip.data.tokenizer import Tokenizer
from openslip.data.views import crop, draw
from openslip.errors import ConfigError, DataError, SlipError
from openslip.needs import IMAGE, SSL_VIEWS, View

CONFIG = ViewsConfig(size=16)
VIEWS = (IMAGE, *SSL_VIEWS)
VIEW_NAMES = tuple(view.name for view in VIEWS)


@dataclass(eq=False)
class Pictures(Source):
    """JPEG pictures with two captions; `bad` maps a record to what is wrong with it."""

    count: int = 23
    bad: tuple[tuple[int, str], ...] = ()
    name: str = "pictures"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        captions = (f"picture {index}", "", f"number {index} seen again, from the other side")
        match dict(self.bad).get(index):
            case "missing":
                raise DataError("The file is gone", got=f"{index}.jpg")
            case "damaged":
                return Record(jpeg(index)[:200], captions, f"key/{index}", "shard 7")
            case "silent":
                return Record(jpeg(index), ("", " \n"), f"key/{index}", self.name)
            case "bug":
                raise ZeroDivisionError("a bug in a source of one's own")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
        return Record(jpeg(index), captions, f"key/{index}", self.name)


def jpeg(index: int) -> bytes:
    rng = np.random.default_rng(index)
    colours = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((int(rng.integers(20, 60)), int(rng.integers(20, 60)))).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def load(
    count: int, source: Pictures | None = None, ssl: Pictures | None = None, **options: Any
) -> list[Batch]:
    settings: dict[str, Any] = {
        "views": VIEWS,
        "config": CONFIG,
        "tokenizer": Tokenizer(),
        "batch": 5,
        "seed": 3,
        "workers": 0,
    }
    batches = iter(Loader(Data(Pictures() if source is None else source, ssl), **settings | options))
    return list(itertools.islice(batches, count))


def assert_equal(a: Batch, b: Batch) -> None:
    assert (a.keys, a.position, a.tallies, a.skipped) == (b.keys, b.position, b.tallies, b.skipped)
    assert (a.tokens is None) == (b.tokens is None)
    if a.tokens is not None and b.tokens is not None:
        assert torch.equal(a.tokens, b.tokens)
    for mine, yours in ((a.views, b.views), (a.parameters, b.parameters)):
        assert list(mine) == list(yours)
        assert all(torch.equal(mine[name], yours[name]) for name in mine)


def twin(source: Pictures, position: int, batch: int, seed: int, views: ViewsConfig) -> Batch:
    """One record after the other, one view after the other, a fresh generator for everything."""
    tallies = [Tally(read=batch, used=batch)]
    result = Batch({}, {}, None, [], position + batch, tallies=tallies)
    rows: dict[str, list] = {name: [] for name in VIEW_NAMES}
    parameters: dict[str, list] = {name: [] for name in VIEW_NAMES}
    captions = []
    for p in range(position, position + batch):
        epoch, index = locate(seed, p, len(source))
        record = source[index]
        texts = [caption for caption in record.captions if caption]
        captions.append(texts[generator(seed, epoch, index, Stream.CAPTION).integers(len(texts))])
        image = decode(record.image)
        for name, stream in [("image", Stream.IMAGE), ("ssl_1", Stream.SSL_1), ("ssl_2", Stream.SSL_2)]:
            config = views.image if name == "image" else views.ssl
            box, row = draw(config, image.shape[0], image.shape[1], generator(seed, epoch, index, stream))
            rows[name].append(torch.from_numpy(crop(image, box, views.size)))
            parameters[name].append(torch.from_numpy(row))
        result.keys = [*result.keys, record.key]
    result.views = {name: torch.stack(rows[name]) for name in VIEW_NAMES}
    result.parameters = {name: torch.stack(parameters[name]) for name in VIEW_NAMES}
    result.tokens = Tokenizer()(captions)
    return result


def test_equals_a_slow_obvious_twin() -> None:
    for number, batch in enumerate(load(7)):  # one epoch and a half
        assert_equal(batch, twin(Pictures(), number * 5, 5, 3, CONFIG))


def test_shapes() -> None:
    (batch,) = load(1)
    for name in VIEW_NAMES:
        assert batch.views[name].shape == (5, 3, 16, 16)
        assert batch.views[name].dtype == torch.uint8
        assert batch.parameters[name].shape == (5, 9)
        assert batch.parameters[name].dtype == torch.float32
    assert batch.tokens is not None
    assert batch.tokens.shape[0] == 5
    assert (batch.position, len(batch.keys), batch.skipped) == (5, 5, [])
    assert not torch.equal(batch.views["ssl_1"], batch.views["ssl_2"])


BAD = ((2, "missing"), (5, "damaged"), (11, "silent"), (12, "missing"))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    expected = load(8, Pictures(bad=BAD))
    for a, b in zip(load(8, Pictures(bad=BAD), workers=workers, prefetch=2), expected, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize(("size", "prefetch"), [(1, 1), (2, -1), (3, 0)])
def test_worker_batches_change_nothing(monkeypatch: pytest.MonkeyPatch, size: int, prefetch: int) -> None:
    options = {"schedule": Schedule(8, 2, 0.5), "ssl": Pictures(9, name="others"), "batch": 8}
    expected = load(5, Pictures(bad=BAD), **options)
    monkeypatch.setattr("openslip.data.prefetch.WORKER_BATCH", size)
    for a, b in zip(
        load(5, Pictures(bad=BAD), workers=2, prefetch=prefetch, **options), expected, strict=True
    ):
        assert_equal(a, b)


@dataclass(eq=False)
class Blocks(Pictures):
    """Pictures of which so many in a row are fetched at once."""

    block: int = 64


def test_worker_batches_hold_a_block_where_memory_is_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = 3 * 3 * CONFIG.size**2
    monkeypatch.setattr("openslip.data.prefetch.free_memory", lambda: 2 * 3 * 64 * sample)
    settings: dict[str, Any] = {
        "views": VIEWS,
        "config": CONFIG,
        "tokenizer": None,
        "seed": 3,
        "batch": 256,
    }
    assert Loader(Data(Pictures(512)), workers=2, **settings).prefetch.rows < 64
    assert Loader(Data(Blocks(512)), workers=2, **settings).prefetch.rows == 64
    assert Loader(Data(Pictures(512), Blocks(512)), workers=2, **settings).prefetch.rows == 64


def in_worker_batches(size: int, **options: Any) -> Loader:
    """Return a loader that builds worker batches of this size in the test's own process."""
    settings: dict[str, Any] = {"views": VIEWS, "config": CONFIG, "tokenizer": Tokenizer(), "seed": 3}
    loader = Loader(Data(Pictures(bad=BAD)), workers=0, **settings | options)
    loader.prefetch = replace(loader.prefetch, rows=size)
    return loader


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("early", [None, augment_early])
def test_worker_batches_of_any_size_change_nothing_for_any_process(size: int, early) -> None:
    for rank, world in [(0, 1), (0, 2), (1, 2)]:
        options = {"batch": 10, "early": early, "rank": rank, "world": world}
        for a, b in zip(
            in_worker_batches(size, **options), load(4, Pictures(bad=BAD), **options), strict=False
        ):
            assert_equal(a, b)


def test_worker_batches_without_captions() -> None:
    options = {"batch": 5, "tokenizer": None, "views": SSL_VIEWS[:1]}
    assert_equal(next(iter(in_worker_batches(2, **options))), load(1, Pictures(bad=BAD), **options)[0])


def test_a_batch_is_let_go_with_the_step() -> None:
    batches = iter(in_worker_batches(2, batch=5))
    batch = next(batches)
    memory = StorageWeakRef(batch.views["image"].untyped_storage())
    del batch
    assert memory.expired()


def test_a_batch_of_one_piece_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openslip.data.loader._joined", None)
    assert not load(1)[0].views["image"].is_shared()
    (batch,) = load(1, workers=1)
    assert batch.views["image"].is_shared()
    # All of it in one file.
    assert len({view.untyped_storage().data_ptr() for view in batch.views.values()}) == 1
    assert not any(drawn.is_shared() for drawn in batch.parameters.values())


def test_the_number_of_workers_changes_nothing_about_a_schedule() -> None:
    options = {"schedule": Schedule(5, 3, 0.4), "ssl": Pictures(9, name="others")}
    expected = load(4, **options)
    assert [len(batch.views.get("ssl_1", ())) for batch in expected] == [2, 0, 0, 2]
    for a, b in zip(load(4, workers=1, **options), expected, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize("start", [1, 4, 23, 31])
def test_goes_on_from_any_position(start: int) -> None:
    source = Pictures(bad=BAD)
    whole = load(40, source, batch=1)
    assert [key for batch in load(3, source, batch=3, position=start) for key in batch.keys] == [
        batch.keys[0] for batch in whole[start : start + 9]
    ]
    first, resumed = load(2, source), load(1, source, position=5)
    assert_equal(resumed[0], first[1])


def test_each_iteration_starts_anew() -> None:
    loader = Loader(
        Data(Pictures()), views=SSL_VIEWS[:1], config=CONFIG, tokenizer=None, batch=4, seed=0, workers=0
    )
    assert_equal(next(iter(loader)), next(iter(loader)))


def test_leaves_the_global_random_numbers_alone() -> None:
    before, numpys = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]
    load(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpys)


def test_every_record_once_an_epoch() -> None:
    keys = [key for batch in load(23) for key in batch.keys]  # five epochs of 23 records
    for epoch in range(5):
        assert sorted(keys[epoch * 23 : (epoch + 1) * 23]) == sorted(f"key/{index}" for index in range(23))


def test_views_and_captions_are_drawn_anew_every_epoch() -> None:
    batches = load(30 * 4, Pictures(count=4), batch=1)
    seen = [batch for batch in batches if batch.keys == ["key/1"]]
    assert len(seen) == 30
    assert len({tuple(batch.tokens.flatten().tolist()) for batch in seen if batch.tokens is not None}) == 2
    assert len({batch.views["image"].numpy().tobytes() for batch in seen}) > 25


def test_without_a_tokenizer_captions_are_not_needed() -> None:
    source = Pictures(bad=tuple((index, "silent") for index in range(23)))
    for batch in load(5, source, tokenizer=None, views=SSL_VIEWS):
        assert batch.tokens is None
        assert batch.skipped == []
        assert list(batch.views) == list(batch.parameters) == ["ssl_1", "ssl_2"]


def test_leaving_a_view_out_does_not_change_the_others() -> None:
    (alone,), (all_of_them,) = load(1, views=SSL_VIEWS[1:], tokenizer=None), load(1)
    assert torch.equal(alone.parameters["ssl_2"], all_of_them.parameters["ssl_2"])
    assert torch.equal(alone.views["ssl_2"], all_of_them.views["ssl_2"])


def test_unusable_records_are_replaced_and_listed() -> None:
    batches = load(23, Pictures(bad=BAD))  # five epochs
    skipped = [record for batch in batches for record in batch.skipped]
    assert sorted(record.index for record in skipped) == sorted([2, 5, 11, 12] * 5)
    by_index = {record.index: record for record in skipped}
    assert by_index[2].key == "#2"
    assert by_index[2].source == "pictures"
    assert "The file is gone" in by_index[2].reason
    assert (by_index[5].key, by_index[5].source) == ("key/5", "shard 7")
    assert "no caption" in by_index[11].reason
    assert all(len(batch.keys) == 5 for batch in batches)
    keys = [key for batch in batches for key in batch.keys]
    assert not {f"key/{index}" for index, _ in BAD} & set(keys)
    # The good records are still seen in every epoch, and what stands in differs from epoch to epoch.
    assert all(keys.count(f"key/{index}") >= 5 for index in range(23) if index not in dict(BAD))
    assert len({key for key in keys if keys.count(key) > 5}) > 4


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_usable_is_an_error_that_teaches(workers: int) -> None:
    source = Pictures(bad=tuple((index, "silent") for index in range(23)))
    with pytest.raises(DataError, match=r"(19|20) others drawn in its place cannot be used") as caught:
        load(1, source, workers=workers)
    assert "no caption" in str(caught.value)
    assert "simclr" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_error_in_a_later_worker_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openslip.data.order.ATTEMPTS", 0)
    with pytest.raises(DataError, match="0 others drawn in its place cannot be used"):
        next(iter(in_worker_batches(3, batch=23)))


def test_a_bug_keeps_its_name() -> None:
    with pytest.raises(ZeroDivisionError, match="a source of one's own"):
        load(3, Pictures(bad=((4, "bug"), (6, "bug"), (8, "bug"))), workers=1, batch=23)


@pytest.mark.parametrize(("how", "advice"), [("kill", "memory ran out"), ("exit", "__main__")])
def test_a_dead_worker_is_an_error_that_teaches(how: str, advice: str) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match="ended unexpectedly") as caught:
        load(20, Pictures(bad=((3, how),)), workers=2)
    assert advice in str(caught.value)
    assert "--data.workers" in str(caught.value)
    assert time.monotonic() - start < 60


def test_full_shared_memory_is_an_error_that_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size: int) -> None:
        raise RuntimeError("unable to allocate shared memory: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    monkeypatch.setattr("openslip.data.loader.get_worker_info", lambda: "a worker")
    with pytest.raises(DataError, match="No space left") as caught:
        load(1)
    assert "--shm-size" in str(caught.value)


def test_leaves_no_process_behind() -> None:
    script = textwrap.dedent("""
        import atexit, multiprocessing.util, os, signal, sys; sys.path.insert(0, sys.argv[1])
        if __name__ == "__main__":
            atexit.register(lambda: print("left", [pid for pid in workers if os.path.exists(f"/proc/{pid}")]))
            atexit.register(multiprocessing.util._exit_function)  # what ends before the line above is printed
        from test_loader import Data, Loader, Pictures, Tokenizer, CONFIG, VIEWS

        def wait(asked):  # a process that the program itself has started is asked to end
            signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"own is asked\\n"), os._exit(0)))
            os.write(asked, b".")
            signal.pause()

        if __name__ == "__main__":
            loader = Loader(
                Data(Pictures()), views=VIEWS, config=CONFIG, tokenizer=Tokenizer(), batch=5, seed=0, workers=1
            )
            batches = iter(loader)
            print(next(batches).position, next(batches).position)
            workers = [child.pid for child in multiprocessing.active_children()]
            print("worked", len(workers), flush=True)
            ready, asked = os.pipe()
            own = multiprocessing.get_context("fork").Process(target=wait, args=(asked,), daemon=True)
            own.start()
            os.read(ready, 1)
    """)
    command = [sys.executable, "-c", script, os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 10\nworked 1\nown is asked\nleft []\n", "")


def test_large_pictures_are_decoded_no_larger_than_needed() -> None:
    loader = Loader(
        Data(Pictures()), views=(IMAGE,), config=CONFIG, tokenizer=None, batch=1, seed=0, workers=0
    )
    assert loader._builder.readers[0].min_side(["image"]) == 27  # 16 / sqrt(0.5 * 3 / 4) = 26.1
    loader = Loader(Data(Pictures()), views=VIEWS, config=CONFIG, tokenizer=None, batch=1, seed=0, workers=0)
    assert loader._builder.readers[0].min_side(VIEW_NAMES) == 66
    smaller = ViewsConfig(size=16, ssl=ViewConfig(size=8, scale=(0.08, 1.0)))
    loader = Loader(Data(Pictures()), views=VIEWS, config=smaller, tokenizer=None, batch=1, seed=0, workers=0)
    assert loader._builder.readers[0].min_side(VIEW_NAMES) == 33  # 8 / sqrt(0.08 * 3 / 4) = 32.7


def test_the_loaders_work_is_picklable() -> None:
    loader = Loader(
        Data(Pictures()), views=VIEWS, config=CONFIG, tokenizer=Tokenizer(), batch=2, seed=1, workers=0
    )
    copy = pickle.loads(pickle.dumps(loader))
    assert_equal(next(iter(copy)), next(iter(loader)))


def test_processes_of_a_machine_share_its_cores(monkeypatch) -> None:
    monkeypatch.setattr("openslip.data.workers.os.sched_getaffinity", lambda _: range(16), raising=False)
    assert default_workers() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert default_workers() == 0


def test_default_workers() -> None:
    assert 0 <= default_workers() <= MAX_WORKERS
    assert (
        Loader(Data(Pictures()), views=(), config=CONFIG, tokenizer=None, batch=1, seed=0).workers
        == default_workers()
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"views": (View("a", "lokal"),)}, ConfigError, "Did you mean 'local'"),
        ({"batch": 0}, ConfigError, "batch"),
        ({"position": -1}, ConfigError, "position"),
        ({"workers": -2}, ConfigError, "processes"),
        ({"prefetch": -2}, ConfigError, "ready"),
        ({"seed": -5}, ConfigError, "seed"),
        ({"config": ViewsConfig(size=0)}, ConfigError, "size"),
        ({"config": ViewsConfig(ssl=ViewConfig(scale=(0, 1)))}, ConfigError, "views.ssl.scale"),
        ({"source": Pictures(count=0)}, DataError, "no records"),
    ],
)
def test_bad_settings(options: dict, error: type[SlipError], match: str) -> None:
    with pytest.raises(error, match=match):
        load(1, **options)


class Kinds(Pictures):
    """The same pictures, of three classes."""

    def label(self, index: int) -> int | None:
        return index % 3


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_come_with_the_rows_whoever_builds_them(workers) -> None:
    loader = Loader(
        Data(Kinds()), views=(IMAGE,), config=CONFIG, tokenizer=None, batch=10, seed=0, labelled=True,
        workers=workers, prefetch=1,
    )  # fmt: skip
    for batch in itertools.islice(loader, 3):
        assert batch.labels is not None
        numbers = [int(key.rpartition("/")[2]) for key in batch.keys]
        assert batch.labels.tolist() == [number % 3 for number in numbers]
        assert batch.records is not None
        assert batch.records.tolist() == numbers
