from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from evaluation_fakes import Captioned, ColorEncoder, color_folder, picture, png

from slip.errors import ConfigError, DataError, EvaluationError
from slip.evaluation import Result, suite
from slip.evaluation.knn import Knn
from slip.evaluation.suite import parse_task


def test_parse_task():
    knn = parse_task("knn:/data/birds", k=7)
    assert isinstance(knn, Knn)
    assert (knn.dataset, knn.k, knn.name) == ("/data/birds", 7, "knn:birds")
    assert parse_task("zeroshot:scenes:heldout").name == "zeroshot:scenes:heldout"
    assert parse_task(" linear:scenes ").name == "linear:scenes"
    assert parse_task("retrieval:/data/birds/test-*.tar").name == "retrieval:birds"


def test_parse_task_errors_teach():
    with pytest.raises(ConfigError, match="Did you mean 'zeroshot'"):
        parse_task("zero-shot:scenes")
    with pytest.raises(ConfigError, match="knn:DATASET"):
        parse_task("knn")
    with pytest.raises(ConfigError, match="does not take these options"):
        parse_task("knn:scenes", templates=("a {}",))


def test_run_shares_features_and_calls_back(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 6, "green": 8, "blue": 7}))
    encoder, seen = ColorEncoder(), []
    results = suite.run(encoder, [f"linear:{spec}", Knn(spec), f"zeroshot:{spec}"], seen.append)
    assert seen == results
    assert encoder.encoded == 21 * 3  # train and test features once, test embeddings once
    assert {r.task for r in results} == {"linear:colors", "knn:colors", "zeroshot:colors"}
    assert all(r.value == 1.0 for r in results)


def test_text_tasks_are_left_out_and_said_for_a_model_without_text(tmp_path, caplog):
    spec = str(color_folder(tmp_path / "silent", {"red": 2, "green": 2}))
    results = suite.run(ColorEncoder(("ssl_1", "ssl_2")), [f"zeroshot:{spec}", f"knn:{spec}"])
    assert {r.task for r in results} == {"knn:silent"}
    assert "zeroshot:silent left out: the model has no text tower" in caplog.text


def test_a_wrong_task_stops_before_anything_is_measured(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 2, "green": 2}))
    seen = []
    with pytest.raises(ConfigError):
        suite.run(ColorEncoder(), [f"knn:{spec}", "nonsense:scenes"], seen.append)
    assert seen == []
    with pytest.raises(DataError):
        suite.run(ColorEncoder(), [f"knn:{spec}", f"knn:{spec}x"], seen.append)
    assert seen == []


def test_the_real_encoder_goes_through_every_protocol(tmp_path):
    import torch

    from slip.config import Config, ImageTowerConfig, ModelConfig, SslHeadConfig, TextTowerConfig, ViewsConfig
    from slip.encoder import Encoder
    from slip.evaluation.datasets import load_labelled
    from slip.evaluation.retrieval import Retrieval

    torch.manual_seed(0)
    towers = (
        ImageTowerConfig(patch=8, width=16, depth=1, heads=2),
        TextTowerConfig(width=16, depth=1, heads=2),
    )
    model = ModelConfig(image=towers[0], text=towers[1], ssl=SslHeadConfig(width=16, dim=8), embed_dim=8)
    encoder = Encoder.from_config(Config(views=ViewsConfig(size=16), model=model))
    encoder.model.train()
    spec = str(color_folder(tmp_path / "colors", {"red": 6, "green": 8, "blue": 7}))
    test = load_labelled(spec)
    captioned = Captioned([(image, (test.class_names[y],)) for image, y in zip(test.images, test.labels)])
    captioned.records.append((png(picture("gold", np.random.default_rng(0))), ("gold",)))
    # k = 3: each class has only 6 to 8 training images to vote
    tasks = [f"linear:{spec}", Knn(spec, k=3), f"zeroshot:{spec}", Retrieval(captioned)]
    results = {r.key: r for r in suite.run(encoder, tasks, progress=True)}
    assert results["linear:colors/top1"].value > 0.9
    assert results["knn:colors/top1"].value > 0.9
    assert results["zeroshot:colors/top1"].count == 21
    assert results["retrieval:given/image_recall@10"].count == 22
    assert encoder.model.training


RESULTS = [
    Result("zeroshot:cifar10", "top1", 0.3825, 10_000, 0.373, 0.392),
    Result("retrieval", "text_recall@10", 1.0, 5, 0.56, 1.0, skipped=2),
    Result("retrieval", "text_median_rank", 12.0, 5, 3.0, 40.0),
]


def test_table():
    assert suite.table(RESULTS).splitlines() == [
        "task              metric             value  95 % interval        samples",
        "────────────────  ────────────────  ──────  ─────────────  ─────────────",
        "zeroshot:cifar10  top1               38.2%    37.3 – 39.2         10,000",
        "retrieval         text_recall@10    100.0%   56.0 – 100.0  5 (2 skipped)",
        "retrieval         text_median_rank    12.0         3 – 40              5",
    ]


def test_save_is_whole_or_an_error(tmp_path):
    suite.save(RESULTS, tmp_path / "results.json")
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [Result(**row) for row in stored] == RESULTS
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    with pytest.raises(EvaluationError, match="cannot be written"):
        suite.save(RESULTS, tmp_path / "missing" / "results.json")


def test_naming_tasks_does_not_load_torch():
    code = "import sys, slip.evaluation.suite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
