"""Choose what learns in the towers: frozen layers do not change while the rest is trained, and adapters learn."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import torch
from torch import nn

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from openslip.errors import ConfigError
from openslip.models.batchnorm import keep_statistics
from openslip.models.layers import layers_of
from openslip.models.lora import add_adapters, check_peft, linear_layers, unused_adapters
from openslip.models.model import Model
from openslip.models.vision import ImageTower

_FREEZE = re.compile("none|all|[0-9]{1,6}|-[1-9][0-9]{0,5}")


def check_tuning(config: ModelConfig) -> None:
    """Raise ConfigError if `freeze` or `lora` of a tower has no valid value, or if the two contradict each other."""
    for name, tower in _towers(config):
        if not _FREEZE.fullmatch(tower.freeze):
            raise ConfigError(
                f"model.{name}.freeze does not say which part of the tower is frozen",
                got=tower.freeze,
                fix="Give `none`, `all`, a number N for the first N blocks, or -N for all but the last N",
            )
        if tower.lora and tower.freeze == "all":
            raise ConfigError(
                f"The {name} tower is frozen whole, but is to have adapters that learn",
                got=f"model.{name}.freeze all, model.{name}.lora {tower.lora}",
                fix=f"Leave --model.{name}.freeze out: with adapters, all else in a tower is frozen anyway",
            )
        if tower.lora:
            check_peft()


def tune(model: Model, config: ModelConfig, size: int) -> None:
    """Freeze the parts of the towers that `freeze` names: they get no gradient. Add the adapters of `lora`.

    In place. Call it after the weights are loaded, and before anything wraps the model or an optimiser is made. `all`
    freezes a tower, but not its projection to the space that images and texts share (as in LiT; Zhai et al. 2022). N
    freezes the embeddings and the first N blocks. -N freezes all but the last N blocks and the final norm. If a tower
    has no transformer blocks, timm defines its blocks.

    If `batchnorm` is `kept`, every BatchNorm stays in evaluation mode, whatever else of the tower learns.

    Adapters are added to the linear layers of attention and MLPs. With adapters, the rest of the tower is frozen.
    Layers that `freeze` freezes get no adapters, and so need no backward pass.

    size: side of the pictures, in pixels. Raises ConfigError for more blocks than there are, if nothing that ships with
    the model is left to learn, and for adapters on a tower that has no linear layers, or does not call them.
    """
    check_tuning(config)
    for name, tower_config in _towers(config):
        tower = model.image_tower if name == "image" else model.text_tower
        if tower is None:
            continue
        frozen = _frozen(tower, tower_config.freeze, f"model.{name}.freeze")
        for parameter_name, parameter in tower.named_parameters():
            if parameter_name in frozen:
                parameter.requires_grad_(False)
        if isinstance(tower_config, ImageTowerConfig) and tower_config.batchnorm == "kept":
            keep_statistics(tower)
        if tower_config.lora:
            _adapt(tower, tower_config.lora, frozen, f"model.{name}.lora")
    if config.image.lora:
        _check_adapters(model.image_tower, size, config.image.lora)
    learning = [name for name, p in model.named_parameters() if p.requires_grad and name != "logit_scale"]
    if not learning:
        raise ConfigError(
            "All parts of the trained model are frozen: training would not change it",
            got=", ".join(f"model.{name}.freeze {tower.freeze}" for name, tower in _towers(config)),
            fix="Let some blocks learn, for example with --model.image.freeze -2",
        )


def _towers(config: ModelConfig) -> list[tuple[str, ImageTowerConfig | TextTowerConfig]]:
    return [("image", config.image), ("text", config.text)]


def _frozen(tower: nn.Module, freeze: str, option: str) -> set[str]:
    """Return the names of the tower's parameters that `freeze` freezes."""
    names = {name for name, _ in tower.named_parameters()}
    if freeze in ("none", "all"):
        return names if freeze == "all" else set()
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
    return {name for name in names if layers.of[name] <= blocks}


def _adapt(tower: nn.Module, rank: int, frozen: Collection[str], option: str) -> None:
    """Add adapters to the layers of the tower that are not frozen, and freeze the rest."""
    layers = [name for name in linear_layers(tower) if f"{name}.weight" not in frozen]
    if not layers:
        raise ConfigError(
            "The tower has no linear layers that adapters could be added to",
            got=f"{option} {rank}, of {type(getattr(tower, 'trunk', tower)).__name__}",
            cause="It is convolutional, or all its blocks are frozen",
            fix="Leave adapters out, and freeze less: all but the last block, with `freeze -1`",
        )
    add_adapters(tower, layers, rank)


def _check_adapters(tower: ImageTower, size: int, rank: int) -> None:
    """Raise ConfigError if the tower reads weights of linear layers directly: adapters there would have no effect."""
    weight, training = next(tower.parameters()), tower.training
    if weight.is_meta:  # a copy without numbers, of a tower that was tried before
        return
    picture = torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)
    unused = unused_adapters(tower, lambda: tower.eval()(picture))
    tower.train(training)
    if unused:
        raise ConfigError(
            "The image tower reads the weights of some linear layers without calling them: adapters would do nothing",
            got=f"model.image.lora {rank}, of a {type(tower.trunk).__name__}: {len(unused)} layers, as {unused[0]}",
            fix="Leave --model.image.lora out, and freeze the first blocks: --model.image.freeze -2",
        )


def is_frozen(module: nn.Module) -> bool:
    """Return whether the module has parameters, and none of them learns."""
    learns = [p.requires_grad for p in module.parameters()]
    return bool(learns) and not any(learns)


def frozen_parts(model: Model) -> Iterator[str]:
    """Yield the names of the largest frozen modules of the towers; none for a model that learns as a whole.

    In training these modules belong in evaluation mode: running statistics do not change, and nothing is dropped.
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
    """Yield a module and all modules in it, without frozen modules."""
    if not is_frozen(module):
        yield module
        for child in module.children():
            yield from learning_modules(child)
