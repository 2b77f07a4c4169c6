"""What processes tell each other; how they wait, and train alike, is tested in tests/distributed."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.distributed as dist

import openslip.processes
from distributed.ranks import run_on
from openslip.errors import ConfigError
from openslip.processes import Processes, _speaks_of_others, joined


def test_everything_is_shared_once() -> None:
    for world in (1, 2, 3, 7):
        for count in (0, 1, 5, 20):
            parts = [Processes(rank, world).share(range(count)) for rank in range(world)]
            assert [part for share in parts for part in share] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            assert len(parts[0]) == max(map(len, parts))  # the first process meets whatever there is to tell


def gathered() -> list[list[bytes]]:
    with (
        mock.patch.object(openslip.processes, "_MESSAGE", 100),
        joined() as processes,
    ):  # several messages for each
        mine = bytes([processes.rank]) * (1000 * processes.rank + 7)
        return [
            function(data) for function in (processes.gather, processes.all_gather) for data in (mine, b"")
        ]


def told() -> list[bytes]:
    with mock.patch.object(openslip.processes, "_MESSAGE", 100), joined() as processes:
        return [processes.bytes_from_first(bytes([processes.rank]) * size) for size in (0, 5, 1007)]


def test_bytes_of_the_first_come_to_all() -> None:
    assert [*run_on(3, told), told()] == [[b"", b"\0" * 5, b"\0" * 1007]] * 4


def test_bytes_of_all_come_to_the_first_or_to_all() -> None:
    everyones, none = [b"\0" * 7, b"\1" * 1007, b"\2" * 2007], [b"", b"", b""]
    first, *others = run_on(3, gathered)
    assert first == [everyones, none, everyones, none]
    assert others == [[[], [], everyones, none]] * 2
    assert gathered() == [everyones[:1], none[:1]] * 2


def test_a_group_of_the_programs_own_is_used_as_it_is(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with joined() as processes:
            assert (processes.rank, processes.world, processes.all_gather(b"mine")) == (0, 1, [b"mine"])
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("seconds", ["soon", "0", "-3", "1.5"])
def test_an_odd_timeout_is_refused(monkeypatch, seconds) -> None:
    monkeypatch.setenv("SLIP_TIMEOUT", seconds)
    with (
        pytest.raises(ConfigError, match="SLIP_TIMEOUT is a whole number of seconds"),
        joined(),
    ):
        pass


def test_a_process_alone_waits_for_nobody(monkeypatch) -> None:
    monkeypatch.setenv("SLIP_TIMEOUT", "5")
    with joined() as processes:
        with processes.together():
            pass
        assert (processes.world, processes.mean([2.0]), processes.from_first(7)) == (1, [2.0], 7)


def test_the_gpu_of_this_process_is_the_one_that_libraries_take(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with joined(torch.device("cuda", 1)):
        assert taken == [torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("Application timeout caused pair closure", True),
        ("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 15000ms for recv operation", True),
        ("NCCL error: remote process exited", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
        ("cannot repair the index of image-text pairs", False),
    ],
)
def test_an_error_of_our_own_is_not_blamed_on_others(words, others) -> None:
    assert _speaks_of_others(RuntimeError(words)) is others
