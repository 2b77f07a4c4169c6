import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from check_fakes import encoded, pixels
from distributed.tiny import TINY
from openslip import recipes, toml
from openslip.cli import main
from openslip.cli.train import _open, resolve, run
from openslip.config import SOURCES, Config, DataConfig, EvaluationConfig
from openslip.errors import ConfigError, DataError, UsageError
from openslip.evaluation.suite import parse_task
from openslip.training.saving import lock


def test_options_change_the_recipe() -> None:
    options = resolve(
        ["small-data", "--data.train", "x.csv", "--training.batch", "32", "--views.ssl.flip", "0.1"]
    )
    base = recipes.get("small-data")
    assert options.config.data == replace(base.data, train="x.csv")
    assert options.config.training == replace(base.training, batch=32)
    assert options.config.views.ssl == replace(base.views.ssl, flip=0.1)
    assert (options.out, options.resume) == ("runs/small-data", False)


def test_a_file_is_a_starting_point(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = 'mine'\n[data]\ntrain = 'a.csv'\n[training]\nbatch = 5\n")
    options = resolve(["--config", str(path), "--training.epochs", "2"])
    assert (options.config.training.batch, options.config.training.epochs) == (5, 2)
    assert options.out == "runs/mine"


def test_resume_takes_the_runs_own_configuration(tmp_path) -> None:
    config = replace(
        recipes.get("scenes-tiny"), training=replace(recipes.get("scenes-tiny").training, batch=77)
    )
    (tmp_path / "config.toml").write_text(toml.dumps(config))
    options = resolve(["--resume", "--out", str(tmp_path), "--data.workers", "3"])
    assert options.resume
    assert (options.config.training.batch, options.config.data.workers) == (77, 3)


def made_run(folder, **data: Any):
    """Write what makes a folder a run of small-data on own.csv; return its configuration."""
    base = recipes.get("small-data")
    training = replace(base.training, batch=77)
    config = replace(base, data=replace(base.data, train="own.csv", **data), training=training)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(toml.dumps(config))
    return config


@pytest.mark.parametrize("words", [["small-data"], ["small-data", "--data.train", ""], []])
def test_resume_knows_the_runs_recipe_and_data(tmp_path, monkeypatch, capsys, words) -> None:
    monkeypatch.chdir(tmp_path)
    config = made_run(tmp_path / "runs" / "mine", caption_column="title")
    options = resolve([*words, "--resume", "--out", "runs/mine", "--checkpoint.keep", "7"])
    assert options.config.data == config.data
    assert options.config.training.batch == 77
    assert options.config.checkpoint.keep == 7
    assert ("training.batch = 77" in capsys.readouterr().err) is bool(words)  # in place of the recipe's


def test_what_came_with_the_weights_is_no_setting_of_the_runs_own(tmp_path, monkeypatch, capsys) -> None:
    """The recipe leaves it to them. So the command that started a run says nothing of it when the run goes on."""
    monkeypatch.chdir(tmp_path)
    base = recipes.get("finetune")
    image = replace(base.model.image, width=32, activation="quick_gelu")
    views = replace(base.views, size=32, mean=(0.5, 0.5, 0.5))
    model = replace(base.model, image=image, embed_dim=24)
    config = replace(
        base, init="their.pt", views=views, model=model, data=replace(base.data, train="own.csv")
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.toml").write_text(toml.dumps(config))
    again = ["finetune", "--resume", "--out", "mine"]
    assert resolve([*again, "--init", "their.pt"]).config.model == model
    assert "goes on with its own settings" not in capsys.readouterr().err
    resolve(again)
    told = capsys.readouterr().err
    assert "init = 'their.pt'" in told
    assert "width" not in told


def test_resume_of_a_named_file_takes_the_data_that_it_does_not_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "mine", image_root="pictures")
    (tmp_path / "other.toml").write_text("name = 'small-data'\n[training]\nbatch = 5\n")
    options = resolve(["--config", "other.toml", "--resume", "--out", "mine"])
    assert (options.config.data.train, options.config.data.image_root) == ("own.csv", "pictures")
    assert options.config.training.batch == 5  # which the run will refuse: the file says so
    options = resolve(["--config", "mine/config.toml", "--resume"])
    assert (options.out, options.config.training.batch) == ("mine", 77)
    assert resolve(["--config", "mine/config.toml"]).out == "runs/small-data"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "The run to continue was not named.*--resume --out RUN.*runs/mine"),
        (
            ["--resume", "--out", "runs/mien"],
            r"no run at runs/mien. There is no such folder. Did you mean runs/mine\?",
        ),
        (["--resume", "--out", "mine"], r"Did you mean runs/mine\?"),
        (["--resume", "--out", "runs"], "no run at runs. The folder has no config.toml. Runs: runs/mine"),
        (
            ["small-data", "--resume", "--out", "runs/mien"],
            "No training data.*no run at runs/mien.*Did you mean",
        ),
        (
            ["--resume", "--out", "runs/mine/checkpoints"],
            "part of a run.*--resume --out runs/mine` continues",
        ),
        (
            ["--resume", "--out", "runs/mine/config.toml"],
            "part of a run.*--resume --out runs/mine` continues",
        ),
        (["--resume=runs/mine"], "takes no value.*`--resume --out runs/mine`"),
        (["--continue", "--out", "runs/mine"], "Here it is called --resume"),
        (["--resume-from-checkpoint", "runs/mine"], "takes no value: --out names the run"),
        (
            ["runs/mine", "--resume"],
            "runs/mine is a run, not a recipe. `slip train --resume --out runs/mine`",
        ),
    ],
)
def test_a_run_that_is_not_there_is_asked_for_by_near_names(tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs" / "mine")
    with pytest.raises(ConfigError, match=message):
        resolve(words)


def test_checkpoints_without_a_configuration_are_named(tmp_path) -> None:
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"no config\.toml that describes the run\. Put the run's config\.toml back"
    ):
        resolve(["--resume", "--out", str(tmp_path)])


