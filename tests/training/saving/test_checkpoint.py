import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from openslip.errors import CheckpointError
from openslip.training.saving import checkpoint
from training.runs import fail

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}
MOMENTS = {"a.weight|exp_avg": torch.ones(2, 3)}


def save(folder, step, score=None):
    return checkpoint.save(folder, step, WEIGHTS, MOMENTS, {"score": score})


def test_round_trip(tmp_path) -> None:
    weights, moments, state = checkpoint.load(save(tmp_path, 12, 0.5))
    assert {**state, "checksums": ...} == {"score": 0.5, "step": 12, "checksums": ...}
    assert all(torch.equal(weights[k], v) for k, v in WEIGHTS.items())
    assert all(torch.equal(moments[k], v) for k, v in MOMENTS.items())


def test_keeps_the_last_and_the_best(tmp_path) -> None:
    for step, score in enumerate([0.1, 0.9, 0.9, 0.3, None, 0.2]):
        save(tmp_path, step, score)
    checkpoint.prune(tmp_path, keep=2)
    assert [int(p.name[5:]) for p in checkpoint.list_checkpoints(tmp_path)] == [2, 4, 5]
    assert checkpoint.best(checkpoint.list_checkpoints(tmp_path)) == tmp_path / "step-00000002"
    assert len(list(tmp_path.iterdir())) == 3


