"""Objectives of a user's own: found, checked, run where the user names them, and nowhere else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import openslip
from openslip import toml
from openslip.cli import main
from openslip.cli.train import resolve
from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError
from openslip.files import read_json, write_json
from openslip.objectives import REGISTRY, Curve, parse
from openslip.objectives.own import RECORD, load, register, resume
from openslip.report import load_run
from openslip.training.saving.run import RunFolder
from openslip.training.train import train
from toys import make_tiny_config
from training.runs import QUIET

MINE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from openslip.needs import IMAGE, Need
from openslip.objectives import Objective
from openslip.ranges import ABOVE_0

{above}
class Mine(Objective):
    """Lengths of the features are small.

    More about it.
    """

    name = "mine"
    title = "Mine"
    views = (IMAGE,)
    needs = (Need("image"),)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        power: Annotated[float, ABOVE_0] = 2.0
        """Of the length."""
        kind: Literal["sum", "mean"] = "mean"

    def embed(self, features):
        return {{"image": features[self.needs[0]]}}

    def loss(self, embeddings, at):
        loss = embeddings["image"].norm(dim=1).pow(self.config.power).mean()
        return {{"loss": loss, "mine_loss": loss.detach()}}
{below}
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """Be in a folder with a file of Python; forget afterwards what was imported."""
    modules, known, path = dict(sys.modules), dict(REGISTRY), list(sys.path)
    monkeypatch.chdir(tmp_path)
    write("mylosses.py")
    yield tmp_path
    assert sys.path == path
    for name in sys.modules.keys() - modules.keys():
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
    REGISTRY.clear()
    REGISTRY.update(known)


def write(name: str, above: str = "", below: str = "", **changes: tuple[str, str]) -> Path:
    text = MINE.format(above=above, below=below)
    for old, new in changes.values() if changes else ():
        assert old in text
        text = text.replace(old, new)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return Path(name)


def forget() -> None:
    """Be as a new process that has imported nothing of the user's."""
    for name in [name for name in REGISTRY if ":" in name]:
        sys.modules.pop(REGISTRY.pop(name).__module__, None)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mylosses:Mine", "mylosses.py"),
        ("pack.inner:Mine", "pack/inner.py"),
        ("./elsewhere/other.py:Mine", "elsewhere/other.py"),
        ("elsewhere/other.py:Mine", "elsewhere/other.py"),
        ("mylosses.py:Mine", "mylosses.py"),
        ("outer:Holder.Mine", "outer.py"),
    ],
)
def test_a_class_is_found_by_its_module_or_file(name, file) -> None:
    write(file)
    if "Holder" in name:
        Path(file).write_text(Path(file).read_text() + "\nclass Holder:\n    Mine = Mine\n")
    load(f"clip + .5 * {name}")
    loss = parse(ObjectiveConfig(loss=f"clip + .5 * {name}", options={"mine": {"power": 3}}))
    clip, mine = loss.terms
    assert (clip.kind.name, mine.kind.name, mine.weight, mine.config.power) == ("clip", "mine", 0.5, 3.0)
    assert str(loss) == f"clip + 0.5 * {name}"
    assert parse(ObjectiveConfig(loss=str(loss))).views == (openslip.needs.IMAGE,)
    load(name)  # once more changes nothing
    assert REGISTRY[name] is mine.kind


