"""One training step: the batch forward, the loss, its gradient; whole or in micro-batches, with the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from openslip.collectives import rank, world
from openslip.models import Model
from openslip.models.dropping import Rows
from openslip.training.parallel import Parallel
from openslip.training.precision import autocast

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)
Objective = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Inputs:
    """A batch as the model takes it: view name → (N, 3, S, S) float, tokens (N, L) or None.

    Self-supervised views may be of fewer rows, spread evenly over the batch, or absent.
    """

    views: Mapping[str, Tensor]
    tokens: Tensor | None
    rows: Mapping[str, Rows] = field(default_factory=dict)
    """Which rows of the batch of all processes each view holds; by default this process's share."""

    def __post_init__(self) -> None:
        if not self.rows:
            counts = {name: len(view) for name, view in self.views.items()}
            rows = {name: Rows(rank() * count, count, world() * count) for name, count in counts.items()}
            object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return max(map(len, self.views.values()))

    @property
    def device(self) -> torch.device:
        return next(iter(self.views.values())).device

    def split(self, size: int) -> Iterator[Inputs]:
        """Yield consecutive parts of at most `size` samples, each with its share of every view."""
        whole = len(self)
        for start in range(0, whole, size):
            stop = min(start + size, whole)
            views, rows = {}, {}
            for name, view in self.views.items():
                part = slice(start * len(view) // whole, stop * len(view) // whole)
                views[name], of_all = view[part], self.rows[name]
                rows[name] = Rows(of_all.first + part.start, part.stop - part.start, of_all.total)
            yield Inputs(views, None if self.tokens is None else self.tokens[start:stop], rows)


def backward(
    parallel: Parallel,
    objective: Objective,
    inputs: Inputs,
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
    Of several processes, each has its share of the batch, and the gradient that it is left with is the mean over them:
    that of the whole batch's loss.
    `seed` fixes the randomness inside the towers (stochastic depth, dropped tokens), which belongs to the rows of the
    whole batch. `phases` is entered with the names of what is timed: `forward`, `backward`, `communication`; computing
    a part's features once more is forward, and what DistributedDataParallel sends meanwhile is backward.
    `scaler` multiplies the gradient, which has to be unscaled before it is used.
    """
    in_parts = bool(micro_batch) and micro_batch < len(inputs)
    if in_parts:
        parts = list(inputs.split(micro_batch))
        losses = _backward_in_parts(parallel.model, objective, parts, dtype, seed, phases, scaler)
    else:
        torch.manual_seed(seed)
        with phases("forward"), autocast(inputs.device, dtype):
            losses = objective(parallel.forward(inputs.views, inputs.tokens, inputs.rows))
        with phases("backward"):
            scaler.scale(losses["loss"]).backward()
    with phases("communication"):
        parallel.finish_gradients(whole=not in_parts)
    return {name: value.detach() for name, value in losses.items()}


def _backward_in_parts(
    model: Model,
    objective: Objective,
    parts: Sequence[Inputs],
    dtype: torch.dtype,
    seed: int,
    phases: Callable[[str], AbstractContextManager[object]],
    scaler: torch.amp.GradScaler,
) -> dict[str, Tensor]:
    """`backward` with the towers seeing a part of the batch at a time: features, their gradient, then the towers'."""
    device = parts[0].device

    def features(part: Inputs) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        with phases("forward"), autocast(device, dtype):
            return model.features(part.views, part.tokens, part.rows)

    with torch.no_grad():
        cached = [features(part) for part in parts]
    # Few self-supervised rows leave some parts without any.
    pieces = {name: [part[name] for part in cached if name in part] for name in model.embeddings}
    whole = {name: torch.cat(rows).requires_grad_() for name, rows in pieces.items() if rows}
    with phases("forward"), autocast(device, dtype):
        losses = objective(model.heads(whole))
    with phases("backward"):
        scaler.scale(losses["loss"]).backward()
    gradients = {
        name: iter(feature.grad.split([len(piece) for piece in pieces[name]]))
        for name, feature in whole.items()
        if feature.grad is not None
    }
    for part in parts:
        again = {name: feature for name, feature in features(part).items() if name in gradients}
        with phases("backward"):
            torch.autograd.backward(list(again.values()), [next(gradients[name]) for name in again])
    return losses


def gradient_norm(model: torch.nn.Module, limit: float = 0.0) -> float:
    """Return the Euclidean norm of all gradients, after which they are scaled down to `limit` if it is set.

    Gradients may be whole or spread over the processes; all get the same number.
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
    return float(norm)


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
