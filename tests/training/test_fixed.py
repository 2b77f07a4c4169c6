"""What objectives learn from and never change: read once, no part of what is trained, seen in pictures of its own."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import openslip
from openslip import toml
from openslip.config import Config, ViewsConfig
from openslip.data.augment import augment
from openslip.data.builder import Builder
from openslip.data.data import Data
from openslip.data.tokenizer import Tokenizer
from openslip.errors import CheckpointError, ConfigError
from openslip.models.inputs import Inputs
from openslip.needs import IMAGE, SSL_VIEWS, TEXT, Need
from openslip.objectives import At, Dims, Objective, combine, own, parse
from openslip.objectives.combine import Loss, Term
from openslip.objectives.contrast import unit
from openslip.processes import Processes
from openslip.training.fixed import FixedModels, check_same, read_fixed
from openslip.training.plan_summary import describe
from openslip.training.saving.metadata import read_header
from openslip.training.student import build_student
from toys import (
    ToySource,
    make_tiny_config,
    plan_of,
    save_toy_model,
    toy_model,
    with_loss,
    with_saved_teacher,
)
from training.runs import QUIET, same, weights


class Follow(Objective):
    """The student's image embedding comes to be that of a fixed model."""

    name = "follow"
    title = "Follow"
    views = (IMAGE,)
    needs = (
        Need("image", "embedding"),
        Need("image", "embedding", by="fixed"),
        Need(TEXT, "embedding", by="fixed"),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        model: str = "toy"

    def __init__(self, config, dims: Dims) -> None:
        super().__init__(config, dims)
        assert dims.fixed is not None
        self.head = torch.nn.Linear(dims.embed_dim, dims.fixed.embed_dim)

    @classmethod
    def fixed_model(cls, config) -> str:
        return config.model

    def embed(self, features):
        image, target, text = (features[need] for need in self.needs)
        return {"image": self.head(image.float()), "target": target, "text": text}

    def loss(self, embeddings, at):
        image, target, text = (unit(embeddings[name]) for name in ("image", "target", "text"))
        loss = (2 - 2 * (image * target).sum(1)).mean() - (image * text).sum(1).mean()
        return {"loss": loss, "follow_loss": loss.detach()}


class FollowTwoViews(Follow):
    """Self-supervised views, without captions, of the model that the run starts from."""

    name = "follow_start"
    views = SSL_VIEWS
    needs = (
        Need("ssl_1", "embedding"),
        Need("ssl_1", "embedding", by="fixed"),
        Need("ssl_2", by="fixed"),
    )

    @classmethod
    def fixed_model(cls, config) -> str:
        return ""


def loss_of(*kinds: type[Objective]) -> Loss:
    return Loss(tuple(Term(1.0, kind.name, kind, kind.Config()) for kind in kinds))


def fixed_of(config: Config, *kinds: type[Objective], **changed: Any) -> FixedModels:
    """Return the fixed models of a loss of these objectives; `changed`: what is other in the model's configuration."""

    def read(spec: str):
        model, its = toy_model(spec)
        return model, replace(its, **changed)

    return read_fixed(config, loss_of(*kinds), Processes(), read)


def batch_of(views, config: ViewsConfig) -> dict:
    return Builder(Data(ToySource()), views, config, Tokenizer(12), 6, 5).build(0)


def inputs_of(built: dict, config: ViewsConfig) -> Inputs:
    views = {
        name: augment(view, built["parameters"][name], config.mean, config.std)
        for name, view in built["views"].items()
    }
    return Inputs(views, built["tokens"])


def test_it_sees_the_students_crops_and_colours_at_its_own_size_and_normalised_its_own_way(
    tiny_config,
) -> None:
    config = replace(tiny_config, init="toy")
    fixed = fixed_of(config, Follow, FollowTwoViews)
    assert [view.name for view in fixed.views] == ["image@24", "ssl_1@24", "ssl_2@24"]
    model = fixed.models["toy"]
    student = build_student(config, loss_of(Follow, FollowTwoViews), fixed=fixed)
    built = batch_of(student.views, config.views)
    assert {name: view.shape[-1] for name, view in built["views"].items()} == {
        "image": 16, "ssl_1": 16, "ssl_2": 16, "image@24": 24, "ssl_1@24": 24, "ssl_2@24": 24,
    }  # fmt: skip
    found = student.fixed_features(inputs_of(built, config.views), At())
    assert {key: rows.shape for key, rows in found.items()} == {
        (name, need): (6, model.width_of(need)) for name, need in found
    }
    model, its = toy_model()
    for name, embedded in (("image", True), ("ssl_1", True), ("ssl_2", False)):
        drawn = f"{name}@24"
        seen = augment(built["views"][drawn], built["parameters"][drawn], its.views.mean, its.views.std)
        term = "follow" if name == "image" else "follow_start"
        need = Need(name, "embedding" if embedded else "feature", by="fixed")
        with torch.no_grad():
            expected = model.encode_image(seen) if embedded else model.image_features(seen)
        torch.testing.assert_close(found.pop((term, need)), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = model.encode_text(built["tokens"])
    torch.testing.assert_close(found.pop(("follow", Need(TEXT, "embedding", by="fixed"))), expected)
    assert not found


def test_nothing_is_drawn_for_one_that_takes_the_students_pictures(tiny_config) -> None:
    fixed = fixed_of(tiny_config, Follow, views=tiny_config.views)
    assert fixed.views == ()
    pictures = torch.randn(2, 3, 16, 16)
    assert fixed.models["toy"].normalised(pictures) is pictures
    other = fixed_of(
        tiny_config, Follow, views=replace(tiny_config.views, mean=(0.1, 0.2, 0.3), std=(0.5,) * 3)
    )
    assert other.views == ()
    assert not torch.equal(other.models["toy"].normalised(pictures), pictures)


def test_it_is_no_part_of_the_student(tiny_config) -> None:
    student = build_student(tiny_config, loss_of(Follow), fixed=fixed_of(tiny_config, Follow))
    assert {name.partition(".")[0] for name in student.state_dict()} == {"model", "objective"}
    assert len(list(student.children())) == 2
    assert student.model.text_tower is None  # the text embedding is another model's
    before = {name: value.clone() for name, value in student.fixed.models["toy"].model.state_dict().items()}
    student.train()
    model = student.fixed.models["toy"].model
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    built = batch_of(student.views, tiny_config.views)
    student(inputs_of(built, tiny_config.views), At())["loss"].backward()
    assert same(before, model.state_dict())
    copy = student.fixed.without_numbers().models["toy"].model
    assert {p.device.type for p in copy.parameters()} == {"meta"}
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_objectives_of_one_model_share_it(tiny_config) -> None:
    fixed = fixed_of(replace(tiny_config, init="toy"), Follow, FollowTwoViews)
    assert list(fixed.models) == ["toy"]
    assert fixed.of == {"follow": "toy", "follow_start": "toy"}
    assert fixed.noted().keys() == {"follow", "follow_start"}


def test_towers_that_nobody_needs_are_not_kept(tiny_config) -> None:
    fixed = fixed_of(replace(tiny_config, init="toy"), FollowTwoViews)
    assert fixed.models["toy"].model.text_tower is None
    assert fixed.dims["follow_start"] == Dims(12, 12, 8, 12, 49_408)


def run(config: Config, folder, kind: type[Objective] = Follow, **options):
    given: dict[str, Any] = {"objective": kind, "console": QUIET}
    return openslip.train(config, ToySource(), folder, **(given | options))


def following(config: Config, teacher: str) -> Config:
    objective = replace(config.objective, loss="clip", options={"follow": {"model": teacher}})
    return replace(config, objective=objective)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return save_toy_model(tmp_path_factory.mktemp("teachers") / "toy")


@pytest.fixture
def config(teacher, monkeypatch) -> Config:
    """Of a run that learns from the saved model."""
    monkeypatch.setattr(combine, "REGISTRY", dict(combine.REGISTRY))
    own.register(Follow)
    return following(make_tiny_config(), teacher)


@pytest.mark.usefixtures("counted")
def test_a_run_notes_what_it_learned_from_and_keeps_none_of_it(config, teacher, tmp_path) -> None:
    done = run(config, tmp_path / "run")
    assert not any("fixed" in name or name.startswith("text_tower") for name in weights(done))
    noted = json.loads((done.path / "fixed.json").read_text())
    assert noted["follow"]["spec"] == teacher
    assert len(noted["follow"]["sha256"]) == 64
    assert (noted["follow"]["size"], noted["follow"]["embed_dim"], noted["follow"]["width"]) == (24, 8, 12)
    lines = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["follow_loss"] < lines[0]["follow_loss"]
    assert lines[-1]["tflops"] > 0


def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(config, tmp_path) -> None:
    whole = run(config, tmp_path / "whole")
    again = run(config, tmp_path / "again")
    for step in (16, 15):
        for path in again.checkpoints.glob(f"step-{step:08d}"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (again.path / "results.json").unlink(missing_ok=True)
    assert same(weights(whole), weights(run(config, again.path, resume=True)))


def test_a_run_refuses_another_model_under_the_same_name(config, tmp_path) -> None:
    teacher = tmp_path / "teacher"
    config = following(config, save_toy_model(teacher))
    done = run(config, tmp_path / "run")
    file = teacher / "model.safetensors"
    changed = {name: value + 1e-3 for name, value in load_file(file).items()}
    save_file(changed, file)
    with pytest.raises(
        ConfigError, match="learned from another fixed model than the one that follow names now"
    ):
        run(config, done.path, resume=True)
    (done.path / "fixed.json").write_text("[")
    with pytest.raises(CheckpointError, match="note of the models that the run learns from cannot be read"):
        run(config, done.path, resume=True)


def test_the_same_weights_computed_otherwise_are_another_model(config, tmp_path) -> None:
    """No shape tells the activation, nor how many heads there are."""
    folder = tmp_path / "teacher"
    config = following(config, save_toy_model(folder))
    done = run(config, tmp_path / "run")
    settings = toml.load(folder / "config.toml")
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"activation": "quick_gelu"}, False),
        ({"heads": 1}, False),
        ({"drop_path": 0.1}, True),
    ]
    for changes, same_one in cases:
        image = replace(settings.model.image, **changes)
        other = replace(settings, model=replace(settings.model, image=image))
        (folder / "config.toml").write_text(toml.dumps(other))
        expected = nullcontext() if same_one else pytest.raises(ConfigError, match="another fixed model")
        with expected:
            run(config, done.path, resume=True)


