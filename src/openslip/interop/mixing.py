"""WiSE-FT: weights between two models of one architecture, usually a model and what further training made of it.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models": a mixed model often keeps most of what the first model
could do, and most of what the second one has learned.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openslip import toml
from openslip.config import FOR_TRAINING
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError
from openslip.interop import load
from openslip.interop.filling import note
from openslip.models.weights import not_finite

TRUNCATION = "model.text.truncation"
"""How texts that are too long are cut. A run may choose this value for weights that it starts from."""
OF_ANY_TOWER = frozenset({"name", "unprojected", "projection_bias"})
"""Options that count for any image tower, not only for `vit`."""
COUNTERS = "num_batches_tracked"
RELATED = 0.5
"""Below this cosine similarity of two models' weights, neither is likely to be what training made of the other."""


def mix(a: Encoder | str | Path, b: Encoder | str | Path, alpha: float = 0.5) -> Encoder:
    """Return the model whose weights are (1 - alpha) of `a` and alpha of `b`, in float32 and evaluation mode.

    a, b: what `load` takes, or loaded models, both of one architecture, image size, normalisation and tokenizer.
    alpha: from 0, which is `a`, to 1, which is `b`, both bit for bit. The logit scale is mixed as it is stored, as a
    logarithm. BatchNorm's running statistics are mixed like weights, with a warning: they only approximate the
    statistics of the mixed model. The result has the configuration of `b`, and is on the device of `a`.

    Raises CheckpointError if the two differ in more than weights, or weights are not finite; ConfigError for another
    alpha.
    """
    check_alpha(alpha)
    first, second = (x if isinstance(x, Encoder) else load(x) for x in (a, b))
    for line in check(first, second):
        note(line)
    model = copy.deepcopy(first.model).float()
    model.load_state_dict(weights(first, second, alpha))
    return Encoder(model.eval(), second.config)


def check_alpha(alpha: object) -> None:
    """Raise ConfigError for an alpha that is no number from 0 to 1."""
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= float(alpha) <= 1:
        raise ConfigError(
            "A mixed model's alpha is a number from 0, which is the first model, to 1, which is the second",
            got=alpha,
        )


def check(a: Encoder, b: Encoder) -> list[str]:
    """Return warnings about a mixed model: what is only approximate, and when the model is of no use.

    Raises CheckpointError, with both values, if the two differ in more than weights, or weights are not finite.
    """
    of_a, of_b = a.model.state_dict(), b.model.state_dict()
    _check_parts(of_a, of_b)
    settings = _settings(a, of_a), _settings(b, of_b)
    cuts = [each.pop(TRUNCATION, None) for each in settings]
    _check_settings(*settings)
    _check_tensors(of_a, of_b)
    lines = _notes(of_a, of_b)
    if cuts[0] != cuts[1]:
        lines.append(
            f"texts that are too long are cut as in the second model ({TRUNCATION} {cuts[1]}; in the first {cuts[0]})"
        )
    return lines


def weights(a: Encoder, b: Encoder, alpha: float) -> dict[str, Tensor]:
    """Return (1 - alpha) of the weights of `a` and alpha of those of `b`, for two models that `check` has let through.

    float32, on the CPU, rounded once: where the two are equal, so is the mixed model. Counters are those of `b`; for an
    alpha of 0, those of `a`.
    """
    of_a, of_b = a.model.state_dict(), b.model.state_dict()
    return {name: _between(of_a[name], of_b[name], alpha) for name in of_a}


def are_related(a: Encoder, b: Encoder) -> bool:
    """Whether two models can be mixed, and one may be what training made of the other."""
    try:
        check(a, b)
    except CheckpointError:
        return False
    return _cosine(a.model.state_dict(), b.model.state_dict()) >= RELATED


