"""Fixed models: models that objectives learn from and never change, such as the teacher of a distillation.

A fixed model is no part of the student: optimiser, DDP, FSDP and checkpoints do not know of it. Every process has the
whole model, in evaluation mode and without gradient. `fixed.json` in a run folder notes which model it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from openslip.config import FOR_TRAINING, Config, ViewsConfig
from openslip.errors import ConfigError, SlipError, TrainingError
from openslip.models import Model
from openslip.models.inputs import Inputs
from openslip.models.weights import Pretrained, digest
from openslip.needs import TEXT, Need, View
from openslip.objectives import Dims, Loss
from openslip.objectives.combine import Term
from openslip.processes import Processes

START = ""
"""In the place of a spec: the model that the run starts from."""


class FixedModel:
    """A model that does not change, and how it sees the pictures and captions of a run.

    spec: its name, as `--init` takes it. config: the model's own, whose `views` have its size and normalisation. run:
    the run's configuration. needs: what objectives need of the model, `by="fixed"`. loss: the loss with the views.

    The model takes pictures of its own size and normalisation. `drawn` says, for each view that is needed, which view
    the model sees: the view itself if it has the model's size, else one like it (see `openslip.needs.View`). Batches
    are normalised for the student, and normalised anew for the model when it computes.

    Raises ConfigError if the model cannot give what is needed.
    """

    def __init__(
        self, spec: str, model: Model, config: Config, run: Config, needs: Collection[Need], loss: Loss
    ) -> None:
        self.spec, self.config, self.needs = spec, config, tuple(needs)
        self.shared = model.text_tower is not None or model.image_projection is not None
        _check(spec, model, config, run, self.needs)
        self.digest = _digest(model, config)
        dims = Dims.of(model, config.model)
        self.dims = dims if self.shared else replace(dims, embed_dim=0)
        self.model = model.only([self._own(need) for need in self.needs]).eval().requires_grad_(False)
        if not isinstance(model.image_tower.trunk, VisionTransformer):
            self.model.image_tower.to(memory_format=torch.channels_last)  # faster, as in `prepare`
        size = config.views.size
        of_loss = {view.name: view for view in loss.views}
        wanted = {need.view: of_loss[need.view] for need in self.needs if need.view != TEXT}
        self.drawn = {name: _drawn(view, size, run.views) for name, view in wanted.items()}
        self._levels = _from_one_to_other(run.views, config.views)

    @property
    def views(self) -> tuple[View, ...]:
        """The views that are drawn for this model alone."""
        return tuple(dict.fromkeys(view for view in self.drawn.values() if view.like))

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def nbytes(self) -> int:
        tensors = (*self.model.parameters(), *self.model.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.no_grad()
    def features(self, inputs: Inputs, needs: Collection[Need]) -> dict[Need, Tensor]:
        """Return the model's outputs for a batch, or for a part of one, by need; without gradient.

        inputs: a batch as the student takes it, with the views that are `drawn`. A need without a row in it is left
        out. In a model without a space shared with texts, an image's embedding is the tower's feature.
        """
        names = dict.fromkeys(need.view for need in needs if need.view != TEXT)
        pictures = {name: self.normalised(inputs.views[self.drawn[name].name]) for name in names}
        rows = {name: inputs.rows[self.drawn[name].name] for name in names}
        own = {need: self._own(need) for need in needs}
        own_inputs = Inputs(pictures, inputs.tokens, rows)
        found = self.model.project(self.model.features(own_inputs, list(own.values())), list(own.values()))
        return {need: found[one] for need, one in own.items() if one in found}

    def width_of(self, need: Need) -> int:
        """Return how many numbers a row of a need has; for patch tokens, how many a token has."""
        own = self._own(need)
        if own.out == "embedding":
            return self.dims.embed_dim
        return self.dims.text_width if need.view == TEXT else self.dims.width

    def normalised(self, pictures: Tensor) -> Tensor:
        """Return pictures (N, 3, S, S), normalised for the student, with this model's normalisation instead."""
        if self._levels is None:
            return pictures
        scale, shift = (levels.to(pictures).view(3, 1, 1) for levels in self._levels)
        return torch.addcmul(shift, pictures, scale)

    def _own(self, need: Need) -> Need:
        """Return the need of this model's own outputs that serves a need."""
        own = replace(need, by="student")
        return replace(own, out="feature") if need.out == "embedding" and not self._embeds(need) else own

    def _embeds(self, need: Need) -> bool:
        return need.view == TEXT or self.shared

    def noted(self) -> dict[str, Any]:
        """Return what a run folder notes of the model, to tell the model and its pictures from others."""
        views = self.config.views
        return {
            "spec": self.spec,
            "sha256": self.digest,
            "width": self.dims.width,
            "embed_dim": self.dims.embed_dim,
            "text": self.dims.text_width > 0,
            "size": views.size,
            "mean": list(views.mean),
            "std": list(views.std),
            "interpolation": views.interpolation,
        }

    def described(self) -> str:
        """Return the model in words."""
        names = dict.fromkeys(view.name for view in self.drawn.values())
        pictures = f"pictures of {self.config.views.size} px ({', '.join(names)})" if names else "captions"
        return f"{self.spec}: {millions(self.parameters)} parameters, fixed; sees {pictures}"