@pytest.mark.parametrize("objective", ["distil", "preserve"])
def test_a_run_goes_on_with_a_model_that_has_moved(tmp_path, objective) -> None:
    config = with_loss(make_tiny_config(epochs=1), f"clip + {objective}")
    config = with_saved_teacher(config, tmp_path / "teacher")
    done = openslip.train(config, ToySource(), tmp_path / "run", console=QUIET)
    (tmp_path / "teacher").rename(tmp_path / "elsewhere")
    with pytest.raises(
        CheckpointError, match=f"The model that {objective} .* name it with --objective.{objective}.teacher"
    ):
        openslip.train(config, ToySource(), done.path, resume=True, console=QUIET)
    options = {objective: {**config.objective.options[objective], "teacher": str(tmp_path / "elsewhere")}}
    moved = replace(config, objective=replace(config.objective, options=options))
    openslip.train(moved, ToySource(), done.path, resume=True, console=QUIET)
    _, texts = read_header(done.checkpoints / "step-00000008" / "model.safetensors")
    assert str(tmp_path) not in texts["openslip"]  # nothing of the machine goes along


def test_same_weights_in_another_place_are_the_same_model(config) -> None:
    fixed = fixed_of(replace(config, init="toy"), FollowTwoViews)
    noted = fixed.noted()
    noted["follow_start"]["spec"] = "elsewhere"
    check_same(noted, fixed)
    for key, value in {"sha256": "0" * 64, "size": 32, "mean": [0.5, 0.5, 0.5]}.items():
        with pytest.raises(ConfigError, match="another fixed model"):
            check_same({"follow_start": noted["follow_start"] | {key: value}}, fixed)


