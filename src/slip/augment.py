"""Views' sampled parameters applied to whole batches, on any device: flip, colours, blur, normalisation.

Each sample comes out as torchvision's transforms of float images would give it for the same parameters. The work is
done in portions, on a CPU of as many samples as fit into its cache, which is mostly one, elsewhere of nearly all there
are. What no sample of a portion asks for is left out. Until they are normalised, pixels are floats in grey levels.

Legend: N samples, n of them in a portion, S side of the view, P parameters (`slip.data.views.Parameter`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slip.data.views import ORDERS, Parameter
from slip.errors import DataError

_WHITE = 255
_LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R 601-2, in the digits torchvision uses
_BLUR_REACH = 3.0  # sigmas
_PORTION_BYTES = {"cpu": 2**20}
_PORTION_BYTES_ELSEWHERE = 2**28


@torch.no_grad()
def augment(views: Tensor, parameters: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Apply each view's parameters, then normalise.

    views: (N, 3, S, S) uint8. parameters: (N, P) float32; the work is planned by them on the CPU, so leave them
    there: on another device they cost a synchronisation. mean, std: of each channel, for images in [0, 1].
    Returns (N, 3, S, S) float32 on the device of the views.

    The result is that of these operations, in this order: brightness, contrast, saturation and hue in the sample's
    own order, each clamped to [0, 1]; grayscale; Gaussian blur (cut off at 3 sigma, edges reflected); flip;
    normalisation. Raises DataError when the shapes or types do not fit.
    """
    if views.dtype != torch.uint8 or views.ndim != 4 or views.shape[1] != 3:
        shape = f"{tuple(views.shape)} {views.dtype}"
        raise DataError("augment takes views of shape (N, 3, size, size), uint8", got=shape)
    if parameters.shape != (len(views), len(Parameter)):
        shape, expected = tuple(parameters.shape), (len(views), len(Parameter))
        raise DataError(f"augment takes parameters of shape {expected} for these views", got=shape)
    plan = parameters.detach().cpu().numpy()
    bytes_each = 4 * math.prod(views.shape[1:])
    portion = max(1, _PORTION_BYTES.get(views.device.type, _PORTION_BYTES_ELSEWHERE) // max(bytes_each, 1))
    result = torch.empty(views.shape, dtype=torch.float32, device=views.device)
    to_scale = torch.tensor([[1 / (_WHITE * s) for s in std], [-m / s for m, s in zip(mean, std)]])
    scale, shift = to_scale.to(views.device, torch.float32).view(2, 3, 1, 1)
    orders = np.where(plan[:, Parameter.JITTER] > 0, plan[:, Parameter.ORDER], -1)
    by_order = np.argsort(orders, kind="stable")
    with torch.autocast(views.device.type, enabled=False):
        for start in range(0, len(by_order), portion):
            chosen = by_order[start : start + portion]
            x = _augmented(_take(views, chosen), plan[chosen], orders[chosen])
            # Two passes: on a CPU one addcmul, with two broadcast operands, takes three times as long.
            if len(chosen) == 1:
                torch.mul(x, scale, out=_take(result, chosen)).add_(shift)
            else:
                result.index_copy_(0, _index(chosen, result), (x * scale).add_(shift))
    return result


def augment_early(views: Tensor, parameters: Tensor) -> Tensor:
    """Apply each view's parameters in a loader process: (N, 3, S, S) uint8 in and out, without normalisation.

    Colours are rounded to whole grey levels, as pipelines on 8-bit images do at every step. The result's own
    parameters are `slip.data.views.UNCHANGED`, so that `augment` has only the normalisation left to do.
    """
    levels = augment(views, parameters, (0.0,) * 3, (1 / _WHITE,) * 3)
    return levels.round_().clamp_(0, _WHITE).byte()


def _augmented(views: Tensor, plan: np.ndarray, orders: np.ndarray) -> Tensor:
    """Return uint8 samples as floats in grey levels; of one channel where all are grayed.

    orders: (n,), sorted, the number of each sample's order of colour operations, -1 where there are none.
    """
    table = torch.from_numpy(plan).to(views.device).view(*plan.shape, 1, 1, 1)
    # Mirrored while they are bytes: no other operation knows left from right.
    x = _apply_where(plan[:, Parameter.FLIP] > 0, views, lambda some, _: some.flip(-1)).to(torch.float32)
    start = 0
    for order, same in itertools.groupby(orders.tolist()):
        stop = start + len(list(same))
        if order >= 0:
            _jitter(x[start:stop], plan[start:stop], table[start:stop])
        start = stop
    if plan[:, Parameter.GRAYSCALE].all():
        x = _luminance(x)
    elif plan[:, Parameter.GRAYSCALE].any():
        _saturation(x, 1 - table[:, Parameter.GRAYSCALE])
    sigmas = plan[:, Parameter.BLUR]
    return _apply_where(sigmas > 0, x, lambda some, chosen: _blur(some, sigmas[chosen]))


def _apply_where(asked: np.ndarray, x: Tensor, operation: Callable[[Tensor, np.ndarray], Tensor]) -> Tensor:
    """Return samples with `operation`, which is told their numbers, applied to those that ask for it."""
    if not asked.any():
        return x
    chosen = np.flatnonzero(asked)
    if len(chosen) == len(x):
        return operation(x, chosen)
    return x.index_copy(0, _index(chosen, x), operation(_take(x, chosen), chosen))


def _take(batch: Tensor, chosen: np.ndarray) -> Tensor:
    """Return these samples of a batch; a single one without copying it."""
    if len(chosen) == 1:
        return batch[chosen[0] : chosen[0] + 1]
    return batch.index_select(0, _index(chosen, batch))


def _index(chosen: np.ndarray, batch: Tensor) -> Tensor:
    return torch.from_numpy(chosen).to(batch.device)


def _jitter(x: Tensor, plan: np.ndarray, table: Tensor) -> None:
    """Jitter the colours of samples that share the order of their operations, in place."""
    for column in ORDERS[int(plan[0, Parameter.ORDER])]:
        values = plan[:, column]
        if (values != _NEUTRAL[column]).any():
            _OPERATIONS[column](x, table[:, column])
            if column != Parameter.HUE and values.max() > 1:  # a mean with a weight up to 1 stays in range
                x.clamp_(0, _WHITE)


def _luminance(x: Tensor) -> Tensor:
    """Return (n, 1, S, S)."""
    red, green, blue = x.split(1, dim=1)
    return (red * _LUMINANCE[0]).add_(green, alpha=_LUMINANCE[1]).add_(blue, alpha=_LUMINANCE[2])


def _brightness(x: Tensor, factor: Tensor) -> None:
    x.mul_(factor)


def _contrast(x: Tensor, factor: Tensor) -> None:
    gray = _luminance(x.mean(dim=(2, 3), keepdim=True))
    x.mul_(factor).add_(gray.mul_(1 - factor))


def _saturation(x: Tensor, factor: Tensor) -> None:
    torch.lerp(_luminance(x), x, factor, out=x)


def _hue(x: Tensor, turns: Tensor) -> None:
    """Turn the hue, keeping HSV's saturation and value, without going to HSV and back.

    Let h be the hue in sixths of a turn from green, -3 to 3. A channel whose colour lies at c on that circle equals
    low + chroma · clamp(||h - c| - 3| - 1, 0, 1), where | |h - c| - 3 | is how far h is from c's opposite. To turn the
    hue by t is to put c - t for c. All is kept multiplied by chroma, so that grays need no exception. chroma · |h| is
    high - low + red + blue - green - low, and h is negative (towards red) where red exceeds blue.
    """
    red, green, blue = x.split(1, dim=1)
    high, low = torch.maximum(red, blue), torch.minimum(red, blue)
    hue = high + low
    torch.maximum(high, green, out=high)
    torch.minimum(low, green, out=low)
    chroma = high.sub_(low)
    hue.sub_(green).sub_(low).add_(chroma).copysign_(blue - red)
    colours = torch.arange(-2.0, 4.0, 2.0, device=x.device).view(3, 1, 1) - 6 * turns
    colours = colours.add_(3).remainder_(6).sub_(3)  # in [-3, 3), so that |h - c| is at most 6
    torch.addcmul(hue, chroma, colours, value=-1, out=x)
    x.abs_().sub_(3 * chroma).abs_().clamp_(chroma, 2 * chroma).add_(low.sub_(chroma))


_OPERATIONS = {
    Parameter.BRIGHTNESS: _brightness,
    Parameter.CONTRAST: _contrast,
    Parameter.SATURATION: _saturation,
    Parameter.HUE: _hue,
}
_NEUTRAL = {Parameter.BRIGHTNESS: 1, Parameter.CONTRAST: 1, Parameter.SATURATION: 1, Parameter.HUE: 0}


def _blur(x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Blur each sample with its own separable kernel; sigmas: (n,).

    Sums of shifted pictures: several times as fast on a CPU as convolutions with one channel in each group. A padded
    picture is taken as one long row, in which a neighbour is 1 or a row's length away, so that every sum is a single
    run through memory; what it computes beyond the picture's edges is left behind at the end.
    """
    # Each kernel ends at its own 3 sigma, so that a sample does not depend on the others of its portion.
    radii = np.minimum(np.ceil(sigmas * _BLUR_REACH), x.shape[-1] - 1)[:, None]
    reach = int(radii.max())
    offsets = np.abs(np.arange(-reach, reach + 1))
    kernels = np.exp((offsets / sigmas[:, None]) ** 2 / -2) * (offsets <= radii)
    kernels = (kernels / kernels.sum(axis=1, keepdims=True)).astype(np.float32)
    weights = torch.from_numpy(kernels).to(x.device)[:, :, None].unbind(dim=1)
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    width, area = padded.shape[-1], padded.shape[-2] * padded.shape[-1]
    row = padded.flatten(1)
    for step in (width, 1):
        shifted = row.unfold(1, row.shape[1] - 2 * reach * step, step).unbind(dim=1)
        row = shifted[0] * weights[0]
        for neighbour, weight in zip(shifted[1:], weights[1:]):
            row.addcmul_(neighbour, weight)
    return row.as_strided(x.shape, (row.stride(0), area, width, 1))
