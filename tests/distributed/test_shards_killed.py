"""A process that is killed in the middle of writing its part of a checkpoint, under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distributed.ranks import run_on
from distributed.tiny import TINY
from openslip.cli import main
from openslip.training.saving.tensors import read_tensors

OPTIONS = [*TINY, "--data.train", "scenes:train:64", "--training.epochs", "2", "--training.parallel", "fsdp"]
KILLED = """
import os, signal, sys
from pathlib import Path
from openslip.cli import main
from openslip.training.saving import tensors

original, done = tensors.write_tensors, Path(sys.argv[1])

def write(path, *arguments):
    original(path, *arguments)
    if os.environ["RANK"] == "1" and "step-00000008" in str(path) and not done.exists():
        done.touch()
        os.kill(os.getpid(), signal.SIGKILL)

tensors.write_tensors = write
sys.exit(main(sys.argv[2:]))
"""


def train(out: Path) -> int:
    return main(["train", *OPTIONS, "--out", str(out)])


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_tensors(out / "checkpoints" / "step-00000016" / "model.safetensors")


@pytest.mark.slow
def test_half_a_checkpoint_costs_nothing(tmp_path) -> None:
    assert run_on(2, train, tmp_path / "whole") == [0, 0]
    (tmp_path / "killed.py").write_text(KILLED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["--max-restarts", "1", str(tmp_path / "killed.py"), str(tmp_path / "done"), "train", *OPTIONS]
    done = subprocess.run(
        [*launch, "--out", str(tmp_path / "run"), "--resume"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists()
    assert "continuing from step 4 of 16" in done.stderr
    found, expected = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
