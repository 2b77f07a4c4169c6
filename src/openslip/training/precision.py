"""Which device a run uses, and in which precision."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from importlib.util import find_spec

import torch
from torch import nn

from openslip.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", _number())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(name, False):
        raise ConfigError(
            f"This machine has no {name} device that PyTorch can use",
            got=f"--training.device {name}",
            fix="Use --training.device auto",
        )
    return torch.device(name, _number()) if name == "cuda" else torch.device(name)


def _number() -> int:
    """Return the number of this process's GPU, from torchrun's LOCAL_RANK. Raises ConfigError if there is none."""
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(
            f"This machine has no GPU for its process number {number + 1}",
            got=f"LOCAL_RANK={number}, {count} visible GPU{'s' * (count != 1)}",
            fix="Start as many processes as there are GPUs, with --nproc-per-node, or add --training.device cpu",
        )
    return number


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the towers' arithmetic; `auto` is bf16 if the hardware computes in it, else fp32.

    On a CPU without AVX512-BF16 or AMX, bf16 is emulated and slower than fp32. With `fp8` the towers' large
    products are in fp8 (`convert_to_fp8`) and the rest in bf16. Raises ConfigError if `device` cannot
    compute in fp16 or fp8.
    """
    if name == "fp16" and device.type not in ("cuda", "mps"):
        raise ConfigError(
            "fp16 is for GPUs: CPUs do not multiply it in hardware",
            got=f"precision fp16, device {device.type}",
            fix="Use the precision auto, bf16 or fp32",
        )
    if name == "fp8":
        check_fp8(device)
    if name in ("fp32", "fp16"):
        return {"fp32": torch.float32, "fp16": torch.float16}[name]
    return torch.bfloat16 if name in ("bf16", "fp8") or has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which the towers run."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def loss_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Return the scaler of the loss, so that fp16's small gradients do not vanish; in other precisions it is off.

    The factor halves when a gradient overflows, and doubles after 2,000 steps without overflow (Micikevicius
    et al. 2018, section 3.2).
    """
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def overflowed(scale: float, loss: float, gradient_norm: float) -> bool:
    """Whether a step failed because the loss was multiplied by too high a `scale`, which the next, lower scale mends.

    If the loss itself is not finite, or the scale has fallen below 1, something else is wrong.
    """
    return math.isfinite(loss) and not math.isfinite(gradient_norm) and scale >= 1


def check_fp8(device: torch.device) -> None:
    """Raise ConfigError, saying what is missing, if the towers cannot train in fp8."""
    missing = []
    if device.type != "cuda":
        missing.append(f"a CUDA device (this run's is {device.type})")
    elif (capability := torch.cuda.get_device_capability(device)) < (8, 9):
        missing.append(f"compute capability 8.9 (this device has {capability[0]}.{capability[1]})")
    if find_spec("torchao") is None:
        missing.append("the torchao package (`pip install torchao`)")
    if missing:
        raise ConfigError(
            f"Training in fp8 needs {' and '.join(missing)}",
            got="--training.precision fp8",
            fix="Use --training.precision bf16",
        )


def convert_to_fp8(towers: Iterable[nn.Module]) -> None:
    """Replace the towers' Linear layers, in place and under their names, by torchao's, which multiply in fp8.

    Only layers whose two sizes are multiples of 16 are replaced, as the hardware asks; the number of rows is padded to
    a multiple. The last blocks' attention, which takes its weights apart, stays in bf16. Scales are dynamic, so there
    is no new state. Compile with fp8, as torchao advises: uncompiled, scaling takes the time that the products save.
    """
    from torchao.float8 import (  # type: ignore[import-not-found]
        Float8LinearConfig,
        convert_to_float8_training,
    )

    for tower in towers:
        convert_to_float8_training(
            tower, module_filter_fn=_fits_fp8, config=Float8LinearConfig(pad_inner_dim=True)
        )


def _fits_fp8(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and not (module.in_features % 16 or module.out_features % 16)
