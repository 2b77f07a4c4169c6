from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from openslip.config import (
    Config,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    TextTowerConfig,
    ViewsConfig,
)
from openslip.errors import CheckpointError
from openslip.interop import load, read
from openslip.interop.reference import (
    from_reference,
    infer_config,
    method_of,
    to_reference,
)
from openslip.interop.torch_files import read_checkpoint
from openslip.objectives import parse
from openslip.training.student import Student, build_student, stored_state

SHAPES = json.loads(
    (Path(__file__).parent.parent / "golden" / "reference_state_dict_shapes.json").read_text()
)
SIZES = {
    "VITS16": ImageTowerConfig(width=384, depth=12, heads=12),
    "VITB16": ImageTowerConfig(width=768, depth=12, heads=12),
    "VITL16": ImageTowerConfig(width=1024, depth=24, heads=16),
}
LOSSES = {"SLIP": "clip + 1.0 * simclr", "CLIP": "clip", "SIMCLR": "simclr"}
TINY = ModelConfig(
    image=ImageTowerConfig(patch=16, width=384, depth=1, heads=12),
    text=TextTowerConfig(width=64, depth=1, heads=1, context=9),
    embed_dim=7,
)


def _student(kind: str, model: ModelConfig = TINY, size: int = 32, **head: int) -> Student:
    """Return what a run of the reference's method would train."""
    objective = ObjectiveConfig(loss=LOSSES[kind], options={"simclr": head})
    config = Config(model=model, views=ViewsConfig(size=size), objective=objective)
    return build_student(config, parse(objective))


def _state(student: Student) -> dict[str, torch.Tensor]:
    return {"module." + to_reference(name): value for name, value in stored_state(student).items()}


