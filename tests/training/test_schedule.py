import numpy as np
import pytest

from slip.config import OptimizerConfig
from slip.training.schedule import learning_rate


def reference_schedule(config: OptimizerConfig, steps: int, warmup: int) -> np.ndarray:
    """The whole curve at once: a line to the peak, then half a cosine."""
    rise = np.linspace(config.lr_start, config.lr, warmup) if warmup else np.zeros(0)
    rest = np.arange(steps - warmup)
    fall = config.lr_end + 0.5 * (config.lr - config.lr_end) * (1 + np.cos(np.pi * rest / max(1, len(rest))))
    return np.concatenate([rise, fall])


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (100, 0), (7, 7), (5, 2)])
def test_equals_the_whole_curve(steps: int, warmup: int) -> None:
    config = OptimizerConfig()
    ours = [learning_rate(config, step, steps, warmup) for step in range(steps)]
    np.testing.assert_allclose(ours, reference_schedule(config, steps, warmup), rtol=1e-12)


def test_a_single_warmup_step_starts_low() -> None:
    config = OptimizerConfig()
    assert learning_rate(config, 0, 10, 1) == config.lr_start
    assert learning_rate(config, 1, 10, 1) == pytest.approx(config.lr)