class FixedModels:
    """The fixed models of a loss, each once, by spec; and the spec of each term's model.

    This is no module, so that the student that holds it does not count its parameters as the student's.
    """

    def __init__(self, models: Mapping[str, FixedModel], of: Mapping[str, str]) -> None:
        self.models, self.of = dict(models), dict(of)

    def __bool__(self) -> bool:
        return bool(self.models)

    def spec(self, name: str) -> str:
        """Return the spec of the model that a term learns from. Raises TrainingError if it has none."""
        if name not in self.of:
            raise TrainingError(
                f"The objective {name} has no fixed model",
                fix="Train it with openslip.train, which reads the model.",
            )
        return self.of[name]

    @property
    def dims(self) -> dict[str, Dims]:
        """The sizes of the model of each term that has one."""
        return {name: self.models[spec].dims for name, spec in self.of.items()}

    @property
    def views(self) -> tuple[View, ...]:
        """The views that are drawn for these models alone."""
        return tuple(dict.fromkeys(view for model in self.models.values() for view in model.views))

    @property
    def parameters(self) -> int:
        return sum(model.parameters for model in self.models.values())

    @property
    def nbytes(self) -> int:
        return sum(model.nbytes for model in self.models.values())

    def to(self, *to: Any, **options: Any) -> FixedModels:
        """Move the models, in place; return them."""
        for model in self.models.values():
            model.model.to(*to, **options)
        return self

    def check_tokenizer(self, own: bytes) -> None:
        """Raise ConfigError if a model's tokenizer is not the student's. own: the bytes of the student's tokenizer."""
        for fixed in self.models.values():
            tower = fixed.model.text_tower
            if tower is not None and tower.own_tokenizer != own:
                raise _other_tokenizer(fixed.spec, "the two tokenizers have the same size and differ")

    def without_numbers(self) -> FixedModels:
        """Return copies on the device `meta`, to count with."""
        copies = {}
        for spec, fixed in self.models.items():
            copies[spec] = object.__new__(FixedModel)
            copies[spec].__dict__ |= fixed.__dict__ | {"model": _on_meta(fixed.model)}
        return FixedModels(copies, self.of)

    def noted(self) -> dict[str, Any]:
        """Return what a run folder notes of the models, by the term."""
        return {name: self.models[spec].noted() for name, spec in self.of.items()}


def millions(count: int) -> str:
    """Return a number of parameters as text, in millions or, if few, in full."""
    return f"{count / 1e6:.1f} M" if count >= 5e4 else f"{count:,}"


def load(spec: str, start: Pretrained | None = None) -> tuple[Model, Config]:
    """Return the model that a spec names, as `--init` takes it, and its configuration.

    start: the weights that the run starts from, if they are read already.
    """
    from openslip.interop import read  # which imports from here
    from openslip.interop.filling import encoder_of

    encoder = encoder_of(start if start is not None and start.origin.spec == spec else read(spec))
    return encoder.model, encoder.config


def read_fixed(
    config: Config,
    loss: Loss,
    processes: Processes,
    read: Callable[[str], tuple[Model, Config]] = load,
) -> FixedModels:
    """Read the fixed models of a loss, each once, to the CPU in fp32; all processes call it.

    read: returns the model that a spec names, and its configuration.

    Raises ConfigError if an objective names no model, or learns from what the run starts from and that is nothing, or
    if a model cannot give what is needed; and what reading raises. Raises TrainingError if the processes have read
    different models.
    """
    terms: dict[str, list[Term]] = {}
    for term in loss.terms:
        named = term.kind.fixed_model(term.config)
        if named is not None:
            terms.setdefault(_resolved(named, config, term), []).append(term)
    if not terms:
        return FixedModels({}, {})
    models = {}
    with processes.first_goes_ahead():
        for spec, learners in terms.items():
            needs = dict.fromkeys(
                need for term in learners for need in term.kind.needs_for(term.config) if need.by == "fixed"
            )
            names = " and ".join(term.kind.name for term in learners)
            anew = " and ".join(
                f"--objective.{term.kind.name}.teacher"
                for term in learners
                if hasattr(term.config, "teacher")
            )
            try:
                model, own = read(spec)
            except SlipError as error:
                raise type(error)(
                    f"The model that {names} learns from cannot be read: {error.what}",
                    got=error.got,
                    cause=error.cause,
                    fix=f"{error.fix.rstrip('.')}. If the model has moved, name it with {anew}"
                    if anew
                    else error.fix,
                ) from None
            models[spec] = FixedModel(spec, model, own, config, list(needs), loss)
    of = {term.kind.name: spec for spec, learners in terms.items() for term in learners}
    found = FixedModels(models, of)
    digests = "\n".join(model.digest for model in models.values()).encode()
    if len(set(processes.all_gather(digests))) > 1:
        raise TrainingError(
            "The processes have read different models under the same name",
            got=", ".join(models),
            fix="Name a file or folder that all machines share, or copy the same one to each",
        )
    return found


