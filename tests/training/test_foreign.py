"""Run folders that others wrote, or that a power failure has been at: used, passed over or refused, in words."""

import contextlib
import json
import random
import shutil
from dataclasses import replace

import pytest
import timm
from safetensors.torch import load_file, save_file

import openslip
from openslip import toml
from openslip.errors import SlipError
from openslip.evaluation import Result, suite
from openslip.report import load_run
from openslip.report.gallery import Gallery
from openslip.report.page import page
from openslip.training.saving import checkpoint
from openslip.training.saving.run import read_lines
from openslip.training.train import train
from toys import ToySource, make_tiny_config
from training.runs import QUIET

HUGE = b"1" + b"0" * 400
WRONG = [
    b"",
    b"\xff\xfe\x00",
    b"5",
    b"[]",
    b"{}",
    b"null",
    b'"text"',
    b"[" * 100_000,
    HUGE,
    b"[[1]]",
    b'{"a": NaN}',
]
VALUES = [
    None,
    True,
    -1,
    0,
    5,
    10**400,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x1b[31m",
    [],
    [5],
    {},
    {"a": {}},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder with everything in it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(make_tiny_config(epochs=0.25), ToySource(broken=frozenset(range(0, 64, 3))), folder, console=QUIET)
    suite.save([Result("a:b", "top1", 0.5, 10, 0.4, 0.6)], folder / "results.json")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def look(run, *, load: bool = False) -> None:
    """Report it, or load it; our own errors are what is allowed."""
    with contextlib.suppress(SlipError):
        if load:
            openslip.load(run)
        else:
            page([load_run(run)], Gallery(), title="r")


def resume(run) -> None:
    train(
        make_tiny_config(epochs=0.25),
        ToySource(broken=frozenset(range(0, 64, 3))),
        run,
        resume=True,
        console=QUIET,
    )


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "results.json", "versions.json", "counts.json", "config.toml", "state"]
)
def test_files_that_are_none(run, name) -> None:
    (path,) = run.glob(f"checkpoints/*/{name}.json") if name == "state" else [run / name]
    for content in WRONG:
        path.write_bytes(content)
        look(run, load=name in ("state", "config.toml"))


def test_lines_that_are_none_do_not_keep_a_run_from_going_on(run) -> None:
    whole = read_lines(run / "metrics.jsonl"), read_lines(run / "skipped.jsonl")
    others = [
        *WRONG,
        b'{"step": "x"}',
        b'{"step": ' + HUGE + b"}",
        b'{"step": NaN}',
        b'{"step": [1]}',
        b'{"loss": 1}',
    ]
    for name in ("metrics.jsonl", "skipped.jsonl"):
        (run / name).write_bytes(b"\n".join([*others, (run / name).read_bytes(), *others]))
    resume(run)
    assert (read_lines(run / "metrics.jsonl"), read_lines(run / "skipped.jsonl")) == whole


def test_values_of_other_kinds_at_every_key(run) -> None:
    """Of each JSON file, one value after the other; the same each time."""
    generator = random.Random(0)
    (state,) = run.glob("checkpoints/*/state.json")
    for path in (run / "results.json", state, run / "data.json"):
        original = path.read_text()
        for _ in range(15):
            data = json.loads(original)
            if path == state:
                data.pop("crc")  # as earlier versions wrote it
            place = data
            while True:
                key = generator.choice(list(place) if isinstance(place, dict) else range(len(place)))
                if not (isinstance(place[key], dict | list) and place[key]) or generator.random() < 0.2:
                    break
                place = place[key]
            place[key] = generator.choice(VALUES)
            path.write_text(json.dumps(data))
            look(run, load=path == state)
        path.write_text(original)


@pytest.mark.parametrize("seed", range(3))
def test_a_state_of_other_values_is_gone_on_from_or_refused(run, seed) -> None:
    generator = random.Random(seed)
    (state,) = run.glob("checkpoints/*/state.json")
    data = json.loads(state.read_text())
    data.pop("crc")
    inner = (
        data["counts"],
        data["records"],
        data["window"],
    )  # the window may be empty: it is after a line of metrics
    place = generator.choice([data, *filter(None, inner)])
    place[generator.choice(list(place))] = generator.choice(VALUES)
    state.write_text(json.dumps(data))
    with contextlib.suppress(SlipError):
        resume(run)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../config.toml", "model.safetensors/../../x", "state.json"]
)
def test_a_checkpoint_does_not_reach_out_of_its_folder(run, name) -> None:
    (state,) = run.glob("checkpoints/*/state.json")
    data = json.loads(state.read_text())
    data.pop("crc")
    data["checksums"][name] = "0 bytes, crc 00000000"
    state.write_text(json.dumps(data))
    with pytest.raises(SlipError, match="checksums are damaged"):
        checkpoint.verify(state.parent)


def test_weights_that_are_no_file(run) -> None:
    (weights,) = run.glob("checkpoints/*/model.safetensors")
    weights.unlink()
    weights.symlink_to("/dev/zero")
    with pytest.raises(SlipError, match="no regular file"):
        openslip.load(run)


@pytest.mark.parametrize(
    "name", ["hf-hub:owner/x", "hf_hub:owner/x", "local-dir:/etc", "timm/vit_tiny_patch16_224", "none"]
)
def test_the_name_of_a_place_is_not_asked(run, name) -> None:
    (weights,) = run.glob("checkpoints/*/model.safetensors")
    save_file(
        load_file(weights), weights
    )  # as an earlier version wrote it, which does not know its tower's name
    (weights.parent / "state.json").unlink()
    config = run / "config.toml"
    config.write_text(config.read_text().replace('name = "vit"', f'name = "{name}"'))
    with pytest.raises(SlipError, match="timm does not know the run's image tower.*model.image.name"):
        openslip.load(run)


@pytest.mark.parametrize("change", ["depth = 1000000000", "width = 1000000000000", "heads = 0", "patch = 0"])
def test_a_model_of_another_size_takes_no_memory(run, change) -> None:
    config, key = run / "config.toml", change.split()[0]
    text = config.read_text()
    head, image, rest = text.partition("[model.image]")
    lines = [change if line.startswith(f"{key} = ") else line for line in rest.splitlines()]
    config.write_text(head + image + "\n".join(lines))
    with pytest.raises(SlipError):
        openslip.load(run)


def test_pretrained_weights_are_not_asked_for_again(tmp_path, toy_source, tiny_config, monkeypatch) -> None:
    made = timm.create_model

    def create_model(name, *, pretrained=False, **options):
        assert not pretrained
        return made(name, **options)

    image = replace(tiny_config.model.image, name="test_resnet")
    config = replace(tiny_config, model=replace(tiny_config.model, image=image))
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    path = run.path / "config.toml"
    text = path.read_text().replace('init = ""\n', "")
    path.write_text(text.replace('name = "test_resnet"', 'name = "test_resnet"\npretrained = true'))
    monkeypatch.setattr(timm, "create_model", create_model)
    assert openslip.load(run.path).config.init == "timm:test_resnet"
    train(toml.load(path), toy_source, run.path, resume=True, console=QUIET)
