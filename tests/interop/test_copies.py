"""Weights copied away from their run: alone, with some of its files, by other programs; loaded, or what is missing."""

import hashlib
import json
import logging
import os
import re
import shutil
import stat
from dataclasses import replace
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import openslip
from interop.test_load import same, write_run
from openslip import toml
from openslip.cli import main
from openslip.config import IMAGENET_MEAN
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError
from openslip.interop import filling, load, read
from openslip.training.saving import checkpoint, metadata
from openslip.training.saving.tensors import Snapshot
from openslip.training.train import train
from toys import ToySource, make_tiny_config
from training.runs import QUIET

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was trained, with a mean of its own, and its model."""
    config = make_tiny_config(epochs=1)
    config = replace(config, views=replace(config.views, mean=(0.1, 0.2, 0.3)))
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(config, ToySource(), folder, console=QUIET)
    return folder, openslip.load(folder)


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def alike(finished):
    """Say whether a model encodes pictures and texts as that of the run does."""
    picture = torch.arange(24 * 20 * 3, dtype=torch.uint8).reshape(24, 20, 3).numpy()

    def check(encoder) -> bool:
        assert not any(module.training for module in encoder.model.modules())
        return same(encoder, finished[1]) and torch.equal(
            encoder.encode_image(picture), finished[1].encode_image(picture)
        )

    return check


def newest(run):
    return checkpoint.list_checkpoints(run / "checkpoints")[-1]


def without_header(path) -> None:
    """Make a file of weights what an earlier version wrote."""
    save_file(load_file(path), path)


def test_every_copy_of_a_part_of_a_run_loads(run, tmp_path, alike) -> None:
    step = newest(run)
    for name in ("checkpoint", "weights", "side", "run without state"):
        (tmp_path / name).mkdir()
    shutil.copytree(step, tmp_path / "checkpoint" / step.name)
    shutil.copytree(step, tmp_path / "renamed")
    (tmp_path / "renamed" / "optimizer.safetensors").unlink()
    shutil.copy(step / WEIGHTS, tmp_path / "weights" / WEIGHTS)
    shutil.copy(step / WEIGHTS, tmp_path / "other name.bin")
    for path in (run / "config.toml", step / WEIGHTS):
        shutil.copy(path, tmp_path / "side")
    shutil.copytree(run, tmp_path / "partial")
    (tmp_path / "partial" / "config.toml").unlink()
    for path in tmp_path.glob("partial/checkpoints/*/*"):
        if path.name != WEIGHTS:
            path.unlink()
    for given in (
        tmp_path / "checkpoint" / step.name,
        tmp_path / "checkpoint",
        tmp_path / "renamed",
        tmp_path / "weights",
        tmp_path / "weights" / WEIGHTS,
        tmp_path / "other name.bin",
        tmp_path / "side",
        tmp_path / "side" / WEIGHTS,
        tmp_path / "partial",
        tmp_path / "partial" / "checkpoints",
        run,
        run / "checkpoints",
        step,
        step / WEIGHTS,
    ):
        assert alike(openslip.load(given)), given


def test_what_consolidate_wrote_loads_and_measures(run, tmp_path, alike, capsys) -> None:
    before = os.umask(0o022)
    try:
        assert main(["consolidate", str(run), "--out", str(tmp_path / "one.safetensors")]) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "one.safetensors").stat().st_mode) == 0o644
    assert alike(openslip.load(tmp_path / "one.safetensors"))
    assert (
        main(["consolidate", str(tmp_path / "one.safetensors"), "--out", str(tmp_path / "again.safetensors")])
        == 0
    )
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert main(["consolidate", str(run), "--out", str(run / WEIGHTS)]) == 0
    assert alike(openslip.load(run))


def test_parts_that_processes_wrote_are_put_together(run, tmp_path, alike) -> None:
    """Each of which says what model it is of; one alone is refused."""
    weights, step = load_file(newest(run) / WEIGHTS), tmp_path / "parts"
    step.mkdir()
    texts = metadata.describe(toml.load(run / "config.toml"))
    for part in range(2):
        held = {name: value for k, (name, value) in enumerate(sorted(weights.items())) if k % 2 == part}
        Snapshot(held, {}, part=part, parts=2, metadata=texts).write(step)
    assert alike(openslip.load(step))
    with pytest.raises(CheckpointError, match=f"one part of several.*Give the folder they lie in: {step}"):
        openslip.load(step / "model-00002-of-00002.safetensors")
    (step / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="It should have 2 parts, found: 1"):
        openslip.load(step)


def test_headers_hold_no_path_of_data(run) -> None:
    config = toml.load(run / "config.toml")
    config = replace(
        config, data=replace(config.data, train="/home/me/secret.csv", val="s3://key@bucket/x.tar")
    )
    text = metadata.describe(config)[metadata.KEY]
    assert not re.search("secret|bucket|tracking|workers", text)
    said = toml.loads(text)
    assert (said.model, said.views, said.optimizer) == (config.model, config.views, config.optimizer)


def test_old_checkpoints_load_by_the_runs_config(run, tmp_path, alike) -> None:
    """Those whose weights say nothing of themselves."""
    step = newest(run)
    without_header(step / WEIGHTS)
    state = json.loads((step / "state.json").read_text())
    state.pop("crc")
    state["checksums"] = {}
    (step / "state.json").write_text(json.dumps(state))
    assert alike(openslip.load(run))
    assert alike(openslip.load(step))
    assert alike(openslip.load(step / WEIGHTS))
    shutil.copytree(step, tmp_path / "alone")
    for given in (tmp_path / "alone", tmp_path / "alone" / WEIGHTS):
        with pytest.raises(CheckpointError, match=r"config\.toml is missing.*Copy config\.toml"):
            openslip.load(given)
    shutil.copy(run / "config.toml", tmp_path / "alone")
    assert alike(openslip.load(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (
            ["config.toml"],
            r"weights were not copied.*neither model\.safetensors nor checkpoints/step-…/model",
        ),
        (["config.toml", "metrics.jsonl"], "no checkpoint yet"),
        (["state.json"], "weights were not copied"),
        (["metrics.jsonl"], r"neither config\.toml nor model\.safetensors"),
        ([], "neither a run folder nor"),
    ],
)
def test_what_is_missing_is_named(run, tmp_path, kept, told) -> None:
    (tmp_path / "part").mkdir()
    for name in kept:
        shutil.copy(newest(run) / name if name == "state.json" else run / name, tmp_path / "part")
    with pytest.raises(CheckpointError, match=told) as raised:
        openslip.load(tmp_path / "part")
    assert str(tmp_path / "part") in str(raised.value)


def test_a_checkpoint_without_its_weights_is_said(run) -> None:
    for step in checkpoint.list_checkpoints(run / "checkpoints"):
        (step / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"weights are missing.*step-00000008/model\.safetensors"):
        openslip.load(run)
    with pytest.raises(CheckpointError, match="weights were not copied"):
        openslip.load(run / "checkpoints" / "step-00000008")


@pytest.mark.parametrize("which", ["newest", "", "Best", None, 5, "best "])
def test_a_checkpoint_to_pick_that_does_not_exist_is_refused(run, which) -> None:
    with pytest.raises(ConfigError, match="no such checkpoint to pick.*(best|latest)"):
        load(run, which=which)


def test_the_best_of_a_run_without_scores_is_the_latest_and_that_is_said(tmp_path, caplog) -> None:
    _, second = write_run(tmp_path / "run", make_tiny_config(), (3, 7))
    assert same(load(tmp_path / "run", which="best"), second)
    assert "no checkpoint of" in caplog.text
    assert "the latest, step-00000007, is taken" in caplog.text


def test_to_pick_where_there_is_nothing_to_pick_is_refused(run) -> None:
    for given in (newest(run), newest(run) / WEIGHTS):
        with pytest.raises(ConfigError, match="picks one of a run's checkpoints"):
            load(given, which="best")


@pytest.mark.parametrize("loss", ["clip + 0.5 * mylosses:Mine", "nonsense", "", "simclr"])
def test_the_objective_need_not_be_known(run, alike, loss) -> None:
    path = run / "config.toml"
    path.write_text(re.sub('loss = ".*"', f'loss = "{loss}"', path.read_text()))
    assert alike(openslip.load(run))


def test_what_only_training_needs_may_be_of_another_version(run, alike, caplog) -> None:
    path = run / "config.toml"
    text = path.read_text()
    path.write_text(text + "\n[objective.tomorrow]\ntemperature = 0.1\n[teacher]\nmomentum = 0.99\n")
    assert alike(openslip.load(run))
    assert "only what embeddings depend on is used" in caplog.text
    path.write_text(text.replace("[views]", "[views]\nrotation = 3"))
    with pytest.raises(CheckpointError, match="Unknown configuration key 'views.rotation'"):
        openslip.load(run)


def test_heads_of_another_version_are_left_out_and_said(run, tmp_path, alike, caplog) -> None:
    step = newest(run)
    weights = load_file(step / WEIGHTS) | {
        "dino_head.weight": torch.ones(3),
        "objective.dino.centre": torch.ones(2),  # an objective's own is for training, and no news
        "ssl_head.layer1.bias": torch.ones(2),  # nor is that of earlier versions
    }
    save_file(weights, tmp_path / "new.safetensors", metadata.describe(toml.load(run / "config.toml")))
    assert alike(openslip.load(tmp_path / "new.safetensors"))
    assert "1 entry" in caplog.text
    assert "left out: dino_head.weight\n" in caplog.text
    found = read(tmp_path / "new.safetensors")
    assert [*found.unused] == ["dino_head.weight"]
    assert {"objective.dino.centre", "objective.simclr.head.layer1.bias"} < {*found.weights}
    tower = {
        name: value for name, value in load_file(step / WEIGHTS).items() if name.startswith("image_tower")
    }
    save_file(tower, tmp_path / "tower.safetensors", metadata.describe(toml.load(run / "config.toml")))
    encoder = openslip.load(tmp_path / "tower.safetensors")
    assert encoder.encode_image(torch.ones(1, 3, 16, 16)).shape == (1, 16)
    assert encoder.model.image_projection is None


def test_a_config_that_differs_from_the_weights_own_is_followed_and_said(run, alike, caplog) -> None:
    path = run / "config.toml"
    assert alike(openslip.load(run))
    assert not caplog.text
    config = toml.load(path)
    path.write_text(toml.dumps(replace(config, views=replace(config.views, mean=IMAGENET_MEAN))))
    assert openslip.load(run).config.views.mean == IMAGENET_MEAN
    assert re.search(r"views\.mean is \(0\.485, .*in the weights \(0\.1, ", caplog.text)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"5",
        b'{"__metadata__": 5}',
        b'{"__metadata__": {"openslip": 5}}',
        b'{"__metadata__": {"openslip": "x ="}}',
        b'{"__metadata__": {"openslip": "[model.image]\\nname = \\"hf-hub:owner/x\\""}}',
        b'{"__metadata__": {"openslip": "[model.image]\\ndepth = 1000000000"}}',
        b'{"__metadata__": {"openslip": "[views]\\nsize = 1000000000"}}',
        b'{"__metadata__": {"openslip": "[views]\\nstd = [0.0, 1.0, 1.0]"}}',
        b'{"__metadata__": {"openslip": "[views]\\nmean = [nan, 0.0, 0.0]"}}',
        b'{"__metadata__": {"openslip": "' + b"a." * 100_000 + b'"}}',
        b'{"a": ' + b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("size", [None, 2**40, 2**63])
def test_a_header_that_someone_has_made_up_is_refused(tmp_path, monkeypatch, header, size) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("nothing is fetched"))
    path = tmp_path / "a.safetensors"
    path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError):
        openslip.load(path)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (0, "It is empty"),
        (5, "It begins with b"),
        (60, r"Its header should have [\d,]+ bytes, and 52 are there"),
        (-1, r"Its weights should have [\d,]+ bytes, and [\d,]+ are there"),
    ],
)
def test_a_file_that_is_cut_off_says_so(tmp_path, kept, told) -> None:
    """Whatever else could be said of it, such as that it is another library's and lacks a configuration."""
    path = tmp_path / "a.safetensors"
    save_file({"visual.conv1.weight": torch.zeros(3, 4)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"cut off, damaged.*{told}.*compare the sizes"):
        openslip.load(path)


@pytest.mark.parametrize(
    "place", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_that_torch_saved_load_by_a_config_beside_them(run, tmp_path, alike, place, prefix) -> None:
    state = {prefix + name: value for name, value in openslip.load(run).model.state_dict().items()}
    torch.save(place(state), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"config\.toml is missing"):
        openslip.load(tmp_path / "a.pt")
    shutil.copy(run / "config.toml", tmp_path)
    assert alike(openslip.load(tmp_path / "a.pt"))


def test_weights_of_the_papers_shapes_load_without_a_config_and_that_is_said(tmp_path, caplog) -> None:
    config = openslip.recipes.get("slip-vit-s16-yfcc15m")
    model = replace(
        config.model, image=replace(config.model.image, depth=1), text=replace(config.model.text, depth=1)
    )
    encoder = openslip.create(replace(config, model=model))
    torch.save(encoder.model.state_dict(), tmp_path / "a.pt")
    assert same(openslip.load(tmp_path / "a.pt"), encoder)
    assert "does not say how its pictures were normalised" in caplog.text
    narrow = replace(model, text=replace(model.text, width=256, heads=8))
    torch.save(Encoder.from_config(replace(config, model=narrow)).model.state_dict(), tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"config\.toml is missing"):  # who knows how many heads
        openslip.load(tmp_path / "b.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_named_as_what_it_is(tmp_path, recwarn) -> None:
    traced: Any = torch.jit.trace(torch.nn.Linear(3, 3), torch.zeros(1, 3))
    traced.save(tmp_path / "ViT-B-32.pt")
    recwarn.clear()
    with pytest.raises(
        CheckpointError, match=r"TorchScript archive.*runs no code.*open_clip.*quickgelu"
    ) as raised:
        openslip.load(tmp_path / "ViT-B-32.pt")
    assert "damaged" not in str(raised.value)
    assert not recwarn.list
    name = re.search(r"open_clip:([\w-]+)/(\w+),? ", str(raised.value))
    assert name
    assert name.groups() in open_clip.list_pretrained()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["visual.conv1.weight", "transformer.resblocks.0.ln_1.weight"],
            "a CLIP of OpenAI or open_clip.*open_clip",
        ),
        (["visual.trunk.patch_embed.proj.weight", "logit_scale"], "a CLIP of OpenAI or open_clip"),
        (["vision_model.embeddings.class_embedding"], r"Hugging Face's transformers.*config\.json"),
        (
            ["cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight"],
            "timm or torchvision.*timm:NAME@",
        ),
        (["conv1.weight", "layer1.0.conv1.weight"], "timm or torchvision"),
        (["encoder_q.conv1.weight"], "self-supervised method"),
        (["weird.thing"], r"another architecture or project.*weird\.thing"),
    ],
)
def test_weights_of_others_are_named_as_what_they_are(tmp_path, names, told) -> None:
    tensors = {name: torch.ones(2) for name in names}
    save_file(tensors, tmp_path / WEIGHTS)
    torch.save(tensors, tmp_path / "a.pt")
    for given in (tmp_path, tmp_path / WEIGHTS, tmp_path / "a.pt"):
        with pytest.raises(CheckpointError, match=told):
            openslip.load(given)


