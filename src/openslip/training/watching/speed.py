"""How fast steps are, where their time goes, how well they use the device, and what memory they take.

All this is logged, and nothing in training depends on it.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from openslip.collectives import alone
from openslip.config import Config
from openslip.data.record import Batch
from openslip.data.schedule import Schedule
from openslip.models.inputs import Inputs
from openslip.models.tuning import tune
from openslip.objectives import At, Loss
from openslip.training.fixed import FixedModels
from openslip.training.kept_features import Output
from openslip.training.student import build_student

PEAKS = (
    ("B200", 2250.0, 75.0),
    ("GH200", 989.0, 67.0),
    ("H200 NVL", 835.0, 60.0),
    ("H200", 989.0, 67.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("L40S", 362.0, 91.6),
    ("L4", 121.0, 30.3),
    ("A10", 125.0, 31.2),
    ("RTX 5090", 209.5, 104.8),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.0, 35.6),
    ("T4", 65.0, 8.1),
)
"""Dense TFLOP/s of 16-bit tensor cores summing in fp32, and of fp32 without them, by the makers' data sheets."""
PARTIAL = {"MIG", "Laptop", "Ti", "SUPER", "D"}
"""Words in a device's name that mark a slower or faster version than the device of the plain name."""
MEASURING_SECONDS = 0.2
NEEDS_NUMBERS = (RuntimeError, TypeError)
"""What PyTorch raises when a tensor without numbers is asked for them. All of its own errors for that are
RuntimeErrors; `numpy()` raises TypeError."""

RECORDS = 1 << 40
"""Records of the data for which operations are counted: more than anybody has. The count does not depend on it."""

Kind = tuple[tuple[tuple[str, tuple[int, ...]], ...], int, tuple[tuple[str, int], ...]]
"""A kind of step: names and shapes of the views, number of captions, and for each view the rows with kept outputs."""


