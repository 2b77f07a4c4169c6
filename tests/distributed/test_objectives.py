"""Every objective on 1, 2 and 4 processes, from random features on: the same values, gradients and statistics."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from distributed.ranks import run_on
from objectives.cases import features_for, make, trained
from openslip.collectives import gather_rows, rank, world
from openslip.models.batchnorm import synchronise
from openslip.needs import Need
from openslip.objectives import REGISTRY, At
from toys import VARIANTS

ROWS = 8


def share_of(feature: Tensor, need: Need) -> Tensor:
    """Return this process's rows; of captions, cut to the longest of them, as a batch's are."""
    if feature.ndim == 0:
        return feature.detach().requires_grad_()
    mine = feature.detach().chunk(world())[rank()]
    if need.out == "ids":
        mine = mine[..., : int((mine > 0).sum(-1).max())]
    return mine.requires_grad_(feature.requires_grad)


def values_and_gradients(dtype: torch.dtype, block: int) -> dict[str, np.ndarray]:
    """Return what each objective makes of this process's rows, as means and gradients over all processes."""
    found: dict[str, Tensor] = {}
    for name in (*REGISTRY, *VARIANTS):
        objective = make(name, dtype=dtype, block=block)
        synchronise(objective)
        features = features_for(objective.needs_for(objective.config), ROWS, dtype=dtype)
        mine = {need: share_of(feature, need) for need, feature in features.items()}
        result = objective(mine, At())
        result["loss"].backward()
        for key, value in result.items():
            found[f"{name}: {key}"] = gather_rows(value.detach()[None]).mean()
        for need, feature in mine.items():
            if feature.grad is not None:
                gathered = gather_rows(feature.grad if feature.ndim else feature.grad[None]) / world()
                found[f"{name}: {need}"] = gathered if feature.ndim else gathered.sum()
        for key, parameter in trained(objective).items():
            assert parameter.grad is not None, key
            found[f"{name}: {key}"] = gather_rows(parameter.grad[None]).mean(0)
        objective.after_step(SimpleNamespace(logit_scale=None), At())
        for key, buffer in objective.named_buffers():
            seen = buffer.isfinite()  # of some records there is no estimate yet
            found[f"{name}: {key}, seen"] = gather_rows(seen.double()[None])[rank()]
            found[f"{name}: {key}"] = gather_rows(buffer.where(seen, 0).double()[None])[rank()]
    return {key: value.numpy() for key, value in found.items()}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(("dtype", "block"), [(torch.float64, 3), (torch.float32, 0)], ids=str)
def test_processes_equal_one(processes, dtype, block) -> None:
    expected = values_and_gradients(dtype, block)
    relative = 1e-9 if dtype == torch.float64 else 1e-4
    for found in run_on(processes, values_and_gradients, dtype, block):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            allowed = relative * np.abs(expected[key]).max() + relative / 10
            np.testing.assert_allclose(value, expected[key], rtol=0, atol=allowed, err_msg=key)
