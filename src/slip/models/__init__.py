"""Towers and heads, and the model composed of them."""

from __future__ import annotations

from slip.models.model import EMBEDDINGS, Model, build

__all__ = ["EMBEDDINGS", "Model", "build"]
