"""The run folder's files on a disk that is full for a while."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from rich.console import Console

from openslip.config import Config, ObjectiveConfig
from openslip.data.record import Skipped
from openslip.errors import CheckpointError, ConfigError
from openslip.training.saving import run as run_folder
from openslip.training.saving.run import RunFolder, read_lines
from openslip.training.train import train
from toys import make_tiny_config


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Within, no file can grow beyond `size` bytes: the write that would fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_wait_for_room(tmp_path) -> None:
    said: list[str] = []
    run = RunFolder(tmp_path, said.append)
    run.append_metrics({"step": 1})
    with room_for(15):
        for step in (2, 3, 4):
            run.append_metrics({"step": step})
            assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
        run.append_skipped(4, [Skipped(0, "0", "toy", "damaged")])
        run.flush()
    assert [line.partition(" cannot")[0] for line in said] == [
        "warning: metrics.jsonl",
        "warning: skipped.jsonl",
    ]
    run.append_metrics({"step": 5})
    run.flush()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert len(read_lines(tmp_path / "skipped.jsonl")) == 1
    run.flush()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_not_all_can_wait(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_folder, "UNWRITTEN", 2)
    run = RunFolder(tmp_path)
    with room_for(0):
        with pytest.warns(UserWarning, match="metrics.jsonl cannot be written"):
            run.append_metrics({"step": 0})
        for step in range(1, 5):
            run.append_metrics({"step": step})
    run.flush()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [3, 4]


def test_a_file_that_cannot_be_opened_keeps_its_lines(tmp_path, monkeypatch) -> None:
    run = RunFolder(tmp_path, lambda _: None)
    run.append_metrics({"step": 1})

    def refused(*_):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refused)
        run.append_metrics({"step": 2})
    run.flush()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_what_was_rewound_is_not_written(tmp_path) -> None:
    run = RunFolder(tmp_path, lambda _: None)
    run.append_metrics({"step": 1})
    with room_for(0):
        run.append_metrics({"step": 2})
    run.rewind(1, measured=True)
    run.append_metrics({"step": 2})
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_disk_too_full_to_rewind_on_is_said(tmp_path) -> None:
    run = RunFolder(tmp_path, lambda _: None)
    for step in (1, 2):
        run.append_metrics({"step": step})
    with room_for(0), pytest.raises(CheckpointError, match=r"metrics.jsonl cannot be written.*too large"):
        run.rewind(1, measured=True)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_full_disk_costs_no_run(tmp_path, toy_source, monkeypatch) -> None:
    """Full for the first half of the run, at each line of metrics."""
    append = RunFolder.append_metrics

    def full(self, line):
        with room_for(0) if line["step"] <= 9 else nullcontext():
            append(self, line)

    monkeypatch.setattr(RunFolder, "append_metrics", full)
    run = train(make_tiny_config(), toy_source, tmp_path / "run", console=Console(quiet=True))
    assert [line["step"] for line in read_lines(run.path / "metrics.jsonl")] == [3, 6, 9, 12, 15, 16]


OLD = """
[objective]
loss = "clip + 1.0 * simclr"
temperature = 0.2
block = 7
gradient = "exact"
[model.ssl]
width = 32
"""


@pytest.mark.parametrize(
    ("loss", "options", "told"),
    [
        ("clip + 1.0 * simclr", {"simclr": {"temperature": 0.2, "width": 32}}, ""),
        (
            "clip + 1.0 * simclr",
            {"simclr": {"temperature": 0.2, "width": 32, "block": 9}, "clip": {"block": 3}},
            "",
        ),
        ("clip + simclr", {"simclr": {"temperature": 0.2, "width": 32}}, ""),
        (
            "clip + 1.0 * simclr",
            {"simclr": {"width": 32}},
            r"objective\.simclr\.temperature = 0\.1, was 0\.2",
        ),
        (
            "clip + 0.5 * simclr",
            {"simclr": {"temperature": 0.2, "width": 32}},
            r"objective\.loss = 'clip \+ 0\.5",
        ),
        ("clip", {}, r"Got: .objective\.loss = 'clip', was 'clip \+ 1\.0 \* simclr'.\."),
        ("somebody:Elses", {}, r"objective\.loss = 'somebody:Elses'"),
    ],
)
def test_options_of_objectives_are_the_run_s(tmp_path, loss, options, told) -> None:
    """What is left out is the default, how many rows are computed at a time may change, old folders count."""
    (tmp_path / "config.toml").write_text(OLD)
    config = Config(objective=ObjectiveConfig(loss=loss, options=options))
    with pytest.raises(ConfigError, match=told) if told else nullcontext():
        RunFolder(tmp_path).check_config(config)