def test_the_plan_says_what_is_learned_from(tiny_config, tmp_path) -> None:
    fixed = fixed_of(tiny_config, Follow)
    loss = loss_of(Follow)
    student = build_student(tiny_config, loss, fixed=fixed)
    plan = replace(plan_of(tiny_config, 64), loss=loss)
    told = describe(plan, student, tmp_path, Data(ToySource()))
    assert "learns     follow from toy: " in told
    assert "sees pictures of 24 px (image@24)" in told
    assert "image@24 at 24 px" in told


def text_missing(spec):
    model, its = toy_model(spec)
    model.text_tower = model.text_projection = model.logit_scale = None
    return model, its


def shorter(spec):
    model, its = toy_model(spec)
    return model, replace(its, model=replace(its.model, text=replace(its.model.text, context=10)))


def other_words(spec):
    model, its = toy_model(spec)
    return model, replace(its, model=replace(its.model, text=replace(its.model.text, vocabulary=32_000)))


def unreadable(spec):
    raise CheckpointError("There is no such file or folder", got=spec)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (text_missing, "has no text tower, and the objective needs its text embeddings"),
        (shorter, "reads shorter captions"),
        (other_words, "with another tokenizer"),
        (unreadable, "The model that follow learns from cannot be read: There is no such file"),
    ],
)
def test_what_cannot_be_learned_from_is_said(tiny_config, read, words) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=words):
        read_fixed(tiny_config, loss_of(Follow), Processes(), read)


def test_the_start_can_be_learned_from_where_there_is_one(tiny_config) -> None:
    with pytest.raises(
        ConfigError, match="follow_start learns from the model that the run starts from"
    ) as raised:
        fixed_of(tiny_config, FollowTwoViews)
    assert "Give --init" in str(raised.value)


def test_an_image_tower_alone_embeds_by_its_feature(tiny_config) -> None:
    def read(spec):
        model, its = text_missing(spec)
        model.image_projection = None
        return model, its

    config = replace(tiny_config, init="toy")
    fixed = read_fixed(config, loss_of(FollowTwoViews), Processes(), read).models["toy"]
    assert (fixed.dims.embed_dim, fixed.dims.width) == (0, 12)
    pictures = {"ssl_1@24": torch.randn(3, 3, 24, 24)}
    need = Need("ssl_1", "embedding", by="fixed")
    found = fixed.features(Inputs(pictures, None), [need])[need]
    assert found.shape == (3, fixed.width_of(need)) == (3, 12)
    torch.testing.assert_close(found, fixed.model.image_features(fixed.normalised(pictures["ssl_1@24"])))


def test_losses_without_one_read_nothing(tiny_config) -> None:
    def read(spec):
        raise AssertionError(spec)

    assert not read_fixed(tiny_config, parse(tiny_config.objective), Processes(), read)