def check_same(noted: Mapping[str, Any], now: FixedModels) -> None:
    """Raise ConfigError if the models are not those that a run folder noted (`FixedModels.noted`)."""
    found = now.noted()
    for name in sorted(noted.keys() | found.keys()):
        before, after = noted.get(name), found.get(name)
        if (
            before is None
            or after is None
            or any(before.get(key) != after[key] for key in after if key != "spec")
        ):
            raise ConfigError(
                f"The run learned from another fixed model than the one that {name} names now",
                got=f"{_told(after)}; until now {_told(before)}",
                cause="The file has changed, or the folder holds a newer checkpoint",
                fix="Put back the model that the run began with, or start a new run with another --out",
            )


def _told(noted: Mapping[str, Any] | None) -> str:
    if noted is None:
        return "none"
    return f"{noted.get('spec')}, sha256 {str(noted.get('sha256'))[:12]}, {noted.get('size')} px"


def _resolved(named: str, config: Config, term: Term) -> str:
    """Return the spec of a term's fixed model. Raises ConfigError if it is the start and the run has none."""
    if named != START:
        return named
    if not config.init:
        raise ConfigError(
            f"The objective {term.kind.name} learns from the model that the run starts from, and this run has none",
            got="random weights, no --init",
            fix=f"Give --init the model to start from, or leave {term.kind.name} out of --objective.loss",
        )
    return config.init


def _check(spec: str, model: Model, config: Config, run: Config, needs: Collection[Need]) -> None:
    """Raise ConfigError if a model cannot give what is needed of it."""
    text, own = config.model.text, run.model.text
    outs = {need.out for need in needs}
    if outs - {"feature", "embedding", "tokens"} or any(need.masked for need in needs):
        raise ConfigError(
            "A fixed model gives only features of whole views and of captions", got=sorted(outs)
        )
    if "tokens" in outs and not model.image_tower.has_tokens:
        raise ConfigError(
            "The fixed model has no patch tokens to learn from",
            got=f"{spec}, whose image tower is a {type(model.image_tower.trunk).__name__}",
            fix="Name a vision transformer",
        )
    if not any(need.view == TEXT for need in needs):
        return
    if model.text_tower is None:
        raise ConfigError(
            "The fixed model has no text tower, and the objective needs its text embeddings",
            got=spec,
            fix="Name a model of images and texts, or match image embeddings alone",
        )
    if (text.tokenizer, text.vocabulary) != (own.tokenizer, own.vocabulary):
        raise _other_tokenizer(spec, f"{text.vocabulary:,} tokens; trained: {own.vocabulary:,}")
    if text.padded and (own.padded, own.context) != (True, text.context):
        raise ConfigError(
            "The fixed model reads captions that are padded to its context, unlike the model that is trained",
            got=f"{spec}: {text.context} tokens; trained: {'' if own.padded else 'up to '}{own.context}",
            fix="Match image embeddings alone",
        )
    if text.context < own.context:
        raise ConfigError(
            "The fixed model reads shorter captions than the model that is trained",
            got=f"{spec}: {text.context} tokens; trained: {own.context}",
            fix=f"Set --model.text.context {text.context}, or match image embeddings alone",
        )


def _other_tokenizer(spec: str, got: str) -> ConfigError:
    return ConfigError(
        "The fixed model reads captions with another tokenizer than the model that is trained",
        got=f"{spec}: {got}",
        fix="Match image embeddings alone, or name a model with the same tokenizer",
    )


def _drawn(view: View, size: int, run: ViewsConfig) -> View:
    """Return the view that shows what `view` shows, in pictures of a size."""
    if run.of(view.kind, view.size).size == size:
        return view
    return replace(view, name=f"{view.name}@{size}", size=size, like=view.like or view.name)


def _from_one_to_other(one: ViewsConfig, other: ViewsConfig) -> tuple[Tensor, Tensor] | None:
    """Return scale and shift (3,) from one normalisation of pictures to another; None if the two are equal.

    (x·s + m - m') / s' with mean m and deviation s of the first, m' and s' of the second.
    """
    if (one.mean, one.std) == (other.mean, other.std):
        return None
    values = [
        torch.tensor(levels, dtype=torch.float64) for levels in (one.mean, one.std, other.mean, other.std)
    ]
    mean, std, other_mean, other_std = values
    return std / other_std, (mean - other_mean) / other_std


def _digest(model: Model, config: Config) -> str:
    """Return the SHA-256 of a model's weights, with their names, shapes and types, and of the towers' options."""
    towers = {"image": model.image_tower, "text": model.text_tower}
    options = {
        name: asdict(getattr(config.model, name)) for name, tower in towers.items() if tower is not None
    }
    for of_tower in options.values():
        for key in (*FOR_TRAINING, "truncation"):
            of_tower.pop(key, None)
    return hashlib.sha256(f"{json.dumps(options, sort_keys=True)} {digest(model)}".encode()).hexdigest()


def _on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose tensors have no numbers."""
    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deepcopy(model, memo)
