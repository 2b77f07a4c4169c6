from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest
import torch

from openslip.data.record import Batch
from openslip.errors import DataError
from openslip.training import transfer
from openslip.training.transfer import _ahead, on_device

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Stream:
    """Batches numbered from 0, an error in the place of one of them, and a note of what was asked for."""

    def __init__(self, count: int = 5, broken: int = -1) -> None:
        self.count, self.broken = count, broken
        self.taken: list[int] = []
        self.closed = False

    def __iter__(self) -> Generator[Batch]:
        try:
            for number in range(self.count):
                self.taken.append(number)
                if number == self.broken:
                    raise DataError("The server is gone")
                yield batch(number)
        finally:
            self.closed = True


def batch(number: int, rows: int = 2, size: int = 4) -> Batch:
    views = torch.full((rows, 3, size, size), number, dtype=torch.uint8)
    return Batch(
        {"image": views}, {"image": torch.zeros(rows, 9)}, torch.full((rows, 7), number), ["a"], number
    )


def take(batches: Iterator[Batch]) -> Batch | None:
    return next(batches, None)


def ahead(stream: Stream) -> Generator[Batch]:
    return _ahead(iter(stream), take, lambda batch: None, 9)


def test_elsewhere_than_on_cuda_they_are_the_batches_themselves() -> None:
    batches = iter(Stream())
    assert on_device(batches, torch.device("cpu"), 9) is batches


def test_the_same_batches_in_order_one_ahead() -> None:
    stream, positions = Stream(), []
    batches = ahead(stream)
    for number, each in enumerate(batches):
        positions.append(each.position)
        while len(stream.taken) < min(number + 2, 5):  # the next one comes unasked
            threading.Event().wait(0.001)
        assert len(stream.taken) <= number + 2  # and no more
    assert positions == [0, 1, 2, 3, 4]
    assert stream.closed


def test_each_batch_is_kept_by_the_one_who_works_on_it() -> None:
    kept: list[tuple[int, int]] = []

    def keep(batch: Batch) -> None:
        kept.append((batch.position, threading.get_ident()))

    fetched_by: list[int] = []

    def send(batches: Iterator[Batch]) -> Batch | None:
        fetched_by.append(threading.get_ident())
        return next(batches, None)

    assert len(list(_ahead(iter(Stream(3)), send, keep, 9))) == 3
    assert kept == [(number, threading.get_ident()) for number in range(3)]
    assert len(set(fetched_by)) == 1
    assert fetched_by[0] != threading.get_ident()


def test_an_error_comes_in_the_place_of_its_batch() -> None:
    stream = Stream(broken=2)
    batches = ahead(stream)
    assert [next(batches).position for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="The server is gone"):
        next(batches)
    assert stream.closed


def test_closed_in_the_midst_of_a_batch() -> None:
    """The thread has a batch in work: it is waited for, and what it takes from is closed."""
    stream, begun, go_on = Stream(), threading.Event(), threading.Event()

    def send(batches: Iterator[Batch]) -> Batch | None:
        if stream.taken:
            begun.set()
            go_on.wait()
        return next(batches, None)

    before = threading.active_count()
    batches = _ahead(iter(stream), send, lambda batch: None, 9)
    next(batches)
    begun.wait()
    threading.Timer(0.05, go_on.set).start()
    batches.close()
    assert stream.closed
    assert stream.taken == [0, 1]
    assert threading.active_count() <= before + 1  # the timer's


def test_none_is_taken_beyond_those_that_are_wanted() -> None:
    stream = Stream()
    assert [each.position for each in _ahead(iter(stream), take, lambda batch: None, 3)] == [0, 1, 2]
    assert stream.taken == [0, 1, 2]
    assert stream.closed


def test_a_source_that_hangs_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PATIENCE", 0.05)
    stream, hangs, go_on = Stream(), threading.Event(), threading.Event()

    def send(batches: Iterator[Batch]) -> Batch | None:
        if stream.taken:
            hangs.set()
            go_on.wait()
        return next(batches, None)

    batches = _ahead(iter(stream), send, lambda batch: None, 9)
    next(batches)
    hangs.wait()
    batches.close()
    assert not stream.closed
    go_on.set()
    while not stream.closed:  # in its own time
        threading.Event().wait(0.001)


def test_closed_before_it_began() -> None:
    stream = Stream()
    ahead(stream).close()
    assert stream.taken == []


@needs_gpu
def test_batches_arrive_whole_while_the_device_is_busy() -> None:
    """Their memory is used again and again, by a stream of its own: it must not be before a step has read it."""
    device = torch.device("cuda")
    rows, size, count = 64, 224, 12

    def pinned() -> Generator[Batch]:
        for number in range(count):
            host = batch(number, rows, size)
            host.views = {name: view.pin_memory() for name, view in host.views.items()}
            yield host

    sums = []
    matrix = torch.randn(4096, 4096, device=device)
    for number, each in enumerate(on_device(pinned(), device, count)):
        assert each.position == number
        assert each.tokens is not None
        assert each.views["image"].device.type == each.tokens.device.type == "cuda"
        assert each.parameters["image"].device.type == "cpu"
        for _ in range(20):  # so that the sum is taken long after the batch was let go
            matrix = matrix @ matrix / 64
        sums.append(each.views["image"].sum(dtype=torch.int64) + each.tokens.sum())
        del each
    pixels = rows * 3 * size * size
    assert [int(total) for total in sums] == [number * (pixels + rows * 7) for number in range(count)]


@needs_gpu
def test_an_error_on_the_way_to_a_gpu() -> None:
    batches = on_device(iter(Stream(broken=1)), torch.device("cuda"), 9)
    assert next(batches).position == 0
    with pytest.raises(DataError, match="The server is gone"):
        next(batches)
