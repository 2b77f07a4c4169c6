"""A job of one machine or two: a second one joins, and is lost, and the job goes on with what there is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from torch.distributed.run import main as torchrun

from distributed.ranks import run_on
from distributed.tiny import TINY
from forked import Command
from openslip.cli import main
from openslip.training.saving.run import read_lines

OPTIONS = [
    *TINY, "--data.train", "scenes:train:80", "--training.epochs", "5", "--training.log-every", "2",
    "--optimizer.lr", "3e-4",
]  # fmt: skip
# A run that is in no hurry until a file is there.
SLOWLY = """
import sys, time
from pathlib import Path
from openslip.cli import main
from openslip.training.trainer import Trainer

original, hurry = Trainer._train_on, Path(sys.argv[1])

def train_step(self, batch):
    original(self, batch)
    if not hurry.exists():
        time.sleep(0.5)

Trainer._train_on = train_step
sys.exit(main(sys.argv[2:]))
"""


class Job:
    """A run on one or two machines, all of which are this one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hurry = folder, folder / "hurry"
        (folder / "slowly.py").write_text(SLOWLY)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]

    def start(self, number: int) -> Command:
        """Start torchrun on a machine. They meet at number 0; each may start its process anew once."""
        launch = [
            "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "1", "--local-addr", "localhost",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{self.port}", "--rdzv-id", "toy",
            "--rdzv-conf", f"is_host={int(number == 0)},last_call_timeout=3",
        ]  # fmt: skip
        train = ["train", *OPTIONS, "--out", str(self.folder / "run"), "--resume"]
        command = [*launch, str(self.folder / "slowly.py"), str(self.hurry), *train]
        environment = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        return Command(torchrun, command, self.folder / f"machine-{number}.txt", environment)

    def newest(self) -> int:
        """Return the step of the newest checkpoint."""
        names = [path.name for path in (self.folder / "run" / "checkpoints").glob("step-*")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_machine_joins_and_is_lost(tmp_path) -> None:
    """A machine that joins takes none of the starts that `--max-restarts` allows; one that is lost takes one."""
    job = Job(tmp_path)
    assert run_on(1, main, ["train", *OPTIONS, "--out", str(tmp_path / "alone")]) == [0]
    with job.start(0) as first:
        first.wait_for(lambda: job.newest() >= 4)
        with job.start(1) as second:
            first.wait_for(lambda: "2 processes" in first.output.read_text() + second.output.read_text())
            joined = job.newest()
            first.wait_for(lambda: job.newest() >= joined + 4)
        assert job.newest() < 40
        job.hurry.touch()
        status, said = first.wait(200)
    assert status == 0, said
    assert "the state is saved" in said
    assert "continuing from step" in said.partition("cannot be reached")[2]
    found, expected = (read_lines(tmp_path / run / "metrics.jsonl") for run in ("run", "alone"))
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for line, other in zip(found, expected):
        assert line["loss"] == pytest.approx(other["loss"], rel=2e-3)
