"""Where processes are told to meet; that they do, also after one was started anew, is tested in tests/distributed."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist

from openslip import meeting
from openslip.errors import ConfigError
from openslip.meeting import meet, rank_and_world


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 WORLD_SIZE=2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR.*torchrun"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "http"}, "MASTER_PORT"),
    ],
)
def test_an_odd_environment_is_refused(monkeypatch, given, message) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        rank_and_world()


def test_a_rank_that_never_comes_is_not_waited_for_without_end(monkeypatch) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(meeting, "_rendezvous", lambda *_: store)
    with pytest.raises(dist.DistStoreError, match="Nothing has been heard of rank 1"):
        meet(0, 2, timedelta(seconds=0.1))
