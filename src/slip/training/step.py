"""One training step: the batch forward, the loss, its gradient; whole or in micro-batches, with the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slip.models import Model
from slip.training.precision import autocast

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)
Objective = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Inputs:
    """A batch as the model takes it: view name → (N, 3, S, S) float, tokens (N, L) or None."""

    views: Mapping[str, Tensor]
    tokens: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.views.values())))

    def split(self, size: int) -> Iterator[Inputs]:
        """Yield consecutive parts of at most `size` samples."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            tokens = None if self.tokens is None else self.tokens[part]
            yield Inputs({name: view[part] for name, view in self.views.items()}, tokens)


def backward(
    model: Model,
    objective: Objective,
    inputs: Inputs,
    *,
    dtype: torch.dtype = torch.float32,
    micro_batch: int = 0,
    seed: int = 0,
    scaler: torch.amp.GradScaler = UNSCALED,
) -> dict[str, Tensor]:
    """Add the gradient of the batch's loss to the parameters; return the named losses, detached.

    With `micro_batch`, the towers see that many samples at a time and memory is that of one part, while heads
    and losses run once on the whole batch: negatives and BatchNorm statistics are those of the full batch
    (GradCache; Gao et al. 2021, section 3). Nothing is accumulated from smaller contrasts.
    `seed` fixes the randomness inside the towers (stochastic depth). `scaler` multiplies the gradient, which has to be
    unscaled before it is used.
    """
    device = next(iter(inputs.views.values())).device
    if not micro_batch or micro_batch >= len(inputs):
        torch.manual_seed(seed)
        with autocast(device, dtype):
            losses = objective(model(inputs.views, inputs.tokens))
        scaler.scale(losses["loss"]).backward()
        return {name: value.detach() for name, value in losses.items()}

    parts = list(inputs.split(micro_batch))

    def features(index: int) -> dict[str, Tensor]:
        torch.manual_seed(seed + index)
        with autocast(device, dtype):
            return model.features(parts[index].views, parts[index].tokens)

    with torch.no_grad():
        cached = [features(i) for i in range(len(parts))]
    whole = {name: torch.cat([part[name] for part in cached]).requires_grad_() for name in cached[0]}
    with autocast(device, dtype):
        losses = objective(model.heads(whole))
    scaler.scale(losses["loss"]).backward()
    gradients = {name: feature.grad for name, feature in whole.items() if feature.grad is not None}
    for i, part_gradients in enumerate(zip(*(g.split(micro_batch) for g in gradients.values()))):
        again = features(i)
        torch.autograd.backward([again[name] for name in gradients], list(part_gradients))
    return {name: value.detach() for name, value in losses.items()}


def gradient_norm(model: torch.nn.Module, limit: float = 0.0) -> float:
    """Return the Euclidean norm of all gradients, after which they are scaled down to `limit` if it is set."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return float(norm)
