import pytest
import torch

from slip.models import build
from slip.training.plan import make_plan, memory
from toys import make_tiny_config

NEEDS = ("image", "text", "ssl_1", "ssl_2")


def test_steps_and_warmup() -> None:
    plan = make_plan(make_tiny_config(epochs=2.5, batch=10), 64, NEEDS)
    assert (plan.steps, plan.warmup, plan.steps_per_epoch) == (16, 6, 6.4)


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_memory_counts_what_backward_keeps(micro_batch) -> None:
    """The line through two small batches, read at the batch's size, is what that batch itself would keep."""
    from slip.training import plan as module

    config = make_tiny_config(batch=16, micro_batch=micro_batch)
    plan, model = make_plan(config, 64, NEEDS), build(config.model, 16, NEEDS)
    weights, activations = memory(plan, model)
    assert weights == 16 * sum(p.numel() for p in model.parameters())
    assert activations == pytest.approx(module._saved_bytes(plan, model, micro_batch or 16), rel=0.02)
    assert torch.is_grad_enabled()
