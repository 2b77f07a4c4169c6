"""Commands that pages show: each is understood by the command that it names, with any name of file or column."""

from __future__ import annotations

import html
import importlib
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openslip.cli.arguments import parse
from openslip.quickstart import commands as next_steps
from openslip.report import load_run, write_report
from openslip.report.description import measuring
from openslip.shell import command, data_options
from openslip.tools.check.commands import Commands
from report_fakes import make_config, write_run


def understood(line: str) -> Any:
    """Return the options that a command line amounts to, read by the parser of the command that it names."""
    name, *words = shlex.split(line)
    assert name == "slip"
    if words[0] == "train":
        return importlib.import_module("openslip.cli.train").resolve(words[1:])
    length = 2 if words[0] == "data" else 1
    module = importlib.import_module(".".join(["openslip.cli", *words[:length]]))
    return parse(module.Options, words[length:], prog=" ".join(words[:length]))


names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda text: not text.startswith("-") and "://" not in text)


@given(source=names, image=names, caption=names, other=names, broken=st.booleans())
def test_commands_about_a_source_say_what_was_said(source, image, caption, other, broken) -> None:
    said = {"image_root": "", "image_column": image, "caption_column": caption, "leave_broken": broken}
    said |= {"label_column": caption, "templates": other, "class_names": image}
    commands = Commands(source, said, other)
    lines = [commands.check(), commands.convert("--short-side", "256"), *commands.without_listed("--near")]
    for options in map(understood, [*lines, *commands.without_common()]):
        assert options.source == source
        assert options.columns | {"leave_broken": options.leave_broken} == said
    assert understood(commands.without_common()[0]).against == other


def test_what_opens_an_address_is_not_shown() -> None:
    commands = Commands("https://user:secret@host/a.tar", {}, "s3://b/c.tar")
    assert commands.check() == "slip data check SOURCE"
    assert commands.without_common()[0] == "slip data check SOURCE --against s3://b/c.tar --list found.jsonl"


def test_options_that_are_not_set_are_left_out() -> None:
    assert data_options({"image_root": "", "caption_column": "a b", "leave_broken": True}) == [
        "--data.caption-column", "a b", "--data.leave-broken",
    ]  # fmt: skip
    assert command("slip", "report", Path("a b"), "it's") == "slip report 'a b' 'it'\"'\"'s'"


@pytest.mark.parametrize("loss", ["clip", "simclr"])
def test_runs_without_results_show_how_to_measure_them(tmp_path: Path, loss: str) -> None:
    config = make_config(loss)
    tasks = replace(
        config,
        data=replace(config.data, train="x"),
        evaluation=replace(config.evaluation, tasks=("knn:scenes",)),
    )
    half = load_run(write_run(tmp_path / "it's half", steps=5, config=tasks))
    whole = load_run(write_run(tmp_path / "whole", config=tasks))
    plain = load_run(write_run(tmp_path / "plain", config=config))
    for run in (half, whole):
        options = understood(measuring(run))
        assert (options.out, options.resume, options.config) == (str(run.folder), True, run.config)
        shown = re.findall(
            "<pre>(slip .*?)</pre>", write_report(tmp_path / "r.html", [run], title="x").read_text()
        )
        assert [html.unescape(line) for line in shown] == [measuring(run)]
    options = understood(measuring(plain))
    assert options.model == plain.folder
    assert options.tasks == (("knn" if loss == "simclr" else "zeroshot") + ":PICTURES",)


def test_the_quickstart_s_next_steps(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("it's clip", "slip")]
    steps = [understood(line) for _, line in next_steps(tmp_path, folders)]
    embed, search, show, train, evaluate, report = steps
    assert (embed.model, embed.source) == (str(folders[-1]), str(tmp_path / "scenes"))
    assert embed.out == search.folder
    assert show.source == str(tmp_path / "scenes")
    assert train.config.data.train == "pairs.csv"
    assert evaluate.model == folders[-1]
    assert report.runs == tuple(folders)
    assert report.out.parent == tmp_path


def test_what_the_check_advises_works_as_it_is_shown(tmp_path: Path, capsys, monkeypatch) -> None:
    """A table with odd names is checked; the commands that are shown then, on the page too, are run one by one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(6):
        pixels = rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,what {number} shows,other {number}")
    (folder / "5.png").write_bytes((folder / "4.png").read_bytes())
    (folder / "3.png").write_bytes(b"not a picture")
    rows[5] = "5.png,what 4 shows,other"
    (folder / "table $1.csv").write_text("\n".join(["the file,the words,else", *rows]))
    said = ["--image-column", "the file", "--caption-column", "the words", "--processes", "1"]
    run("slip", "data", "check", str(folder / "table $1.csv"), *said)
    printed = capsys.readouterr().out
    shown = re.findall("^ +(slip .*)$", printed, re.MULTILINE)
    page = re.findall("<pre>(.*?)</pre>", (tmp_path / "check.html").read_text())
    assert [html.unescape(line) for line in page] == shown
    assert len(shown) == 3
    listing, *conversions = sorted(shown, key=lambda line: "--list" not in line)
    run(*shlex.split(listing))
    assert (tmp_path / "found.jsonl").is_file()
    for line in conversions:
        run(*shlex.split(line), "--prefix", f"{len(line)}-")
        options = understood(line)
        assert options.caption_column == "the words"
    assert sorted(path.suffix for path in (tmp_path / "cleaned").glob("*.tar")) == [".tar", ".tar"]


def run(*words: str) -> None:
    assert words[:2] == ("slip", "data")
    importlib.import_module(f"openslip.cli.data.{words[2]}").main([*words[3:]])
