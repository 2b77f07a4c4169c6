import copy
import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openslip.config import ObjectiveConfig, TrainingConfig
from openslip.errors import ConfigError
from openslip.models import build
from openslip.models.inputs import Inputs
from openslip.models.tuning import tune
from openslip.needs import SSL_VIEWS, Need
from openslip.objectives import At, parse
from openslip.training.parallel import Parallel
from openslip.training.prepare import checkpoint_activations, compile_blocks, prepare
from openslip.training.step import backward
from toys import LOSSES, TUNED, make_inputs, make_student, tuned, with_loss

NEEDS = parse(ObjectiveConfig()).needs
SSL_NEEDS = tuple(Need(view.name) for view in SSL_VIEWS)
CPU = torch.device("cpu")


def tokens(length: int) -> torch.Tensor:
    rows = torch.randint(1, 400, (8, length))
    rows[:, 0], rows[:, -1] = 49406, 49407
    for row in range(1, 8):  # shorter captions, the first row is the longest
        end = 2 + row % (length - 2)
        rows[row, end], rows[row, end + 1 :] = 49407, 0
    return rows


def views(dtype: torch.dtype = torch.float32, side: int = 16) -> dict[str, torch.Tensor]:
    return {name: torch.randn(8, 3, side, side, dtype=dtype) for name in ("image", "ssl_1", "ssl_2")}


def features(model, pictures, rows=None):
    """Return what the towers make of a batch."""
    return model.features(Inputs(pictures, rows), SSL_NEEDS if rows is None else NEEDS)


def without_drop_path(config):
    return replace(config.model, image=replace(config.model.image, drop_path=0.0))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [None, "full", "selective"])
def test_compiled_blocks_give_the_same_features_and_gradients(tiny_config, recompute) -> None:
    """Over several text lengths, so that dynamic shapes are met; also with activation checkpointing inside."""
    torch.manual_seed(0)
    torch.compiler.reset()
    plain = build(without_drop_path(tiny_config), 16, NEEDS).train()
    compiled = copy.deepcopy(plain)
    if recompute:
        checkpoint_activations(compiled, selective=recompute == "selective")
    compile_blocks(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for length in (5, 7, 12, 5):
        pictures, rows = views(), tokens(length)
        for model in (plain, compiled):
            model.zero_grad()
            found = features(model, pictures, rows)
            parts = ((f * torch.linspace(0, 1, f.shape[1])).sum() for f in found.values())
            sum(parts, torch.zeros(())).backward()
        expected = features(plain, pictures, rows)
        for name, feature in features(compiled, pictures, rows).items():
            torch.testing.assert_close(feature, expected[name], rtol=1e-4, atol=1e-5)
        for a, b in zip(plain.parameters(), compiled.parameters()):
            if a.grad is not None:
                torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4 * float(a.grad.abs().max()))


