"""A look inside a few steps, by PyTorch's profiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from openslip.files import TEMPORARY
from openslip.progress import print_text
from openslip.training.saving.run import RunFolder

TRACE = "trace.json.gz"
WARM_UP = 5
"""Steps before the first one that is recorded."""
LISTED = 10
"""Operations in the printed table."""


@contextmanager
def profiling(
    steps: int, run: RunFolder, device: torch.device, console: Console
) -> Iterator[Callable[[], None]]:
    """Record `steps` training steps after a few to warm up; within, call what is yielded after each step.

    Writes the recording as trace.json.gz into the run folder, for https://ui.perfetto.dev or chrome://tracing, and
    prints the operations that took longest. A run that stops while it records leaves what was recorded; a run that
    stops before leaves nothing, and prints so. With 0 `steps` nothing is recorded.
    """
    if not steps:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    done = 0

    def after_step() -> None:
        nonlocal done
        done += 1
        recording.step()

    try:
        with profile(
            activities=activities,
            schedule=schedule(wait=WARM_UP - 1, warmup=1, active=steps, repeat=1),
            on_trace_ready=lambda recording: _write(recording, run, console) if done > WARM_UP else None,
        ) as recording:
            yield after_step
    finally:
        if done <= WARM_UP:
            said = f"the first {WARM_UP} steps of a run are not recorded, and this run had {done}"
            print_text(console, f"  no trace: {said}")


def _write(recording: profile, run: RunFolder, console: Console) -> None:
    """Write the trace, whole or not at all, and print where it is. A full disk does not stop the run."""
    path = run.path / TRACE
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        recording.export_chrome_trace(str(temporary))
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        print_text(console, f"  the trace could not be written: {error}")
        return
    finally:
        temporary.unlink(missing_ok=True)
    print_text(console, f"  trace: {path} (open it in https://ui.perfetto.dev)")
    print_text(console, expensive(recording))


def expensive(recording: profile) -> str:
    """Return a table of the operations that took longest by themselves, on the device if there was one."""
    entries, clock = list(recording.key_averages()), "self_cpu_time_total"
    if any(entry.self_device_time_total for entry in entries):
        # What ran on the device is listed again under what started it, and under the phases.
        entries = [e for e in entries if e.device_type != DeviceType.CPU and not e.is_user_annotation]
        clock = "self_device_time_total"
    microseconds = {entry.key: getattr(entry, clock) for entry in entries}
    calls = {entry.key: entry.count for entry in entries}
    total = sum(microseconds.values()) or 1
    longest = sorted(microseconds, key=microseconds.__getitem__, reverse=True)[:LISTED]
    rows = [
        f"  {name[:60]:<60} {calls[name]:>7,} {microseconds[name] / 1e3:>10,.1f} {microseconds[name] / total:>6.1%}"
        for name in longest
    ]
    return "\n".join([f"  {'longest operations, by their own time':<60}   calls         ms  share", *rows])
