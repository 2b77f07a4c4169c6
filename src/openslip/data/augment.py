"""Apply the sampled parameters of views to whole batches, on any device: flip, colours, blur, normalisation.

Each sample comes out as torchvision's transforms of float images would give it for the same parameters. The work is
done in portions. On a CPU, a portion has as many samples as fit into the cache, mostly one; elsewhere it has nearly all
samples. What no sample of a portion asks for is left out. Until they are normalised, pixels are floats in grey levels.

Legend: N samples, n of them in a portion, S side of the view, P parameters (`openslip.data.views.Parameter`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openslip.data.views import ORDERS, Parameter
from openslip.errors import DataError

_WHITE = 255
_LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R 601-2, in the digits torchvision uses
_BLUR_REACH = 3.0  # sigmas
_PORTION_BYTES = {"cpu": 2**20}
_PORTION_BYTES_ELSEWHERE = 2**28


@torch.no_grad()
def augment(views: Tensor, parameters: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Apply each view's parameters, then normalise.

    views: (N, 3, S, S) uint8. parameters: (N, P) float32; they plan the work on the CPU, so leave them there: on
    another device they cost a synchronisation. mean, std: of each channel, for images in [0, 1].
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
    plan, chosen = _planned(parameters.detach().cpu().numpy())
    table = torch.from_numpy(plan).to(views.device).view(*plan.shape, 1, 1, 1)
    bytes_each = 4 * math.prod(views.shape[1:])
    portion = max(1, _PORTION_BYTES.get(views.device.type, _PORTION_BYTES_ELSEWHERE) // max(bytes_each, 1))
    result = torch.empty(views.shape, dtype=torch.float32, device=views.device)
    to_scale = torch.tensor([[1 / (_WHITE * s) for s in std], [-m / s for m, s in zip(mean, std)]])
    scale, shift = to_scale.to(views.device, torch.float32).view(2, 3, 1, 1)
    with torch.autocast(views.device.type, enabled=False):
        for start in range(0, len(plan), portion):
            part = slice(start, start + portion)
            rows = chosen[part]
            alone = len(rows) == 1  # then the work is done where the result will be
            buffer = _take(result, rows) if alone else result.new_empty((len(rows), *views.shape[1:]))
            x = _augmented(_take(views, rows), buffer, plan[part], table[part])
            # Two passes: on a CPU one addcmul, with two broadcast operands, takes three times as long.
            torch.mul(x, scale, out=buffer).add_(shift)
            if not alone:
                result.index_copy_(0, _index(rows, result), buffer)
    return result


def augment_early(views: Tensor, parameters: Tensor) -> Tensor:
    """Apply each view's parameters in a loader process: (N, 3, S, S) uint8 in and out, without normalisation.

    Colours are rounded to whole grey levels, as pipelines on 8-bit images do at every step. The result's own
    parameters are `openslip.data.views.UNCHANGED`, so that `augment` has only the normalisation left to do.
    """
    levels = augment(views, parameters, (0.0,) * 3, (1 / _WHITE,) * 3)
    return levels.round_().clamp_(0, _WHITE).byte()


def _planned(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters sorted by the order of the colour operations (-1 for none), and their original rows."""
    orders = np.where(parameters[:, Parameter.JITTER] > 0, parameters[:, Parameter.ORDER], -1)
    chosen = np.argsort(orders, kind="stable")
    plan = parameters[chosen]
    plan[:, Parameter.ORDER] = orders[chosen]
    return plan, chosen


def _augmented(views: Tensor, buffer: Tensor, plan: np.ndarray, table: Tensor) -> Tensor:
    """Return uint8 samples, augmented, as floats in grey levels; with one channel if all are grayed.

    buffer: (n, 3, S, S) float32 to work in. plan, table: (n, P) sorted parameters, on the CPU and (with three more
    dimensions) on the device.
    """
    # Mirrored while they are bytes: no other operation knows left from right.
    x = buffer.copy_(_apply_where(plan[:, Parameter.FLIP], views, lambda some, _: some.flip(-1)))
    start = 0
    for order, same in itertools.groupby(plan[:, Parameter.ORDER].tolist()):
        stop = start + len(list(same))
        if order >= 0:
            _jitter(x[start:stop], ORDERS[int(order)], plan[start:stop], table[start:stop])
        start = stop
    grayscale = plan[:, Parameter.GRAYSCALE]
    if grayscale.all():
        x = _luminance(x)
    elif grayscale.any():
        _saturation(x, 1 - table[:, Parameter.GRAYSCALE])
    return _apply_where(plan[:, Parameter.BLUR], x, _blur)


