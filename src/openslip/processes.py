"""The processes that `torchrun` starts, perhaps on many machines: how they agree, and wait for each other.

torch is imported only for several processes: work on records needs torch for nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from openslip.errors import ConfigError, ProcessError
from openslip.meeting import meet, rank_and_world

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")

TIMEOUT = "SLIP_TIMEOUT"
"""Environment variable: seconds that processes wait for a sign of life of each other; by default torch's timeout."""
_WORD_EVERY = 5.0  # seconds
_MESSAGE = 2**26  # bytes sent at a time


class Processes:
    """This process and those that work with it; alone unless it has joined others (see `joined`).

    The processes agree on small things between CPUs, by the group `control`, so that nothing waits for a device. If
    some may take long, all tell each other every `word_every` seconds by a second group, `alive`, that they still run.
    device: the device of the models, if there are any.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        control: ProcessGroup | None = None,
        alive: ProcessGroup | None = None,
        word_every: float = _WORD_EVERY,
        device: torch.device | None = None,
    ) -> None:
        self.rank, self.world, self.device = rank, world, device
        self._control, self._alive, self._word_every = control, alive, word_every

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the process that prints, and writes what there is one of."""
        return self.rank == 0

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """Return this process's parts: neighbours, so that one process reads what lies together. A single part goes to
        rank 0, which alone prints warnings about it."""
        first, last = (-(-len(parts) * rank // self.world) for rank in (self.rank, self.rank + 1))
        return parts[first:last]

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the means of numbers over the processes, with the same bits on each process."""
        if self._control is None:
            return list(values)
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._control)
        return (total / self.world).tolist()

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether any process has set it."""
        return [share > 0 for share in self.mean([float(flag) for flag in flags])]

    def from_first(self, number: int) -> int:
        """Return rank 0's number."""
        if self._control is None:
            return number
        import torch
        import torch.distributed as dist

        told = torch.tensor([number])
        dist.broadcast(told, 0, group=self._control)
        return int(told)

    def bytes_from_first(self, payload: bytes) -> bytes:
        """Return rank 0's bytes, however many."""
        size = self.from_first(len(payload))
        if self._control is None:
            return payload
        import torch
        import torch.distributed as dist

        told = _tensor(payload) if self.first else torch.empty(size, dtype=torch.uint8)
        for part in _messages(told):
            dist.broadcast(part, 0, group=self._control)
        return told.numpy().tobytes()

    def all_gather(self, payload: bytes) -> list[bytes]:
        """Return every process's bytes, by rank, on all processes. For few bytes."""
        if self._control is None:
            return [payload]
        import torch.distributed as dist

        sizes = self._sizes(payload)
        longest = max(sizes)
        mine = _tensor(payload.ljust(longest, b"\0"))
        everyones = mine.new_empty(self.world * longest)
        dist.all_gather_into_tensor(everyones, mine, group=self._control)
        parts = everyones.view(self.world, longest)
        return [parts[r, :size].numpy().tobytes() for r, size in enumerate(sizes)]

    def gather(self, payload: bytes) -> list[bytes]:
        """Return every process's bytes, by rank, on rank 0; nothing on the others. For any number of bytes."""
        if self._control is None:
            return [payload]
        import torch
        import torch.distributed as dist

        sizes = self._sizes(payload)
        if not self.first:
            for part in _messages(_tensor(payload)):
                dist.send(part, dst=0, group=self._control)
            dist.barrier(group=self._control)  # a process that leaves would take messages on their way along
            return []
        received = [torch.empty(size, dtype=torch.uint8) for size in sizes[1:]]
        for rank, tensor in enumerate(received, 1):
            for part in _messages(tensor):
                dist.recv(part, src=rank, group=self._control)
        dist.barrier(group=self._control)
        return [payload, *(tensor.numpy().tobytes() for tensor in received)]

    def _sizes(self, payload: bytes) -> list[int]:
        """Return the size of every process's bytes, by rank."""
        import torch
        import torch.distributed as dist

        sizes = torch.empty(self.world, dtype=torch.int64)
        dist.all_gather_into_tensor(sizes, torch.tensor([len(payload)]), group=self._control)
        return sizes.tolist()

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Let the others in when rank 0 is through, so that they can use what rank 0 leaves in a cache.

        All processes leave together.
        """
        for goes_now in (self.first, not self.first):
            with self.together():
                if goes_now:
                    yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave when every process is through with its work inside, for however long; all processes must enter.

        A process that ends or vanishes is noticed: a second thread of each process says every few seconds that the
        process is alive, and the others wait for this sign no longer than for anything else.

        Raises ProcessError when another process failed inside; RuntimeError, as torch.distributed does, when one is
        gone.
        """
        if self._alive is None:
            yield
            return
        through, failed = Event(), Event()
        with ThreadPoolExecutor(1, thread_name_prefix="alive") as pool:
            everyone = pool.submit(self._say_so, through, failed)
            try:
                yield
            except BaseException:
                failed.set()
                raise
            finally:
                through.set()
        everyone.result()

    def _say_so(self, through: Event, failed: Event) -> None:
        """Tell the others that this process is alive, until all are `through`, or one has `failed`."""
        import torch
        import torch.distributed as dist

        count_through = 0
        while count_through < self.world:
            through.wait(self._word_every)
            counts = torch.tensor([int(through.is_set()), int(failed.is_set())])
            dist.all_reduce(counts, group=self._alive)
            count_through, count_failed = counts.tolist()
            if count_failed:
                raise ProcessError(
                    "Another process of the run has failed, while this process waited for it",
                    fix="Look at what the other process printed",
                )


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Processes]:
    """Meet the processes that `torchrun` started, for as long as the context lasts.

    device: the device of the models, which decides how processes exchange: by NCCL between CUDA devices, by gloo in the
    CPU's memory, and without models. A group that the program has set up itself is used unchanged.

    A machine that vanishes without a message, as behind a cut cable, is noticed after half an hour of silence, ten
    minutes with NCCL, or the seconds in the environment variable SLIP_TIMEOUT.

    Raises ProcessError when another process ends meanwhile, or cannot be reached; ConfigError for an odd SLIP_TIMEOUT
    or an odd environment.
    """
    own, timeout = not _program_has_joined(), _timeout()
    rank, world = rank_and_world() if own else (0, 1)
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:  # code that asks for "the" GPU, such as FSDP, means this process's GPU
        import torch

        torch.cuda.set_device(device)
    if own and world == 1:
        yield Processes(device=device)
        return
    import torch.distributed as dist
    from torch.distributed.constants import default_pg_nccl_timeout, default_pg_timeout

    try:
        if own:
            options: dict[str, Any] = {"backend": "gloo", "timeout": timeout}
            if on_gpu:  # gloo exchanges what FSDP keeps in the CPU's memory
                options = {"backend": "cpu:gloo,cuda:nccl", "device_id": device}
                options["timeout"] = timeout or default_pg_nccl_timeout
            store = meet(rank, world, default_pg_timeout)
            dist.init_process_group(store=store, rank=rank, world_size=world, **options)
        control: Any = dist.new_group(backend="gloo", timeout=timeout)
        alive: Any = dist.new_group(backend="gloo", timeout=timeout)
        word_every = min(_WORD_EVERY, (timeout or default_pg_timeout).total_seconds() / 4)
        yield Processes(dist.get_rank(), dist.get_world_size(), control, alive, word_every, device)
    except dist.DistError as error:
        raise _gone(_first_line(error)) from None
    except RuntimeError as error:
        if not _speaks_of_others(error):
            raise
        raise _gone(_first_line(error)) from None
    finally:
        if own and dist.is_initialized():
            dist.destroy_process_group()


def _timeout() -> timedelta | None:
    """Return how long processes wait for a sign of life of each other; None for torch's own timeout."""
    seconds = os.environ.get(TIMEOUT, "")
    if not seconds:
        return None
    if not (seconds.isdecimal() and int(seconds)):
        raise ConfigError(
            f"{TIMEOUT} is a whole number of seconds", got=seconds, fix="Write it as in SLIP_TIMEOUT=300"
        )
    return timedelta(seconds=int(seconds))


def _program_has_joined() -> bool:
    """Whether the calling program has set up torch.distributed, and so has imported it."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def _tensor(payload: bytes) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.frombuffer(bytearray(payload), np.uint8))


def _messages(tensor: Tensor) -> Sequence[Tensor]:
    return tensor.split(_MESSAGE) if len(tensor) else ()


def _speaks_of_others(error: RuntimeError) -> bool:
    """Whether torch.distributed raised this because of another process."""
    return any(word in str(error) for word in ("gloo", "Gloo", "NCCL", "Connection", "peer", "pair closure"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _gone(cause: str) -> ProcessError:
    return ProcessError(
        "Another process of the run has ended, or cannot be reached",
        cause=cause,
        fix="Look at what the other processes printed. `torchrun --max-restarts 3` starts all processes anew; "
        "training goes on from its newest checkpoint with `--resume`, and finished shards are kept",
    )