@pytest.mark.parametrize("words", [["--resum", "--out", "mine"], ["--resume=true", "--out", "mine"]])
def test_a_mistyped_resume_is_answered_as_such(tmp_path, monkeypatch, capsys, words) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "mine")
    with pytest.raises((SystemExit, UsageError)) as ended:
        resolve(words)
    assert "--resume" in capsys.readouterr().err + str(ended.value)


def test_a_run_that_starts_beside_one_of_a_like_name_says_so(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs" / "mine")
    resolve(["small-data", "--data.train", "x.csv", "--resume", "--out", "runs/mien"])
    assert "no run at runs/mien yet, so one is started. Did you mean runs/mine?" in capsys.readouterr().err
    resolve(["small-data", "--data.train", "x.csv", "--resume", "--out", "runs/else"])
    assert capsys.readouterr().err == ""


def test_what_a_run_depends_on_is_refused_before_its_data_are_opened(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "mine")
    (tmp_path / "mine" / "checkpoints" / "step-00000010").mkdir(parents=True)
    assert main(["train", "--resume", "--out", "mine", "--training.batch", "8"]) == 1
    error = capsys.readouterr().err
    assert re.search(
        r"training\.batch = 8, was 77.*may change: .*data\.val.*slip train --resume --out mine", error
    )
    assert main(["train", "small-data", "--data.train", "y.csv", "--out", "mine"]) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "mine"]) == 1  # of the data that it names
    assert "relative to the folder where it was started" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["small-data", "--data.train", "nowhere.csv"], ["--resume"]])
def test_a_second_start_in_a_folder_is_refused_before_anything_is_opened(
    tmp_path, monkeypatch, capsys, words
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "PATIENCE", 0)
    made_run(tmp_path / "mine")
    with lock.held(tmp_path / "mine"):
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")}
        assert main(["train", *words, "--out", "mine"]) == 1
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")} == before
    error = capsys.readouterr().err
    assert f"Another process works in mine: process {os.getpid()} on" in error
    assert "nowhere" not in error


class Asked(Exception):
    """What training would be asked to do."""


def test_the_caption_column_is_asked_of_the_training_data_alone(tmp_path, monkeypatch) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "pairs.csv").write_text("file,title\n1.jpg,of pairs\n")
    (tmp_path / "pictures.csv").write_text("file\n1.jpg\n")
    (tmp_path / "val.csv").write_text("file,caption\n1.jpg,of val\n")
    monkeypatch.chdir(tmp_path)

    def train(config, source, out, *, ssl, **_):
        raise Asked(source, ssl)

    monkeypatch.setattr("openslip.training.train.train", train)
    data = ["--data.train", "pairs.csv", "--data.ssl", "pictures.csv", "--data.val", "val.csv"]
    options = resolve(["small-data", *data, "--data.caption-column", "title"])
    with pytest.raises(Asked) as asked:
        run(options.config, "out", False)
    source, ssl = asked.value.args
    assert (source.caption_columns, ssl.caption_columns) == (("title",), ())
    options = resolve(["small-data", *data, "--data.caption-column", "titel"])
    with pytest.raises(DataError, match=r"pairs\.csv has no column 'titel'"):
        run(options.config, "out", False)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["smal-data"], "Did you mean 'small-data'"),
        ([], "Nothing to train was named"),
        (["small-data"], "No training data was named.*--data.train"),
        (["small-data", "--config", "x.toml"], "not both"),
        (["--config"], "--config takes a value"),
        (["--config", "nowhere.toml"], "cannot be read"),
    ],
)
def test_wrong_calls_teach(argv, message) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(argv)


