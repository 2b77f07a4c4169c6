"""What wraps a model before it trains; model code itself knows nothing of it."""

from __future__ import annotations

from slip.models import Model


def compile_towers(model: Model) -> None:
    """Compile the towers in place: names in the state dict stay, heads and losses run as they are.

    The image tower sees one shape; the text tower's length changes from batch to batch and is compiled for any.
    """
    model.image_tower.compile()
    if model.text_tower is not None:
        model.text_tower.compile(dynamic=True)
