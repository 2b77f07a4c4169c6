"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import pytest
import torch

import forked
from slip.config import Config
from toys import ToySource, make_tiny_config


def pytest_collection_finish(session: pytest.Session) -> None:
    """Of a single file the processes come from a server that has what this file asks for."""
    if len({item.path for item in session.items}) > 1 and not session.config.option.collectonly:
        forked.start_server()


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
