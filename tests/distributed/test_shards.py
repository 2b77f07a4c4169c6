"""Checkpoints that each process writes its part of, through whole runs of two processes; others read them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor
from torch.distributed.tensor import Shard, distribute_tensor

import openslip
from distributed.ranks import run_on
from openslip.collectives import rank, world
from openslip.config import Config
from openslip.data.record import Batch
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ProcessError
from openslip.training.parallel import Shards
from openslip.training.saving import checkpoint, tensors
from openslip.training.signals import Interrupted
from openslip.training.step import gradient_norm
from openslip.training.train import train
from openslip.training.trainer import Trainer
from toys import ToySource, make_tiny_config

PARTS = [f"{name}-0000{part}-of-00002.safetensors" for name in ("model", "optimizer") for part in (1, 2)] + [
    "state.json"
]
STOPPED, LAST = 7, "step-00000016"


def damaged(error: CheckpointError) -> None:
    pytest.fail(str(error))


def config(parallel: str = "fsdp") -> Config:
    tiny = make_tiny_config(parallel=parallel)
    # With the usual eps AdamW makes steps of rounding errors where a gradient is next to zero.
    return replace(
        tiny, checkpoint=replace(tiny.checkpoint, keep=9), optimizer=replace(tiny.optimizer, eps=1e-2)
    )


def run(out: Path, parallel: str = "fsdp") -> str:
    """Train to the end, from where `out` is; return what was said."""
    said = io.StringIO()
    train(config(parallel), ToySource(), out, resume=True, console=Console(file=said, width=1000))
    return said.getvalue()


def stop(out: Path, parallel: str = "fsdp") -> None:
    """Train until one process is asked to stop after step 7; its last checkpoints are those of steps 5 and 7."""
    original = Trainer._train_on

    def train_step(self: Trainer, batch: Batch) -> None:
        original(self, batch)
        if self.state.step == STOPPED and rank() == world() - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Trainer, "_train_on", train_step), pytest.raises(Interrupted):
        run(out, parallel)


def slowly(out: Path) -> tuple[list[tuple[int, bool]], str]:
    """Train while the last process's part of step 5 takes until step 8, and its part of step 10 finds the disk full.

    Return of each step whether the checkpoint of step 5 was there after it, and what was said.
    """
    originals, late, seen = (Trainer._train_on, tensors.write_tensors), threading.Event(), []

    def train_step(self: Trainer, batch: Batch) -> None:
        originals[0](self, batch)
        seen.append((self.state.step, (out / "checkpoints" / "step-00000005").exists()))
        if self.state.step == 8:
            late.set()

    def write(path: Path, *arguments: Any) -> None:
        if rank() == 1 and "step-00000005" in str(path):
            assert late.wait(60)
        if rank() == 1 and "step-00000010" in str(path):
            raise OSError(28, "No space left on device")
        originals[1](path, *arguments)

    with (
        mock.patch.object(Trainer, "_train_on", train_step),
        mock.patch.object(tensors, "write_tensors", write),
    ):
        said = run(out)
    return seen, said


def measured(out: Path) -> str:
    """Train with an evaluation that fails the first time, then again; return how this process heard of the failure."""

    def broken(encoder: Encoder) -> list[Any]:
        raise RuntimeError("no such data set")

    gathered: list[dict[str, Tensor]] = []
    whole_weights = Shards.whole_weights

    def kept(encoder: Encoder) -> list[Any]:
        assert not gathered[-1], "there is one copy of the weights while they are measured"
        (newest,) = filter(None, [checkpoint.newest_good(out / "checkpoints", damaged)])
        with open(out / "safe.txt", "a") as file:
            file.write(f"{newest.name}\n")
        tensors.write_tensors(out / "measured.safetensors", encoder.model.state_dict())
        return []

    def gather(self: Shards, **where: bool) -> dict[str, Tensor]:
        gathered.append(whole_weights(self, **where))
        return gathered[-1]

    quiet = Console(quiet=True)
    with pytest.raises((RuntimeError, ProcessError)) as raised:
        train(config(), ToySource(), out, evaluate=broken, console=quiet)
    with mock.patch.object(Shards, "whole_weights", gather):
        train(config(), ToySource(), out, evaluate=kept, resume=True, console=quiet)
    return str(raised.value)


@dataclass
class Told:
    seen: list[tuple[int, bool]]
    said: str
    passed_over: str
    broken: str


def story(folder: Path) -> Told:
    """What two processes do; the comparing is done outside."""
    seen, said = slowly(folder / "whole")
    stop(folder / "stopped")
    if rank() == 0:
        for name in ("undamaged", "damaged", "ddp"):
            shutil.copytree(folder / "stopped", folder / name)
        (folder / "damaged" / "checkpoints" / "step-00000007" / PARTS[1]).unlink()
    dist.barrier()
    run(folder / "undamaged")
    passed_over = run(folder / "damaged")
    run(folder / "ddp", "ddp")
    run(folder / "from-one")
    return Told(seen, said, passed_over, measured(folder / "measured"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def told(folder) -> list[Told]:
    stop(folder / "from-one", "ddp")
    return run_on(2, story, folder)


def weights(run: Path) -> dict[str, Tensor]:
    return tensors.read_tensors(run / "checkpoints" / LAST / "model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_each_process_writes_its_part_while_training_goes_on(folder, told) -> None:
    path = folder / "whole" / "checkpoints"
    assert sorted(p.name for p in (path / LAST).iterdir()) == PARTS
    sizes = [(path / LAST / name).stat().st_size for name in PARTS[:4]]
    assert max(sizes[2:]) < 0.75 * sum(sizes[2:])
    assert checkpoint.newest_good(path, damaged) == path / LAST
    assert [there for step, there in told[0].seen if step <= 8 or step > 10] == [False] * 8 + [True] * 6


def test_a_full_disk_of_one_process_costs_the_checkpoint_and_not_the_run(folder, told) -> None:
    names = sorted(p.name for p in (folder / "whole" / "checkpoints").iterdir())
    assert names == ["step-00000005", "step-00000015", LAST]
    assert "warning: The checkpoint of step 10 could not be written" in told[0].said


def test_a_resumed_run_equals_the_uninterrupted_one(folder, told) -> None:
    assert same(weights(folder / "undamaged"), weights(folder / "whole"))


def test_a_missing_part_is_passed_over_by_all(folder, told) -> None:
    assert "model-00002-of-00002.safetensors is damaged" in told[0].passed_over
    assert "continuing from step 5 of 16" in told[0].passed_over
    assert same(weights(folder / "damaged"), weights(folder / "whole"))


def test_parts_go_on_whole_and_the_other_way_round(folder, told) -> None:
    assert "model.safetensors" in os.listdir(folder / "ddp" / "checkpoints" / LAST)
    assert sorted(os.listdir(folder / "from-one" / "checkpoints" / LAST)) == PARTS
    for name in ("ddp", "from-one"):
        close(weights(folder / name), weights(folder / "whole"))


def test_one_process_goes_on(folder, told) -> None:
    shutil.copytree(folder / "stopped", folder / "alone")
    assert "continuing from step 7 of 16" in run(folder / "alone")
    close(weights(folder / "alone"), weights(folder / "whole"))


@pytest.mark.slow
def test_four_processes_go_on(folder, told) -> None:
    shutil.copytree(folder / "stopped", folder / "four")
    assert "continuing from step 7 of 16" in run_on(4, run, folder / "four")[0]
    close(weights(folder / "four"), weights(folder / "whole"))


def test_what_a_kill_leaves_is_no_checkpoint(folder, told) -> None:
    """Half of the parts, under the temporary name, by more processes than go on."""
    shutil.copytree(folder / "stopped", folder / "killed")
    checkpoints = folder / "killed" / "checkpoints"
    left = checkpoints / f"{checkpoint.TEMPORARY}step-00000010"
    left.mkdir()
    (left / "model-00004-of-00004.safetensors").write_bytes(b"half")
    run(folder / "killed")
    whole = ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert sorted(os.listdir(checkpoints / "step-00000010")) == whole
    assert not left.exists()


def shipped(run: Path) -> dict[str, Tensor]:
    """Return the model's weights of a run's last checkpoint, without what is the objective's."""
    return {name: value for name, value in weights(run).items() if not name.startswith("objective.")}


