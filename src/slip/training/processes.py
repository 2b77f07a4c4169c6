"""The processes of one run, as `torchrun` starts them: how they meet, agree and wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.constants import default_pg_nccl_timeout

from slip.data.ranks import Ranks, meet
from slip.errors import ConfigError, TrainingError

TIMEOUT = "SLIP_TIMEOUT"
"""Environment variable: seconds that processes wait for each other within a step. Unless given, what torch takes."""
_LONGEST_WAIT = timedelta(days=7)  # for the first process to measure; one that dies is noticed at once


class Processes:
    """This process and those that train with it; alone unless `torchrun` says otherwise.

    Small things are agreed on between CPUs, by a group of its own, so that no device is waited for; and where all
    wait for what the first alone does, by a second one, which is patient.
    """

    def __init__(
        self, ranks: Ranks, control: dist.ProcessGroup | None, patient: dist.ProcessGroup | None = None
    ) -> None:
        self.rank, self.world, self._control, self._patient = ranks.rank, ranks.world, control, patient

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files, measures, and speaks to people."""
        return self.rank == 0

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the means of some numbers over the processes, the same bits on each."""
        if self._control is None:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._control)
        return (total / self.world).tolist()

    def any(self, *flags: bool) -> list[bool]:
        """Return of each flag whether it is set for any of the processes."""
        return [share > 0 for share in self.mean([float(flag) for flag in flags])]

    def from_first(self, number: int) -> int:
        """Return the first process's number."""
        if self._patient is None:
            return number
        told = torch.tensor([number])
        dist.broadcast(told, 0, group=self._patient)
        return int(told)

    def gather(self, payload: bytes) -> list[bytes]:
        """Return every process's bytes, by rank."""
        if self._control is None:
            return [payload]
        sizes = torch.empty(self.world, dtype=torch.int64)
        dist.all_gather_into_tensor(sizes, torch.tensor([len(payload)]), group=self._control)
        room = int(sizes.max())
        mine = torch.zeros(room, dtype=torch.uint8)
        mine[: len(payload)] = torch.frombuffer(bytearray(payload or b"\0"), dtype=torch.uint8)[
            : len(payload)
        ]
        everyones = torch.empty(self.world * room, dtype=torch.uint8)
        dist.all_gather_into_tensor(everyones, mine, group=self._control)
        parts = everyones.view(self.world, room)
        return [parts[r, :size].numpy().tobytes() for r, size in enumerate(sizes.tolist())]

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Let the others in when the first process is through, so that what it leaves in a cache is theirs too.

        All leave together.
        """
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()
        self.wait()

    def wait(self) -> None:
        """Wait until every process is here, for however long."""
        if self._patient is not None:
            dist.barrier(group=self._patient)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Meet the processes that `torchrun` started, for as long as the context lasts.

    device: where the models live, which picks how they exchange: NCCL between CUDA devices, gloo for what is in the
    CPU's memory. A group that the program has set up by itself is used as it is.

    A machine that vanishes without a word, as behind a cut cable, is noticed when waiting for it has taken too long:
    half an hour, ten minutes of NCCL, or the seconds in the environment variable SLIP_TIMEOUT.

    Raises TrainingError when another process ends meanwhile, or cannot be reached; ConfigError for an odd SLIP_TIMEOUT.
    """
    ranks, timeout = Ranks.from_environment(), _timeout()
    own = not dist.is_initialized()
    if ranks.world == 1 and own:
        yield Processes(Ranks(), None)
        return
    try:
        if own:
            options: dict[str, Any] = {"backend": "gloo", "timeout": timeout}
            if device.type == "cuda":  # what FSDP keeps in the CPU's memory is exchanged from there
                options = {"backend": "cpu:gloo,cuda:nccl", "device_id": device}
                options["timeout"] = timeout or default_pg_nccl_timeout
            store = meet(ranks.rank, ranks.world, dist.default_pg_timeout)
            dist.init_process_group(store=store, rank=ranks.rank, world_size=ranks.world, **options)
        control: Any = dist.new_group(backend="gloo", timeout=timeout)
        patient: Any = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        yield Processes(Ranks(dist.get_rank(), dist.get_world_size()), control, patient)
    except dist.DistError as error:
        raise _gone(error) from None
    except RuntimeError as error:
        if not _speaks_of_others(error):
            raise
        raise _gone(error) from None
    finally:
        if own and dist.is_initialized():
            dist.destroy_process_group()


def _timeout() -> timedelta | None:
    """Return how long processes wait for each other within a step; None where that is left to torch."""
    seconds = os.environ.get(TIMEOUT, "")
    if not seconds:
        return None
    if not (seconds.isdecimal() and int(seconds)):
        raise ConfigError(
            f"{TIMEOUT} is a whole number of seconds", got=seconds, fix="As in SLIP_TIMEOUT=300"
        )
    return timedelta(seconds=int(seconds))


def average(tensors: Sequence[Tensor], bucket: int = 2**25) -> None:
    """Replace each tensor by its mean over the processes, in buckets of about so many bytes; in place."""
    bunch: list[Tensor] = []
    size = 0
    for number, tensor in enumerate(tensors, 1):
        bunch.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= bucket or number == len(tensors):
            flat = torch.cat([t.reshape(-1) for t in bunch])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            for t, mean in zip(bunch, flat.split([t.numel() for t in bunch])):
                t.copy_(mean.view_as(t))
            bunch, size = [], 0


def _speaks_of_others(error: RuntimeError) -> bool:
    """Whether torch.distributed raised this because of another process."""
    return any(word in str(error) for word in ("gloo", "Gloo", "NCCL", "Connection", "peer"))


def _gone(error: Exception) -> TrainingError:
    return TrainingError(
        "Another process of the run has ended, or cannot be reached",
        cause=str(error).splitlines()[0],
        fix="Look at what the other processes printed. Under `torchrun --max-restarts 3` with `--resume` the run "
        "goes on by itself from its newest checkpoint",
    )
