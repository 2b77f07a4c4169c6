"""What a run starts from: the model that `init` names. The run takes over its configuration and its weights.

`Start.lines` names everything that is taken over or left out, and `init.json` in the run folder keeps it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openslip.config import FOR_TRAINING, Config, ViewsConfig, as_typed
from openslip.errors import CheckpointError, ConfigError
from openslip.models.positions import fitted
from openslip.models.weights import Origin, Pretrained
from openslip.training.student import Student, stored_state

OWN = FOR_TRAINING | {"truncation"}
"""Fields of a tower's configuration that stay the run's own, whatever the weights have."""
VIT = (
    "patch",
    "width",
    "depth",
    "heads",
    "mlp",
    "activation",
    "pool",
    "class_tokens",
    "pre_norm",
    "norm_eps",
)
"""Fields of an image tower's configuration that do not apply to a tower of timm, because timm defines them."""
CLOSE = 1e-3
"""By how much a mean or deviation may differ from that of the weights, because people round them."""
LISTED = 4
"""Names of tensors that a line shows; the others are only counted."""


def adopted(config: Config, found: Pretrained, typed: Collection[str] = ()) -> Config:
    """Return the configuration with the towers and the preprocessing of the weights that a run starts from.

    The weights' towers replace the configuration's; how towers are trained stays the configuration's own. So do
    `views.size`, unless it is 0, and a text context that is shorter than the weights'. A configuration that was adopted
    already does not change. typed: full keys that a person has typed, such as `views.mean`.

    Raises ConfigError if a typed value is not that of the weights, or if the configuration sets levels that are neither
    the defaults nor those of the weights.
    """
    spec, model, own = found.origin.spec, config.model, found.config.model
    image = _tower(model.image, own.image, "model.image", spec, typed)
    text = _tower(model.text, own.text, "model.text", spec, typed) if found.has_text else model.text
    if not found.shared_space:
        image = replace(image, unprojected=model.image.unprojected)
        embed_dim = model.embed_dim
    else:
        embed_dim = _same(model.embed_dim, own.embed_dim, "model.embed_dim", spec, typed)
    model = replace(model, image=image, text=text, embed_dim=embed_dim)
    return replace(config, model=model, views=_views(config.views, found.config.views, spec, typed))


def _tower(given: Any, own: Any, where: str, spec: str, typed: Collection[str]) -> Any:
    """Return a tower's configuration as the weights have it, with how the run trains it."""
    changes = {}
    of_timm = getattr(own, "name", "vit") != "vit"
    for field in dataclasses.fields(given):
        mine, theirs = getattr(given, field.name), getattr(own, field.name)
        if field.name in OWN or (field.name == "context" and mine < theirs):
            changes[field.name] = mine
        elif of_timm and field.name in VIT and f"{where}.{field.name}" in typed:
            raise ConfigError(
                f"--{where}.{field.name.replace('_', '-')} does not apply to an image tower of timm",
                got=f"{mine}, for {own.name} of {spec}",
                cause="timm defines the sizes of its towers",
                fix="Leave the option out",
            )
        else:
            changes[field.name] = _same(mine, theirs, f"{where}.{field.name}", spec, typed)
    return replace(own, **changes)


def _same(mine: Any, theirs: Any, key: str, spec: str, typed: Collection[str]) -> Any:
    """Return the value of the weights. Raises ConfigError if another value was typed."""
    if key in typed and mine != theirs:
        raise ConfigError(
            f"--{key.replace('_', '-')} does not fit the weights that the run starts from",
            got=f"{mine}, and {spec} has {theirs}",
            fix="Leave the option out: its value is taken from the weights",
        )
    return theirs


def _views(views: ViewsConfig, own: ViewsConfig, spec: str, typed: Collection[str]) -> ViewsConfig:
    """Return how pictures are prepared: as the weights were trained, at the size that was asked for."""
    defaults = ViewsConfig()
    chosen: dict[str, Any] = {"size": views.size or own.size}
    for key in ("mean", "std", "interpolation", "fit"):
        mine, theirs, usual = getattr(views, key), getattr(own, key), getattr(defaults, key)
        if _close(mine, theirs):
            chosen[key] = mine
        elif mine == usual and f"views.{key}" not in typed:
            chosen[key] = theirs
        else:
            raise ConfigError(
                f"views.{key} is not what the weights of {spec} were trained with",
                got=f"{as_typed(mine)}, and the weights have {as_typed(theirs)}",
                fix=f"Leave views.{key} out, on the command line and in the configuration file: its value comes from "
                f"the weights. Or give their value: --views.{key} {as_typed(theirs)}",
            )
    return replace(views, **chosen)


def _close(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, tuple):
        return all(abs(one - other) <= CLOSE for one, other in zip(mine, theirs))
    return mine == theirs


def adopted_as_in_run(config: Config, run: Config) -> Config:
    """Return the configuration of a resumed run, with the towers and preprocessing that the run began with.

    The model that `init` names may be gone or changed. Other values stay as they are; the comparison with the run
    folder refuses what may not differ.
    """
    if not config.init or config.init != run.init:
        return config
    views = {
        key: getattr(run.views, key)
        for key in ("mean", "std", "interpolation", "fit")
        if getattr(config.views, key) == getattr(ViewsConfig(), key)
    }
    model = replace(
        run.model,
        image=_trained_as(config.model.image, run.model.image),
        text=_trained_as(config.model.text, run.model.text),
    )
    size = config.views.size or run.views.size
    return replace(config, model=model, views=replace(config.views, size=size, **views))


