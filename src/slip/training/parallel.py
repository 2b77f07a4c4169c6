"""What is done to a model before it trains; model code itself knows nothing of it."""

from __future__ import annotations

import torch

from slip.models import Model


def prepare(model: Model, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> None:
    """Choose the attention that is fast on `device` in `dtype`, then compile the towers if asked to; in place."""
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