def _between(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    if alpha in (0, 1) or not a.is_floating_point():
        chosen = (b if alpha else a).detach().to("cpu", copy=True)
        return chosen.float() if chosen.is_floating_point() else chosen
    first, second = (tensor.detach().to("cpu", torch.float64) for tensor in (a, b))
    return ((1 - alpha) * first + alpha * second).float()


def _check_parts(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    parts = [dict.fromkeys(name.partition(".")[0] for name in state) for state in (a, b)]
    if parts[0].keys() == parts[1].keys():
        return
    only = [[part for part in one if part not in other] for one, other in (parts, parts[::-1])]
    raise CheckpointError(
        "The two models cannot be mixed: one has parts that the other lacks",
        got="; ".join(
            f"in the {which} only: {', '.join(found)}"
            for which, found in zip(("first", "second"), only)
            if found
        ),
        cause="They were trained with objectives that need different parts, such as clip and simclr",
        fix="Mix two models with the same parts",
    )


def _settings(encoder: Encoder, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what embeddings depend on besides weights, by key, as far as the model has the part."""
    views, model = encoder.config.views, toml.to_dict(encoder.config.model)
    names = ("size", "mean", "std", "interpolation", "fit")
    found: dict[str, Any] = {f"views.{name}": getattr(views, name) for name in names}
    if encoder.model.text_tower is None:
        del model["text"]
    elif data := encoder.model.text_tower.own_tokenizer:
        model["text"]["tokenizer"] = f"{len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}"
    if "image_projection" not in state and "text_projection" not in state:
        del model["embed_dim"]
    if model["image"]["name"] != "vit":
        model["image"] = {name: value for name, value in model["image"].items() if name in OF_ANY_TOWER}
    for part, value in model.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"model.{part}.{name}".rstrip("."): leaf for name, leaf in inner}
    return {key: value for key, value in found.items() if key.rpartition(".")[2] not in FOR_TRAINING}


def _check_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    differ = [
        f"{key} is {a.get(key, 'not there')} in the first and {b.get(key, 'not there')} in the second"
        for key in keys
    ]
    if keys == ["views.size"]:
        raise CheckpointError(
            "The two models cannot be mixed: they take pictures of two sizes",
            got=differ[0],
            fix=f"Train the second from the first at the first's size, --views.size {a['views.size']}",
        )
    if differ:
        raise CheckpointError(
            "The two models cannot be mixed: they differ in more than their weights",
            got="; ".join(differ),
            fix="Mix a model and what further training made of it",
        )


def _check_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if names, shapes or constants differ, or if numbers are not finite."""
    differ = [f"{name} is in the {which} only" for name, which in _of_one(a, b)]
    differ += [
        f"{name} is {_told(a[name])} in the first and {_told(b[name])} in the second"
        for name in a
        if name in b
        and (
            a[name].shape != b[name].shape
            or a[name].is_floating_point() != b[name].is_floating_point()
            or (_is_constant(name, a[name]) and not torch.equal(a[name].cpu(), b[name].cpu()))
        )
    ]
    if differ:
        raise CheckpointError(
            "The two models cannot be mixed: they are of two architectures",
            got="; ".join(differ[:3]) + (f"; {len(differ) - 3} more" if len(differ) > 3 else ""),
            fix="Mix a model and what further training made of it",
        )
    for which, state in (("first", a), ("second", b)):
        if bad := not_finite(state):
            raise CheckpointError(
                f"The {which} model's weights are not finite",
                got=f"{len(bad)} of {len(state)} tensors, {bad[0]} among them",
                cause="Training diverged, or the file is damaged",
                fix="Take an earlier checkpoint",
            )


def _of_one(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    return [(n, "first") for n in a if n not in b] + [(n, "second") for n in b if n not in a]


def _is_constant(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a table of the architecture: whole numbers that do not count anything."""
    return not tensor.is_floating_point() and not name.endswith(COUNTERS)


def _told(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _notes(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    lines = []
    if layers := sum(name.endswith("running_var") for name in a):
        lines.append(
            f"the running statistics of {layers} BatchNorm layer{'s' * (layers != 1)} are mixed like weights. "
            "They only approximate the statistics of the mixed model's own features. "
            "Measure the mixed model before you use it"
        )
    if all(torch.equal(a[name].cpu(), b[name].cpu()) for name in a):
        return [*lines, "both models have the same weights, and so has every model between them"]
    if (cosine := _cosine(a, b)) < RELATED:
        lines.append(
            f"the two models have little in common (cosine similarity of their weights {cosine:.2f}). A mixed model is "
            "of use if the second was trained further from the first. Measure the mixed model before you use it"
        )
    return lines


def _cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the cosine similarity of all matrices of two models. Vectors of norms and biases begin alike anyway."""
    inner, square_a, square_b = 0.0, 0.0, 0.0
    for name, tensor in a.items():
        if tensor.is_floating_point() and tensor.ndim > 1:
            x, y = (each.detach().to("cpu", torch.float64).flatten() for each in (tensor, b[name]))
            inner, square_a, square_b = inner + float(x @ y), square_a + float(x @ x), square_b + float(y @ y)
    return inner / math.sqrt(square_a * square_b) if square_a and square_b else 1.0
