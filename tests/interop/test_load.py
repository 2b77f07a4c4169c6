import json
from dataclasses import replace

import pytest
import torch

import openslip
from interop.public import clip
from openslip import toml
from openslip.encoder import Encoder
from openslip.errors import CheckpointError
from openslip.training.saving import checkpoint
from toys import make_tiny_config


def write_run(folder, config, steps=(1,), scores=None):
    """Write the parts of a run folder that `load` reads; return the encoders that its checkpoints hold."""
    folder.mkdir()
    (folder / "config.toml").write_text(toml.dumps(config))
    encoders = []
    for step, score in zip(steps, scores or [None] * len(steps)):
        torch.manual_seed(step)
        encoders.append(Encoder.from_config(config))
        checkpoint.save(
            folder / "checkpoints",
            step,
            encoders[-1].model.state_dict(),
            {"none": torch.zeros(1)},
            {"score": score},
        )
    return encoders


def same(a, b) -> bool:
    return torch.equal(a.encode_text("a red square"), b.encode_text("a red square"))


def test_latest_and_best_of_a_run(tmp_path) -> None:
    first, second = write_run(tmp_path / "run", make_tiny_config(), (3, 7), (0.9, 0.2))
    assert same(openslip.load(tmp_path / "run"), second)
    from openslip.interop import load

    assert same(load(tmp_path / "run", which="best"), first)
    assert same(openslip.load(tmp_path / "run" / "checkpoints" / "step-00000003"), first)


def test_a_run_without_text(tmp_path) -> None:
    config = make_tiny_config()
    config = replace(config, objective=replace(config.objective, loss="simclr"))
    (encoder,) = write_run(tmp_path / "run", config)
    loaded = openslip.load(tmp_path / "run").model
    assert loaded.text_tower is loaded.image_projection is encoder.model.text_tower is None


def test_weights_of_another_architecture(tmp_path) -> None:
    config = make_tiny_config()
    write_run(tmp_path / "run", config)
    wider = replace(config, model=replace(config.model, embed_dim=24))
    (tmp_path / "run" / "config.toml").write_text(toml.dumps(wider))
    with pytest.raises(CheckpointError, match=r"do not fit.*image_projection"):
        openslip.load(tmp_path / "run")
    deeper = replace(config, model=replace(config.model, text=replace(config.model.text, depth=3)))
    (tmp_path / "run" / "config.toml").write_text(toml.dumps(deeper))
    with pytest.raises(CheckpointError, match=r"entries differ.*text_tower.blocks.2"):
        openslip.load(tmp_path / "run")


@pytest.mark.parametrize("name", ["nothing", "empty", "text.pt"])
def test_what_is_no_model(tmp_path, name) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError):
        openslip.load(tmp_path / name)


def test_a_run_without_checkpoints(tmp_path) -> None:
    write_run(tmp_path / "run", make_tiny_config(), ())
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        openslip.load(tmp_path / "run")


def test_a_damaged_checkpoint(tmp_path) -> None:
    write_run(tmp_path / "run", make_tiny_config())
    path = tmp_path / "run" / "checkpoints" / "step-00000001" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        openslip.load(tmp_path / "run")
    assert json.loads((path.parent / "state.json").read_text())["step"] == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(tmp_path, value) -> None:
    """The file says so, where everything that is computed with them would be none either."""
    (encoder,) = write_run(tmp_path / "run", make_tiny_config())
    state = encoder.model.state_dict()
    state["image_tower.trunk.norm.bias"][3] = value
    torch.save({"state_dict": state}, tmp_path / "run/diverged.pt")
    with pytest.raises(
        CheckpointError, match=r"1 of \d+ weights of .*diverged.pt hold.*image_tower.trunk.norm.bias"
    ):
        openslip.load(tmp_path / "run/diverged.pt")


def test_a_flipped_bit_is_noticed_in_what_is_loaded(tmp_path) -> None:
    """In the weights, that is: of the optimiser's state nothing is read."""
    (encoder,) = write_run(tmp_path / "run", make_tiny_config())
    for name in ("optimizer", "model"):
        path = tmp_path / "run" / "checkpoints" / "step-00000001" / f"{name}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        if name == "optimizer":
            assert same(openslip.load(tmp_path / "run"), encoder)
    for given in (tmp_path / "run", path.parent):
        with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
            openslip.load(given)


@pytest.mark.parametrize(
    ("where", "given"),
    [
        ("checkpoints", "step-00000001"),
        ("checkpoints/step-00000001", "."),
        ("checkpoints/step-00000001", "../step-00000001"),
        ("", "."),
        ("..", "run/checkpoints/step-00000001"),
    ],
)
def test_a_path_from_where_one_is(tmp_path, monkeypatch, where, given) -> None:
    (encoder,) = write_run(tmp_path / "run", make_tiny_config())
    monkeypatch.chdir(tmp_path / "run" / where)
    assert same(openslip.load(given), encoder)


def test_checkpoints_on_another_disk(tmp_path) -> None:
    (encoder,) = write_run(tmp_path / "run", make_tiny_config())
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "disk")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    assert same(openslip.load(tmp_path / "run" / "checkpoints" / "step-00000001"), encoder)


def test_a_path_from_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    with pytest.raises(CheckpointError, match="neither a run folder") as error:
        openslip.load("~/run")
    assert error.value.got == str(tmp_path / "run")


@pytest.mark.parametrize("name", ["image.onnx", "visual/model.onnx", "text.pt2"])
def test_graphs_say_what_runs_them(tmp_path, name) -> None:
    file = tmp_path / "there" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"graph")
    (tmp_path / "there" / "config.json").write_text("{}")
    for place in (tmp_path / "there", file):
        with pytest.raises(CheckpointError, match=r"as graphs.*onnxruntime.*torch.export.load"):
            openslip.load(place)


def test_graphs_beside_weights_are_left_alone(tmp_path) -> None:
    """Repositories of the hub often have both."""
    folder = tmp_path / "there"
    folder.mkdir()
    clip()(folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"graph")
    assert openslip.load(folder).size


def test_names_of_weights_tell_whether_there_is_a_text_tower(tmp_path) -> None:
    from openslip.interop import has_text

    config = make_tiny_config()
    write_run(tmp_path / "both", config)
    write_run(tmp_path / "images", replace(config, objective=replace(config.objective, loss="simclr")))
    assert has_text(tmp_path / "both") is has_text(tmp_path / "both/checkpoints/step-00000001") is True
    assert has_text(tmp_path / "images") is has_text("timm:resnet18") is False
    (tmp_path / "notes.txt").write_text("no weights")
    for unknown in (tmp_path, tmp_path / "notes.txt", "open_clip:ViT-B-32/openai"):
        assert has_text(unknown) is None
