from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation_fakes import Captioned, ColorEncoder, color_folder, picture, png
from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.evaluation import Result, suite
from openslip.evaluation import opened as opening
from openslip.evaluation.knn import Knn
from openslip.evaluation.suite import parse_task
from openslip.evaluation.zeroshot import ZeroShot
from searched import tiny_model


def test_parse_task():
    knn = parse_task("knn:/data/birds", k=7)
    assert isinstance(knn, Knn)
    assert (knn.dataset, knn.k, knn.name) == ("/data/birds", 7, "knn:birds")
    assert parse_task("zeroshot:scenes:heldout").name == "zeroshot:scenes:heldout"
    assert parse_task(" linear:scenes ").name == "linear:scenes"
    assert parse_task("retrieval:/data/flickr/test-*.tar").name == "retrieval:flickr"


def test_parse_task_errors_teach():
    with pytest.raises(ConfigError, match="Did you mean 'zeroshot'"):
        parse_task("zero-shot:scenes")
    with pytest.raises(ConfigError, match="knn:DATASET"):
        parse_task("knn")
    for only in ("cifar10", "/data/birds", "photos/"):
        with pytest.raises(ConfigError, match=f"PROTOCOL:DATASET.*zeroshot:{only}"):
            parse_task(only)
    with pytest.raises(ConfigError, match="Did you mean 'retrieval'"):
        parse_task("retreival")
    with pytest.raises(ConfigError, match="no finetune preset 'papr'.*'paper'"):
        parse_task("finetune:scenes", preset="papr")
    with pytest.raises(ConfigError, match="does not take these options"):
        parse_task("knn:scenes", templates=("a {}",))


def test_run_shares_features_and_calls_back(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 6, "green": 8, "blue": 7}))
    encoder, seen = ColorEncoder(), []
    tasks = [f"linear:{spec}", Knn(spec), f"zeroshot:{spec}"]
    results = suite.run(encoder, tasks, on_task=seen.append)
    assert [result for task in seen for result in task.results] == results
    assert encoder.encoded == 21 * 2  # each picture once
    assert {r.task for r in results} == {"linear:colors", "knn:colors", "zeroshot:colors"}
    assert all(r.value == 1.0 for r in results if r.metric != "ece")


def test_text_tasks_are_left_out_and_said_for_a_model_without_text(tmp_path, caplog):
    spec = str(color_folder(tmp_path / "silent", {"red": 2, "green": 2}))
    results = suite.run(ColorEncoder(("ssl_1", "ssl_2")), [f"zeroshot:{spec}", f"knn:{spec}"])
    assert {r.task for r in results} == {"knn:silent"}
    assert "zeroshot:silent is left out: the model has no text tower" in caplog.text


def test_a_wrong_task_stops_before_anything_is_measured(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 2, "green": 2}))
    seen = []
    with pytest.raises(ConfigError):
        suite.run(ColorEncoder(), [f"knn:{spec}", "nonsense:scenes"], on_task=seen.append)
    assert seen == []
    with pytest.raises(DataError):
        suite.run(ColorEncoder(), [f"knn:{spec}", f"knn:{spec}x"], on_task=seen.append)
    assert seen == []


def test_the_real_encoder_goes_through_every_protocol(tmp_path):
    import torch

    from openslip.config import (
        Config,
        ImageTowerConfig,
        ModelConfig,
        TextTowerConfig,
        ViewsConfig,
    )
    from openslip.data.labelled import load_labelled
    from openslip.encoder import Encoder
    from openslip.evaluation.retrieval import Retrieval

    torch.manual_seed(0)
    towers = (
        ImageTowerConfig(patch=8, width=16, depth=1, heads=2),
        TextTowerConfig(width=16, depth=1, heads=2),
    )
    model = ModelConfig(image=towers[0], text=towers[1], embed_dim=8)
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


def test_all_is_checked_before_anything_is_measured(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 2, "green": 2}))
    for template in ("a photo", "", "{} {}", "{}\n", "\x1b[31m{}"):
        encoder = ColorEncoder()
        wrong = parse_task(f"zeroshot:{spec}", templates=("a {}.", template))
        with pytest.raises(ConfigError, match="prompt template"):
            suite.run(encoder, [f"knn:{spec}", wrong])
        with pytest.raises(ConfigError, match="prompt template"):
            wrong.evaluate(encoder)
        assert encoder.encoded == 0
    for wrong in (
        Knn(spec, k=0),
        parse_task(f"linear:{spec}", penalties=()),
        parse_task(f"retrieval:{spec}", ks=()),
    ):
        encoder = ColorEncoder()
        with pytest.raises(ConfigError):
            suite.run(encoder, [f"knn:{spec}", wrong])
        assert encoder.encoded == 0


