"""Files of tensors, whole and in parts, without processes: what they write is put together, or refused in words."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from openslip.errors import CheckpointError
from openslip.training.saving.tensors import Snapshot, read_into, read_tensors, stored_like, write_tensors

WHOLE = {"a.weight": torch.arange(15.0).reshape(5, 3), "b": torch.tensor(7), "c": torch.ones(2).bfloat16()}
MOMENTS = {"a.weight|exp_avg": torch.arange(15.0).reshape(5, 3) / 3, "b|step": torch.tensor(4.0)}


@pytest.fixture
def parts(tmp_path) -> Path:
    """Five rows over three parts, as processes would write them: 2, 2 and 1; what is not spread is the first's."""
    for part, rows in enumerate((slice(0, 2), slice(2, 4), slice(4, 5))):
        model = {"a.weight": WHOLE["a.weight"][rows]} | ({} if part else {"b": WHOLE["b"], "c": WHOLE["c"]})
        moments = {"a.weight|exp_avg": MOMENTS["a.weight|exp_avg"][rows]}
        moments |= {} if part else {"b|step": MOMENTS["b|step"]}
        offsets = {"a.weight": (rows.start, 0), "a.weight|exp_avg": (rows.start, 0)}
        Snapshot(model, moments, offsets, part, 3).write(tmp_path)
    return tmp_path


def test_parts_are_put_together(parts) -> None:
    assert sorted(p.name for p in parts.glob("model*")) == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    for name, expected in (("model", WHOLE), ("optimizer", MOMENTS)):
        found = read_tensors(parts / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in expected.items())


@pytest.mark.parametrize("whole", [False, True])
def test_places_are_filled(parts, tmp_path, whole) -> None:
    folder = parts
    if whole:
        folder = tmp_path / "whole"
        folder.mkdir()
        Snapshot(WHOLE, MOMENTS).write(folder)
    stored = stored_like(folder)
    assert {n: (t.shape, t.dtype) for n, t in stored.items()} == {
        n: (t.shape, t.dtype) for n, t in (WHOLE | MOMENTS).items()
    }
    places = {name: torch.empty_like(t, device="cpu") for name, t in stored.items()}
    read_into(folder, places)
    assert all(torch.equal(places[n], t) for n, t in (WHOLE | MOMENTS).items())


def test_a_missing_part_is_said(parts) -> None:
    (parts / "model-00002-of-00003.safetensors").unlink()
    for read in (lambda: read_tensors(parts / "model.safetensors"), lambda: stored_like(parts)):
        with pytest.raises(CheckpointError, match="It should have 3 parts, found: 2"):
            read()


def test_a_part_cut_short_is_said(parts) -> None:
    path = parts / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(parts / "model.safetensors")


def test_places_of_another_shape_are_refused(parts) -> None:
    with pytest.raises(CheckpointError, match="Size mismatch"):
        read_into(parts, {"a.weight": torch.zeros(6, 3)})


def test_whole_files_carry_no_trace_of_parts(tmp_path) -> None:
    write_tensors(tmp_path / "model.safetensors", WHOLE)
    assert b"DCP" not in (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "offsets",
    [
        [],
        None,
        5,
        {"a.weight": None},
        {"a.weight": {"saved_offsets": None}},
        {"a.weight": {"saved_offsets": 2}},
        {"a.weight": {"saved_offsets": ["2", "0"]}},
        {"a.weight": {"saved_offsets": [2]}},
        {"a.weight": {"saved_offsets": [10**30, 0]}},
        {"a.weight": {"saved_offsets": [3, 0]}},  # leaves a row that no file has
        {"a.weight": {"saved_offsets": [0, 0]}},  # two slices of the same rows
        {"a.weight": {"saved_offsets": [-2, 0]}},
    ],
)
def test_slices_that_belong_nowhere_are_refused(tmp_path, offsets) -> None:
    for part, rows in enumerate((slice(0, 2), slice(2, 4))):
        slices = {"a.weight": {"saved_offsets": [0, 0]}} if part == 0 else offsets
        save_file(
            {"a.weight": WHOLE["a.weight"][rows].contiguous()},
            tmp_path / f"model-0000{part + 1}-of-00002.safetensors",
            {"DCP_SHARDING_INFO": json.dumps(slices)},
        )
    write_tensors(tmp_path / "optimizer.safetensors", MOMENTS)
    for read in (lambda: read_tensors(tmp_path / "model.safetensors"), lambda: stored_like(tmp_path)):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read()


def test_the_umask_decides_who_may_read_weights(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path / "whole.safetensors", WHOLE)
        for path in Snapshot(WHOLE, MOMENTS, part=1, parts=2).write(tmp_path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "whole.safetensors").stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_files_of_equal_weights_and_texts_are_equal(tmp_path) -> None:
    """The library writes several texts in an order of its own, which differs from process to process."""
    for name in ("a", "b"):
        Snapshot(WHOLE, MOMENTS, metadata={"openslip": "text"}).write(_made(tmp_path / name))
    header = (tmp_path / "a" / "model.safetensors").read_bytes()[8:]
    assert header.startswith(b'{"__metadata__":{"openslip":"text"},')
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def _made(folder):
    folder.mkdir()
    return folder