@pytest.mark.parametrize(
    ("name", "told"),
    [("config.json", "transformers nor one of timm"), ("open_clip_config.json", "open_clip")],
)
def test_folders_of_others_are_named_as_what_they_are(tmp_path, name, told) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=told):
        openslip.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 no", b"\x80\x02}q\x00.", b"GGUF", b"", b"version https://git-lfs"]
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a"])
def test_files_that_are_no_weights(tmp_path, content, name) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / name))):
        openslip.load(tmp_path / name)


def test_files_beside_the_weights_say_which_folder_to_give(run) -> None:
    for path in (run / "config.toml", newest(run) / "state.json"):
        with pytest.raises(CheckpointError, match=f"Give the folder it lies in: {path.parent}"):
            openslip.load(path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        openslip.load(run / "nothing")


def test_the_place_of_a_tower_is_not_asked_where_the_weights_know_its_name(run, alike, monkeypatch) -> None:
    path = run / "config.toml"
    path.write_text(path.read_text().replace('name = "vit"', 'name = "local-dir:/gone"'))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it is not looked at"))
    assert alike(openslip.load(run))


def test_what_training_starts_from_has_the_objective_and_says_where_it_is_from(run) -> None:
    found = read(run)
    assert {*found.weights} == {*load_file(newest(run) / WEIGHTS)}
    assert any(name.startswith("objective.simclr.head.") for name in found.weights)
    assert found.config == toml.load(run / "config.toml")
    assert (found.origin.spec, found.origin.format) == (str(run), "a run")
    files = [newest(run) / WEIGHTS, run / "config.toml"]
    assert found.origin.files == {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert found.has_text
    assert not found.unused
    assert not found.notes


def test_what_is_read_is_in_full_precision(run, tmp_path) -> None:
    half = {name: value.bfloat16() for name, value in openslip.load(run).model.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors", metadata.describe(toml.load(run / "config.toml")))
    found = read(tmp_path / "half.safetensors").weights
    assert all(
        torch.equal(found[name], value.float()) and found[name].dtype == torch.float32
        for name, value in half.items()
    )


def test_words_are_said_by_the_log(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        filling.note("a\x1b[31m")
    assert caplog.messages == ["a\\x1b[31m"]