def trace_with(backend: str, monkeypatch) -> dict[str, Counter[str]]:
    """Start the compiler anew, with a backend that may be quicker than the real one; return its counts to come."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    return counters


@pytest.mark.slow
@pytest.mark.parametrize(("recompute", "backend"), [("none", "inductor"), ("selective", "aot_eager")])
def test_every_text_length_is_served_by_the_same_graphs(tiny_config, monkeypatch, recompute, backend) -> None:
    """Four kinds of block (each tower's last differs from the others) make four graphs, not one for each length."""
    counters = trace_with(backend, monkeypatch)
    towers = without_drop_path(tiny_config)
    towers = replace(
        towers, image=replace(towers.image, depth=4), text=replace(towers.text, depth=4, context=77)
    )
    model = build(towers, 16, NEEDS).train()
    training = TrainingConfig(compile=True, checkpoint_activations=recompute)
    prepare(model, CPU, torch.float32, training)
    seen = []
    for length in range(5, 78):
        found = features(model, views(), tokens(length))
        sum((f.sum() for f in found.values()), torch.zeros(())).backward()
        seen.append(counters["stats"]["unique_graphs"])
    assert seen == [4] * len(seen)
    assert not counters["graph_break"]


@pytest.mark.slow
def test_many_versions_of_a_block_stay_compiled(tiny_config, monkeypatch) -> None:
    """Stochastic depth differs from block to block, and micro-batches run without gradients too."""
    counters = trace_with("aot_eager", monkeypatch)
    image = replace(tiny_config.model.image, depth=6, drop_path=0.2)
    student = make_student(replace(tiny_config, model=replace(tiny_config.model, image=image)), torch.float32)
    prepare(student.model, CPU, torch.float32, TrainingConfig(compile=True))
    for length in (5, 9):
        backward(Parallel(student), Inputs(views(), tokens(length)), At(), micro_batch=4)
    # With and without gradients: 6 rates of the image tower's blocks, 2 kinds of text block.
    assert counters["stats"]["unique_graphs"] == 2 * (6 + 2)
    assert not counters["graph_break"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("how", ["selective", "full"])
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_recomputed_activations_give_the_same_gradients(tiny_config, loss, how, micro_batch) -> None:
    """Bit for bit, stochastic depth included."""
    config = with_loss(tiny_config, loss)
    plain, inputs = make_student(config), make_inputs(config)
    recomputed = copy.deepcopy(plain)
    prepare(recomputed.model, CPU, torch.float64, TrainingConfig(checkpoint_activations=how))
    assert recomputed.state_dict().keys() == plain.state_dict().keys()
    losses = [
        backward(Parallel(student), inputs, At(), micro_batch=micro_batch, seed=3)
        for student in (plain, recomputed)
    ]
    assert losses[0] == losses[1]
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


@pytest.mark.parametrize("tuning", TUNED, ids=str)
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_tuned_towers_are_recomputed_alike(tiny_config, tuning, micro_batch) -> None:
    config = tuned(with_loss(tiny_config, "clip"), **tuning)
    if "statistics" in tuning:  # timm recomputes it, which goes together with no stochastic depth
        config = replace(config, model=without_drop_path(config))
    plain, inputs = make_student(config), make_inputs(config)
    for how in ("full",) if "statistics" in tuning else ("selective", "full"):
        recomputed = copy.deepcopy(plain)
        prepare(recomputed.model, CPU, torch.float64, TrainingConfig(checkpoint_activations=how))
        plain.zero_grad()
        for student in (plain, recomputed):
            backward(Parallel(student), inputs, At(), micro_batch=micro_batch, seed=3)
        for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
            if "statistics" in tuning and a.grad is not None:  # convolutions, laid out in another order
                torch.testing.assert_close(a.grad, b.grad)
            else:
                torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "tuning"), [*((loss, {}) for loss in LOSSES), *(("clip", tuning) for tuning in TUNED)], ids=str
)
def test_a_compiled_step_is_the_same_step(tiny_config, loss, tuning) -> None:
    torch.compiler.reset()
    config = tuned(with_loss(replace(tiny_config, model=without_drop_path(tiny_config)), loss), **tuning)
    plain, inputs = make_student(config, torch.float32), make_inputs(config, dtype=torch.float32)
    compiled = copy.deepcopy(plain)
    prepare(compiled.model, CPU, torch.float32, TrainingConfig(compile=True))
    losses = [backward(Parallel(student), inputs, At()) for student in (plain, compiled)]
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-4, atol=1e-5)
    expected, found = (
        {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
        for student in (plain, compiled)
    )
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # A bias before a BatchNorm has no gradient but rounding errors, which are in proportion to all of it.
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5 * norm, name


@pytest.mark.parametrize("how", ["selective", "full", pytest.param("compile", marks=pytest.mark.slow)])
def test_patch_tokens_of_a_prepared_tower(tiny_config, monkeypatch, how) -> None:
    """With masks, and then the features alone again, as the steps of several objectives ask for them."""
    torch.manual_seed(0)
    plain = build(without_drop_path(tiny_config), 16, [Need("image")]).double().train()
    prepared, token = copy.deepcopy(plain), torch.randn(plain.image_tower.width, dtype=torch.float64)
    if how == "compile":
        trace_with("eager", monkeypatch)
        compile_blocks(prepared)
    else:
        checkpoint_activations(prepared, selective=how == "selective")
    pictures = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    masked, found = torch.rand(8, math.prod(plain.image_tower.grid(16))) < 0.5, []
    for model in (plain, prepared):
        tower, mask_token = model.image_tower, token.clone().requires_grad_()
        feature, patches = tower(pictures, tokens=True, masked=masked, mask_token=mask_token)
        (feature.sum() + patches.square().sum() + tower(pictures).square().sum()).backward()
        found.append([feature, patches, mask_token.grad, *(p.grad for p in tower.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found))


class Made(TorchDispatchMode):
    """Notes the memory of all results, also of what selective checkpointing keeps, which hooks do not see."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        storages = (tensor.untyped_storage() for tensor in tensors)
        self.storages |= {StorageWeakRef(storage): storage.nbytes() for storage in storages}
        return result


def kept_bytes(model, pictures, rows) -> int:
    """Memory that waits for the backward pass, parameters left out."""
    known = {StorageWeakRef(p.untyped_storage()) for p in model.parameters()}
    with Made() as made:
        found = features(model, pictures, rows)
    total = sum(size for ref, size in made.storages.items() if ref not in known and not ref.expired())
    del found
    return total


def hooked_bytes(model, pictures, rows) -> int:
    """The slow twin: every tensor that autograd saves, by hooks, which do not see selective checkpointing's."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = features(model, pictures, rows)
    del found
    return sum(storage.nbytes() for pointer, storage in saved.items() if pointer not in weights)


def test_recomputing_keeps_less(tiny_config) -> None:
    towers = without_drop_path(tiny_config)
    towers = replace(
        towers,
        image=replace(towers.image, width=64, depth=6),
        text=replace(towers.text, width=64, depth=6, context=32),
    )
    plain = build(towers, 32, NEEDS).train()
    pictures, rows = views(side=32), tokens(32)
    kept, hooked = {}, {}
    for how in ("none", "selective", "full"):
        model = copy.deepcopy(plain)
        prepare(model, CPU, torch.float32, TrainingConfig(checkpoint_activations=how))
        kept[how] = kept_bytes(model, pictures, rows)
        if how != "selective":
            hooked[how] = hooked_bytes(model, pictures, rows)
    assert kept["full"] < 0.2 * kept["none"]
    assert kept["full"] < 0.5 * kept["selective"]
    assert kept["selective"] < 0.75 * kept["none"]
    for how, expected in hooked.items():
        assert kept[how] == pytest.approx(expected, rel=0.1)


def test_a_convolutional_tower_is_checkpointed_by_timm(tiny_config) -> None:
    image = replace(tiny_config.model.image, name="test_convnext", drop_path=0.0)
    plain = build(replace(tiny_config.model, image=image), 32, NEEDS).double().train()
    recomputed = copy.deepcopy(plain)
    prepare(recomputed, CPU, torch.float64, TrainingConfig(checkpoint_activations="full"))
    pictures, rows = views(torch.float64, side=32), tokens(9)
    assert kept_bytes(recomputed, pictures, rows) < 0.7 * kept_bytes(plain, pictures, rows)
    for model in (plain, recomputed):
        found = features(model, pictures, rows)
        sum((f.square().sum() for f in found.values()), torch.zeros(())).backward()
    for a, b in zip(plain.parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "how", "cause"),
    [
        ("test_convnext", "selective", "towers made of transformer blocks.*or 'full'"),
        ("test_resnet", "full", "BatchNorm layers would count every batch twice"),
    ],
)
def test_towers_that_cannot_be_checkpointed_are_refused(tiny_config, name, how, cause) -> None:
    assert tiny_config.model.image.drop_path > 0
    model = build(replace(tiny_config.model, image=replace(tiny_config.model.image, name=name)), 32, NEEDS)
    with pytest.raises(ConfigError, match=f"{cause}"):
        prepare(model, CPU, torch.float32, TrainingConfig(checkpoint_activations=how))


@pytest.mark.parametrize("loss", ["clip", "clip + simclr"])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_stages_with_stochastic_depth_are_recomputed_alike_or_refused(tiny_config, loss, drop_path) -> None:
    image = replace(tiny_config.model.image, name="test_convnext", drop_path=drop_path)
    config = with_loss(replace(tiny_config, model=replace(tiny_config.model, image=image)), loss)
    config = replace(config, views=replace(config.views, size=32))
    plain, inputs = make_student(config), make_inputs(config)
    for micro_batch in (0, 3):
        training = TrainingConfig(batch=8, micro_batch=micro_batch, checkpoint_activations="full")
        recomputed = copy.deepcopy(plain)
        if micro_batch and drop_path:
            with pytest.raises(
                ConfigError,
                match=r"stochastic depth, computed again.*would leave out other rows.*drop-path 0",
            ):
                prepare(recomputed.model, CPU, torch.float64, training)
            continue
        prepare(recomputed.model, CPU, torch.float64, training)
        plain.zero_grad()
        for student in (plain, recomputed):
            backward(Parallel(student), inputs, At(), micro_batch=micro_batch, seed=3)
        for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-11)


