"""Which device a run uses, and in which precision."""

from __future__ import annotations

import os

import torch

from slip.errors import ConfigError


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
    """Return which of the machine's devices is this process's, by what `torchrun` says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the towers' arithmetic; `auto` is bf16 where the hardware computes in it, else fp32.

    On a CPU without AVX512-BF16 or AMX, bf16 is emulated and slower than fp32; fp16 is never used there.
    """
    if name == "fp32":
        return torch.float32
    if name == "bf16" or has_bf16(device):
        return torch.bfloat16
    return torch.float32


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
