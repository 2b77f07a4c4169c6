"""Views' sampled parameters applied to whole batches, on any device: colours, blur, flip, normalisation.

Each sample comes out as torchvision's transforms of float images would give it for the same parameters. The work is
done in portions whose samples share the order of their colour operations: on a CPU as many as fit into its cache, which
is mostly one, elsewhere all there are. What no sample of a portion asks for is left out.

Legend: N samples, n of them in a portion, S side of the view, P parameters (`slip.data.views.Parameter`).
"""

from __future__ import annotations

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
    plan = parameters.detach().cpu().numpy()
    bytes_each = 4 * math.prod(views.shape[1:])
    portion = max(1, _PORTION_BYTES.get(views.device.type, _PORTION_BYTES_ELSEWHERE) // max(bytes_each, 1))
    result = torch.empty(views.shape, dtype=torch.float32, device=views.device)
    to_scale = torch.tensor([[1 / s for s in std], [-m / s for m, s in zip(mean, std)]], dtype=torch.float32)
    scale, shift = to_scale.to(views.device).view(2, 1, 3, 1, 1)
    with torch.autocast(views.device.type, enabled=False):
        order = np.where(plan[:, Parameter.JITTER] > 0, plan[:, Parameter.ORDER], -1)
        for chosen in _portions(order, portion):
            x = _colours(_take(views, chosen), plan[chosen])
            _put(result, chosen, torch.addcmul(shift, x, scale))
        # After normalisation, to which a weighted mean is indifferent: here neighbours need not share an order.
        sigmas = plan[:, Parameter.BLUR]
        for chosen in _portions(np.where(sigmas > 0, 0, -1), portion):
            if sigmas[chosen[0]] > 0:
                _put(result, chosen, _blur(_take(result, chosen), torch.from_numpy(sigmas[chosen])))
        mirrored = np.flatnonzero(plan[:, Parameter.FLIP] > 0)
        for start in range(0, len(mirrored), portion):
            chosen = mirrored[start : start + portion]
            _put(result, chosen, _take(result, chosen).flip(-1))
    return result


def augment_early(views: Tensor, parameters: Tensor) -> Tensor:
    """Apply each view's parameters in a loader process: (N, 3, S, S) uint8 in and out, without normalisation.

    Colours are rounded to whole grey levels, as pipelines on 8-bit images do at every step. The result's own
    parameters are `slip.data.views.UNCHANGED`, so that `augment` has only the normalisation left to do.
    """
    return (
        augment(views, parameters, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).mul_(255).round_().clamp_(0, 255).byte()
    )


def _portions(kinds: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield numbers of samples of one kind, at most `size` at a time."""
    sorted_ = np.argsort(kinds, kind="stable")
    for same in np.split(sorted_, np.flatnonzero(np.diff(kinds[sorted_])) + 1):
        for start in range(0, len(same), size):
            yield same[start : start + size]


def _take(batch: Tensor, chosen: np.ndarray) -> Tensor:
    """Return these samples of a batch; a single one without copying it."""
    if len(chosen) == 1:
        return batch[chosen[0] : chosen[0] + 1]
    return batch.index_select(0, torch.from_numpy(chosen).to(batch.device))


def _put(batch: Tensor, chosen: np.ndarray, samples: Tensor) -> None:
    """Write samples to their places in a batch."""
    if len(chosen) == 1:
        batch[chosen[0] : chosen[0] + 1].copy_(samples)
    else:
        batch.index_copy_(0, torch.from_numpy(chosen).to(batch.device), samples)


def _colours(views: Tensor, plan: np.ndarray) -> Tensor:
    """Return uint8 samples that share the order of their operations as floats in [0, 1], jittered and grayed."""
    x, table = views.to(torch.float32).div_(255), torch.from_numpy(plan).to(views.device)
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
    inverse = chroma.clamp_min(1e-12).reciprocal_()  # of no chroma, which multiplies differences of 0
    # Which of the three is largest picks the formula. On a CPU lerp with weights of 0 and 1 is much faster than where.
    hue = torch.lerp(
        (blue - red).mul_(inverse).add_(2),
        (red - green).mul_(inverse).add_(4),
        (value - green).sign_(),
    )
    hue = torch.lerp((green - blue).mul_(inverse), hue, (value - red).sign_())
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


def _blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """Blur each sample with its own separable kernel; sigmas: (n,), on the CPU.

    Sums of shifted pictures: several times as fast on a CPU as convolutions with one channel in each group.
    """
    # Each kernel ends at its own 3 sigma, so that a sample does not depend on the others of its portion.
    radii = (sigmas * _BLUR_REACH).ceil().clamp(max=x.shape[-1] - 1)[:, None]
    reach = int(radii.max())
    offsets = torch.arange(reach + 1, dtype=torch.float32)
    weights = torch.where(offsets <= radii, (offsets / sigmas[:, None]).square().div(-2).exp(), 0)
    weights /= 2 * weights.sum(dim=1, keepdim=True) - 1
    weights = weights.to(x.device)[:, :, None, None, None]
    x = F.pad(x, (reach,) * 4, mode="reflect")
    for dim in (2, 3):
        size = x.shape[dim] - 2 * reach
        blurred = x.narrow(dim, reach, size) * weights[:, 0]
        for k in range(1, reach + 1):
            pair = x.narrow(dim, reach - k, size) + x.narrow(dim, reach + k, size)
            blurred.addcmul_(pair, weights[:, k])
        x = blurred
    return x