def test_whole_weights_are_measured(folder, told) -> None:
    found = tensors.read_tensors(folder / "measured" / "measured.safetensors")
    assert same(found, shipped(folder / "measured"))
    assert same(found, shipped(folder / "whole"))


def test_a_step_is_safe_before_it_is_measured(folder, told) -> None:
    assert (folder / "measured" / "safe.txt").read_text().split() == ["step-00000008", LAST]


def test_a_broken_evaluation_costs_no_weights(folder, told) -> None:
    assert "no such data set" in told[0].broken
    assert "Another process of the run has failed" in told[1].broken
    path = folder / "measured" / "checkpoints" / "step-00000008"
    assert sorted(p.name for p in path.iterdir()) == PARTS


@pytest.mark.parametrize("part", PARTS[:4])
def test_a_flipped_bit_is_noticed(folder, told, tmp_path, part) -> None:
    shutil.copytree(folder / "stopped" / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / "step-00000007" / part
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    warned: list[CheckpointError] = []
    good = tmp_path / "checkpoints" / "step-00000005"
    assert checkpoint.newest_good(tmp_path / "checkpoints", warned.append) == good
    assert part in str(warned[0])


def test_such_a_run_loads_as_any_other(folder, told) -> None:
    encoder = openslip.load(folder / "whole")
    assert same(dict(encoder.model.state_dict()), shipped(folder / "whole"))
    assert encoder.encode_image(ToySource()[0].image).shape == (1, 8)


def test_nothing_of_it_is_a_pickle(folder, told) -> None:
    files = [p for p in (folder / "whole").rglob("*") if p.is_file() and p.name != "lock"]
    assert {p.suffix for p in files} == {".safetensors", ".json", ".jsonl", ".toml"}


def clipped(device: str) -> tuple[float, float]:
    """Return the norm of gradients that are spread over CPUs and of others on a device, before and after clipping."""
    mesh = dist.init_device_mesh("cpu", (world(),))
    model: Any = torch.nn.Module()
    model.spread = torch.nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Shard(0)]))
    model.spread.grad = distribute_tensor(torch.full((4,), 2.0), mesh, [Shard(0)])
    model.whole = torch.nn.Parameter(torch.zeros(1, device=device))
    model.whole.grad = torch.full((1,), 3.0, device=device)
    return float(gradient_norm(model, 1.0)), float(gradient_norm(model))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_offloaded_gradients_are_clipped_with_the_others(device) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for before, after in run_on(2, clipped, device):
        assert (before, after) == (pytest.approx(5.0), pytest.approx(1.0, rel=1e-4))
