import gc
import time
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch

from openslip.errors import CheckpointError
from openslip.processes import Processes
from openslip.training.saving import checkpoint
from openslip.training.saving.tensors import Snapshot
from openslip.training.saving.writer import BackgroundWriter
from training.runs import fail

ALONE = Processes()
SNAPSHOT = Snapshot({"w": torch.ones(3)}, {"w|exp_avg": torch.zeros(3)})


def test_a_failure_is_reported_and_costs_nothing_but_itself(tmp_path) -> None:
    told: list[CheckpointError] = []
    writer = BackgroundWriter(tmp_path, ALONE, told.append)

    def fail(checksums):
        raise CheckpointError("The disk is full")

    writer.start(1, lambda: SNAPSHOT, fail)
    writer.start(2, lambda: SNAPSHOT, lambda checksums: checkpoint.commit(tmp_path, 2, {}, checksums))
    writer.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]
    assert [str(e) for e in told] == [str(CheckpointError("The disk is full"))]
    writer.start(3, lambda: SNAPSHOT, fail)
    with pytest.raises(CheckpointError, match="disk is full"):
        writer.finish()
    writer.finish()
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_a_lone_process_is_never_waited_for(tmp_path) -> None:
    writer = BackgroundWriter(tmp_path, ALONE, fail)
    assert not writer.busy
    writer.settle()
    writer.start(1, lambda: SNAPSHOT, lambda checksums: checkpoint.commit(tmp_path, 1, {}, checksums))
    assert not writer.busy
    writer.finish()
    writer.close()
    assert checkpoint.newest_good(tmp_path, fail) == tmp_path / "step-00000001"


def test_one_snapshot_at_a_time_is_in_memory(tmp_path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def take() -> Snapshot:
        gc.collect()
        assert not any(tensor() is not None for tensor in alive)
        weights = torch.ones(3)
        alive.append(weakref.ref(weights))
        return Snapshot({"w": weights}, {})

    def commit(step: int, checksums: Mapping[str, str]) -> Path:
        time.sleep(0.1)
        return checkpoint.commit(tmp_path, step, {}, checksums)

    writer = BackgroundWriter(tmp_path, ALONE, fail)
    for step in (1, 2, 3):
        writer.start(step, take, partial(commit, step))
    writer.finish()
    writer.close()
    assert len(checkpoint.list_checkpoints(tmp_path)) == len(alive) == 3
