"""What is done to a model before it trains; model code itself knows nothing of it."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from openslip.collectives import world
from openslip.config import TrainingConfig
from openslip.errors import ConfigError
from openslip.models import Model
from openslip.models.batchnorm import sees_the_batch
from openslip.models.dropping import DropPath, bound
from openslip.models.tuning import learning_modules
from openslip.training.precision import convert_to_fp8

GRAPHS = 64
"""Versions of a forward function that the compiler may make before it runs others uncompiled (by default 8)."""

KEPT = [
    getattr(torch.ops.aten, name).default
    for name in (
        "mm", "addmm", "linear", "_scaled_mm",
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu",
    )
]  # fmt: skip
"""Operations whose outputs selective checkpointing keeps: products with weights, and fused attention. Unfused attention
is left out on purpose: its products are cheap to repeat, and its scores grow with the square of the length."""


def prepare(model: Model, device: torch.device, dtype: torch.dtype, training: TrainingConfig) -> None:
    """Make the model ready to train on `device` in `dtype`, as `training` says.

    In order: the layout and the attention that are fast on the device, fp8 products, activation checkpointing,
    compilation. Works in place, before the optimiser is made, because its state is laid out as the weights are. Names
    in the state dict stay. Raises ConfigError if the towers cannot do what was asked for.
    """
    check_micro_batch(model, training)
    spread = training.parallel == "fsdp" and world() > 1  # FSDP does not spread weights in another order
    if not isinstance(model.image_tower.trunk, VisionTransformer) and not spread:
        # Convolutions and the layers between them are faster so; only the order in memory changes.
        model.image_tower.to(memory_format=torch.channels_last)
    if device.type == "cpu" and dtype == torch.bfloat16:
        unfuse_attention(model)
    if training.precision == "fp8":
        convert_to_fp8(model.towers)
    if training.checkpoint_activations != "none":
        checkpoint_activations(
            model, selective=training.checkpoint_activations == "selective", parts=_in_parts(training)
        )
    if training.compile:
        compile_blocks(model)


def check_micro_batch(model: Model, training: TrainingConfig) -> None:
    """Raise ConfigError if a part of the batch would give other embeddings than the whole batch.

    The heads see the whole batch at once, so BatchNorm is exact in the heads, and only there.
    """
    share = training.batch // world()
    if 0 < training.micro_batch < share and _has_batchnorm(model.image_tower):
        raise ConfigError(
            "Micro-batches would not give the step of the whole batch: the image tower has BatchNorm layers",
            got=f"training.micro_batch {training.micro_batch} of {share} rows",
            cause="The layers' statistics would be those of a part of the batch",
            fix="Leave out training.micro_batch, or choose a tower without BatchNorm, such as a ViT or ConvNeXt. A "
            "trained tower may keep its statistics: --model.image.batchnorm kept",
        )


def _in_parts(training: TrainingConfig) -> bool:
    """Whether the towers see a part of the batch at a time: a micro-batch, or the share of one of several processes."""
    return world() > 1 or 0 < training.micro_batch < training.batch


def _has_batchnorm(module: nn.Module) -> bool:
    """Whether the module has a BatchNorm that takes its statistics from the batch; a frozen one does not."""
    return any(map(sees_the_batch, learning_modules(module)))


def image_blocks(model: Model) -> list[nn.Module]:
    """Return the image tower's transformer blocks; none if timm built the tower of something else."""
    blocks = getattr(model.image_tower.trunk, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return []
    return list(blocks) if all(hasattr(block, "attn") for block in blocks) else []


def text_blocks(model: Model) -> list[nn.Module]:
    """Return the text tower's transformer blocks; none without a text tower."""
    return [] if model.text_tower is None else list(model.text_tower.blocks)


def unfuse_attention(model: Model) -> None:
    """Let the image tower's blocks (timm's) compute attention by matrix products instead of PyTorch's fused kernel.

    On a CPU the fused kernel's backward gains nothing from bf16, where plain matrix products do: a step of the
    `small-data` recipe takes a third less time. In fp32 the fused kernel is the faster one.
    """
    for module in model.image_tower.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]


def checkpoint_activations(model: Model, *, selective: bool, parts: bool = False) -> None:
    """Let the towers' blocks compute their activations again in backward instead of keeping them.

    parts: whether the towers see parts of the batch, for which randomness is drawn as for the whole of it.

    Keeps only a block's input, or with `selective` also the outputs of its matrix products and attention, so
    that only the cheap rest is repeated. Losses and gradients stay what they were, stochastic depth included.
    Image towers without transformer blocks are checkpointed by timm, stage by stage. Raises ConfigError if
    that is not possible.
    """
    if not image_blocks(model):
        _checkpoint_stages(model.image_tower.trunk, selective, parts)
    for block in image_blocks(model) + text_blocks(model):
        block.__class__ = _recomputing(type(block), selective)


@cache
def _recomputing(kind: type[nn.Module], selective: bool) -> type[nn.Module]:
    """Return `kind` with a forward that keeps little of what backward needs.

    A class, not a wrapper: the blocks' names stay, copies of the model are whole, and one compiled graph still
    serves all blocks of a kind.
    """
    kept: dict[str, Any] = (
        {"context_fn": partial(create_selective_checkpoint_contexts, KEPT)} if selective else {}
    )

    def forward(self: nn.Module, *inputs: Any, **options: Any) -> Tensor:
        again = partial(kind.forward, self)
        if not torch.compiler.is_compiling():
            again = bound(again)
        return checkpoint(again, *inputs, use_reentrant=False, **kept, **options)

    return type(f"Recomputing{kind.__name__}", (kind,), {"forward": forward})


def _checkpoint_stages(trunk: nn.Module, selective: bool, parts: bool) -> None:
    """Switch on timm's own checkpointing. Raises ConfigError if timm has none, or if it would not be exact."""
    name, cause, fix = type(trunk).__name__, "", "Lower training.micro_batch instead, or choose another tower"
    if selective:
        cause = "Selective checkpointing is for towers made of transformer blocks"
    elif _has_batchnorm(trunk):
        cause = "Its BatchNorm layers would count every batch twice in their running statistics"
        fix = "Choose another tower, or a smaller batch"
    elif parts and any(isinstance(part, DropPath) and part.drop_prob for part in learning_modules(trunk)):
        cause = "Its stochastic depth, computed again for a part of the batch, would leave out other rows than before"
        fix = "Set --model.image.drop-path 0, or leave out training.micro_batch on one process"
    else:
        try:
            trunk.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError):  # timm asserts
            cause = "timm has no checkpointing for it"
    if cause:
        raise ConfigError(
            f"The image tower's activations cannot be checkpointed: it is a {name}",
            got=f"training.checkpoint_activations {'selective' if selective else 'full'}",
            cause=cause,
            fix=fix + (", or 'full'" if selective else ""),
        )


def compile_blocks(model: Model) -> None:
    """Compile the towers block by block, in place: names in the state dict stay, heads and losses run as they are.

    Equal blocks share a graph, so compiling takes the time of one block and not of twelve. An image tower without
    transformer blocks is compiled whole. The text tower's blocks are compiled once for any length: padding to
    a few lengths would be a graph for each (`docs/design.md` has the counts).
    """
    import torch._dynamo

    # Blocks share their forward function, and stochastic depth, whose rates differ, makes each a version of it.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, GRAPHS)  # type: ignore[bad-assignment]
    for block in image_blocks(model) or [model.image_tower]:
        block.compile()
    for block in text_blocks(model):
        block.compile(dynamic=True)
