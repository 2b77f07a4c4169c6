"""Fixtures that tests of several folders share."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

import forked
from openslip.config import Config
from openslip.objectives import Loss
from openslip.training.fixed import FixedModels
from openslip.training.watching import speed
from toys import ToySource, make_tiny_config

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
def _count_once() -> Iterator[None]:
    """Runs of one model and loss share the count of a step's operations, which takes longer than their few steps."""
    counted: dict[str, int] = {}
    original = speed._count_step

    def count_step(
        config: Config,
        loss: Loss,
        kind: speed.Kind,
        length: int,
        fixed: FixedModels | None = None,
        outputs: Iterable = (),
    ) -> int:
        key = repr((config.model, config.views, loss, kind, length, fixed and fixed.noted(), tuple(outputs)))
        if key not in counted:
            counted[key] = original(config, loss, kind, length, fixed, outputs)
        return counted[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_count_step", count_step)
        yield


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
