"""Processes wait for whoever is busy longer than for a step, and no longer for whoever is gone."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from rich.console import Console

from distributed.ranks import run_on
from openslip.collectives import rank
from openslip.data.data import Data
from openslip.encoder import Encoder
from openslip.errors import ProcessError
from openslip.processes import TIMEOUT, joined
from openslip.training import train as start
from openslip.training.saving import checkpoint
from openslip.training.saving.tensors import Snapshot
from openslip.training.saving.writer import BackgroundWriter
from openslip.training.train import train
from toys import ToySource, make_tiny_config

PATIENCE, LONGER = "12", 14
"""How long a process waits for others in a step, and how long it must wait here, in seconds."""


def measured(folder: Path) -> list[str]:
    """Train while the first process measures for longer than the others wait in a step."""
    os.environ[TIMEOUT] = PATIENCE

    def slowly(encoder: Encoder) -> list[Any]:
        time.sleep(LONGER)
        return []

    config, out = make_tiny_config(epochs=1), folder / "run"
    train(config, ToySource(), out, evaluate=slowly, console=Console(quiet=True))
    return sorted(path.name for path in checkpoint.list_checkpoints(out / "checkpoints"))


def written(folder: Path, parts: int) -> list[str]:
    """Write a checkpoint, of which the first process's part is late."""
    os.environ[TIMEOUT] = PATIENCE
    snapshot = LateSnapshot({"w": torch.ones(3)}, {"w|exp_avg": torch.zeros(3)}, {}, rank(), parts)
    with joined(torch.device("cpu")) as processes:
        writer = BackgroundWriter(folder, processes, lambda error: pytest.fail(str(error)))
        writer.start(1, lambda: snapshot, lambda checksums: checkpoint.commit(folder, 1, {}, checksums))
        writer.finish()
        writer.close()
    return sorted(path.name for path in checkpoint.path_of(folder, 1).iterdir())


class LateSnapshot(Snapshot):
    def write(self, folder: Path) -> list[Path]:
        if self.part == 0:
            time.sleep(LONGER)
        return super().write(folder)


def opened(folder: Path) -> list[bool]:
    """Identify data slowly; return whether they were when this process's model met the others'."""
    originals, seen = (Data.identity, start.parallelise), []

    def identity(*arguments: Any, **options: Any) -> Any:
        time.sleep(2)
        (folder / "identified").touch()
        return originals[0](*arguments, **options)

    def parallelise(*arguments: Any, **options: Any) -> Any:
        seen.append((folder / "identified").exists())
        return originals[1](*arguments, **options)

    with mock.patch.object(Data, "identity", identity), mock.patch.object(start, "parallelise", parallelise):
        train(make_tiny_config(epochs=0.25), ToySource(), folder / "run", console=Console(quiet=True))
    with joined(torch.device("cpu")) as processes:
        with processes.first_goes_ahead():
            if not processes.first:
                time.sleep(2)
                (folder / "others").touch()
        seen.append((folder / "others").exists())
    return seen


def vanished(folder: Path) -> str:
    """Measure in the first process, which stops being there meanwhile, with its connections open."""
    os.environ[TIMEOUT] = PATIENCE

    def never(encoder: Encoder) -> list[Any]:
        (folder / "pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        return []

    config = make_tiny_config(epochs=0.25)
    try:
        train(config, ToySource(), folder / "run", evaluate=never, console=Console(quiet=True))
    except ProcessError as error:
        return error.what
    finally:
        with suppress(ProcessLookupError):
            os.kill(int((folder / "pid").read_text()), signal.SIGCONT)
    return "all is well"


@pytest.fixture(scope="module")
def waited(tmp_path_factory) -> dict[str, Future[list[Any]]]:
    """What two processes make of everything above, all at once: most of the time they wait."""
    cases = {"measured": (measured,), "opened": (opened,), "vanished": (vanished,)}
    cases |= {"whole": (written, 1), "in parts": (written, 2)}
    with ThreadPoolExecutor(len(cases)) as threads:
        return {
            name: threads.submit(run_on, 2, function, tmp_path_factory.mktemp("waited"), *more)
            for name, (function, *more) in cases.items()
        }


def test_the_others_wait_while_the_first_measures(waited) -> None:
    assert waited["measured"].result()[1][-1] == "step-00000008"


@pytest.mark.parametrize(("kind", "files"), [("whole", 3), ("in parts", 5)])
def test_the_others_wait_for_a_slow_disk(waited, kind, files) -> None:
    assert [len(names) for names in waited[kind].result()] == [files, files]


def test_all_wait_for_whoever_opens_data(waited) -> None:
    assert waited["opened"].result() == [[True, True], [True, True]]


def test_a_process_that_vanishes_while_it_measures_is_noticed(waited) -> None:
    gone = "Another process of the run has ended, or cannot be reached"
    assert waited["vanished"].result() == [gone, gone]


def failed(number: int) -> str:
    """Fail in one process, while the others wait for it."""
    os.environ[TIMEOUT] = "250"
    try:
        with joined(torch.device("cpu")) as processes, processes.together():
            if processes.rank == number:
                raise ValueError("mine")
    except (ValueError, ProcessError) as error:
        return type(error).__name__
    return "all is well"


@pytest.mark.parametrize("number", [0, 1])
def test_nobody_waits_for_a_process_that_has_failed(number) -> None:
    started = time.monotonic()
    said = run_on(3, failed, number)
    assert time.monotonic() - started < 200
    assert said.pop(number) == "ValueError"
    assert said == ["ProcessError", "ProcessError"]