def _save(path: Path, state: dict[str, Any], **options: Any) -> Path:
    """Write `state` as the reference's training script does."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    content = {
        "epoch": 25,
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "best_acc1": 38.3,
        "args": argparse.Namespace(
            model="SLIP_VITS16", lr=3e-3, betas=(0.9, 0.98), resume="", gpu=0, evaluate=False
        ),
    }
    torch.save(content, path, **options)
    return path


@pytest.fixture
def tiny() -> Student:
    torch.manual_seed(0)
    return _student("SLIP", width=12, dim=5)


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_shapes_are_the_references(name: str) -> None:
    kind, size = name.split("_")
    with torch.device("meta"):
        own = stored_state(_student(kind, ModelConfig(image=SIZES[size]), 224))
    found = {to_reference(ours): list(value.shape) for ours, value in own.items()}
    assert found == SHAPES[name]
    assert all(from_reference(to_reference(ours)) == ours for ours in own)


@pytest.mark.parametrize("name", SHAPES)
def test_the_architecture_is_read_off_the_shapes(name: str) -> None:
    kind, size = name.split("_")
    state = {key: torch.empty(shape, device="meta") for key, shape in SHAPES[name].items()}
    config = infer_config(state)
    assert config.model.image == SIZES[size]
    assert config.model == ModelConfig(image=SIZES[size])
    assert config.views.size == 224
    assert method_of(state) == kind.lower()
    assert config.objective.loss == LOSSES[kind]
    assert config.name == f"{kind.lower()}-vit-{size[3].lower()}16 (released)"


@pytest.mark.parametrize("name", ["image_tower", "text_tower.blocks.0.norm3.weight", "visual.cls_token", ""])
def test_a_name_that_is_not_ours_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError):
        to_reference(name)


@pytest.mark.parametrize("name", ["module.logit_scale", "transformer.resblocks.0.attn.bias_k", "head.weight"])
def test_a_name_that_is_not_the_references_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError):
        from_reference(name)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_released_style_checkpoint_loads(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = _student(kind, width=12, dim=5)
    model = student.model
    encoder = load(_save(tmp_path / "checkpoint_best.pt", _state(student)))
    assert encoder.config.name == f"{kind.lower()}-vit-s16 (released)"
    assert (encoder.model.text_tower is not None) is (kind != "SIMCLR")
    loaded = encoder.model.state_dict()
    assert {*read(tmp_path / "checkpoint_best.pt").weights} == {*stored_state(student)}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value), name
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder.encode_image(images, normalize=False), model.eval().encode_image(images))


def test_everything_in_the_checkpoint_is_read(tiny: Student, tmp_path: Path) -> None:
    content = read_checkpoint(_save(tmp_path / "a.pt", _state(tiny)))
    assert content["epoch"] == 25
    assert content["args"].model == "SLIP_VITS16"
    assert set(content) == {"epoch", "state_dict", "optimizer", "scaler", "best_acc1", "args"}


class _Malicious:
    def __init__(self, touch: Path) -> None:
        self.touch = touch

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.touch}",)


def test_a_malicious_checkpoint_is_refused_and_not_run(tiny: Student, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / "a.pt"
    torch.save({"state_dict": _state(tiny), "args": _Malicious(proof)}, path)
    with pytest.raises(CheckpointError, match=r"not loaded: it asks for '\w+\.system'"):
        load(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the file would have run its code
    assert proof.exists()


def test_malice_inside_the_namespace_is_refused(tiny: Student, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    torch.save(
        {"state_dict": _state(tiny), "args": argparse.Namespace(x=_Malicious(proof))}, tmp_path / "a.pt"
    )
    with pytest.raises(CheckpointError, match="system"):
        load(tmp_path / "a.pt")
    assert not proof.exists()


def test_other_types_are_refused_by_name(tiny: Student, tmp_path: Path) -> None:
    torch.save({"state_dict": _state(tiny), "args": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"pathlib[\w.]*\.PosixPath"):
        read_checkpoint(tmp_path / "a.pt")


def test_the_allow_list_is_as_before_afterwards(tiny: Student, tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(_save(tmp_path / "a.pt", _state(tiny)))
    assert set(torch.serialization.get_safe_globals()) == before
    assert argparse.Namespace not in before


def test_the_old_format_is_refused_with_advice(tiny: Student, tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pt", _state(tiny), _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6.*save it again"):
        load(path)


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(_Malicious(tmp_path / "proof")))
    with pytest.raises(CheckpointError, match="not loaded"):
        load(path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_a_truncated_checkpoint_is_said(tiny: Student, tmp_path: Path, share: float) -> None:
    path = _save(tmp_path / "a.pt", _state(tiny))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"damaged.*cut off"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"model": {}},
        [1, 2],
        {"state_dict": {}},
        {"state_dict": {"a": 1}},
        {"state_dict": [1]},
        {"state_dict": {1: torch.ones(1)}},
    ],
)
def test_a_checkpoint_without_a_state_dict_is_said(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="state_dict"):
        load(tmp_path / "a.pt")


def test_another_architecture_lists_what_differs(tiny: Student, tmp_path: Path) -> None:
    state = _state(tiny)
    state["module.visual.blocks.0.gamma_1"] = torch.ones(384)
    del state["module.visual.norm.weight"]
    state["module.ln_final.bias"] = torch.ones(3)
    with pytest.raises(CheckpointError) as caught:
        load(_save(tmp_path / "a.pt", state))
    told = str(caught.value)
    assert "1 missing (visual.norm.weight)" in told
    assert "1 unexpected (visual.blocks.0.gamma_1)" in told
    assert "ln_final.bias (3,) instead of (64,)" in told


@pytest.mark.parametrize(
    "state",
    [
        {"conv1.weight": torch.ones(64, 3, 7, 7), "fc.weight": torch.ones(10, 512)},
        {"visual.patch_embed.proj.weight": torch.ones(8), "visual.pos_embed": torch.ones(1, 5, 8)},
        {
            "visual.patch_embed.proj.weight": torch.ones(192, 3, 16, 16),
            "visual.pos_embed": torch.ones(1, 5, 192),
        },
    ],
)
def test_a_checkpoint_of_another_project_is_said(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="another architecture"):
        load(_save(tmp_path / "a.pt", state))


def test_a_width_the_reference_has_not_is_said() -> None:
    state = {
        "visual.patch_embed.proj.weight": torch.ones(192, 3, 16, 16),
        "visual.pos_embed": torch.ones(1, 5, 192),
        "image_mlp.layer1.weight": torch.ones(4, 192),
    }
    with pytest.raises(CheckpointError, match=r"width.*192"):
        infer_config(state)


def test_half_a_text_tower_is_said() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in SHAPES["CLIP_VITS16"].items()}
    del state["positional_embedding"]
    with pytest.raises(CheckpointError, match="positional_embedding is missing"):
        infer_config(state)


def test_a_tower_without_blocks_is_said(tmp_path: Path) -> None:
    state = {
        "visual.patch_embed.proj.weight": torch.ones(384, 3, 16, 16),
        "visual.pos_embed": torch.ones(1, 5, 384),
        "image_mlp.layer1.weight": torch.ones(4, 384),
        "image_mlp.layer3.weight": torch.ones(2, 4),
    }
    with pytest.raises(CheckpointError, match="another architecture"):
        load(_save(tmp_path / "a.pt", state))