def test_a_class_on_the_import_path_is_found_and_neighbours_can_be_imported(here, monkeypatch) -> None:
    write("lib/deeper/own.py", above="import helper_of_own")
    Path("lib/deeper/helper_of_own.py").write_text("")
    with pytest.raises(ConfigError, match="no module 'own'"):
        load("own:Mine")
    load("lib/deeper/own.py:Mine")
    forget()
    monkeypatch.syspath_prepend(here / "lib/deeper")
    load("own:Mine")
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("class Mine(Objective)", "class Mine"), "no subclass of openslip.objectives.Objective"),
        (("class Mine(Objective)", "Mine = Objective\nclass Other(Objective)"), "no subclass"),
        (("class Mine(Objective)", "class Mime(Objective)"), r"mylosses\.py has no class 'Mine'.*'Mime'"),
        (('name = "mine"', 'name = "clip"'), "Got: .clip.*that of one of openslip's objectives"),
        (('name = "mine"', 'name = "ssl_every"'), "that of an option"),
        (('name = "mine"', 'name = "My-Loss"'), "a word of small letters"),
        (('    name = "mine"\n', ""), "a word of small letters"),
        (('    title = "Mine"\n', ""), "no `title`"),
        (("views = (IMAGE,)", 'views = "image"'), "`views` must be a tuple of openslip.needs.View"),
        (("views = (IMAGE,)", "views = (IMAGE, IMAGE)"), "a name twice"),
        (("    views = (IMAGE,)\n", ""), "lacks `views` or `needs`"),
        (
            ("views = (IMAGE,)", "from openslip.needs import View; views = (View('a', 'big'),)"),
            "a kind that is not",
        ),
        (("needs = (Need(", "needs = (Need('other'), Need("), "a view that is not among"),
        (("needs = (Need(", "needs = (Need('image', 'logits'), Need("), "What it needs is not among"),
        (("needs = (Need(", "needs = (Need('image', by='teacher'), Need("), "no method `momentum`"),
        (('needs = (Need("image"),)', "needs = (Need('image', masked=True),)"), "no method `masked`"),
        (('needs = (Need("image"),)', "needs = (Need('image', 'ids'),)"), "no such feature of a view"),
        (('needs = (Need("image"),)', "needs = (Need('text', 'tokens'),)"), "no such feature of captions"),
        (('needs = (Need("image"),)', "needs = (Need('text', 'ids', by='teacher'),)"), "A teacher gives"),
        (('needs = (Need("image"),)', "needs = (Need('image', captions=2),)"), "Several captions"),
        (('needs = (Need("image"),)', "needs = (Need('text', captions=0),)"), "Several captions"),
        (("views = (IMAGE,)", "views = (IMAGE,); teacher_heads = ('head',)"), "no method `momentum`"),
        (('needs = (Need("image"),)', "needs = ()"), "`needs` are empty"),
        (("views = (IMAGE,)", "views = ()"), "`views` are empty"),
        (("@dataclass(frozen=True, kw_only=True)", ""), "`Config` must be a dataclass"),
        (("frozen=True, kw_only=True", "kw_only=True"), "must be frozen"),
        (("= 2.0", ""), "an option without a default"),
        (("Annotated[float, ABOVE_0] = 2.0", "Path = None"), "a configuration cannot hold"),
        (("Annotated[float, ABOVE_0] = 2.0", "list[int] = ()"), "a configuration cannot hold"),
        (("Annotated[float, ABOVE_0] = 2.0", "float = 'x'"), "a configuration cannot hold"),
        (("def loss(", "def los("), "no method `loss`"),
        (("def embed(", "def embd("), "no method `embed`"),
    ],
)
def test_what_is_no_objective_is_refused_in_words(changes, message) -> None:
    write("mylosses.py", a=changes)
    with pytest.raises(ConfigError, match=message):
        load("clip + mylosses:Mine")
    assert "mylosses:Mine" not in REGISTRY


def test_two_classes_of_one_name_are_refused() -> None:
    write("others.py")
    load("mylosses:Mine")
    with pytest.raises(ConfigError, match="that of mylosses:Mine"):
        load("others:Mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mylossse:Mine", r"no module 'mylossse' in the current folder.*'mylosses'"),
        ("elsewhere/x.py:Mine", "file of an objective is not there"),
        ("./mylossse.py:Mine", r"not there.*'mylosses\.py'"),
        ("math:Mine", "is no Python file"),
        ("clip + mylosses", "Unknown objective 'mylosses'"),
        ("clip + mylosses.py", r"Unknown objective.*path/to/mylosses\.py:Mine"),
        ("mylosses:", "cannot be understood"),
        (":Mine", "cannot be understood"),
        ("mylosses:Mine Mine", "cannot be understood"),
    ],
)
def test_files_and_texts_that_are_not_there(text, message) -> None:
    def tried() -> None:
        load(text)
        parse(ObjectiveConfig(loss=text))

    with pytest.raises(ConfigError, match=message):
        tried()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "import nothing_of_that_name",
            r"mylosses\.py, line 11.*ModuleNotFoundError: .*'nothing_of_that_name'",
        ),
        ("def f(:", r"mylosses\.py, line 11.*SyntaxError"),
        ("raise SystemExit(3)", r"mylosses\.py, line 11.*SystemExit: 3"),
        ("open('not there')", r"mylosses\.py, line 11.*FileNotFoundError"),
        ("def f():\n    return 1 / 0\nf()", r"mylosses\.py, line 12.*ZeroDivisionError"),
    ],
)
def test_an_error_in_the_file_is_shown_with_its_line(line, message, capsys) -> None:
    write("mylosses.py", above=line)
    argv = ["train", "scenes-tiny", "--objective.loss", "mylosses:Mine"]
    for _ in range(2):
        assert main(argv) == 1
        told = capsys.readouterr().err
        assert re.search(message, told)
        assert "Traceback" not in told
    write("mylosses.py")
    load("mylosses:Mine")  # once the file is right


