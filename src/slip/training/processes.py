"""The processes of one run, as `torchrun` starts them: how they meet, agree and wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.constants import default_pg_nccl_timeout, default_pg_timeout

from slip.data.ranks import Ranks, meet
from slip.errors import ConfigError, TrainingError

TIMEOUT = "SLIP_TIMEOUT"
"""Environment variable: seconds that processes wait for a word of each other. Unless given, what torch takes."""
_WORD_EVERY = 5.0  # seconds


class Processes:
    """This process and those that train with it; alone unless `torchrun` says otherwise.

    Small things are agreed on between CPUs, by the group `control`, so that no device is waited for; and where some
    may take long, all tell each other by a second one, `alive`, that they are still there, every so many seconds.
    """

    def __init__(
        self,
        ranks: Ranks,
        control: dist.ProcessGroup | None,
        alive: dist.ProcessGroup | None = None,
        word_every: float = _WORD_EVERY,
    ) -> None:
        self.rank, self.world = ranks.rank, ranks.world
        self._control, self._alive, self._word_every = control, alive, word_every

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
        if self._control is None:
            return number
        told = torch.tensor([number])
        dist.broadcast(told, 0, group=self._control)
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
        for turn in (self.first, not self.first):
            with self.together():
                if turn:
                    yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave when every process is through with what it does within, for however long; all must enter.

        One that ends is noticed, and one that vanishes too: a second thread of each says every few seconds that it is
        alive, and the others wait for that no longer than for anything else.

        Raises TrainingError when another one failed within; RuntimeError, as torch.distributed does, when one is gone.
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
        count_through = 0
        while count_through < self.world:
            through.wait(self._word_every)
            counts = torch.tensor([int(through.is_set()), int(failed.is_set())])
            dist.all_reduce(counts, group=self._alive)
            count_through, count_failed = counts.tolist()
            if count_failed:
                raise TrainingError(
                    "Another process of the run has failed, at what this one waited for",
                    fix="Look at what it printed",
                )


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Meet the processes that `torchrun` started, for as long as the context lasts.

    device: where the models live, which picks how they exchange: NCCL between CUDA devices, gloo for what is in the
    CPU's memory. A group that the program has set up by itself is used as it is.

    A machine that vanishes without a word, as behind a cut cable, is noticed when nothing has been heard of it for half
    an hour, ten minutes of NCCL, or the seconds in the environment variable SLIP_TIMEOUT.

    Raises TrainingError when another process ends meanwhile, or cannot be reached; ConfigError for an odd SLIP_TIMEOUT.
    """
    ranks, timeout = Ranks.from_environment(), _timeout()
    own = not dist.is_initialized()
    if device.type == "cuda":  # what asks for "the" GPU, as FSDP does, means this process's
        torch.cuda.set_device(device)
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
        alive: Any = dist.new_group(backend="gloo", timeout=timeout)
        word_every = min(_WORD_EVERY, (timeout or default_pg_timeout).total_seconds() / 4)
        yield Processes(Ranks(dist.get_rank(), dist.get_world_size()), control, alive, word_every)
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
    return any(word in str(error) for word in ("gloo", "Gloo", "NCCL", "Connection", "peer", "pair closure"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _gone(cause: str) -> TrainingError:
    return TrainingError(
        "Another process of the run has ended, or cannot be reached",
        cause=cause,
        fix="Look at what the other processes printed. Under `torchrun --max-restarts 3` with `--resume` the run "
        "goes on by itself from its newest checkpoint",
    )