def test_bf16_on_a_cpu_multiplies_attention_out(tiny_config) -> None:
    """Only the way it is computed changes: features and gradients stay what they were."""
    config = replace(tiny_config.model, image=replace(tiny_config.model.image, drop_path=0.0))
    fused = build(config, 16, SSL_NEEDS).double().train()
    pictures = {n: torch.randn(4, 3, 16, 16, dtype=torch.float64) for n in ("ssl_1", "ssl_2")}
    prepared = {dtype: copy.deepcopy(fused) for dtype in (torch.float32, torch.bfloat16)}
    for dtype, model in prepared.items():
        prepare(model, CPU, dtype, TrainingConfig())
        kinds = {m.fused_attn for m in model.image_tower.modules() if hasattr(m, "fused_attn")}
        assert kinds == {dtype == torch.float32}
    found = {dtype: features(model, pictures)[SSL_NEEDS[0]] for dtype, model in prepared.items()}
    torch.testing.assert_close(found[torch.bfloat16], found[torch.float32])
    for feature in found.values():
        feature.square().sum().backward()
    for a, b in zip(*(model.parameters() for model in prepared.values())):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_convolutions_run_with_channels_last(tiny_config) -> None:
    """Only the order in memory changes: features, gradients and the state dict stay what they were."""
    config = replace(
        tiny_config.model, image=replace(tiny_config.model.image, name="test_resnet", drop_path=0.0)
    )
    plain = build(config, 32, SSL_NEEDS).double().train()
    prepared = copy.deepcopy(plain)
    prepare(prepared, CPU, torch.float32, TrainingConfig())
    weights = [p for p in prepared.image_tower.parameters() if p.ndim == 4 and p.shape[2:] != (1, 1)]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    pictures = {n: torch.randn(4, 3, 32, 32, dtype=torch.float64) for n in ("ssl_1", "ssl_2")}
    for model in (plain, prepared):
        features(model, pictures)[SSL_NEEDS[0]].square().sum().backward()
    for a, b in zip(plain.parameters(), prepared.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad)
    for name, value in prepared.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])


