"""A linear probe that is kept says what it measured, belongs to one model, and loses no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import openslip
from openslip.errors import CheckpointError
from openslip.evaluation import kept_probe
from openslip.evaluation.kept_probe import Origin
from openslip.evaluation.linear import Linear, Probe
from toys import make_tiny_config, save_photos, save_toy_model


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return save_photos(tmp_path_factory.mktemp("linear") / "photos", test=4)


@pytest.fixture
def run(tmp_path) -> Path:
    return Path(save_toy_model(tmp_path / "run"))


def kept(run: Path, photos: Path, **options) -> Path:
    """Fit a probe on the run's model and keep it; return where."""
    folder = run / "linear" / "photos"
    task = Linear(str(photos), folder=folder, origin=Origin(str(run), run), **options)
    return Path(task.evaluate(openslip.load(run))[0].classifier)


def test_what_is_kept_is_what_was_measured(run, photos) -> None:
    encoder, folder = openslip.load(run), run / "linear" / "photos"
    results = Linear(str(photos), folder=folder, origin=Origin(str(run), run)).evaluate(encoder)
    assert results == Linear(str(photos)).evaluate(encoder)
    assert {result.classifier for result in results} == {str(folder)}
    found = kept_probe.read(folder)
    assert found.names == ("blue", "red")
    assert found.about["images"] == 24
    assert found.model() == str(run)
    found.check(encoder)
    pictures = sorted((photos / "test").glob("*/*.png"))
    labels = np.array([found.names.index(path.parent.name) for path in pictures])
    scores = found.probe.scores(encoder.image_features(pictures).numpy())
    assert (scores.argmax(axis=1) == labels).mean() == results[0].value
    told = json.loads((folder / "results.json").read_text())
    assert [row["metric"] for row in told] == ["top1", "mean_per_class", "ece"]
    assert not list(folder.glob(".writing*"))


def test_the_same_again_is_the_same_file(run, photos) -> None:
    before = (kept(run, photos) / kept_probe.FILE).read_bytes()
    assert (kept(run, photos) / kept_probe.FILE).read_bytes() == before


def test_other_settings_and_pictures_lie_beside(run, photos, tmp_path) -> None:
    first = kept(run, photos)
    content = (first / kept_probe.FILE).read_bytes()
    other = kept(run, photos, seed=1)
    assert other != first
    assert other.name.startswith("photos-")
    assert kept(run, photos, seed=1) == other
    fewer = shutil.copytree(photos, tmp_path / "fewer" / "photos")
    (fewer / "train/red/0.png").unlink()
    assert kept(run, fewer) not in (first, other)
    assert (first / kept_probe.FILE).read_bytes() == content


def test_a_run_that_moves_takes_its_probe_along(run, photos, tmp_path) -> None:
    place = kept(run, photos)
    moved = shutil.move(run, tmp_path / "moved")
    assert kept_probe.read(Path(moved) / "linear" / place.name).model() == str(moved)
    shutil.move(Path(moved) / "linear" / place.name, tmp_path / "alone")
    with pytest.raises(CheckpointError, match="not where it was.*--encoder"):
        kept_probe.read(tmp_path / "alone").model()


def make_probe(width: int, classes: int = 2) -> Probe:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(classes, width)).astype(np.float32)
    ones = np.ones(width, dtype=np.float32)
    return Probe(ones * 0, ones, weight, weight[:, 0], 0.1, 0.5)


ABOUT = {"classes": ["a", "b"], "content": "c", "images": 9, "penalties": [1.0], "seed": 0}


