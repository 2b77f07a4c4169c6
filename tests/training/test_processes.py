"""How long processes wait for each other; that they train alike is tested in tests/distributed."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from slip.data.ranks import meet
from slip.errors import ConfigError
from slip.training.processes import _speaks_of_others, joined


@pytest.mark.parametrize("seconds", ["soon", "0", "-3", "1.5"])
def test_an_odd_timeout_is_refused(monkeypatch, seconds) -> None:
    monkeypatch.setenv("SLIP_TIMEOUT", seconds)
    with (
        pytest.raises(ConfigError, match="SLIP_TIMEOUT is a whole number of seconds"),
        joined(torch.device("cpu")),
    ):
        pass


def test_a_process_alone_waits_for_nobody(monkeypatch) -> None:
    monkeypatch.setenv("SLIP_TIMEOUT", "5")
    with joined(torch.device("cpu")) as processes:
        with processes.together():
            pass
        assert (processes.world, processes.mean([2.0]), processes.from_first(7)) == (1, [2.0], 7)


def test_the_gpu_of_this_process_is_the_one_that_libraries_take(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with joined(torch.device("cuda", 1)):
        assert taken == [torch.device("cuda", 1)]


def test_a_rank_that_never_comes_is_not_waited_for_without_end(monkeypatch) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    with pytest.raises(dist.DistStoreError, match="Nothing has been heard of rank 1"):
        meet(0, 2, timedelta(seconds=0.1))


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
