"""Two hosts train together; one is cut off, or lost, and comes back: the job's weights are those of an undisturbed one.

The hosts are network namespaces of this machine (`hosts.py`). The longest wait is bounded everywhere.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distributed.hosts import Host, two_hosts, why_not
from distributed.tiny import TINY

OPTIONS = [*TINY, "--data.train", "scenes:train:120", "--training.epochs", "3"]
LAST = 45
LIMIT = 240  # seconds that anything may take on a busy machine; where nobody says for how long, they wait for 1,800

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(4 * LIMIT),
    pytest.mark.skipif(bool(reason := why_not()), reason=reason or "hosts can be made"),
]


class Job:
    """A run on two hosts, the first of which is where they meet."""

    def __init__(self, folder: Path, hosts: tuple[Host, Host], seconds: int = 0) -> None:
        self.folder, self.hosts = folder, hosts
        self.environment = {"SLIP_TIMEOUT": str(seconds)} if seconds else {}
        # Else one that comes back waits for an address that nobody tells again (torch 2.15).
        self.environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        self.agents = [self.start(number) for number in (0, 1)]

    def start(self, number: int) -> subprocess.Popen[bytes]:
        first, host = self.hosts[0], self.hosts[number]
        launch = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first.address}:29500", "--rdzv-id", "toy",
            "--rdzv-conf", f"is_host={int(host is first)}", "--local-addr", host.address, "--max-restarts", "3",
        ]  # fmt: skip
        train = ["-m", "openslip", "train", *OPTIONS, "--out", str(self.folder / "run"), "--resume"]
        return host.start([*launch, *train], self.folder / f"host-{number}.txt", self.environment)

    def said(self, number: int = 0) -> str:
        return (self.folder / f"host-{number}.txt").read_text()

    def has(self, step: int) -> bool:
        return (self.folder / "run" / "checkpoints" / f"step-{step:08}").exists()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            running = time.monotonic() < end and any(agent.poll() is None for agent in self.agents)
            assert running, f"{self.said(0)}\n\n{self.said(1)}"
            time.sleep(0.05)

    def weights(self) -> bytes:
        """Wait for the end, which must be a good one; return the last checkpoint's."""
        codes = [agent.wait(LIMIT) for agent in self.agents]
        assert codes == [0, 0], f"{self.said(0)}\n\n{self.said(1)}"
        return (self.folder / "run" / "checkpoints" / f"step-{LAST:08}" / "model.safetensors").read_bytes()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as pair:
        yield pair


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    with two_hosts() as pair:
        return Job(tmp_path_factory.mktemp("undisturbed"), pair).weights()


def test_a_short_cut_is_waited_out(tmp_path, hosts, undisturbed) -> None:
    job = Job(tmp_path, hosts)
    job.wait_for(lambda: job.has(4))
    hosts[1].pull_the_cable()
    assert not job.has(LAST)
    time.sleep(5)
    hosts[1].plug_it_in()
    assert job.weights() == undisturbed
    assert "continuing from step" not in job.said()


def test_a_long_cut_ends_the_processes_until_it_is_over(tmp_path, hosts, undisturbed) -> None:
    """Longer than they wait for each other; nobody starts anything by hand."""
    job = Job(tmp_path, hosts, seconds=15)
    job.wait_for(lambda: job.has(4))
    hosts[1].pull_the_cable()
    job.wait_for(lambda: all("cannot be reached" in job.said(number) for number in (0, 1)))
    assert not job.has(LAST)
    hosts[1].plug_it_in()
    assert job.weights() == undisturbed
    assert "continuing from step" in job.said()


def test_a_lost_host_that_is_soon_back_need_not_be_noticed(tmp_path, hosts, undisturbed) -> None:
    """All start anew when it joins, for otherwise they would wait for half an hour."""
    job = Job(tmp_path, hosts)
    job.wait_for(lambda: job.has(4))
    hosts[1].pull_the_cable()
    hosts[1].lose_power()
    assert not job.has(LAST)
    time.sleep(2)
    hosts[1].plug_it_in()
    job.agents[1] = job.start(1)
    assert job.weights() == undisturbed
    assert "continuing from step" in job.said()


def test_a_lost_host_is_noticed_and_may_come_back(tmp_path, hosts, undisturbed) -> None:
    """It says nothing when it goes, as in a power cut: the other notices by the time it waits."""
    job = Job(tmp_path, hosts, seconds=15)
    job.wait_for(lambda: job.has(4))
    hosts[1].pull_the_cable()
    hosts[1].lose_power()
    assert not job.has(LAST)
    job.wait_for(lambda: "cannot be reached" in job.said())
    hosts[1].plug_it_in()
    job.agents[1] = job.start(1)
    assert job.weights() == undisturbed
    assert "continuing from step" in job.said()


def test_without_the_host_where_they_meet_the_job_ends_and_can_be_started_again(
    tmp_path, hosts, undisturbed
) -> None:
    hosts[1].give_up_connections_soon()
    job = Job(tmp_path, hosts, seconds=15)
    job.wait_for(lambda: job.has(4))
    hosts[0].pull_the_cable()
    hosts[0].lose_power()
    assert job.agents[1].wait(LIMIT) != 0  # torchrun or its process notices first
    assert not job.has(LAST)
    hosts[0].plug_it_in()
    job.agents = [job.start(number) for number in (0, 1)]
    assert job.weights() == undisturbed
    assert "continuing from step" in job.said()