def _apply_where(asked: np.ndarray, x: Tensor, operation: Callable[[Tensor, np.ndarray], Tensor]) -> Tensor:
    """Return samples with `operation` applied to those whose number in `asked` is not 0; it gets these numbers."""
    chosen = np.flatnonzero(asked)
    if not len(chosen):
        return x
    if len(chosen) == len(x):
        return operation(x, asked)
    return x.index_copy(0, _index(chosen, x), operation(_take(x, chosen), asked[chosen]))


def _take(batch: Tensor, chosen: np.ndarray) -> Tensor:
    """Return these samples of a batch; a single one without copying it."""
    if len(chosen) == 1:
        return batch[chosen[0] : chosen[0] + 1]
    return batch.index_select(0, _index(chosen, batch))


def _index(chosen: np.ndarray, batch: Tensor) -> Tensor:
    return torch.from_numpy(chosen).to(batch.device)


def _jitter(x: Tensor, columns: Sequence[Parameter], plan: np.ndarray, table: Tensor) -> None:
    """Jitter the colours of samples, in place, by the operations of these columns, one after the other."""
    least, most = plan.min(axis=0).tolist(), plan.max(axis=0).tolist()
    for column in columns:
        if column == Parameter.HUE:
            _turn_hue(x, table[:, column], max(-least[column], most[column]))
        elif least[column] != 1 or most[column] != 1:
            _OPERATIONS[column](x, table[:, column])
            if most[column] > 1:  # a mean with a weight up to 1 stays in range
                x.clamp_(0, _WHITE)


def _luminance(x: Tensor) -> Tensor:
    """Return (n, 1, S, S)."""
    red, green, blue = _channels(x)
    return (red * _LUMINANCE[0]).add_(green, alpha=_LUMINANCE[1]).add_(blue, alpha=_LUMINANCE[2])


def _channels(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x[:, 0:1], x[:, 1:2], x[:, 2:3]


def _brightness(x: Tensor, factor: Tensor) -> None:
    x.mul_(factor)


def _contrast(x: Tensor, factor: Tensor) -> None:
    gray = _luminance(x.mean(dim=(2, 3), keepdim=True))
    x.mul_(factor).add_(gray.mul_(1 - factor))


def _saturation(x: Tensor, factor: Tensor) -> None:
    torch.lerp(_luminance(x), x, factor, out=x)


_OPERATIONS = {
    Parameter.BRIGHTNESS: _brightness,
    Parameter.CONTRAST: _contrast,
    Parameter.SATURATION: _saturation,
}


def _turn_hue(x: Tensor, turns: Tensor, most: float) -> None:
    """Turn hues in place, in steps of up to a sixth of a turn; `most` is the largest turn.

    `most` is counted down in the precision of the turns. So a sample takes the steps that it would take alone. Further
    steps, for larger turns of its neighbours, are 0 for it and change no bit.
    """
    left, sixth = np.float32(most), np.float32(1 / 6)
    while left > 0:
        step = turns.clamp(-sixth.item(), sixth.item())
        _hue(x, step)
        turns = turns - step
        left -= sixth


def _hue(x: Tensor, turns: Tensor) -> None:
    """Turn hues by up to a sixth of a turn, keeping HSV's saturation and value, without going to HSV and back.

    With its hue, a pixel's middle channel moves by 6 · turns · chroma, between the lowest and the highest. Where the
    middle would leave their range, the channel that it meets moves on in its place, in the other direction. A formula
    for each channel gives just this: twice the channel less the middle, plus the movement if the channel before it in
    the circle of red, green and blue exceeds the one after, else minus the movement, cut to the range. The middle
    moves. The highest starts to fall, and the lowest to rise, when the movement exceeds its distance from the middle.
    """
    red, green, blue = _channels(x)
    high, low = torch.maximum(red, blue), torch.minimum(red, blue)
    middle = torch.clamp(green, low, high)
    torch.maximum(high, green, out=high)
    torch.minimum(low, green, out=low)
    sign = torch.cat((blue - green, red - blue, green - red), dim=1).sign_()
    movement = (high - low).mul_(6 * turns)
    torch.add(middle.neg_(), x, alpha=2, out=x).addcmul_(sign, movement).clamp_(low, high)


def _blur(x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Blur each sample with its own separable kernel; sigmas: (n,).

    The blur adds up shifted pictures, several times as fast on a CPU as convolutions with one channel in each group. A
    padded picture is taken as one long row, in which a neighbour is 1 or a row's length away. So every sum is a single
    run through memory; what a sum computes beyond the picture's edges is dropped at the end.
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
