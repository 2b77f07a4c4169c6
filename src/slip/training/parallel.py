"""What is done to a model before it trains; model code itself knows nothing of it."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

from slip.models import Model


def prepare(model: Model, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> None:
    """Give the model the layout and the attention that are fast on `device` in `dtype`, and compile it if asked to.

    In place, and before the optimiser is made, whose state is laid out as the weights are.
    """
    if not isinstance(model.image_tower.trunk, VisionTransformer):
        # Convolutions and what stands between them are faster so; only the order in memory changes.
        model.image_tower.to(memory_format=torch.channels_last)
    if device.type == "cpu" and dtype == torch.bfloat16:
        unfuse_attention(model)
    if compiled:
        compile_towers(model)


def unfuse_attention(model: Model) -> None:
    """Let the image tower's blocks (timm's) multiply attention out instead of calling PyTorch's fused kernel.

    On a CPU the fused kernel's backward gains nothing from bf16, where plain matrix products do: a step of the
    `small-data` recipe takes a third less time. In fp32 the fused kernel is the faster one.
    """
    for module in model.image_tower.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]


def compile_towers(model: Model) -> None:
    """Compile the towers in place: names in the state dict stay, heads and losses run as they are.

    The image tower sees one shape; the text tower's length changes from batch to batch and is compiled for any.
    """
    model.image_tower.compile()
    if model.text_tower is not None:
        model.text_tower.compile(dynamic=True)
