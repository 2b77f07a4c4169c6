"""Fixtures that tests of several folders share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

import forked
from openslip import progress
from openslip.config import Config
from openslip.training.watching import speed
from toys import ToySource, make_tiny_config

COUNT_STEP = speed._count_step
pytest_plugins = ["stored", "interop.hub"]

# The same examples each time, and no clock decides: a busy machine fails no test.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """A shell without job control starts what it puts into the background with SIGINT ignored, `nohup` with SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _server_of_processes(request: pytest.FixtureRequest) -> None:
    """Of a single file the processes come from a server that has what this file asks for."""
    if len({item.path for item in request.session.items}) > 1:
        forked.start_server()


@pytest.fixture(scope="session", autouse=True)
def _uncounted() -> Iterator[None]:
    """Runs do not count a step's operations, which takes longer than their few steps; see `forked.uncounted`."""
    with pytest.MonkeyPatch.context() as patch:
        forked.uncounted(patch.setattr)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_clock() -> Iterator[None]:
    """On a busy machine short work takes long: no command says so, but in the tests of that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "WORKING_SECONDS", 1e6)
        yield


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a step's operations after all."""
    monkeypatch.setattr(speed, "_count_step", COUNT_STEP)


@pytest.fixture
def toy_source() -> ToySource:
    return ToySource()


@pytest.fixture
def tiny_config() -> Config:
    return make_tiny_config()


@pytest.fixture(autouse=True)
def _same_threads() -> None:
    """Results on a CPU depend on the number of threads: one for all tests."""
    torch.set_num_threads(1)
