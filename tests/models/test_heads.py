from __future__ import annotations

import pytest
import torch
from torch import nn

from openslip.config import SslHeadConfig
from openslip.errors import TrainingError
from openslip.models.heads import SslHead, projection

CONFIG = SslHeadConfig(width=32, dim=6)


def test_is_linear_batchnorm_relu_twice_then_linear() -> None:
    torch.manual_seed(0)
    head = SslHead(8, CONFIG).double()
    x = torch.randn(10, 8, dtype=torch.float64)

    def normal(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt()

    y = normal(x @ head.layer1.weight.T + head.layer1.bias).clamp(min=0)
    y = normal(y @ head.layer2.weight.T + head.layer2.bias).clamp(min=0)
    torch.testing.assert_close(head(x), y @ head.layer3.weight.T + head.layer3.bias)


def test_is_computed_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    head = SslHead(8, CONFIG).eval()
    x = torch.randn(10, 8)
    plain = head(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32
        assert torch.equal(head(x), plain)
        assert head(x.bfloat16()).dtype == torch.float32


def test_converts_to_synchronised_batch_statistics() -> None:
    head = nn.SyncBatchNorm.convert_sync_batchnorm(SslHead(8, CONFIG))
    assert isinstance(head.bn1, nn.SyncBatchNorm)
    assert isinstance(head.bn2, nn.SyncBatchNorm)


def test_a_single_image_cannot_train_it() -> None:
    head = SslHead(8, CONFIG)
    with pytest.raises(TrainingError, match="batch"):
        head(torch.randn(1, 8))
    assert head.eval()(torch.randn(1, 8)).shape == (1, 6)


def test_projection_is_drawn_with_the_widths_deviation() -> None:
    torch.manual_seed(0)
    assert projection(400, 300).std().item() == pytest.approx(0.05, rel=0.02)