def test_formats_are_listed_once(capsys) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(["small-data"])
    assert SOURCES in str(error.value)
    for command in (["train", "small-data", "--help"], ["data", "check", "--help"]):
        with pytest.raises(SystemExit):
            main(command)
        printed = " ".join(capsys.readouterr().out.split())
        assert SOURCES in printed
    assert all(word in SOURCES for word in (".parquet", ".npy", "hf:", "RedCaps", "YFCC"))


def test_what_was_guessed_of_the_held_out_data_is_said(tmp_path, monkeypatch, capsys) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text("path,title\na.jpg,a dog\n")
    trained = []

    def train(config, source, out, **options):
        trained.append(source.name)
        return SimpleNamespace(path=tmp_path)

    monkeypatch.setattr("openslip.training.train.train", train)
    sources = ["--data.train", str(tmp_path / "train.csv"), "--data.val", str(tmp_path / "val.csv")]
    assert main(["train", "small-data", *sources]) == 0
    assert trained == [str(tmp_path / "train.csv")]
    assert "Columns of val.csv: image from 'path', caption from 'title' (guessed)" in capsys.readouterr().err


def products(folder, count: int = 40) -> list[str]:
    """Write a table of pictures, each twice with a title of its own and one in common with the next."""
    rows = ["path,title"]
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(
            encoded(pixels(number // 2, 40 + 20 * (number % 2), 40), quality=95)
        )
        rows.append(f"{number}.jpg,a title {number // 2 if number % 4 else number}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return ["train", "scenes-tiny", "--data.train", str(folder / "pairs.csv"), "--training.batch", "16"]


def test_a_share_of_the_training_data_is_held_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))

    def train(config, source, out, *, evaluate, **_):
        raise Asked(source, evaluate.tasks)

    monkeypatch.setattr("openslip.training.train.train", train)
    options = resolve(
        [*products(tmp_path)[1:], "--data.val", "20%", "--evaluation.best", "retrieval:val/text_recall@1"]
    )
    with pytest.raises(Asked) as asked:
        run(options.config, "out", False)
    source, (val, *others) = asked.value.args
    assert val.name == "retrieval:val"
    assert len(others) == len(options.config.evaluation.tasks)
    assert len(source) + len(val.source) == 40
    assert {source[k].key for k in range(len(source))}.isdisjoint(
        val.source[k].key for k in range(len(val.source))
    )
    assert source.held_out.records == len(val.source) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.val", "0%"], "above 0 % and below 100 %"),
        (["--data.val", "100%"], "above 0 % and below 100 %"),
        (["--data.val=-5%"], "above 0 % and below 100 %"),
        (["--data.val", "10%%"], "neither a source nor a share"),
        (["--data.val", "1/10"], "in percent, as in --data.val 10%"),
        (["--data.val", "90%"], r"fewer than a batch of 16. Got: .* of 40 records.*Lower --training.batch"),
        (["--data.val", "20%", "--objective.loss", "simclr"], "embeddings of images and captions"),
        (["--data.val", "20%", "--evaluation.tasks", "knn:nowhere"], "no labelled images at this place"),
    ],
)
def test_shares_that_cannot_be_held_out(tmp_path, monkeypatch, options, message, capsys) -> None:
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))
    assert main([*products(tmp_path), *options, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evaluation.tasks", "linear:nowhere"], "no labelled images at this place"),
        (["--evaluation.tasks", "retrieval:nowhere.csv"], "nowhere.csv"),
        (["--evaluation.tasks", "knn:scenes:tset"], "Did you mean 'test'"),
        (["--evaluation.best", "knn:birds/top1"], "to no task that is measured. Got: .knn:birds/top1"),
        (["--evaluation.tasks", "knn:scenes", "--evaluation.best", "top1"], "with TASK one of knn:scenes"),
        (
            ["--evaluation.best", "retrieval:val/median_rank", "--data.val", "scenes:test:64"],
            "higher is better",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(tmp_path, options, message, capsys) -> None:
    argv = ["train", "scenes-tiny", "--data.train", "scenes:train:64", *options]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_unknown_options_are_answered_with_the_nearest(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        resolve(["small-data", "--training.bach", "3"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "--training.batch" in printed.err + printed.out


def test_help_shows_the_recipes_values(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        resolve(["small-data", "--help"])
    assert stop.value.code == 0
    assert "--training.batch INT    Image-caption pairs in one optimiser step" in (
        out := capsys.readouterr().out
    )
    assert f"(default: {recipes.get('small-data').training.batch})" in " ".join(out.split())


@pytest.mark.parametrize("data", ["nowhere/*.tar", "nowhere.csv", "nowhere/folder"])
def test_data_that_is_not_there(data, capsys, tmp_path) -> None:
    status = main(
        ["train", "small-data", "--data.train", str(tmp_path / data), "--out", str(tmp_path / "run")]
    )
    assert status == 1
    error = capsys.readouterr().err
    assert error.startswith("slip: ")
    assert "nowhere" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_other_retrieval_tasks_know_the_columns_and_keep_their_names(tmp_path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (16, 16), "teal").save(folder / "1.jpg")
    (folder / "metadata.csv").write_text("file_name,q7\n1.jpg,a teal square\n")
    config = Config(
        data=DataConfig(train=str(folder), caption_column="q7"),
        evaluation=EvaluationConfig(tasks=(f"retrieval:{folder}",)),
    )
    *_, tasks = _open(config, first=True)
    (task,) = cast(Any, tasks).tasks
    assert task.name == parse_task(f"retrieval:{folder}").name
    assert task.source[0].captions == ("a teal square",)


def photos(folder, classes: int = 3, each: int = 8) -> list[str]:
    """Write pictures in a folder for each class; return the command that trains on them."""
    for number in range(classes * each):
        path = folder / "photos" / f"kind_{'abcdef'[number % classes]}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels(number, 40, 40), quality=95))
    tiny = [*TINY[: TINY.index("--evaluation.tasks")], "--training.budget", "3 steps"]
    return ["train", *tiny, "--data.train", f"labels:{folder / 'photos'}"]


def test_one_command_trains_on_folders_of_classes(tmp_path, monkeypatch, capsys) -> None:
    """Positives are those of the class, as the run and the plan say; what is held out is measured by zero-shot."""
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "run")
    argv = [*photos(tmp_path), "--data.val", "25%", "--evaluation.tasks", "--out", out]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "clip: all pairs of a batch that have the same class, of 3 classes" in said.err
    assert "Captions: 4 templates" in said.err
    assert "zero-shot classification of them" in said.err
    assert "(equal pictures stay together)" in said.err
    config = toml.load(tmp_path / "run/config.toml")
    assert config.objective.options["clip"]["positives"] == "labels"
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {result["task"] for result in results} == {"zeroshot:val"}
    assert [path.name[:13] for path in (tmp_path / "run/outcomes").iterdir()] == ["zeroshot-val-"]
    held_out = json.loads((tmp_path / "run/data.json").read_text())["held_out"][0]
    assert {result["count"] for result in results} == {held_out["records"]}
    # The same command, and the run's own name, go on with it; another say on positives is another run.
    assert main([*argv, "--resume"]) == main(["train", "--resume", "--out", out]) == 0
    assert main(["train", "--resume", "--out", out, "--objective.clip.positives", "pairs"]) == 1
    assert "objective.clip.positives = 'pairs', was 'labels'" in capsys.readouterr().err


def test_positives_are_what_somebody_says(tmp_path, capsys) -> None:
    out = ["--evaluation.tasks", "--out", str(tmp_path / "run")]
    assert main([*photos(tmp_path), *out, "--objective.clip.positives", "pairs"]) == 0
    assert toml.load(tmp_path / "run/config.toml").objective.options["clip"]["positives"] == "pairs"
    assert (
        "clip: each pair alone, although captions of the same class, of 3 classes" in capsys.readouterr().err
    )


def test_of_a_mixture_captions_are_measured_as_captions(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))
    *command, spec = photos(tmp_path)

    def train(config, source, out, *, evaluate, **_):
        raise Asked(source, evaluate.tasks)

    monkeypatch.setattr("openslip.training.train.train", train)
    more = ["--data.val", "30%", "--evaluation.tasks"]
    options = resolve([*command[1:], f"{spec} + scenes:train:40", *more])
    with pytest.raises(Asked) as asked:
        run(options.config, "out", False)
    source, (zeroshot, retrieval) = asked.value.args
    assert (zeroshot.name, retrieval.name) == ("zeroshot:val", "retrieval:val")
    (part,) = zeroshot.labelled.splits.values()
    assert len(part) + len(retrieval.source) == source.held_out.records
    assert {retrieval.source[k].source for k in range(len(retrieval.source))} == {"scenes"}


def test_labels_that_nobody_has_are_refused(tmp_path, capsys) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n" + "".join(f"{k}.jpg,a title {k}\n" for k in range(8)))
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(pixels(number, 40, 40), quality=95))
    argv = ["train", *TINY, "--data.train", str(tmp_path / "a.csv"), "--objective.clip.positives", "labels"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 1
    assert "needs the classes of records" in capsys.readouterr().err
    assert main(["evaluate", "run", f"retrieval:labels:{tmp_path}"]) == 1
    assert "Measure zeroshot:" in capsys.readouterr().err