def test_saving_again_replaces(tmp_path) -> None:
    save(tmp_path, 3, 0.1)
    save(tmp_path, 3, 0.2)
    assert checkpoint.read_state(tmp_path / "step-00000003")["score"] == 0.2
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_a_failed_replacement_leaves_the_one_of_before(tmp_path, monkeypatch) -> None:
    save(tmp_path, 3, 0.1)
    rename = os.rename

    def refuse(old: os.PathLike[str], new: os.PathLike[str]) -> None:
        if os.fspath(old).endswith(f"{checkpoint.TEMPORARY}step-00000003"):
            raise OSError(errno.EIO, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save(tmp_path, 3, 0.2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]
    assert checkpoint.read_state(tmp_path / "step-00000003")["score"] == 0.1


def test_a_kill_in_the_middle_of_a_replacement_costs_nothing(tmp_path, monkeypatch) -> None:
    save(tmp_path, 3, 0.1)
    rename = os.rename

    def killed(old: os.PathLike[str], new: os.PathLike[str]) -> None:
        rename(old, new)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 3, 0.2)
    assert checkpoint.list_checkpoints(tmp_path) == []
    assert checkpoint.newest_good(tmp_path, fail) == tmp_path / "step-00000003"
    assert checkpoint.read_state(tmp_path / "step-00000003")["score"] == 0.1
    save(tmp_path, 3, 0.2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_a_failed_write_leaves_the_earlier_one(tmp_path, monkeypatch) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(CheckpointError, match="No space left on device.*--resume"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_full_disk_in_the_middle_of_a_file(tmp_path) -> None:
    """The system itself refuses the write: a limit on file sizes stands in for the full disk."""
    code = f"""
import resource, signal, torch
from pathlib import Path
from openslip.errors import CheckpointError
from openslip.training.saving import checkpoint
folder = Path({str(tmp_path)!r})
small, large = {{"w": torch.zeros(10)}}, {{"w": torch.zeros(1_000_000)}}
checkpoint.save(folder, 1, small, small, {{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    checkpoint.save(folder, 2, large, small, {{}})
except CheckpointError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("refused: The checkpoint of step 2 could not be written"), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.load(tmp_path / "step-00000001")


def test_a_leftover_of_a_kill_is_no_checkpoint(tmp_path) -> None:
    (tmp_path / f"{checkpoint.TEMPORARY}step-00000009").mkdir(parents=True)
    (tmp_path / "step-00000008").mkdir()
    assert checkpoint.list_checkpoints(tmp_path) == []
    save(tmp_path, 10)
    assert not (tmp_path / f"{checkpoint.TEMPORARY}step-00000009").exists()


def test_damaged_files_are_refused(tmp_path) -> None:
    path = save(tmp_path, 1)
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(path)


def test_a_damaged_checkpoint_is_passed_over(tmp_path) -> None:
    """One flipped bit, a file cut short, a missing one: told by the checksums, and the one before is taken."""
    good, flipped, cut, missing = (save(tmp_path, step, None) for step in (1, 2, 3, 4))
    data = bytearray((flipped / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (flipped / "model.safetensors").write_bytes(data)
    os.truncate(cut / "optimizer.safetensors", 40)
    (missing / "model.safetensors").unlink()
    told: list[CheckpointError] = []
    assert checkpoint.newest_good(tmp_path, told.append) == good
    assert [str(e.got).split(":")[0] for e in told] == [
        str(missing / "model.safetensors"), str(cut / "optimizer.safetensors"), str(flipped / "model.safetensors"),
    ]  # fmt: skip
    words = f"continues from {good.name}; the damaged one is now damaged-step-0000000"
    assert all(words in str(error) for error in told)
    (good / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is damaged.*No other checkpoint is good"):
        checkpoint.newest_good(tmp_path, told.append)
    assert checkpoint.newest_good(tmp_path / "nothing", told.append) is None


def test_a_damaged_checkpoint_takes_no_good_ones_place(tmp_path) -> None:
    """It lies in the abandoned future, or between two good ones, or had the best score."""
    for step, score in ((4, 0.5), (5, 0.1), (6, 0.9), (10, 0.2)):
        save(tmp_path, step, score)
    for step in (6, 10):
        (tmp_path / f"step-{step:08d}" / "model.safetensors").unlink()
    assert checkpoint.newest_good(tmp_path, lambda error: None) == tmp_path / "step-00000005"
    save(tmp_path, 7, 0.3)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "damaged-step-00000006", "damaged-step-00000010", "step-00000004", "step-00000005", "step-00000007",
    ]  # fmt: skip


def test_an_old_state_that_cannot_be_read_is_not_the_best(tmp_path) -> None:
    for step, score in ((1, 0.9), (2, 0.5), (3, 0.1), (4, None)):
        save(tmp_path, step, score)
    (tmp_path / "step-00000001" / "state.json").write_text("{")
    checkpoint.prune(tmp_path, keep=1)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]


def test_what_cannot_be_removed_is_said(tmp_path, monkeypatch) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    rename = os.rename

    def refuse(old: os.PathLike[str], new: os.PathLike[str]) -> None:
        if os.fspath(old).endswith("1"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError, match="cannot be removed.*step-00000001.*busy"):
        checkpoint.prune(tmp_path, keep=1)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == ["step-00000001", "step-00000003"]


def test_what_cannot_be_deleted_is_no_checkpoint(tmp_path, monkeypatch) -> None:
    for step in (1, 2):
        save(tmp_path, step)

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        patch.setattr(os, "rmdir", refuse)
        checkpoint.prune(tmp_path, keep=1)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == ["step-00000002"]
    save(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "{}",
        lambda text: "[]",
        lambda text: text[:-4],
        lambda text: text.replace("0.5", "0.7"),
        lambda text: text.replace('"step": 2', '"step": 3'),
        lambda text: json.dumps({name: v for name, v in json.loads(text).items() if name != "checksums"}),
        lambda text: json.dumps(json.loads(text) | {"checksums": None}),
        lambda text: json.dumps({"step": 2, "checksums": None}),
        lambda text: json.dumps({"step": 3, "checksums": {}}),
        lambda text: text.replace("score", "sc\udcffore"),
    ],
)
def test_a_damaged_state_is_passed_over(tmp_path, change) -> None:
    good, path = save(tmp_path, 1, 0.5), save(tmp_path, 2, 0.5) / "state.json"
    path.write_text(change(path.read_text()), errors="surrogateescape")
    told: list[CheckpointError] = []
    assert checkpoint.newest_good(tmp_path, told.append) == good
    assert "state cannot be read" in str(told[0])


def test_a_state_without_a_checksum_of_its_own_is_an_earlier_versions(tmp_path) -> None:
    path = save(tmp_path, 1, 0.5) / "state.json"
    path.write_text(json.dumps({"step": 1, "score": 0.5}))
    assert checkpoint.newest_good(tmp_path, fail) == path.parent


def test_a_states_checksum_survives_its_encoding(tmp_path) -> None:
    state = {"loss": float("nan"), "window": {3: (0.1, 1e-300)}, "words": "été \u2028", "none": None}
    found = checkpoint.read_state(checkpoint.save(tmp_path, 1, WEIGHTS, MOMENTS, state))
    assert found["window"] == {"3": [0.1, 1e-300]}


def test_a_copy_beside_the_checkpoints_is_none(tmp_path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    for name in ("step-00000001-mine", "step-mine", "step-9"):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    assert checkpoint.newest_good(tmp_path, fail) == tmp_path / "step-00000002"
    checkpoint.prune(tmp_path, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000001-mine", "step-00000002", "step-9", "step-mine",
    ]  # fmt: skip
    checkpoint.verify(tmp_path / "step-00000001-mine")


def test_a_checkpoint_without_its_state_is_passed_over_and_not_forgotten(tmp_path) -> None:
    """As an interrupted copy leaves it. Where there is no other, people decide, and training does not begin anew."""
    told = []
    good = save(tmp_path, 1)
    (save(tmp_path, 2) / "state.json").unlink()
    assert checkpoint.newest_good(tmp_path, told.append) == good
    assert [error.got for error in told] == [str(tmp_path / "step-00000002")]
    (good / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state cannot be read.*step-00000001"):
        checkpoint.newest_good(tmp_path, told.append)


def test_a_folder_that_may_not_be_changed_is_said(tmp_path, monkeypatch) -> None:
    """A kill came between the two renames of a replacement, and now the disk is read-only."""
    good = save(tmp_path, 1)
    good.rename(tmp_path / f"{checkpoint.TEMPORARY}{good.name}{checkpoint.REPLACED}")

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with pytest.raises(CheckpointError, match="Read-only file system"):
            checkpoint.newest_good(tmp_path, fail)
    assert checkpoint.newest_good(tmp_path, fail) == good


def scored(folder, step, of, **scores):
    """Save a checkpoint that was measured at its step, and chosen by `of`: NAME, or NAME; DATA."""
    measured = {name: f"{name}; {of.partition('; ')[2]}" for name in scores}
    name = of.partition("; ")[0]
    state = {
        "score": scores.get(name),
        "score_of": measured.get(name, ""),
        "scores": scores,
        "measured": measured,
    }
    return checkpoint.save(folder, step, WEIGHTS, MOMENTS, state)


def names(folder) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(folder)]


def best_step(folder) -> int:
    found = checkpoint.best(checkpoint.list_checkpoints(folder))
    assert found is not None
    return checkpoint.step_of(found)


def test_scores_of_one_metric_are_compared_also_where_another_was_chosen_by(tmp_path) -> None:
    scored(tmp_path, 1, "r10; a.csv", r1=0.5, r10=0.6)
    scored(tmp_path, 2, "r10; a.csv", r1=0.1, r10=0.9)
    assert best_step(tmp_path) == 2
    scored(tmp_path, 3, "r1; a.csv", r1=0.4, r10=0.7)
    assert best_step(tmp_path) == 1
    checkpoint.prune(tmp_path, keep=1)
    assert names(tmp_path) == [1, 3]


def test_scores_on_other_data_are_not_compared_and_the_best_by_them_stays(tmp_path) -> None:
    scored(tmp_path, 1, "r1; a.csv", r1=0.8)
    scored(tmp_path, 2, "r1; a.csv", r1=0.9)
    scored(tmp_path, 3, "r1; b.csv", r1=0.2)
    scored(tmp_path, 4, "r1; b.csv", r1=0.1)
    assert best_step(tmp_path) == 3
    checkpoint.prune(tmp_path, keep=1)
    assert names(tmp_path) == [2, 3, 4]


def test_scores_of_earlier_versions_are_compared_among_themselves(tmp_path) -> None:
    save(tmp_path, 1, 0.9)
    save(tmp_path, 2, 0.5)
    assert best_step(tmp_path) == 1
    scored(tmp_path, 3, "r1; a.csv", r1=0.2)
    assert best_step(tmp_path) == 3
    checkpoint.prune(tmp_path, keep=1)
    assert names(tmp_path) == [1, 3]


@pytest.mark.parametrize(
    "told", [{"measured": 3}, {"scores": []}, {"score_of": 5}, {"measured": {"r1": None}}]
)
def test_scores_that_say_nothing_of_themselves_break_nothing(tmp_path, told) -> None:
    state = {"score": 0.5, "score_of": "r1", "scores": {"r1": 0.5}, "measured": {"r1": "r1"}} | told
    checkpoint.save(tmp_path, 1, WEIGHTS, MOMENTS, state)
    assert best_step(tmp_path) == 1
