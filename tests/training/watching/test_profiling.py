import gzip
import io
import json
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent, Kernel

from openslip.errors import ConfigError
from openslip.training.saving.run import RunFolder
from openslip.training.train import train
from openslip.training.watching.profiling import TRACE, expensive, profiling
from toys import make_tiny_config


def test_a_trace_names_the_phases_of_the_steps_asked_for(tmp_path, toy_source) -> None:
    said = io.StringIO()
    console = Console(file=said, width=200)
    run = train(make_tiny_config(profile=2), toy_source, tmp_path / "run", console=console)
    trace = json.loads(gzip.decompress((run.path / TRACE).read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    assert [name for name in names if name.startswith("ProfilerStep")] == ["ProfilerStep#5", "ProfilerStep#6"]
    for phase in ("augment", "forward", "backward", "optimizer"):
        assert names.count(phase) == 2
    assert {event.get("name") for event in trace["traceEvents"]} >= {"aten::addmm", "aten::mm"}
    assert not list(run.path.glob(".writing*"))
    told = said.getvalue()
    assert str(run.path / TRACE) in told
    assert "longest operations" in told
    assert "aten::" in told


def test_a_run_too_short_for_a_trace_ends_without_one(tmp_path, toy_source) -> None:
    """Of 8 samples a step: the first 5 steps are not recorded."""
    for steps in (4, 5, 6):
        config, said = make_tiny_config(profile=3, budget=f"{8 * steps} samples"), io.StringIO()
        run = train(config, toy_source, tmp_path / str(steps), console=Console(file=said, width=200))
        assert (run.path / TRACE).exists() == (steps == 6)
        told = f"the first 5 steps of a run are not recorded, and this run had {steps}"
        assert (told in said.getvalue()) == (steps < 6)


def test_a_trace_that_cannot_be_written_stops_no_run(tmp_path, toy_source, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    said = io.StringIO()
    console = Console(file=said, width=200)
    run = train(make_tiny_config(profile=2), toy_source, tmp_path / "run", console=console)
    assert "could not be written: [Errno 28] No space left" in said.getvalue()
    assert not (run.path / TRACE).exists()


def test_that_there_is_no_trace_of_a_run_that_was_stopped_is_said(tmp_path) -> None:
    said = io.StringIO()
    console, run = Console(file=said, width=200), RunFolder(tmp_path)

    def stopped() -> None:
        with profiling(3, run, torch.device("cpu"), console) as after_step:
            after_step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert "no trace" in said.getvalue()
    assert not (tmp_path / TRACE).exists()


def test_what_ran_on_a_gpu_is_listed_once() -> None:
    """A kernel is also under what started it, and under the phase, by its name on either side."""

    def event(
        number: int, name: str, start: int, end: int, device: DeviceType, **options: Any
    ) -> FunctionEvent:
        return FunctionEvent(
            id=number, name=name, thread=int(device != DeviceType.CPU), start_us=start, end_us=end,
            device_type=device, use_device="cuda", device_index=0, stack=[], **options,
        )  # fmt: skip

    phase = event(1, "forward", 0, 20, DeviceType.CPU, is_user_annotation=True)
    product = event(2, "aten::mm", 5, 10, DeviceType.CPU)
    product.kernels.append(Kernel("gemm_kernel", 0, 100.0))
    kernel = event(3, "gemm_kernel", 10, 110, DeviceType.CUDA)
    there = event(4, "forward", 10, 110, DeviceType.CUDA, is_user_annotation=True)
    events = EventList([phase, product, kernel, there], use_device="cuda")
    events._build_tree()
    _, *rows = expensive(cast(Any, events)).splitlines()
    assert [row.split() for row in rows] == [["gemm_kernel", "1", "0.1", "100.0%"]]


def test_a_number_of_steps_is_not_negative(tmp_path, toy_source) -> None:
    with pytest.raises(ConfigError, match="--training.profile must be at least 0"):
        train(make_tiny_config(profile=-1), toy_source, tmp_path / "run", console=Console(quiet=True))