def test_micro_batches_are_refused_where_they_would_not_be_the_whole_batch(tiny_config) -> None:
    """BatchNorm of the tower would have the statistics of a part; one that is no smaller than the batch is fine."""
    config = replace(tiny_config.model, image=replace(tiny_config.model.image, name="test_resnet"))
    with pytest.raises(ConfigError, match=r"BatchNorm layers.*micro_batch 4 of 8 rows.*Leave out"):
        prepare(build(config, 32, NEEDS), CPU, torch.float32, TrainingConfig(batch=8, micro_batch=4))
    prepare(build(config, 32, NEEDS), CPU, torch.float32, TrainingConfig(batch=8, micro_batch=8))


def test_frozen_batchnorm_takes_micro_batches_and_recomputation(tiny_config) -> None:
    """Its statistics are its own, so a part of the batch gives what the whole batch does."""
    config = replace(tiny_config.model, image=replace(tiny_config.model.image, name="test_resnet"))
    for freeze, refused in (("all", False), ("4", False), ("3", True)):
        model = build(config, 32, NEEDS)
        tune(model, replace(config, image=replace(config.image, freeze=freeze)), 32)
        for training in (
            TrainingConfig(batch=8, micro_batch=4),
            TrainingConfig(checkpoint_activations="full"),
        ):
            with pytest.raises(ConfigError, match="BatchNorm layers") if refused else nullcontext():
                prepare(model, CPU, torch.float32, training)
