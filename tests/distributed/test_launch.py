"""The launch files of the docs: the batch script runs, with stand-ins for SLURM's commands; the manifest is sound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "docs" / "launch"
# Runs its arguments here, if it is told how many CPUs they may use.
SRUN = """\
[ "$1 $2" = "--cpus-per-task 64" ] || { echo "srun $*: it would bind to one CPU" >&2; exit 1; }
shift 2
exec "$@"
"""


def test_the_batch_script_starts_what_slurm_gives(tmp_path) -> None:
    """`torchrun` writes its arguments down; the nodes are more than a pipe holds."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {
        "scontrol": "seq -f node%.0f 7 20007",
        "srun": SRUN,
        "torchrun": f'printf "%s\\n" "$@" > {tmp_path}/said',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "64",
    }
    script = ["bash", str(LAUNCH / "slurm.sbatch"), "small-data", "--data.train", "/shared/shards-*.tar"]
    subprocess.run(script, check=True, env=environment)
    said = (tmp_path / "said").read_text().splitlines()
    assert dict(zip(said[:-6:2], said[1:-6:2])) == {
        "--nnodes": "2",
        "--nproc-per-node": "8",
        "--rdzv-id": "42",
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": "node7:29500",
        "--max-restarts": "3",
    }
    assert said[-6:] == [
        "openslip",
        "train",
        "small-data",
        "--data.train",
        "/shared/shards-*.tar",
        "--resume",
    ]


@pytest.mark.slow
def test_the_batch_script_trains(tmp_path) -> None:
    """With torchrun itself: two processes of one machine."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text("#!/bin/sh\necho localhost\n")
    (commands / "srun").write_text(f"#!/bin/sh\n{SRUN}")
    (commands / "torchrun").write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "43",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLIP_PORT": "0",
    }
    options = [
        "scenes-tiny", "--data.train", "scenes:train:32", "--training.batch", "16", "--training.epochs", "1",
        "--views.size", "16", "--data.workers", "0", "--evaluation.tasks", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), *options],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 processes (DDP, 8 of a batch each)" in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()


def test_the_manifest_is_a_job_that_resumes() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((LAUNCH / "pytorchjob.yaml").read_text())
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["command"] == ["torchrun"]
    assert container["args"][:3] == ["-m", "openslip", "train"]
    assert container["args"][-1] == "--resume"
    assert int(job["spec"]["nprocPerNode"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert worker["replicas"] == job["spec"]["elasticPolicy"]["maxReplicas"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in worker["template"]["spec"]["volumes"]}
