"""Towers, and the model composed of them."""

from __future__ import annotations

from openslip.models.model import Model, build

__all__ = ["Model", "build"]
