from __future__ import annotations

import pytest
import torch
from torch import nn

from openslip.errors import TrainingError
from openslip.models.batchnorm import GlobalBatchNorm, synchronise
from openslip.objectives.heads import ProjectionHead


def test_is_linear_batchnorm_relu_twice_then_linear() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(8, 32, 6).double()
    x = torch.randn(10, 8, dtype=torch.float64)

    def normal(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt()

    y = normal(x @ head.layer1.weight.T + head.layer1.bias).clamp(min=0)
    y = normal(y @ head.layer2.weight.T + head.layer2.bias).clamp(min=0)
    torch.testing.assert_close(head(x), y @ head.layer3.weight.T + head.layer3.bias)


def test_is_computed_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(8, 32, 6).eval()
    x = torch.randn(10, 8)
    plain = head(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32
        assert torch.equal(head(x), plain)
        assert head(x.bfloat16()).dtype == torch.float32


def test_converts_to_synchronised_batch_statistics() -> None:
    head = nn.SyncBatchNorm.convert_sync_batchnorm(ProjectionHead(8, 32, 6))
    assert isinstance(head.bn1, nn.SyncBatchNorm)
    assert isinstance(head.bn2, nn.SyncBatchNorm)
    ours = ProjectionHead(8, 32, 6)
    synchronise(ours)
    assert isinstance(ours.bn1, GlobalBatchNorm)
    assert isinstance(ours.bn2, GlobalBatchNorm)


def test_a_single_image_cannot_train_it() -> None:
    head = ProjectionHead(8, 32, 6)
    with pytest.raises(TrainingError, match="batch"):
        head(torch.randn(1, 8))
    assert head.eval()(torch.randn(1, 8)).shape == (1, 6)
