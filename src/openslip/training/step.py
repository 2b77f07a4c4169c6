"""One training step: the batch forward, the loss, its gradient; whole or in micro-batches, with the same result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from openslip.models.inputs import Inputs
from openslip.needs import Need
from openslip.objectives import At
from openslip.training.parallel import Parallel
from openslip.training.precision import autocast
from openslip.training.student import Student

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)


def backward(
    parallel: Parallel,
    inputs: Inputs,
    at: At,
    *,
    dtype: torch.dtype = torch.float32,
    micro_batch: int = 0,
    seed: int = 0,
    phases: Callable[[str], AbstractContextManager[object]] = nullcontext,
    scaler: torch.amp.GradScaler = UNSCALED,
) -> dict[str, Tensor]:
    """Add the gradient of the batch's loss to the parameters; return the named losses, detached.

    With `micro_batch`, the towers see that many samples at a time and memory is that of one part, while heads
    and losses run once on the whole batch: negatives and BatchNorm statistics are those of the full batch
    (GradCache; Gao et al. 2021, section 3). Nothing is accumulated from smaller contrasts.
    Each of several processes has its share of the batch, and ends with the mean gradient over processes: the gradient
    of the whole batch's loss.
    `seed` fixes the randomness inside the towers (stochastic depth, dropped tokens), which belongs to the rows of the
    whole batch. `phases` is entered with the names of timed parts: `forward`, `backward`, `communication`. Computing a
    part's features again counts as forward, and what DistributedDataParallel sends meanwhile counts as backward.
    `scaler` multiplies the gradient, which must be unscaled before use.
    """
    in_parts = bool(micro_batch) and micro_batch < len(inputs)
    if in_parts:
        parts = list(inputs.split(micro_batch))
        losses = _backward_in_parts(parallel.student, parts, at, dtype, seed, phases, scaler)
    else:
        torch.manual_seed(seed)
        with phases("forward"), autocast(inputs.device, dtype):
            losses = parallel.forward(inputs, at)
        with phases("backward"):
            scaler.scale(losses["loss"]).backward()
    with phases("communication"):
        parallel.finish_gradients(whole=not in_parts)
    return {name: value.detach() for name, value in losses.items()}


def _backward_in_parts(
    student: Student,
    parts: Sequence[Inputs],
    at: At,
    dtype: torch.dtype,
    seed: int,
    phases: Callable[[str], AbstractContextManager[object]],
    scaler: torch.amp.GradScaler,
) -> dict[str, Tensor]:
    """Do `backward` with the towers seeing a part of the batch at a time: features, their gradient, the towers'."""
    device = parts[0].device

    def features(part: Inputs, *, learning: bool = False) -> dict[tuple[str, Need], Tensor]:
        torch.manual_seed(seed)
        with phases("forward"), autocast(device, dtype):
            return student.features(part, at, learning=learning)

    with torch.no_grad():
        cached = [features(part) for part in parts]
        with phases("forward"), autocast(device, dtype):
            for part, found in zip(parts, cached):
                found |= student.targets(part, at)
    # Few rows with scheduled views leave some parts without any.
    keys = dict.fromkeys(key for part in cached for key in part)
    pieces = {key: [part[key] for part in cached if key in part] for key in keys}
    whole = {key: torch.cat(rows) for key, rows in pieces.items()}
    for (by, need), feature in whole.items():
        feature.requires_grad_(not by and feature.is_floating_point() and student.learns(need))
    with phases("forward"), autocast(device, dtype):
        losses = student.losses(whole, at)
    with phases("backward"):
        scaler.scale(losses["loss"]).backward()
    gradients = {
        key: iter(feature.grad.split([len(piece) for piece in pieces[key]]))
        for key, feature in whole.items()
        if feature.grad is not None
    }
    for part in parts if gradients else ():
        again = {key: feature for key, feature in features(part, learning=True).items() if key in gradients}
        with phases("backward"):
            torch.autograd.backward(list(again.values()), [next(gradients[key]) for key in again])
    return losses


def gradient_norm(model: torch.nn.Module, limit: float = 0.0) -> Tensor:
    """Return the Euclidean norm of all gradients, then scale them down to `limit`, if it is set and they exceed it.

    Gradients may be whole or spread over the processes; all get the same number, a scalar on the device.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    spread = [p for p in parameters if isinstance(p, DTensor)]
    whole = [p for p in parameters if not isinstance(p, DTensor)]
    norms = [_norm(some) for some in (spread, whole) if some]
    # Those of offloaded gradients are on the CPU, the others' on the device.
    norm = norms[0] if len(norms) == 1 else torch.stack([norm.to(norms[-1].device) for norm in norms]).norm()
    if limit:
        for some in (spread, whole):
            torch.nn.utils.clip_grads_with_norm_(some, limit, norm)
    return norm


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