def test_sets_are_opened_once_and_described_once(tmp_path, monkeypatch):
    spec = str(color_folder(tmp_path / "colors", {"red": 2, "green": 2}))
    opened, real = [], opening.open_labelled
    monkeypatch.setattr(
        opening, "open_labelled", lambda spec, **asked: (opened.append(spec), real(spec, **asked))[1]
    )
    tasks = [parse_task(f"{protocol}:{spec}") for protocol in ("knn", "linear", "zeroshot")]
    assert suite.check(tasks, text=True) == ["colors: 2 classes (green, red), 4 train, 4 test"]
    assert suite.distinct(tasks) == ["knn:colors", "linear:colors", "zeroshot:colors"]
    suite.run(ColorEncoder(), tasks)
    suite.run(ColorEncoder(), tasks)
    assert opened == [spec]


def test_what_was_not_checked_is_opened_anew_each_time(tmp_path):
    """Between two measurements in one process the files may change."""
    root = color_folder(tmp_path / "colors", {"red": 3, "green": 3})
    task = parse_task(f"zeroshot:{root}")
    (before, *_), _ = suite.run(ColorEncoder(), [task]), (root / "test/red/000.png").unlink()
    assert (before.count, suite.run(ColorEncoder(), [task])[0].count) == (6, 5)
    suite.check([task], text=True)
    (root / "test/red/001.png").rename(root / "test/red/009.png")
    kept = suite.run(ColorEncoder(), [task])[0]
    assert (kept.count, kept.skipped) == (4, 1)
    suite.check([task], text=True)
    assert suite.run(ColorEncoder(), [task])[0].count == 5


def test_results_say_what_they_are_of(tmp_path):
    a, b = (
        color_folder(tmp_path / name / "birds", {"red": 3, "green": 3}, seed=i) for i, name in enumerate("ab")
    )
    tasks = [f"zeroshot:{a}", f"zeroshot:{b}", ZeroShot(str(a), ("{}",)), Knn(str(a), k=2), f"linear:{a}"]
    first = [r for r in suite.run(ColorEncoder(), tasks) if r.metric == "top1"]
    assert [(r.data, r.split, r.prompts, r.settings) for r in first] == [
        (str(a), "test", "default", ""),
        (str(b), "test", "default", ""),
        (str(a), "test", "{}", ""),
        (str(a), "test", "", "k=2"),
        (str(a), "test", "", ""),
    ]
    assert first[0].content == first[2].content != first[1].content
    assert len({r.identity for r in first}) == len(first)
    assert suite.distinct(first) == [
        "zeroshot:a/birds [prompts default]",
        "zeroshot:b/birds",
        "zeroshot:a/birds [prompts {}]",
        "knn:birds",
        "linear:birds",
    ]
    shutil.copyfile(b / "train/red/000.png", a / "train/red/000.png")
    after = [r for r in suite.run(ColorEncoder(), tasks) if r.metric == "top1"]
    changed = [x.task for x, y in zip(first, after) if x.identity != y.identity]
    assert changed == ["knn:birds", "linear:birds"]  # a training picture is another


def test_one_place_is_one_however_it_is_written(tmp_path, monkeypatch):
    root = color_folder(tmp_path / "colors", {"red": 2, "green": 2})
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root / "test")
    names = ["knn:..", f"knn:{root}/", f"knn:{root}/test/..", f"knn:{tmp_path / 'link'}"]
    results = [suite.run(ColorEncoder(), [name])[0] for name in names]
    assert {r.data for r in results} == {str(root.resolve())}
    assert [r.task for r in results] == ["knn:colors", "knn:colors", "knn:colors", "knn:link"]


def test_content_knows_neither_place_nor_order(tmp_path):
    root = color_folder(tmp_path / "colors", {"red": 3, "green": 3})
    first = suite.run(ColorEncoder(), [Knn(str(root))])[0]
    moved = root.rename(tmp_path / "moved")
    for path in [*moved.glob("*/red/000.png")]:
        path.rename(path.with_name("zzz.png"))
    second = suite.run(ColorEncoder(), [Knn(str(moved))])[0]
    assert first.content == second.content


def test_equal_tasks_are_measured_once_and_it_is_said(tmp_path, caplog):
    spec = str(color_folder(tmp_path / "colors_twice", {"red": 2, "green": 2}))
    results = suite.run(ColorEncoder(), [f"knn:{spec}", f"knn:{spec}/", Knn(spec, k=3)])
    assert len(results) == 4
    assert "knn:colors_twice is named twice" in caplog.text


def test_a_task_that_fails_does_not_end_the_others(tmp_path):
    good = str(color_folder(tmp_path / "good", {"red": 2, "green": 2}))
    bad = color_folder(tmp_path / "bad", {"red": 2, "green": 2})
    for path in bad.glob("test/*/*"):
        path.write_bytes(b"")
    tasks, seen = [f"knn:{good}", f"knn:{bad}", f"linear:{good}"], []
    results = suite.run(ColorEncoder(), tasks, on_task=seen.append)
    assert [done.name for done in seen] == ["knn:good", "knn:bad", "linear:good"]
    assert isinstance(seen[1].error, EvaluationError)
    assert [r.task for r in results if r.metric == "top1"] == ["knn:good", "linear:good"]
    with pytest.raises(EvaluationError, match="None of the 4"):
        suite.run(ColorEncoder(), tasks)


