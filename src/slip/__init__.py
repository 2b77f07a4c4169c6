"""SLIP: image-text models with self-supervision, trained on your own pictures.

    import slip

    model = slip.load("runs/small-data")            # or a file of weights, or a released SLIP .pt file
    images = model.encode_image(["a.jpg", "b.jpg"])  # (2, embed_dim), unit length
    texts = model.encode_text(["a red bicycle"])     # (1, embed_dim), unit length
    similarity = images @ texts.T

    found = model.encode_image(paths, errors="skip")  # goes on without pictures that cannot be used
    found.values, found.kept, found.skipped           # (K, embed_dim), K indices, and which were left out and why

Models come in evaluation mode, and any number of threads may use one at once. docs/use.md has the whole of it.

Importing this package is cheap; PyTorch is imported when something is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slip import recipes
    from slip.config import Config
    from slip.data.sources import open_source
    from slip.encoder import Encoded, Encoder
    from slip.errors import SlipError
    from slip.interop import load
    from slip.training.loop import train

__all__ = ["Config", "Encoded", "Encoder", "SlipError", "create", "load", "open_source", "recipes", "train"]

_HOMES = {
    "Config": "slip.config",
    "Encoded": "slip.encoder",
    "Encoder": "slip.encoder",
    "SlipError": "slip.errors",
    "load": "slip.interop",
    "open_source": "slip.data.sources",
    "train": "slip.training.loop",
}


def create(recipe: str | Config) -> Encoder:
    """Return a freshly initialised model for a recipe's name or a configuration, ready to encode.

    It is in evaluation mode, as a loaded one is. To train it in a loop of your own, call `encoder.model.train()` first,
    and `encoder.eval()` before you encode with it. A pre-trained image tower normalises pictures as its weights were
    trained with.

    Raises ConfigError for an unknown recipe or a configuration whose values do not fit together.
    """
    from slip import recipes
    from slip.encoder import Encoder

    return Encoder.from_config(recipes.get(recipe) if isinstance(recipe, str) else recipe)


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return import_module("slip.recipes")
    if name not in _HOMES:
        raise AttributeError(f"module 'slip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
