import gzip
import io
import json

import pytest
from rich.console import Console

from slip.errors import ConfigError
from slip.training.loop import train
from slip.training.watching.profiling import TRACE
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
        told = f"the first 5 are not recorded, and this one had {steps}"
        assert (told in said.getvalue()) == (steps < 6)


def test_a_trace_that_cannot_be_written_stops_no_run(tmp_path, toy_source, monkeypatch) -> None:
    from slip.training.watching import profiling

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profiling.profile, "export_chrome_trace", full)
    said = io.StringIO()
    console = Console(file=said, width=200)
    run = train(make_tiny_config(profile=2), toy_source, tmp_path / "run", console=console)
    assert "could not be written: [Errno 28] No space left" in said.getvalue()
    assert not (run.path / TRACE).exists()


def test_a_number_of_steps_is_not_negative(tmp_path, toy_source) -> None:
    with pytest.raises(ConfigError, match="--training.profile must be at least 0"):
        train(make_tiny_config(profile=-1), toy_source, tmp_path / "run", console=Console(quiet=True))
