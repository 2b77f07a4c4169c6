"""Views' sampled parameters applied to whole batches, on any device: colours, blur, flip, normalisation.

Each sample comes out as torchvision's transforms of float images would give it for the same parameters. Samples are
sorted by the order of their colour operations, so that every operation works in place on a run of neighbours, in
portions that fit into the processor's cache; what no sample of a portion asks for is left out.

Legend: N samples, n of them in a portion, S side of the view, P parameters (`slip.data.views.Parameter`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slip.data.views import ORDERS, Parameter
from slip.errors import DataError

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

    The operations are, in this order: brightness, contrast, saturation and hue in the sample's own order, each
    clamped to [0, 1]; grayscale; Gaussian blur (cut off at 3 sigma, edges reflected); flip; normalisation.
    Raises DataError when the shapes or types do not fit.
    """
    if views.dtype != torch.uint8 or views.ndim != 4 or views.shape[1] != 3:
        shape = f"{tuple(views.shape)} {views.dtype}"
        raise DataError("augment takes views of shape (N, 3, size, size), uint8", got=shape)
    if parameters.shape != (len(views), len(Parameter)):
        shape, expected = tuple(parameters.shape), (len(views), len(Parameter))
        raise DataError(f"augment takes parameters of shape {expected} for these views", got=shape)
    rows = parameters.detach().cpu()
    bytes_each = 4 * math.prod(views.shape[1:])
    portion = max(1, _PORTION_BYTES.get(views.device.type, _PORTION_BYTES_ELSEWHERE) // max(bytes_each, 1))
    with torch.autocast(views.device.type, enabled=False):
        result = _point_operations(views, rows, mean, std, portion)
        # After normalisation, to which a weighted mean is indifferent: here neighbours need not share an order.
        _blur_some(result, rows[:, Parameter.BLUR], 2 * portion)
    return result


def _point_operations(
    views: Tensor, rows: Tensor, mean: Sequence[float], std: Sequence[float], portion: int
) -> Tensor:
    """Return a batch with everything done but the blur."""
    device, plan = views.device, rows.numpy()
    order = np.where(plan[:, Parameter.JITTER] > 0, plan[:, Parameter.ORDER], -1)
    sorted_ = np.argsort(order, kind="stable")
    plan, order = plan[sorted_], order[sorted_]
    where, table = torch.from_numpy(sorted_).to(device), torch.from_numpy(plan).to(device)
    channels = torch.tensor([*mean, *std], dtype=torch.float32).to(device).view(2, 3, 1, 1)

    pixels = views.index_select(0, where)
    mirrored = torch.from_numpy(np.flatnonzero(plan[:, Parameter.FLIP] > 0)).to(device)
    if len(mirrored):  # cheapest while the pixels are bytes; no other operation minds
        pixels.index_copy_(0, mirrored, pixels.index_select(0, mirrored).flip(-1))

    result = torch.empty(views.shape, dtype=torch.float32, device=device)
    for start, stop in _portions(order, portion):
        x = pixels[start:stop].to(torch.float32).div_(255)
        x = _colours(x, plan[start:stop], table[start:stop])
        result.index_copy_(0, where[start:stop], x.sub_(channels[0]).div_(channels[1]))
    return result


def _portions(order: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of one order, at most `size` samples long."""
    edges = [0, *(np.flatnonzero(np.diff(order)) + 1).tolist(), len(order)]
    for start, stop in itertools.pairwise(edges):
        for first in range(start, stop, size):
            yield first, min(first + size, stop)


def _colours(x: Tensor, plan: np.ndarray, table: Tensor) -> Tensor:
    """Jitter, then grayscale, of samples that share the order of their operations; x is used up."""
    if plan[0, Parameter.JITTER] > 0:
        for column in ORDERS[int(plan[0, Parameter.ORDER])]:
            if (plan[:, column] != _NEUTRAL[column]).any():
                x = _OPERATIONS[column](x, table[:, column].view(-1, 1, 1, 1))
    if plan[:, Parameter.GRAYSCALE].any():
        x = _saturation(x, 1 - table[:, Parameter.GRAYSCALE].view(-1, 1, 1, 1))
    return x


def _luminance(x: Tensor) -> Tensor:
    """Return (n, 1, S, S)."""
    red, green, blue = x.split(1, dim=1)
    return (red * _LUMINANCE[0]).add_(green, alpha=_LUMINANCE[1]).add_(blue, alpha=_LUMINANCE[2])


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _luminance(x).mean(dim=(1, 2, 3), keepdim=True)
    return x.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    gray = _luminance(x).mul_(1 - factor)
    return x.mul_(factor).add_(gray).clamp_(0, 1)


def _hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue, keeping HSV's saturation and value, without going to HSV and back.

    With h the hue in sixths of a turn, a channel whose own hue is c equals max - chroma · clamp(d(h, c) - 1, 0, 1),
    where d is the distance on the colour circle; c is 0, 2 and 4 for red, green and blue.
    """
    red, green, blue = x.unbind(dim=1)
    value = x.amax(dim=1)
    chroma = value - x.amin(dim=1)
    divisor = torch.where(chroma > 0, chroma, 1)
    hue = (red - green).div_(divisor).add_(4)
    hue = torch.where(value == green, (blue - red).div_(divisor).add_(2), hue)
    hue = torch.where(value == red, (green - blue).div_(divisor), hue)
    hue.add_(turns.view(-1, 1, 1), alpha=6)
    hue.sub_(hue.div(6).floor_(), alpha=6)  # into [0, 6)
    distances = ((hue - 3).abs_().neg_().add_(2), (hue - 2).abs_().sub_(1), hue.sub_(4).abs_().sub_(1))
    for channel, distance in enumerate(distances):
        torch.addcmul(value, distance.clamp_(0, 1), chroma, value=-1, out=x[:, channel])
    return x


_OPERATIONS = {
    Parameter.BRIGHTNESS: _brightness,
    Parameter.CONTRAST: _contrast,
    Parameter.SATURATION: _saturation,
    Parameter.HUE: _hue,
}
_NEUTRAL = {Parameter.BRIGHTNESS: 1, Parameter.CONTRAST: 1, Parameter.SATURATION: 1, Parameter.HUE: 0}


def _blur_some(x: Tensor, sigmas: Tensor, portion: int) -> None:
    """Blur, in place, the samples with a sigma above 0; sigmas: (N,), on the CPU."""
    blurred = sigmas.nonzero().flatten()
    for chosen in blurred.split(portion) if len(blurred) else ():
        where = chosen.to(x.device)
        x.index_copy_(0, where, _blur(x.index_select(0, where), sigmas[chosen]))


def _blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """Blur each sample with its own separable kernel; sigmas: (n,), on the CPU."""
    samples, size = len(x), x.shape[-1]
    # Each kernel ends at its own 3 sigma, so that a sample does not depend on the others of its batch.
    radii = (sigmas * _BLUR_REACH).ceil().clamp(max=size - 1)[:, None]
    reach = int(radii.max())
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.where(offsets.abs() <= radii, (offsets / sigmas[:, None]).square().div(-2).exp(), 0)
    kernels = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0).to(x.device)
    planes = F.pad(x, (reach,) * 4, mode="reflect").view(1, 3 * samples, *(size + 2 * reach,) * 2)
    planes = F.conv2d(planes, kernels[:, None, None, :], groups=3 * samples)
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=3 * samples)
    return planes.view(x.shape)