def test_a_probe_whose_checkpoint_is_gone_makes_room(tmp_path) -> None:
    """Of a run that goes on, old checkpoints are removed."""
    torch.manual_seed(0)
    before, after = (openslip.create(make_tiny_config()) for _ in range(2))
    run, probe = tmp_path / "run", make_probe(16)
    folder = run / "linear" / "photos"
    for step in ("step-00000001", "step-00000002"):
        (run / "checkpoints" / step).mkdir(parents=True)
    one, two = (Origin(str(run), run, f"step-0000000{step}") for step in (1, 2))
    assert kept_probe.save(folder, "linear:photos", before, one, probe, ABOUT) == folder
    assert kept_probe.read(folder).model() == str(run / "checkpoints" / "step-00000001")
    beside = kept_probe.save(folder, "linear:photos", after, two, probe, ABOUT)
    assert beside != folder
    with pytest.raises(CheckpointError, match="other weights than this model's.*step-00000001.*again"):
        kept_probe.read(folder).check(after)
    (run / "checkpoints" / "step-00000001").rmdir()
    assert kept_probe.save(folder, "linear:photos", after, two, probe, ABOUT) == folder
    kept_probe.read(folder).check(after)
    other = {**ABOUT, "content": "d"}
    assert kept_probe.save(folder, "linear:photos", after, two, probe, other) != folder


def test_other_preprocessing_is_another_model(tmp_path) -> None:
    torch.manual_seed(0)
    encoder = openslip.create(make_tiny_config())
    place = kept_probe.save(tmp_path / "x", "linear:x", encoder, Origin("x"), make_probe(16), ABOUT)
    assert place is not None
    views = replace(encoder.config.views, mean=(0.1, 0.2, 0.3))
    with pytest.raises(CheckpointError, match=r"preprocess .*0\.1"):
        kept_probe.read(place).check(openslip.Encoder(encoder.model, replace(encoder.config, views=views)))


def test_where_nothing_can_be_written_it_is_said(tmp_path, caplog) -> None:
    encoder = openslip.create(make_tiny_config())
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "linear" / "x"
    assert kept_probe.save(folder, "linear:x", encoder, Origin("x"), make_probe(16), ABOUT) is None
    assert "the probe is not kept" in caplog.text


def test_damaged_and_missing(tmp_path) -> None:
    encoder = openslip.create(make_tiny_config())
    place = kept_probe.save(tmp_path / "x", "linear:x", encoder, Origin("x"), make_probe(16), ABOUT)
    assert place is not None
    file = place / kept_probe.FILE
    content = file.read_bytes()
    tensors = {
        name: value.clone() for name, value in load_file(file).items()
    }  # not of the file, which is damaged
    with pytest.raises(CheckpointError, match="There is no linear probe"):
        kept_probe.read(tmp_path / "y")
    header = {"openslip.linear": json.dumps({**ABOUT, "classes": ["a"]})}
    wrong = (
        lambda: file.write_bytes(content[:-3]),
        lambda: file.write_bytes(b""),
        lambda: save_file(tensors, file),
        lambda: save_file(tensors, file, metadata=header),
        lambda: save_file(tensors, file, metadata={"openslip.linear": "[1"}),
        lambda: file.write_bytes(content.replace(b'\\"path\\"', b'\\"poth\\"')),
    )
    for damage in wrong:
        damage()
        with pytest.raises(CheckpointError, match="cannot be read.*linear:DATA"):
            kept_probe.read(place)
    file.write_bytes(content)
    kept_probe.read(place)


@pytest.mark.parametrize("path", ["x" * 5000, "x\0y", "gone"])
def test_a_model_where_none_can_be_is_not_there(tmp_path, path) -> None:
    origin = {"name": "", "path": path, "checkpoint": path}
    found = kept_probe.KeptProbe(make_probe(16), ("a", "b"), {"origin": origin}, tmp_path / kept_probe.FILE)
    with pytest.raises(CheckpointError, match="not where it was"):
        found.model()


def test_it_is_no_model(run, photos) -> None:
    for path in (place := kept(run, photos), place / kept_probe.FILE):
        with pytest.raises(CheckpointError, match="a linear probe: one layer.*slip classify"):
            openslip.load(path)
