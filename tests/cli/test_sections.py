"""Options of objectives on the command line: one section for each that is known."""

from __future__ import annotations

import re

import pytest

from openslip import recipes, toml
from openslip.cli.train import resolve
from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError

TRAIN = ["small-data", "--data.train", "x.csv"]
HEAD = {"width": 1024, "dim": 256}


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("", {"simclr": HEAD}),
        ("--objective.simclr.temperature 0.2", {"simclr": {"temperature": 0.2, **HEAD}}),
        (
            "--objective.simclr.temperature 0.1",
            {"simclr": {"temperature": 0.1, **HEAD}},
        ),  # the default, typed
        (
            "--objective.simclr.width=9 --objective.clip.block 3",
            {"simclr": {**HEAD, "width": 9}, "clip": {"block": 3}},
        ),
        ("--objective.loss clip", {}),  # a recipe's own options go without a word
        ("--objective.loss clip --objective.clip.gradient reference", {"clip": {"gradient": "reference"}}),
    ],
)
def test_what_is_set_is_kept(words, options, capsys) -> None:
    config = resolve([*TRAIN, *words.split()]).config
    assert config.objective == ObjectiveConfig(loss=config.objective.loss, options=options)
    assert type(config) is type(recipes.get("small-data"))
    assert toml.loads(toml.dumps(config)) == config
    assert capsys.readouterr().err == ""


def test_options_of_a_file_that_its_loss_has_not_are_left_out_with_a_word(tmp_path, capsys) -> None:
    (tmp_path / "a.toml").write_text(
        "[objective]\nloss = 'clip'\n[objective.clip]\nblock = 3\n[objective.simclr]\ndim = 9\n"
    )
    argv = ["--config", str(tmp_path / "a.toml"), "--data.train", "x.csv"]
    assert resolve(argv).config.objective.options == {"clip": {"block": 3}}
    said = capsys.readouterr().err
    assert said == "objective.simclr is not part of the loss: its options are left out\n"
    options = resolve([*argv, "--objective.loss", "clip + simclr"]).config.objective.options
    assert options == {"clip": {"block": 3}, "simclr": {"dim": 9}}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "[objective.simclr]\ntemprature = 1\n",
            r"In .*a\.toml: .*'objective\.simclr\.temprature'.*'temperature'",
        ),
        ("[objective.simclr]\nwidth = 'wide'\n", r"'objective\.simclr\.width' takes a value of type int"),
        (
            "[objective.clip]\ngradient = 'exct'\n",
            r"'objective\.clip\.gradient' has no choice 'exct'.*'exact'",
        ),
        (
            "[objective.simclr]\ntemperature = 0\n",
            r"--objective\.simclr\.temperature must be above 0\. Got: 0",
        ),
        ("[objective.simclr]\ndim = 0\n", r"--objective\.simclr\.dim must be at least 1"),
        ("[objective.simcrl]\ndim = 3\n", r"Unknown configuration section 'objective\.simcrl'.*'simclr'"),
        ("[objective]\nclip = 3\n", r"Unknown configuration key 'objective\.clip'"),
    ],
)
def test_wrong_sections_of_a_file(tmp_path, section, message) -> None:
    (tmp_path / "a.toml").write_text(section)
    with pytest.raises(ConfigError, match=message):
        resolve(["--config", str(tmp_path / "a.toml"), "--data.train", "x.csv"])


def test_help_shows_each_option_with_its_range(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        resolve([*TRAIN, "--objective.loss", "clip", "--help-all"])
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        r"--objective\.simclr\.temperature FLOAT Temperature of the softmax\. \[above 0\] \(default: 0\.1\)",
        r"--objective\.simclr\.width INT Width of the head's two hidden layers\. \[at least 1\] \(default: 1024\)",
        r"--objective\.clip\.gradient \{exact,reference\}",
        r"--optimizer\.betas FLOAT FLOAT \[at least 0 and less than 1\] \(default: 0\.9 0\.98\)",
        r"objective\.simclr options: SimCLR: two views of one image",
    ):
        assert re.search(text, shown), text
    assert "objective.options" not in shown
