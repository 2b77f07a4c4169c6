"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import pytest
import torch

from slip.config import Config
from toys import ToySource, make_tiny_config


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