def test_memory_that_runs_out_is_an_error_of_its_task(tmp_path, monkeypatch):
    import torch

    spec = str(color_folder(tmp_path / "colors", {"red": 2, "green": 2}))
    encoder = ColorEncoder()

    def full(images, **_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(encoder, "image_features", full)
    with pytest.raises(
        EvaluationError, match=r"knn:colors ran out of the device's memory.*CUDA out of memory"
    ):
        suite.run(encoder, [f"knn:{spec}"])


def test_undivided_data_are_all_used_where_nothing_is_trained(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 10, "green": 10}, splits=()))
    tasks = [parse_task(f"{protocol}:{spec}") for protocol in ("zeroshot", "knn", "linear")]
    lines = suite.check(tasks, text=True)
    assert any("zeroshot:colors trains nothing and measures all 20 images" in line for line in lines)
    counts = {r.task: (r.count, r.split) for r in suite.run(ColorEncoder(), tasks)}
    assert counts == {"zeroshot:colors": (20, "all"), "knn:colors": (4, "test"), "linear:colors": (4, "test")}


class LowerCase(ColorEncoder):
    """Reads texts as CLIP's tokenizer does."""

    def encode_text(self, texts, *, normalize=True):
        return super().encode_text([text.lower() for text in texts], normalize=normalize)


def test_classes_of_one_name_are_said_and_never_right(tmp_path):
    root = color_folder(tmp_path / "colors", {"red": 2, "green": 2, "blue": 2}, splits=("test",))
    (root / "test/blue").rename(root / "test/RED")
    task = parse_task(f"zeroshot:{root}")
    try:
        lines = suite.check([task], text=True)
    except DataError:  # where the reader refuses such classes
        return
    assert any("classes with the same name" in line and "red" in line for line in lines)
    assert {r.metric: r.value for r in suite.run(LowerCase(), [task])}["top1"] == pytest.approx(1 / 3)


def test_best_is_a_metric_of_one_measurement(tmp_path):
    sets = [str(color_folder(tmp_path / name / "birds", {"red": 2, "green": 2})) for name in "ab"]
    tasks = [parse_task(f"knn:{spec}") for spec in sets]
    suite.check(tasks, text=True, best="knn:a/birds/top1")
    with pytest.raises(ConfigError, match="one of knn:a/birds, knn:b/birds"):
        suite.check(tasks, text=True, best="knn:birds/top1")


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
    code = "import sys, openslip.evaluation.suite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_task_may_have_a_cadence_of_its_own() -> None:
    assert suite.parse_cadence("knn:my photos every 5") == ("knn:my photos", 5.0)
    assert suite.parse_cadence("knn:every") == ("knn:every", None)
    assert suite.parse_cadence("knn:photos every 0.5") == ("knn:photos", 0.5)
    for wrong in ("knn:photos every day", "knn:photos every -1", "knn:photos every inf"):
        with pytest.raises(ConfigError, match="every 5"):
            suite.parse_cadence(wrong)
    several = suite.Suite(["knn:a every 2", "knn:b", "linear:a every 0"])
    assert several.every == [2.0, None, 0.0]
    assert [task.name for task in several.only([0, 2]).tasks] == ["knn:a", "linear:a"]


def test_tasks_of_one_name_come_at_the_same_times() -> None:
    suite.Suite(["knn:x/a every 2", "knn:y/a every 2"]).check_cadences()
    with pytest.raises(ConfigError, match="same times"):
        suite.Suite(["knn:x/a every 2", "knn:y/a"]).check_cadences()


def test_the_precision_is_that_of_training_but_on_a_cpu(monkeypatch) -> None:
    model = tiny_model.__wrapped__()
    for trained, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp8", torch.bfloat16)):
        model.config = replace(model.config, training=replace(model.config.training, precision=trained))
        assert suite.chosen_precision("auto", model) is torch.float32
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "device", torch.device("mps"))
            assert suite.chosen_precision("auto", model) is expected
    assert suite.chosen_precision("bf16", model) is torch.bfloat16
    with pytest.raises(ConfigError, match="fp16"):
        suite.chosen_precision("fp16", model)


def test_in_another_precision_it_is_another_measurement(tmp_path) -> None:
    data = str(color_folder(tmp_path / "colors", {"red": 4, "green": 3}))
    full, half = (suite.run(tiny_model(), [Knn(data, k=3)], precision=name) for name in ("fp32", "bf16"))
    assert {one.settings for one in full} == {"k=3"}
    assert {one.settings for one in half} == {"k=3, precision=bfloat16"}


def test_how_exact_half_precision_is_is_said(tmp_path, caplog) -> None:
    data = str(color_folder(tmp_path / "colors", {"red": 5, "green": 4}))
    model = tiny_model.__wrapped__()  # not the shared one, of which it may have been said before
    with caplog.at_level(logging.WARNING):
        half = suite.run(model, [f"knn:{data}"], precision="bf16")
    told = re.search(r"On 9 images, features differ from float32 by (.*)% on average, (.*)% at", caplog.text)
    assert told is not None
    assert 0.01 < float(told[1]) <= float(told[2]) < 5
    assert [result.metric for result in half] == ["top1", "mean_per_class"]
