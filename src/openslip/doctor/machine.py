"""What the machine has, as torch sees it: device, precision, threads, memory, shared memory, and disk space."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

SHARED = Path("/dev/shm")
"""Where Linux keeps shared memory. Loader processes hand batches over through it."""
LITTLE_SHARED = 1 << 30
LITTLE_DISK = 5_000_000_000
CPU_ONLY = "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
"""Installs torch without CUDA on Linux and Windows; torch for macOS never has CUDA."""


@dataclass(frozen=True)
class Room:
    """Free and total bytes of a disk, or of shared memory."""

    free: int
    total: int


@dataclass(frozen=True)
class Machine:
    """What the machine has. device, precision: the choice of `auto`. cuda: torch's CUDA version, "" without CUDA."""

    device: str
    name: str
    precision: str
    threads: int
    cores: int
    cuda: str
    memory: int
    shared: Room | None
    folder: str
    disk: Room
    writable: bool


def look(folder: Path) -> Machine:
    """Return what this machine has. folder: its disk is examined. Raises what `import torch` raises."""
    import torch

    from openslip.data.prefetch import free_memory
    from openslip.training.precision import choose_device, choose_precision

    device = choose_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or ""
    return Machine(
        device=str(device),
        name=name,
        precision=str(choose_precision("auto", device)).removeprefix("torch."),
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cuda=torch.version.cuda or "",
        memory=free_memory(),
        shared=_room(SHARED) if SHARED.is_dir() else None,
        folder=str(folder.resolve()),
        disk=_room(folder),
        writable=os.access(folder, os.W_OK),
    )


def advice(machine: Machine, system: str = sys.platform, driver: bool | None = None) -> list[str]:
    """Return a sentence for each thing to improve. driver: whether the machine has an NVIDIA driver; None: look."""
    if driver is None:
        driver = Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
    lines = []
    if machine.cuda and not machine.device.startswith("cuda"):
        lines.append(
            f"torch is built for CUDA {machine.cuda}, but finds no GPU. "
            + ("Check what `nvidia-smi` prints. " if driver else "")
            + f"A torch for CPUs alone takes several GB less: {CPU_ONLY}"
        )
    elif driver and not machine.cuda and system != "darwin":
        lines.append(
            "The machine has an NVIDIA GPU, but torch is built for CPUs alone: "
            "pip install --force-reinstall torch torchvision"
        )
    if machine.shared is not None and machine.shared.free < LITTLE_SHARED:
        lines.append(
            f"Little shared memory is free, {size(machine.shared.free)}: give a container more "
            "(docker run --shm-size=8g), or train with --data.workers 0"
        )
    if machine.disk.free < LITTLE_DISK:
        lines.append(
            f"Little disk space is free, {size(machine.disk.free)}: a run keeps two checkpoints or more"
        )
    return lines


def size(count: int) -> str:
    """Return a number of bytes in GB, as text."""
    return f"{count / 1e9:,.1f} GB"


def _room(path: Path) -> Room:
    usage = shutil.disk_usage(path)
    return Room(usage.free, usage.total)
