"""Features that are kept, on 1, 2 and 4 processes: the same bytes on disk, and the same run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from distributed.ranks import run_on
from openslip.config import Config
from openslip.training import keep_pass
from openslip.training.saving import feature_files
from openslip.training.saving.run import read_lines
from openslip.training.train import train
from toys import ToySource, make_tiny_config, with_loss, with_saved_teacher

SOURCE = ToySource(40, broken=frozenset({3, 21}), silent=frozenset({9}))
Left = tuple[dict[str, bytes], list[float]]
"""What was kept, by the name of the file, and the losses."""


def frozen(kind: str = "ddp") -> Config:
    config = with_loss(make_tiny_config(epochs=3, keep_features=2, parallel=kind), "clip + 1.0 * simclr")
    model = replace(config.model, image=replace(config.model.image, freeze="all"))
    return replace(config, model=model, data=replace(config.data, max_skipped=0.5))


def run(config: Config, out: Path) -> Left:
    """Train with blocks of a few rows, from where the folder is."""
    files: Any = feature_files
    files.BLOCK, keep_pass.SETTLE_SECONDS = 6, 0.0
    torch.set_num_threads(1)
    path = train(config, SOURCE, out, console=Console(quiet=True), resume=True).path
    kept = {file.name: file.read_bytes() for file in (path / feature_files.FOLDER / "train").glob("*")}
    return kept, [line["loss"] for line in read_lines(path / "metrics.jsonl")]


@pytest.fixture(scope="module", autouse=True)
def _as_before() -> Iterator[None]:
    before = feature_files.BLOCK, keep_pass.SETTLE_SECONDS, torch.get_num_threads()
    yield
    feature_files.BLOCK, keep_pass.SETTLE_SECONDS, threads = before
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Left:
    return run(frozen(), tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize(
    ("world", "kind"), [(2, "ddp"), (2, "fsdp"), pytest.param(4, "ddp", marks=pytest.mark.slow)]
)
def test_any_number_of_processes_keeps_the_same(tmp_path, alone, world: int, kind: str) -> None:
    for kept, losses in run_on(world, run, frozen(kind), tmp_path / "run"):
        assert kept == alone[0]
        assert losses == pytest.approx(alone[1], rel=1e-3)


class Ended(Exception):
    pass


def end_early(config: Config, out: Path) -> None:
    """Begin a run, and end it where the first process has written a few blocks."""
    original = feature_files.FeatureFiles.write

    def write(
        self: feature_files.FeatureFiles, outputs: Mapping[str, np.ndarray], records: Iterable[str]
    ) -> None:
        original(self, outputs, records)
        if self.done == 5:
            self.settle()
            raise Ended

    feature_files.FeatureFiles.write = write
    try:
        run(config, out)
    except Ended:
        pass
    finally:
        feature_files.FeatureFiles.write = original


def test_two_processes_keep_what_a_teacher_gives(tmp_path) -> None:
    config = with_loss(make_tiny_config(epochs=3, keep_features=2), "clip + distil")
    config = replace(config, data=replace(config.data, max_skipped=0.5))
    config = with_saved_teacher(config, tmp_path / "teacher")
    alone, losses = run(config, tmp_path / "one")
    for kept, found in run_on(2, run, config, tmp_path / "two"):
        assert kept == alone
        assert found == pytest.approx(losses, rel=1e-3)


def test_two_processes_go_on_with_the_pass_of_one(tmp_path, alone) -> None:
    end_early(frozen(), tmp_path / "run")
    about = tmp_path / "run" / feature_files.FOLDER / "train" / "about.json"
    assert '"done": 5,' in about.read_text()
    for kept, losses in run_on(2, run, frozen(), tmp_path / "run"):
        assert kept == alone[0]
        assert losses == pytest.approx(alone[1], rel=1e-3)
