"""Asked to stop, as before a preemption, the processes of a run leave the state of the step they were at."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

from distributed.tiny import TINY
from openslip.training.saving.checkpoint import newest_good

SELDOM = {"--checkpoint.every-steps": "100000"}
OPTIONS = [
    *(SELDOM.get(before, word) for before, word in pairwise(["", *TINY])),
    "--data.train", "scenes:train:64", "--training.epochs", "1000", "--checkpoint.every-minutes", "0",
    "--training.log-every", "2",
]  # fmt: skip


def test_the_state_is_saved_within_half_a_minute(tmp_path) -> None:
    """Half a minute is what schedulers give before they kill, and torchrun itself, which does so here."""
    run = tmp_path / "run"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    agent = subprocess.Popen(
        [sys.executable, *launch, "-m", "openslip", "train", *OPTIONS, "--out", str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        limit = time.monotonic() + 200
        while not (run / "metrics.jsonl").exists():
            assert agent.poll() is None, agent.stdout and agent.stdout.read()
            assert time.monotonic() < limit
            time.sleep(0.05)
        agent.send_signal(signal.SIGTERM)
        output, _ = agent.communicate(timeout=100)
    finally:
        if agent.poll() is None:
            agent.terminate()
            agent.communicate(timeout=60)
    stopped = re.search(r"Stopped after step ([\d,]+) of 8,000; the state is saved", output)
    assert stopped, output
    assert agent.returncode != 0
    warnings: list[object] = []
    (newest,) = filter(None, [newest_good(run / "checkpoints", warnings.append)])
    assert newest.name == f"step-{int(stopped[1].replace(',', '')):08}"
    assert not warnings
