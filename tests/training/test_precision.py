import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError
from openslip.models import build
from openslip.models.inputs import Inputs
from openslip.objectives import At, parse
from openslip.training import precision
from openslip.training.optimizer import build_optimizer
from openslip.training.parallel import Parallel
from openslip.training.precision import (
    check_fp8,
    choose_device,
    choose_precision,
    convert_to_fp8,
    loss_scaler,
    overflowed,
)
from openslip.training.prepare import prepare
from openslip.training.step import backward, gradient_norm
from openslip.training.student import stored_parameters
from toys import LOSSES, make_inputs, make_student, make_tiny_config, with_loss

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
NEEDS = parse(ObjectiveConfig()).needs


def test_dtypes(monkeypatch) -> None:
    assert choose_precision("fp32", CUDA) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert choose_precision("fp16", CUDA) == choose_precision("fp16", MPS) == torch.float16
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "has_bf16", lambda device, has=has: has)
        assert choose_precision("auto", CPU) == dtype


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match="fp16 is for GPUs.*the precision auto"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("device", "capability", "installed", "missing"),
    [
        (CPU, None, True, r"needs a CUDA device \(this run's is cpu\). "),
        (CUDA, (8, 0), True, r"needs compute capability 8.9 \(this device has 8.0\). "),
        (CUDA, (9, 0), False, r"needs the torchao package \(`pip install torchao`\). "),
        (CPU, None, False, r"needs a CUDA device \(this run's is cpu\) and the torchao package"),
        (CUDA, (9, 0), True, None),
    ],
)
def test_fp8_says_what_is_missing(monkeypatch, device, capability, installed, missing) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(precision, "find_spec", lambda name: object() if installed else None)
    if missing is None:
        assert choose_precision("fp8", device) == torch.bfloat16
        return
    with pytest.raises(ConfigError, match=f"{missing}.*bf16"):
        check_fp8(device)


class HalfLinear(nn.Linear):
    """Stands in for torchao's layer: rounds to fp8 as that does, and multiplies in fp32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x, weight = (t.to(torch.float8_e4m3fn).to(t.dtype) for t in (input, self.weight))
        return nn.functional.linear(x, weight, self.bias)


def fake_torchao(monkeypatch) -> None:
    """Put a module in torchao's place that does what its documentation says of the one call."""

    def convert(module, *, module_filter_fn, config):
        assert config.pad_inner_dim
        for name, child in module.named_modules():
            if isinstance(child, nn.Linear) and module_filter_fn(child, name):
                child.__class__ = HalfLinear
        return module

    fake: Any = ModuleType("torchao.float8")
    fake.convert_to_float8_training = convert
    fake.Float8LinearConfig = SimpleNamespace
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", fake)


def test_fp8_takes_the_towers_layers_whose_sizes_fit(monkeypatch) -> None:
    fake_torchao(monkeypatch)
    config = make_tiny_config(precision="fp8", checkpoint_activations="full")
    model = build(config.model, 16, NEEDS)
    names = list(model.state_dict())
    trunk: Any = model.image_tower.trunk
    trunk.blocks[0].mlp.fc1 = nn.Linear(16, 40)
    prepare(model, CPU, torch.float32, config.training)
    assert list(model.state_dict()) == names
    converted = {name for name, module in model.named_modules() if isinstance(module, HalfLinear)}
    assert {name.split(".")[0] for name in converted} == {"image_tower", "text_tower"}
    assert "text_tower.blocks.0.fc1" in converted
    assert "image_tower.trunk.blocks.0.attn.qkv" in converted
    assert "image_tower.trunk.blocks.0.mlp.fc1" not in converted  # 40 is no multiple of 16


def test_fp8_of_torchao(monkeypatch) -> None:
    """The real layers, where they are installed and the hardware has them."""
    pytest.importorskip("torchao")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no device that multiplies fp8")
    model = build(make_tiny_config().model, 16, NEEDS).to(CUDA)
    names = list(model.state_dict())
    convert_to_fp8(model.towers)
    assert list(model.state_dict()) == names
    with torch.autocast("cuda", torch.bfloat16):
        features = model.image_features(torch.randn(6, 3, 16, 16, device=CUDA))
    features.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.image_tower.parameters())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_a_scaled_loss_gives_the_same_gradients(loss, micro_batch) -> None:
    """Bit for bit, as the scale is a power of two; clipping sees them unscaled."""
    config, found = with_loss(make_tiny_config(), loss), []
    for enabled in (False, True):
        student = make_student(config, torch.float32)
        optimizer = build_optimizer(stored_parameters(student), config.optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)
        inputs = make_inputs(config, 8, dtype=torch.float32)
        losses = backward(Parallel(student), inputs, At(), micro_batch=micro_batch, scaler=scaler)
        scaler.unscale_(optimizer)
        norm = torch.as_tensor(gradient_norm(student, limit=0.1))
        found.append([losses["loss"], norm, *(p.grad for p in student.parameters())])
    for plain, scaled in zip(*found):
        assert plain is scaled is None or torch.equal(plain, scaled)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_bf16_gradients_are_close_to_fp32s(loss, micro_batch) -> None:
    """Towers in bf16, everything after them in fp32, whole and in micro-batches."""
    config, found = with_loss(make_tiny_config(), loss), []
    for dtype in (torch.float32, torch.bfloat16):
        student, inputs = make_student(config, torch.float32), make_inputs(config, dtype=torch.float32)
        losses = backward(Parallel(student), inputs, At(), dtype=dtype, micro_batch=micro_batch)
        assert all(value.dtype == torch.float32 for value in losses.values())
        gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        found.append((losses["loss"], gradient))
    assert found[1][0].item() == pytest.approx(found[0][0].item(), rel=0.02)
    # MoCo v3's outputs are normalised over the batch, which makes differences between nearly equal rows large.
    allowed = 0.3 if loss == "mocov3" else 0.2
    assert (found[1][1] - found[0][1]).norm() < allowed * found[0][1].norm()


def test_only_fp16_is_scaled() -> None:
    assert not any(loss_scaler(CPU, dtype).is_enabled() for dtype in (torch.float32, torch.bfloat16))
    assert loss_scaler(CPU, torch.float16).is_enabled()


def test_what_counts_as_overflow() -> None:
    infinite = float("inf")
    assert overflowed(1.0, 2.0, infinite)
    assert overflowed(1.0, 2.0, float("nan"))
    assert not overflowed(1.0, 2.0, 3.0)
    assert not overflowed(1.0, float("nan"), float("nan"))
    assert not overflowed(0.5, 2.0, infinite)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, name) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device(name) == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        ConfigError, match="no GPU for its process number 3.*2 visible GPUs.*--nproc-per-node"
    ):
        choose_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("loss", LOSSES)
def test_fp16_gradients_on_a_gpu_are_close_to_fp32s(loss) -> None:
    config, found = with_loss(make_tiny_config(), loss), []
    for dtype in (torch.float32, torch.float16):
        student = make_student(config, torch.float32).to(CUDA)
        optimizer = build_optimizer(stored_parameters(student), config.optimizer)
        scaler = loss_scaler(CUDA, dtype)
        inputs = make_inputs(config, 8, dtype=torch.float32)
        on_gpu = Inputs(
            {name: view.to(CUDA) for name, view in inputs.views.items()},
            None if inputs.tokens is None else inputs.tokens.to(CUDA),
        )
        backward(Parallel(student), on_gpu, At(), dtype=dtype, scaler=scaler)
        scaler.unscale_(optimizer)
        found.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    assert (found[1] - found[0]).norm() < 0.03 * found[0].norm()