def test_a_module_of_that_name_may_be_loaded_already() -> None:
    write("elsewhere/json.py")
    with pytest.raises(ConfigError, match="'json' is loaded already, from another file"):
        load("elsewhere/json.py:Mine")


LOSS = "clip + 0.5 * mylosses:Mine"
TRAIN = ["--data.train", "scenes:train:16", "--training.batch", "8"]


def test_its_options_are_options_of_the_command(capsys, monkeypatch) -> None:
    argv = ["scenes-tiny", "--objective.loss", LOSS]
    config = resolve([*argv, "--objective.mine.power", "3"]).config
    assert config.objective == ObjectiveConfig(loss=LOSS, options={"mine": {"power": 3.0}})
    with pytest.raises(ConfigError, match=r"--objective\.mine\.power must be above 0"):
        resolve([*argv, "--objective.mine.power", "0"])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        resolve([*argv, "--help-all"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Lengths of the features are small." in shown
    assert "More about it" not in shown
    assert "--objective.mine.power FLOAT Of the length. [above 0] (default: 2.0)" in shown


def test_a_configuration_that_is_given_by_path_names_one() -> None:
    Path("mine.toml").write_text(f"[objective]\nloss = '{LOSS}'\n[objective.mine]\npower = 3\n")
    config = resolve(["--config", "mine.toml", *TRAIN]).config
    assert config.objective.options == {"mine": {"power": 3.0}}
    Path("mine.toml").write_text(f"[objective]\nloss = '{LOSS}'\n[objective.mine]\npow = 3\n")
    with pytest.raises(ConfigError, match=r"In mine\.toml: .*'objective\.mine\.pow'.*'power'"):
        resolve(["--config", "mine.toml", *TRAIN])


def trained(source, **training: object) -> RunFolder:
    """Train on a class of a user's own as `slip train` would, in this process."""
    load(LOSS)
    config = make_tiny_config(**training)
    options = {**config.objective.options, "mine": {"power": 1.0}}
    options.pop("simclr")
    config = replace(config, objective=ObjectiveConfig(loss=LOSS, options=options))
    return train(config, source, "run", resume=True, console=QUIET)


def test_a_run_notes_the_file_and_goes_on_with_it(here, toy_source) -> None:
    run = trained(toy_source, epochs=1)
    (entry,) = read_json(run.path / RECORD).values()
    assert entry | {"sha256": ""} == {
        "name": "mine", "class": "mylosses:Mine", "file": "mylosses.py", "sha256": "", "curves": [],
    }  # fmt: skip
    assert str(here) not in (run.path / RECORD).read_text()
    forget()
    options = resolve(["--resume", "--out", "run"])
    assert options.config.objective == run.config.objective
    assert "mylosses:Mine" in REGISTRY
    forget()
    resolve(["--config", "run/config.toml", "--resume"])
    forget()
    run.path.rename("elsewhere")
    Path("mylosses.py").rename("elsewhere/mylosses.py")  # what somebody sends along is not run
    with pytest.raises(
        ConfigError, match="elsewhere/mylosses.py is in the run folder|no 'mylosses' in the current"
    ):
        resolve(["--resume", "--out", "elsewhere"])
    sys.path.insert(0, str(here / "elsewhere"))
    try:
        with pytest.raises(ConfigError, match=r"mylosses\.py is in the run folder, whose code is not run"):
            resolve(["--resume", "--out", "elsewhere"])
        with pytest.raises(ConfigError, match=r"mylosses\.py is in a run folder, whose code is not run"):
            resolve(["--config", "elsewhere/config.toml", "--out", "new"])
    finally:
        sys.path.remove(str(here / "elsewhere"))
    assert "mylosses" not in sys.modules


def test_a_run_goes_on_with_other_code_where_it_is_named_anew(toy_source, capsys) -> None:
    run = trained(toy_source, epochs=1)
    forget()
    write("mylosses.py", below="# changed")
    with pytest.raises(
        ConfigError, match=r"mylosses\.py has sha256 .*was started with.*--objective\.loss 'clip \+ 0\.5"
    ):
        resolve(["--resume", "--out", "run"])
    assert "mylosses" not in sys.modules
    options = resolve(["--resume", "--out", "run", "--objective.loss", LOSS])
    said: list[str] = []
    folder = RunFolder(run.path, said.append)
    folder.check_config(options.config)
    folder.check_same(options.config, read_json(run.path / "data.json"))
    assert re.search("mylosses:Mine is not the code that the run was started with.*will not equal", said[0])
    forget()
    resolve(["--resume", "--out", "run"])  # it is the run's code now
    forget()
    Path("lib").mkdir()
    Path("mylosses.py").rename("lib/mylosses.py")
    with pytest.raises(ConfigError, match="There is no 'mylosses' in the current folder"):
        resolve(["--resume", "--out", "run"])
    moved = LOSS.replace("mylosses", "lib/mylosses.py")
    options = resolve(["--resume", "--out", "run", "--objective.loss", moved])
    folder.check_config(options.config)
    forget()
    (run.path / RECORD).unlink()
    with pytest.raises(ConfigError, match=r"objective\.json does not name the file of the class"):
        resume(run.path, LOSS)


def test_nothing_that_a_run_or_checkpoint_names_is_imported(toy_source, tmp_path, capsys) -> None:
    run = trained(toy_source, epochs=1)
    forget()
    write("mylosses.py", above="raise RuntimeError('imported')")
    openslip.load(run.path)
    assert main(["report", "run", "--out", "report.html"]) == 0
    assert main(["evaluate", "run", "retrieval:scenes:test:8"]) == 0
    assert main(["consolidate", "run"]) in (0, 1)
    with pytest.raises(ConfigError, match="is a class of a user's own, whose file is not loaded"):
        openslip.create(toml.load(run.path / "config.toml"))
    assert "mylosses" not in sys.modules
    assert "mylosses:Mine" not in REGISTRY


def test_a_report_draws_the_noted_curves_without_the_file(toy_source) -> None:
    curve = "curves = (Curve('mine_loss', 'Length', 'short is good', 'low', lambda *_: 1.0),)"
    write(
        "mylosses.py",
        above="from openslip.objectives import Curve",
        a=("views = (IMAGE,)", f"views = (IMAGE,); {curve}"),
    )
    run = trained(toy_source, epochs=1)
    forget()
    ours = load_run(run.path).loss.curves[:-1]
    assert load_run(run.path).loss.curves == (*ours, Curve("mine_loss", "Length", "short is good", "low"))
    record = read_json(run.path / RECORD)
    for wrong in (None, 3, [3], [{}], [{"key": 1}], [{"key": "a", "title": "b", "note": "c", "best": "d"}]):
        write_json(run.path / RECORD, {name: entry | {"curves": wrong} for name, entry in record.items()})
        assert load_run(run.path).loss.curves == ours


def test_a_class_can_be_handed_over() -> None:
    load("mylosses:Mine")
    kind = REGISTRY.pop("mylosses:Mine")
    assert register(kind) == "mylosses:Mine"
    assert register(REGISTRY["clip"]) == "clip"

    class Local(kind):
        name = "local"

    text = register(Local)
    assert parse(ObjectiveConfig(loss=f"2 * {text} + clip")).terms[0].kind is Local
    with pytest.raises(ConfigError, match="no subclass"):
        register("mylosses:Mine")
