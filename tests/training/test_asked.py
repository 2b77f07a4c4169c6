"""What a program may hand to `openslip.train`, and what it is told about anything else."""

import ast
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import openslip
from openslip import toml
from openslip.config import Config, TrainingConfig
from openslip.data.record import Record
from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.needs import IMAGE, Need
from openslip.objectives import Objective
from openslip.training.saving.run import read_lines
from toys import ToySource, make_tiny_config, with_loss
from training.runs import QUIET, FakeResult, same, weights


@pytest.fixture
def table(tmp_path) -> Path:
    rows = ["file,title"]
    for number in range(16):
        Image.fromarray(np.full((20, 20, 3), 10 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,a grey of {number}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "pairs.csv"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_opened_as_the_command_opens_it_and_the_run_knows_it(tmp_path, table, kind) -> None:
    config = make_tiny_config(epochs=1)
    config = replace(config, data=replace(config.data, train="", caption_column="title"))
    run = openslip.train(config, kind(table), kind(tmp_path / "run"), ssl=kind(table), console=QUIET)
    assert (run.config.data.train, run.config.data.ssl) == (str(table), str(table))
    again = openslip.train(run.config, run.config.data.train, run.path, ssl=table, resume=True, console=QUIET)
    assert again.path == run.path
    other = replace(config, data=replace(config.data, caption_column="titel"))
    with pytest.raises(DataError, match="no column 'titel'"):
        openslip.train(other, kind(table), tmp_path / "other", console=QUIET)
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        openslip.train(config, tmp_path / "nowhere.csv", tmp_path / "other", console=QUIET)
    assert not (tmp_path / "other").exists()


def test_a_configuration_goes_by_a_recipes_name_or_a_files(tmp_path, table, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(toml.dumps(make_tiny_config(epochs=1)))
    run = openslip.train("mine.toml", table, console=QUIET)
    assert run.path == Path("runs/tiny")
    with pytest.raises(ConfigError, match="Did you mean 'small-data'"):
        openslip.train("smal-data", table, console=QUIET)
    with pytest.raises(ConfigError, match="batch of 128 is larger"):  # the recipe's
        openslip.train("small-data", table, console=QUIET)
    with pytest.raises(ConfigError, match="configuration first, then the data"):
        openslip.train(table, "small-data", console=QUIET)
    with pytest.raises(ConfigError, match="This is a run folder.*config.toml"):
        openslip.train(run.path, table, console=QUIET)


class Plain:
    """A source of a program's own: a name, a length and records."""

    name = "toy"

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Record:
        return ToySource()[index]


def test_a_plain_class_is_trained_on_like_ours(tmp_path, tiny_config) -> None:
    config = replace(tiny_config, training=replace(tiny_config.training, epochs=1))
    config = replace(config, data=replace(config.data, workers=1))
    plain = openslip.train(config, Plain(), tmp_path / "plain", ssl=Plain(), console=QUIET)
    ours = openslip.train(config, ToySource(), tmp_path / "ours", ssl=ToySource(), console=QUIET)
    assert same(weights(plain), weights(ours))
    assert (plain.path / "counts.json").read_text() == (ours.path / "counts.json").read_text()
    again = openslip.train(config, ToySource(), plain.path, ssl=Plain(), resume=True, console=QUIET)
    assert again.path == plain.path  # it knows them as the same data


class Column(dict):
    """As a table of columns: it has a length, a name, and no records."""

    name = "pairs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"config": {"training": {"batch": 8}}},
            r"This is no configuration. Got: .dict: .*openslip.recipes.get",
        ),
        (
            {"config": Config(training=TrainingConfig(batch="8"))},  # pyrefly: ignore[bad-argument-type]
            "'training.batch' takes a value of type int",
        ),
        ({"config": Config(views=None)}, "'views' is a section"),  # pyrefly: ignore[bad-argument-type]
        ({"config": None}, "This is no configuration. Got: 'NoneType: None"),
        (
            {"source": ["a.tar", "b.csv"]},
            "no source of records.*one text, 'a.tar \\+ b.csv'.*openslip.open_source",
        ),
        ({"source": Column(image=[1], caption=["a"])}, "no source of records.*Column"),
        ({"source": b"pairs.csv"}, "no source of records.*bytes"),
        ({"source": None}, "no source of records"),
        ({"ssl": 3}, "`ssl` is no source of records"),
        ({"out": 3}, "run folder is no path. Got: 'int: 3'"),
        ({"evaluate": ["knn:photos"]}, "no function.*suite.Suite"),
    ],
)
def test_anything_else_is_told_in_words(tmp_path, arguments, message) -> None:
    given = {"config": make_tiny_config(), "source": ToySource(), "out": tmp_path / "run", "console": QUIET}
    with pytest.raises(ConfigError, match=message):
        openslip.train(**(given | arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("returned", [None, {"top1": 0.5}, [0.5], "top1", FakeResult(0.5)])
def test_what_is_no_result_is_told_when_the_weights_are_saved(tmp_path, toy_source, returned) -> None:
    config = make_tiny_config(epochs=1)
    with pytest.raises(
        EvaluationError, match="no list of results.*list of openslip.evaluation.Result.*resume=True"
    ):
        openslip.train(config, toy_source, tmp_path, evaluate=lambda _: returned, console=QUIET)
    run = openslip.train(
        config,
        toy_source,
        tmp_path,
        evaluate=lambda _: (FakeResult(v) for v in (0.5,)),
        resume=True,
        console=QUIET,
    )
    assert '"value": 0.5' in (run.path / "results.json").read_text()


def test_what_training_imports_of_evaluation_needs_no_torch() -> None:
    """It takes what results are, and no protocol: those it is handed."""
    names = set()
    for path in (Path(openslip.__file__).parent / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = isinstance(node, ast.ImportFrom) and node.module
            if module and module.startswith("openslip.evaluation"):
                names.add(module)
    code = f"import sys; import {', '.join(sorted(names))}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_nobody_measures_is_not_said_to_be_measured(tmp_path, toy_source, tiny_config) -> None:
    config = replace(tiny_config, evaluation=replace(tiny_config.evaluation, tasks=("knn:photos",)))
    for evaluate, words in (
        (None, "nothing will be measured: .*knn:photos"),
        (lambda _: [FakeResult(1.0)], "knn"),
    ):
        said = io.StringIO()
        console = Console(file=said, width=300)
        openslip.train(config, toy_source, tmp_path / str(bool(evaluate)), evaluate=evaluate, console=console)
        assert ("nothing will be measured" in said.getvalue()) is (evaluate is None), words


def test_a_script_without_a_guard_is_told_once(tmp_path, table) -> None:
    """Its loader processes import it, and would train in turn."""
    config = make_tiny_config(epochs=1)
    (tmp_path / "tiny.toml").write_text(
        toml.dumps(replace(config, data=replace(config.data, workers=2, caption_column="title")))
    )
    (tmp_path / "script.py").write_text("import openslip\nopenslip.train('tiny.toml', 'pairs.csv', 'run')\n")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1  # the program's own
    assert "under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


class Short(Objective):
    """Features are short."""

    name, title, views, needs = "short", "Short", (IMAGE,), (Need("image"),)

    def embed(self, features):
        return {"image": features[self.needs[0]]}

    def loss(self, embeddings, at):
        loss = embeddings["image"].square().mean()
        return {"loss": loss, "short_loss": loss.detach()}


def test_an_objective_goes_by_its_class_or_in_a_loss(tmp_path, toy_source, tiny_config) -> None:
    run = openslip.train(tiny_config, toy_source, tmp_path / "class", objective=Short, console=QUIET)
    assert run.config.objective.loss.endswith(":Short")
    line = read_lines(run.path / "metrics.jsonl")[-1]
    assert line["loss"] == line["short_loss"] > 0
    together = f"clip + 0.5 * {run.config.objective.loss}"
    run = openslip.train(tiny_config, toy_source, tmp_path / "sum", objective=together, console=QUIET)
    assert run.config.objective.loss == together
    line = read_lines(run.path / "metrics.jsonl")[-1]
    assert line["loss"] == pytest.approx(line["clip_loss"] + 0.5 * line["short_loss"])
    openslip.train(tiny_config, toy_source, run.path, objective=together, resume=True, console=QUIET)


@pytest.mark.parametrize("wrong", [Short.loss, 3, int, ToySource])
def test_what_is_no_objective_is_said(wrong, tmp_path, toy_source, tiny_config) -> None:
    with pytest.raises(ConfigError, match="bjective"):
        openslip.train(tiny_config, toy_source, tmp_path / "run", objective=wrong, console=QUIET)
    assert not (tmp_path / "run").exists()


def test_positives_follow_from_the_data_where_nothing_is_said(tmp_path) -> None:
    """Of what is opened and of what is named; also where the run goes on."""
    for number in range(16):
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), 10 * number, np.uint8)).save(path)
    config, spec = make_tiny_config(epochs=1), f"labels:{tmp_path / 'photos'}"
    unsaid = replace(config, objective=replace(config.objective, options={"simclr": {"width": 16, "dim": 8}}))
    for number, source in enumerate((spec, openslip.open_source(spec))):
        run = openslip.train(unsaid, source, tmp_path / str(number), console=QUIET)
        assert run.config.objective.options["clip"]["positives"] == "labels"
        openslip.train(unsaid, source, tmp_path / str(number), resume=True, console=QUIET)
    said = openslip.train(config, spec, tmp_path / "said", console=QUIET)
    assert said.config.objective.options["clip"]["positives"] == "pairs"
    plain = openslip.train(unsaid, ToySource(), tmp_path / "plain", console=QUIET)
    assert plain.config.objective.options["clip"]["positives"] == "pairs"


def test_labels_need_classes(tmp_path, table) -> None:
    config = with_loss(make_tiny_config(epochs=1), "clip", positives="labels")
    with pytest.raises(ConfigError, match="objective clip needs the classes of records.*positives out"):
        openslip.train(config, table, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_start_goes_by_its_name(tmp_path, toy_source, tiny_config) -> None:
    first = openslip.train(tiny_config, toy_source, tmp_path / "first", console=QUIET)
    run = openslip.train(tiny_config, toy_source, tmp_path / "second", init=tmp_path / "first", console=QUIET)
    assert run.config.init == str(tmp_path / "first")
    assert not run.fresh()
    assert not same(weights(first), weights(run))
    with pytest.raises(ConfigError, match="`init` is neither.*Encoder.*Give what `openslip.load` takes"):
        # pyrefly: ignore[bad-argument-type]
        openslip.train(tiny_config, toy_source, tmp_path / "x", init=openslip.load(tmp_path / "first"))
