"""How long processes wait for each other; that they train alike is tested in tests/distributed."""

from __future__ import annotations

import pytest
import torch

from slip.errors import ConfigError
from slip.training.processes import joined


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
