"""What of the towers learns: frozen layers, and how they stay as they are while the rest is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from openslip.errors import ConfigError
from openslip.models.layers import layers_of
from openslip.models.model import Model

_FREEZE = re.compile("none|all|[0-9]{1,6}|-[1-9][0-9]{0,5}")


def check_freeze(config: ModelConfig) -> None:
    """Raise ConfigError for a value of `model.image.freeze` or `model.text.freeze` that says nothing."""
    for option, tower in _options(config):
        if not _FREEZE.fullmatch(tower.freeze):
            raise ConfigError(
                f"{option} says nothing about what of the tower is frozen",
                got=tower.freeze,
                fix="Give `none`, `all`, a number N for the first N blocks, or -N for all but the last N",
            )


def tune(model: Model, config: ModelConfig) -> None:
    """Freeze of the towers what `model.image.freeze` and `model.text.freeze` say: those parameters get no gradient.

    In place; after the weights are there, and before anything wraps the model or an optimiser is made. `all` freezes a
    tower, and not its projection to the space that images and texts share, which is no part of it (as in LiT; Zhai et
    al. 2022). N freezes the embeddings and the first N blocks. -N freezes all but the last N blocks, and the final norm
    learns with these. Of a tower that is none of transformer blocks, timm says what a block is.

    Raises ConfigError for more blocks than there are, and where nothing is left to learn that ships with the model.
    """
    check_freeze(config)
    for option, tower_config in _options(config):
        tower = model.image_tower if option.startswith("model.image") else model.text_tower
        if tower is not None and tower_config.freeze != "none":
            _freeze(tower, tower_config.freeze, option)
    learning = [name for name, p in model.named_parameters() if p.requires_grad and name != "logit_scale"]
    if not learning:
        raise ConfigError(
            "Everything that the trained model consists of is frozen: it would stay as it is",
            got=", ".join(f"{option} {tower.freeze}" for option, tower in _options(config)),
            fix="Leave some blocks out, with --model.image.freeze -2 say",
        )


def _options(config: ModelConfig) -> list[tuple[str, ImageTowerConfig | TextTowerConfig]]:
    return [("model.image.freeze", config.image), ("model.text.freeze", config.text)]


def _freeze(tower: nn.Module, freeze: str, option: str) -> None:
    """Take the gradient from the parameters of the tower that `freeze` says, which is not `none`."""
    if freeze == "all":
        tower.requires_grad_(False)
        return
    layers = layers_of(tower)
    if layers is None:
        raise ConfigError(
            "The tower has no blocks that are known by number",
            got=f"{option} {freeze}, of a {type(tower).__name__}",
            fix="Use `all` or `none`",
        )
    blocks = layers.depth + int(freeze) if freeze.startswith("-") else int(freeze)
    if not 0 <= blocks <= layers.depth:
        raise ConfigError(
            f"{option} names more blocks than the tower has",
            got=f"{freeze}, of {layers.depth} blocks",
            fix=f"Give a number from {-layers.depth} to {layers.depth}, `all` or `none`",
        )
    for name, parameter in tower.named_parameters():
        if layers.of[name] <= blocks:
            parameter.requires_grad_(False)


def is_frozen(module: nn.Module) -> bool:
    """Whether the module has parameters, and none of them learns."""
    learns = [p.requires_grad for p in module.parameters()]
    return bool(learns) and not any(learns)


def frozen_parts(model: Model) -> Iterator[str]:
    """Yield the names of the largest modules of the towers that are frozen; none for a model that learns as a whole.

    In training they belong in evaluation mode: their running statistics stay, and they leave nothing out at random.
    """
    for name, part in model.named_children():
        if part in model.towers and not all(p.requires_grad for p in part.parameters()):
            yield from _frozen_parts(name, part)


def _frozen_parts(name: str, module: nn.Module) -> Iterator[str]:
    if is_frozen(module):
        yield name
    else:
        for child, part in module.named_children():
            yield from _frozen_parts(f"{name}.{child}", part)


def learning_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all that are in it, without those that are frozen."""
    if not is_frozen(module):
        yield module
        for child in module.children():
            yield from learning_modules(child)
