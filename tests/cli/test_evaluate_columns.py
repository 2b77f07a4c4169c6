"""`slip evaluate` on tables whose columns are named, by every protocol that takes labelled images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from openslip.cli import main
from openslip.training.train import train
from toys import make_tiny_config


@pytest.fixture
def run(tmp_path, toy_source):
    return train(make_tiny_config(epochs=1), toy_source, tmp_path / "run", console=Console(quiet=True)).path


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["picture,colour,shape,split"]
    (tmp_path / "pics").mkdir()
    for i in range(16):
        pixels = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
        pixels[..., i % 2 * 2] = 250
        Image.fromarray(pixels).save(tmp_path / f"pics/{i}.png")
        lines.append(
            f"{i}.png,{('red', 'blue')[i % 2]},{('round', 'flat')[i % 3 % 2]},{('train', 'test')[i % 4 // 2]}"
        )
    (tmp_path / "shapes.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "shapes.csv"


def test_columns_that_are_named(run, table, tmp_path, capsys) -> None:
    tasks = [f"{protocol}:{table}" for protocol in ("zeroshot", "knn", "linear")]
    assert main(["evaluate", str(run), *tasks]) == 1
    assert "--data.label-column colour" in capsys.readouterr().err
    columns = ["--data.label-column", "colour", "--image-root", str(tmp_path / "pics")]
    assert main(["evaluate", str(run), *tasks, *columns]) == 0
    assert "2 classes (blue, red), 8 train, 8 test" in capsys.readouterr().err
    assert main(["evaluate", str(run), tasks[1], *columns[2:], "--label-column", "shape"]) == 0
    kept = [result for result in json.loads((run / "results.json").read_text()) if result["metric"] == "top1"]
    assert sorted(result["data"] for result in kept) == [*[f"{table} (colour)"] * 3, f"{table} (shape)"]
