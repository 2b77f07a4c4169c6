from __future__ import annotations

import pytest
import torch

from openslip.models.heads import projection


def test_projection_is_drawn_with_the_widths_deviation() -> None:
    torch.manual_seed(0)
    assert projection(400, 300).std().item() == pytest.approx(0.05, rel=0.02)