class Speed:
    """Samples and arithmetic a second, shares of time and the peak of memory, over the steps since the last line.

    `phases` times the parts of a step. `work` gives a batch's floating-point operations; `peak` is how many of them the
    device can do in a second. Samples are those of all `processes`, the rest is this process's. Checkpoints keep
    nothing of this: a resumed run's first line is about its own steps.

    inform: prints the peak of memory after the second step, and after the first step of every other kind. A first step
    shows less than is needed, because the optimiser makes its moments at the end of that step.
    """

    def __init__(
        self,
        device: torch.device,
        work: Callable[[Batch], float],
        peak: float,
        processes: int = 1,
        inform: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.phases, self.work, self.peak, self.processes = Phases(device), work, peak, processes
        self.device, self.inform, self._steps, self._kinds = device, inform, 0, set[Kind]()
        self._restart()

    def _restart(self) -> None:
        self.samples, self.operations, self.seconds, self.waited = 0, 0.0, 0.0, 0.0

    def add(self, batch: Batch, seconds: float, waited: float) -> None:
        """Take note of a step: how long it took in all, and how long of that it waited for the batch."""
        self.samples += len(batch.keys) * self.processes
        self.operations += self.work(batch)
        self.seconds += seconds
        self.waited += waited
        self._steps += 1
        if self._steps > 1 and (kind := kind_of(batch)) not in self._kinds:
            self._kinds.add(kind)
            if most := most_memory(self.device) / 2**30:
                whose = "tensors on the GPU" if self.device.type == "cuda" else "this process"
                self.inform(f"memory     {most:.2f} GiB is the most that {whose} took so far")

    def take(self) -> dict[str, float]:
        """Return the numbers of a line, and start anew.

        samples_per_second; data_wait and time_NAME: shares of the steps' time spent waiting for data and in each
        phase; tflops: 10¹² floating-point operations a second; mfu: their share of the device's peak. The last two are
        left out if the operations of a step could not be counted. memory_gib: see `most_memory`.
        """
        seconds = max(1e-9, self.seconds)
        line = {
            "samples_per_second": round(self.samples / seconds, 2),
            "data_wait": round(self.waited / seconds, 4),
        }
        line |= {f"time_{name}": round(spent / seconds, 4) for name, spent in self.phases.take().items()}
        if self.operations > 0:
            rate = self.operations / seconds
            line |= {"tflops": float(f"{rate / 1e12:.4g}"), "mfu": round(rate / self.peak, 4)}
        if memory := most_memory(self.device):
            line["memory_gib"] = round(memory / 2**30, 3)
        self._restart()
        return line


def most_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held so far; 0 if the system does not say.

    On a CUDA device, tensors in its memory count. Otherwise resident memory counts, shared memory included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # getrusage, on Linux, begins with what the process that started this one held
        if held := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return 1024 * int(held[1])
    with suppress(ImportError):  # Windows has none
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0


class Phases:
    """The time spent in named parts of the steps: `with phases("forward"): ...`

    The time of a part within another is not counted in the outer part. Profiles show the parts by their names. On CUDA
    the time is the device's, by events that are read once they have passed, so that nothing waits for them. Elsewhere
    it is the clock's.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._open: list[str] = []
        self._marks: deque[tuple[str, Any]] = deque()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._open.append(name)
        self._mark()
        try:
            with record_function(name):
                yield
        finally:
            self._open.pop()
            self._mark()

    def take(self) -> dict[str, float]:
        """Return the seconds of each part since the last call."""
        self._settle()
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _mark(self) -> None:
        """Note the moment from which the innermost open part, if any, takes the time."""
        moment: Any = time.perf_counter()
        if self._cuda:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self._marks.append((self._open[-1] if self._open else "", moment))
        self._settle()

    def _settle(self) -> None:
        """Add up the time between marks that have passed."""
        while len(self._marks) > 1 and (not self._cuda or self._marks[1][1].query()):
            name, start = self._marks.popleft()
            end = self._marks[0][1]
            if name:
                spent = start.elapsed_time(end) / 1000 if self._cuda else end - start
                self._seconds[name] = self._seconds.get(name, 0.0) + spent


class Work:
    """The floating-point operations of a training step: matrix products and convolutions, forward and backward.

    PyTorch counts them on a copy of the model that has shapes but no numbers, once for each kind of step: with captions
    of one token and with captions of the text tower's whole context. A batch is cut to its longest caption, and gets
    the number on the straight line between the two; attention bends that line by less than a hundredth. What is
    computed a second time (micro-batches, activation checkpointing) counts once, because the work is the same however
    it is done: "model FLOPs", Chowdhery et al. 2022, appendix B. A real step would count it twice, and could not be
    compiled.

    fixed: the fixed models that the loss learns from; their forward pass counts. inform: prints a warning, once, if a
    tower or an objective does not run without numbers. `kept` outputs are not computed, and do not count.
    """

    def __init__(
        self, config: Config, loss: Loss, inform: Callable[[str], object], fixed: FixedModels | None = None
    ) -> None:
        self.config, self.loss, self.inform = config, loss, inform
        self.fixed = fixed or FixedModels({}, {})
        self.kept: tuple[Output, ...] = ()
        self._count, self._said = cache(self._count_or_say), False

    def __call__(self, batch: Batch) -> float:
        """Return the operations of the step on `batch`; nan if they cannot be counted."""
        kind, text = kind_of(batch), self.config.model.text
        context = text.context
        shortest = self._count(kind, context if text.padded else 1)
        if batch.tokens is None or context == 1 or text.padded:
            return shortest
        share = (batch.tokens.shape[-1] - 1) / (context - 1)
        return shortest + share * (self._count(kind, context) - shortest)

    def _count_or_say(self, kind: Kind, length: int) -> float:
        try:
            with alone():
                return _count_step(self.config, self.loss, kind, length, self.fixed, self.kept)
        except NEEDS_NUMBERS as error:
            if not self._said:
                reason = str(error).partition("\n")[0]
                self.inform(
                    f"warning: the log has no tflops and mfu, because operations cannot be counted: {reason}"
                )
            self._said = True
            return math.nan


def operations_per_sample(config: Config, loss: Loss, schedule: Schedule, length: int) -> float:
    """Return the floating-point operations of training for a sample, before a run: what `Work` counts of its batches.

    length: tokens of the longest caption of a batch. The number is the mean over the steps of a run, for batches of
    `schedule.batch` rows. Fixed models are not counted. Returns nan if a step cannot be counted.
    """
    rows = schedule.batch

    def step(scheduled: bool) -> float:
        views = {
            view.name: (schedule.rows if view.scheduled else rows, 3, size, size)
            for view in loss.views
            for size in [config.views.of(view.kind, view.size).size]
            if scheduled or not view.scheduled
        }
        kind = tuple(views.items()), rows if loss.captioned else 0, ()
        with alone():
            return _count_step(config, loss, kind, length)

    try:
        share = config.objective.ssl_steps
        return (share * step(True) + ((1 - share) * step(False) if share < 1 else 0)) / rows
    except NEEDS_NUMBERS:
        return math.nan


def kind_of(batch: Batch) -> Kind:
    """Return the kind of a batch's step: the shapes of the views, the number of captions, and the kept rows."""
    views = tuple((name, tuple(view.shape)) for name, view in batch.views.items())
    kept = tuple((name, len(rows)) for name, rows in batch.rows.items() if len(rows))
    return views, 0 if batch.tokens is None else len(batch.tokens), kept


def _count_step(
    config: Config,
    loss: Loss,
    kind: Kind,
    length: int,
    fixed: FixedModels | None = None,
    outputs: Iterable[Output] = (),
) -> int:
    """Return the operations of a step with captions of `length` tokens; `outputs` are kept.

    Towers are counted on the device `meta`, because the text tower looks at tokens that are on a CPU. Heads and losses,
    which ask for a device's autocast, are counted on a CPU without numbers.
    """
    views, rows, kept_rows = kind
    scheduled = {view.name for view in loss.views if view.scheduled}
    at = At(scheduled=not scheduled.isdisjoint(name for name, _ in (*views, *kept_rows)))
    fixed, counts = fixed.without_numbers() if fixed else None, dict(kept_rows)
    with torch.device("meta"):
        all_rows = max([*(shape[0] for _, shape in views), *counts.values()])
        student = build_student(config, loss, fixed=fixed, records=RECORDS)
        tune(student.model, config.model, config.views.size)
        student.add_teachers().to("meta")
        images = {name: torch.empty(shape) for name, shape in views}
        each = (loss.captions, length) if loss.captions > 1 else (length,)
        tokens = torch.zeros(rows, *each, dtype=torch.long) if rows else None
        kept = {o.key: torch.empty(counts[o.view], o.width) for o in outputs if o.view in counts}
        labels = torch.zeros(all_rows, dtype=torch.long) if loss.labelled else None
        numbers = torch.zeros(all_rows, dtype=torch.long)
    inputs = Inputs(images, tokens, labels=labels, records=numbers, kept=kept)
    features = dict[Any, Tensor]()

    def towers() -> Tensor:
        features.update(student.targets(inputs, at) | student.features(inputs, at))
        sums = [f.sum() for f in features.values() if f.requires_grad]
        return torch.stack(sums).sum() if sums else torch.zeros((), device="meta", requires_grad=True)

    total = count(towers)
    del student.model.image_tower, student.model.text_tower  # what follows is about the rest
    with FakeTensorMode(allow_non_fake_inputs=True):
        student.to_empty(device="cpu")
        given = {
            key: torch.empty(feature.shape, requires_grad=True)
            if feature.requires_grad
            else torch.zeros(feature.shape, dtype=feature.dtype)
            for key, feature in features.items()
        }
        return total + count(lambda: student.losses(given, at)["loss"])


def count(loss: Callable[[], Tensor]) -> int:
    """Return the operations of computing `loss` and its gradient, with attention written out, so that it counts."""
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
    with (
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        loss().backward()
    return counter.get_total_flops()


def _convolution_backward(grad: list[int], images: list[int], weight: list[int], *rest: Any, **_: Any) -> int:
    """Return the operations of a convolution's gradients: the convolution's own for each of the two that is asked for.

    torch's formula for the weights' gradient counts every channel with every other, and ignores groups.
    """
    transposed, asked = rest[4], rest[7]
    return sum(asked[:2]) * conv_flop_count(images, weight, grad, transposed=transposed)


def peak(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Return the operations a second that `device` can do in `dtype`, and where the figure comes from.

    The figure is the data sheet's for the CUDA devices of `PEAKS`. Other devices are measured for a fraction of a
    second.
    """
    if device.type == "cuda":
        known = data_sheet(torch.cuda.get_device_name(device), dtype)
        if known:
            return known, "data sheet"
    return _measure(device, dtype, torch.get_num_threads()), "measured"


def data_sheet(name: str, dtype: torch.dtype) -> float:
    """Return the peak of the device called `name` (as CUDA calls it) in operations a second, 0 if it is not known."""
    words = f" {name.replace('-', ' ')} "
    if set(words.split()) & PARTIAL:
        return 0.0
    for known, half, single in PEAKS:
        if f" {known} " in words:
            return 1e12 * (single if dtype == torch.float32 else half)
    return 0.0


@cache
def _measure(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Multiply matrices for a moment and return the best rate: 2·size³ operations each. Draws no random numbers."""
    size = 1024 if device.type == "cpu" else 4096
    matrix = torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < MEASURING_SECONDS:
        wait()
        start = time.perf_counter()
        matrix @ matrix
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