def _trained_as(given: Any, own: Any) -> Any:
    return replace(own, **{key: getattr(given, key) for key in OWN if hasattr(given, key)})


def check_size(config: Config) -> None:
    """Raise ConfigError if the size of pictures is that of weights, and no weights are named."""
    if not config.views.size:
        raise ConfigError(
            "The configuration is for a run that starts from a model, and no model is named",
            got=f"{config.name}: views.size 0, the size of the weights, without --init",
            fix="Name a model: --init open_clip:NAME/TAG, hf:owner/name, timm:NAME or a run folder. To start at "
            "random, take another recipe, such as small-data",
        )


@dataclass(frozen=True)
class Start:
    """Which of a student's tensors the weights of `init` have filled, and which of the weights were not used.

    taken, fresh: names as in checkpoints. resampled: what was changed to fit, in words. unused: the reason, by name.
    """

    origin: Origin
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    resampled: tuple[str, ...]
    unused: Mapping[str, str]
    notes: tuple[str, ...] = ()
    size: int = 0
    """Pixels of a side of the pictures that the weights were trained with; 0: not known."""

    def to_dict(self) -> dict[str, Any]:
        """Return what init.json holds."""
        return {
            "spec": self.origin.spec,
            "format": self.origin.format,
            "files": dict(self.origin.files),
            "taken": list(self.taken),
            "resampled": list(self.resampled),
            "fresh": list(self.fresh),
            "unused": dict(self.unused),
        }

    def lines(self, config: Config) -> list[str]:
        """Return the lines that are printed before training starts."""
        views = config.views
        told = [
            f"{self.origin.spec} ({self.origin.format}): {parts(self.taken)}",
            *(f"resampled: {what}" for what in self.resampled),
        ]
        if self.fresh:
            told.append(f"fresh, because these weights have none: {parts(self.fresh)}")
        reasons: dict[str, list[str]] = {}
        for name, why in self.unused.items():
            reasons.setdefault(why, []).append(name)
        told += [f"not used: {_few(names)} ({why})" for why, names in reasons.items()]
        other = f" (the weights were trained with {self.size})" if self.size not in (0, views.size) else ""
        told.append(
            f"pictures as these weights take them: {views.size} px{other}, mean {as_typed(views.mean)}, deviation "
            f"{as_typed(views.std)}, {views.interpolation}, {views.fit}"
        )
        return [*told, *self.notes]


def fill(student: Student, found: Pretrained) -> Start:
    """Put the weights that a run starts from into the student; return what was taken, and what was not.

    Parts that the weights lack keep their random weights: a text tower, projections, the heads of objectives. An
    incomplete part is an error. Position embeddings of another grid are resampled (`openslip.models.positions`).

    Raises CheckpointError if a part does not fit.
    """
    weights, resampled = fitted(student.model, found.weights)
    by_record = {f"objective.{o.name}.{name}" for o in student.objective.objectives for name in o.by_record}
    own = {name: tensor for name, tensor in stored_state(student).items() if name not in by_record}
    unused, taken = dict(found.unused), {}
    unused |= dict.fromkeys(by_record & weights.keys(), "it is of the records those weights were trained on")
    for part, names in _by_part(own).items():
        theirs = {name for name in weights if _part_of(name) == part}
        if not theirs:
            continue
        wrong = [name for name in names if name in theirs and weights[name].shape != own[name].shape]
        if part.startswith("objective."):
            if wrong or theirs != set(names):
                what = _shapes(wrong[0], weights, own) if wrong else "it has other tensors"
                unused |= dict.fromkeys(theirs, f"another {_told(part)}: {what}")
                continue
        elif lacking := sorted(set(names) - theirs):
            raise _misfit(found, f"{len(lacking)} tensors of the {part} are missing: {_few(lacking)}")
        elif wrong:
            raise _misfit(found, f"{len(wrong)} tensors differ in shape: {_shapes(wrong[0], weights, own)}")
        taken |= {name: weights[name] for name in names}
    for name in weights:
        if name not in taken and name not in unused:
            unused[name] = "the objective takes no such part"
    with torch.no_grad():
        for name, tensor in taken.items():
            own[name].copy_(tensor)
    fresh = tuple(name for name in own if name not in taken)
    return Start(
        found.origin, tuple(taken), fresh, tuple(resampled), unused, found.notes, found.config.views.size
    )


def _part_of(name: str) -> str:
    """Return which part of a student a tensor belongs to: `image_tower`, `logit_scale`, `objective.simclr.head`."""
    words = name.split(".")
    return ".".join(words[:3]) if words[0] == "objective" else words[0]


def _by_part(names: Mapping[str, Any]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(_part_of(name), []).append(name)
    return parts


def parts(names: Sequence[str]) -> str:
    """Return the parts that tensors belong to, in words: `image tower, text projection, head of simclr`."""
    parts = dict.fromkeys(map(_part_of, names))
    return ", ".join(map(_told, sorted(parts, key=lambda part: not part.endswith("_tower"))))


def _told(part: str) -> str:
    *_, objective, name = ("", *part.split("."))
    return f"{name.replace('_', ' ')} of {objective}" if objective else name.replace("_", " ")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _shapes(name: str, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    return f"{name} is {tuple(weights[name].shape)}, and should be {tuple(own[name].shape)}"


def _misfit(found: Pretrained, got: str) -> CheckpointError:
    return CheckpointError(
        f"The weights of {found.origin.spec} do not fit the model that should start from them",
        got=got,
        cause=f"The format is that of {found.origin.format}; the file may be cut off, or of another architecture "
        "than it says",
        fix="Check the file, or name another one with --init",
    )
