"""The processes that `torchrun` starts, perhaps on many machines: how they agree, and wait for each other.

torch is imported where there are several: work on records needs it for nothing else.
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
"""Environment variable: seconds that processes wait for a word of each other. Unless given, what torch takes."""
_WORD_EVERY = 5.0  # seconds
_MESSAGE = 2**26  # bytes sent at a time


class Processes:
    """This process and those that work with it; alone unless it has joined others (see `joined`).

    Small things are agreed on between CPUs, by the group `control`, so that no device is waited for; and where some
    may take long, all tell each other by a second one, `alive`, that they are still there, every so many seconds.
    device: where the models live, if there are any.
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
        """Whether this is the process that writes files, measures, and speaks to people."""
        return self.rank == 0

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """Return this process's parts: neighbours, so that what lies together is read by one process. A single part is
        the first process's, which alone tells the user of what it meets."""
        first, last = (-(-len(parts) * rank // self.world) for rank in (self.rank, self.rank + 1))
        return parts[first:last]

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the means of some numbers over the processes, the same bits on each."""
        if self._control is None:
            return list(values)
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._control)
        return (total / self.world).tolist()

    def any(self, *flags: bool) -> list[bool]:
        """Return of each flag whether it is set for any of the processes."""
        return [share > 0 for share in self.mean([float(flag) for flag in flags])]

    def from_first(self, number: int) -> int:
        """Return the first process's number."""
        if self._control is None:
            return number
        import torch
        import torch.distributed as dist

        told = torch.tensor([number])
        dist.broadcast(told, 0, group=self._control)
        return int(told)

    def bytes_from_first(self, payload: bytes) -> bytes:
        """Return the first process's bytes, however many."""
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
        """Return every process's bytes, by rank, on all of them: of a few."""
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
        """Return every process's bytes, by rank, on the first; nothing on the others. However many."""
        if self._control is None:
            return [payload]
        import torch
        import torch.distributed as dist

        sizes = self._sizes(payload)
        if not self.first:
            for part in _messages(_tensor(payload)):
                dist.send(part, dst=0, group=self._control)
            dist.barrier(group=self._control)  # whoever leaves takes what is on its way along
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
        """Let the others in when the first process is through, so that what it leaves in a cache is theirs too.

        All leave together.
        """
        for goes_now in (self.first, not self.first):
            with self.together():
                if goes_now:
                    yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave when every process is through with what it does within, for however long; all must enter.

        One that ends is noticed, and one that vanishes too: a second thread of each says every few seconds that it is
        alive, and the others wait for that no longer than for anything else.

        Raises ProcessError when another one failed within; RuntimeError, as torch.distributed does, when one is gone.
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
                    "Another process of the run has failed, at what this one waited for",
                    fix="Look at what it printed",
                )


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Processes]:
    """Meet the processes that `torchrun` started, for as long as the context lasts.

    device: where the models live, which picks how they exchange: NCCL between CUDA devices, gloo for what is in the
    CPU's memory, and where there are no models. A group that the program has set up by itself is used as it is.

    A machine that vanishes without a word, as behind a cut cable, is noticed when nothing has been heard of it for half
    an hour, ten minutes of NCCL, or the seconds in the environment variable SLIP_TIMEOUT.

    Raises ProcessError when another process ends meanwhile, or cannot be reached; ConfigError for an odd SLIP_TIMEOUT,
    and an odd environment.
    """
    own, timeout = not _program_has_joined(), _timeout()
    rank, world = rank_and_world() if own else (0, 1)
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:  # what asks for "the" GPU, as FSDP does, means this process's
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
            if on_gpu:  # what FSDP keeps in the CPU's memory is exchanged from there
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
    """Return how long processes wait for a word of each other; None where that is left to torch."""
    seconds = os.environ.get(TIMEOUT, "")
    if not seconds:
        return None
    if not (seconds.isdecimal() and int(seconds)):
        raise ConfigError(
            f"{TIMEOUT} is a whole number of seconds", got=seconds, fix="As in SLIP_TIMEOUT=300"
        )
    return timedelta(seconds=int(seconds))


def _program_has_joined() -> bool:
    """Whether the program around us has set up torch.distributed, for which it has imported it."""
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
        fix="Look at what the other processes printed. Under `torchrun --max-restarts 3` all are started anew; "
        "training goes on from its newest checkpoint with `--resume`, and shards that are finished are kept",
    )
