"""Classification as a call, zero-shot, by a linear probe or finetuned: pictures in, probabilities out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from openslip.data.given import Picture, pixels_of
from openslip.data.labelled.prompts import DEFAULT_TEMPLATES, check_templates, one_set, read_templates
from openslip.data.preprocess import Preprocess
from openslip.encoder import Encoded, Encoder
from openslip.errors import ConfigError
from openslip.evaluation.features import require_text
from openslip.evaluation.zeroshot import classifier, named_twice
from openslip.options import How, Options
from openslip.pictures import Images

if TYPE_CHECKING:
    from openslip.evaluation.finetune.layers import Classifier as Layers
    from openslip.interop.finetuned import Finetuned


class Classifier(ABC):
    """What the three kinds of classifiers have in common: pictures in, probabilities of the classes out.

    names: of the C classes, in the order of the columns. model: whose `preprocess` prepares pictures, and whose device
    computes; `classifier.model.to("cuda")` moves a classifier. Any number of threads may call one.
    """

    names: tuple[str, ...]
    model: Encoder

    @overload
    def __call__(
        self, images: Images, *, errors: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...

    @overload
    def __call__(self, images: Images, *, errors: Literal["skip"], **options: Unpack[Options]) -> Encoded: ...

    def __call__(
        self, images: Images, *, errors: Literal["raise", "skip"] = "raise", **options: Unpack[Options]
    ) -> Tensor | Encoded:
        """Return probabilities (N, C) float32, in the order of the names; each row adds up to 1.

        They are a softmax over the classes. So a picture of none of the classes has a most probable one, too. images,
        errors, options: as in `Encoder.encode_image`. Tensors are pictures that `classifier.model.preprocess` made.
        """
        found = self._encoded(images, errors, options)
        return (
            found._replace(values=found.values.softmax(-1))
            if isinstance(found, Encoded)
            else found.softmax(-1)
        )

    @overload
    def logits(
        self, images: Images, *, errors: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...

    @overload
    def logits(self, images: Images, *, errors: Literal["skip"], **options: Unpack[Options]) -> Encoded: ...

    def logits(
        self, images: Images, *, errors: Literal["raise", "skip"] = "raise", **options: Unpack[Options]
    ) -> Tensor | Encoded:
        """Return what the probabilities are a softmax of, (N, C) float32. Arguments as those of the call."""
        return self._encoded(images, errors, options)

    def _encoded(self, images: Images, errors: Any, options: Mapping[str, Any]) -> Tensor | Encoded:
        How.of(options)  # others that the encoder has, such as `normalize`, are none of these
        found = self._features(images, errors=errors, **options)
        if isinstance(found, Encoded):
            return found._replace(values=self._scores(found.values))
        return self._scores(found)

    @abstractmethod
    def _features(self, images: Images, **options: Any) -> Tensor | Encoded:
        """Return what of the pictures the classes are told by, as a call of the encoder does."""

    @abstractmethod
    def _scores(self, features: Tensor) -> Tensor:
        """Return logits (N, C) of features (N, D)."""


class ZeroShotClassifier(Classifier):
    """Says which of some names goes with a picture, without training (Radford et al. 2021, section 3.1).

    model: a loaded model, or what `openslip.load` takes; it needs a text tower. names: of the C classes, each once; or
    a mapping from the name of a class to the words for it that go into the templates, {"Tshirts": "t-shirt"}.
    templates: sentences with `{}` where a name goes, the name of a set of them ("imagenet", "cifar"), or a file; empty:
    those of `slip evaluate zeroshot:…` for pictures in general. `words` are what went into the templates, and `weights`
    the classes' embeddings (C, embed_dim).

    The logits are cosine similarities times the model's logit scale. Any number of threads may call one classifier.
    Raises ConfigError for names or templates that cannot be used, and EvaluationError for a model without a text tower.
    """

    def __init__(
        self,
        model: Encoder | str | Path,
        names: Sequence[str] | Mapping[str, str],
        templates: Sequence[str] | str = (),
    ) -> None:
        from openslip.interop import load

        self.model = model if isinstance(model, Encoder) else load(model)
        require_text(self.model, "Zero-shot classification")
        self.words = _checked(names.values() if isinstance(names, Mapping) else names)
        self.names = _checked(names.keys(), alike=True) if isinstance(names, Mapping) else self.words
        if isinstance(templates, str | os.PathLike):
            self.templates = one_set(read_templates(os.fspath(templates)), self.words)
        else:
            self.templates = tuple(templates) or DEFAULT_TEMPLATES
            check_templates(self.templates)
        self.weights = torch.from_numpy(classifier(self.model, self.words, self.templates))

    def __repr__(self) -> str:
        return f"ZeroShotClassifier({len(self.names)} classes, {len(self.templates)} templates)"

    def _features(self, images: Images, **options: Any) -> Tensor | Encoded:
        return self.model.encode_image(images, **options)

    def _scores(self, features: Tensor) -> Tensor:
        return self.model.logit_scale * features @ self.weights.to(features.device).T


class LinearClassifier(Classifier):
    """Says which of its classes a picture shows: the linear probe that `slip evaluate RUN linear:DATA` fitted.

    path: what that command keeps, RUN/linear/NAME, or a copy of the folder. model: the model that the probe belongs to,
    loaded, or what `openslip.load` takes; None: where it was when the probe was fitted.

    `names` are those of the C classes, `about` says what the probe was fitted on, and `probe` has its arrays. Any
    number of threads may call one classifier. Raises CheckpointError where the probe or the model is not there or is
    damaged, and where the model has other weights or prepares pictures in another way than when it was fitted.
    """

    def __init__(self, path: str | Path, model: Encoder | str | Path | None = None) -> None:
        from openslip.evaluation import kept_probe
        from openslip.interop import load

        found = kept_probe.read(path)
        self.names, self.about, self.probe = found.names, found.about, found.probe
        self.model = model if isinstance(model, Encoder) else load(found.model() if model is None else model)
        found.check(self.model)
        arrays = (self.probe.mean, self.probe.scale, self.probe.weight, self.probe.bias)
        self._layer = tuple(map(torch.from_numpy, arrays))

    def __repr__(self) -> str:
        return f"LinearClassifier({len(self.names)} classes, {self.model.size} pixels)"

    def _features(self, images: Images, **options: Any) -> Tensor | Encoded:
        return self.model.image_features(images, **options)

    def _scores(self, features: Tensor) -> Tensor:
        mean, scale, weight, bias = (array.to(features.device) for array in self._layer)
        return torch.addmm(bias, (features - mean) / scale, weight.T)


class FinetunedClassifier(Classifier):
    """Says which of its classes a picture shows: a tower and a head that `slip evaluate RUN finetune:DATA` trained.

    path: what that command keeps, RUN/finetune/NAME, or a copy of the folder; or what
    `slip export RUN/finetune/NAME --to openslip` wrote, also as `hf:owner/name` on the hub.

    `names` are those of the C classes, in the order of the columns. `recipe` is the finetuning's, and `about` says what
    it was of. `model` is an `Encoder` whose image features are the logits; `classifier.model.to("cuda")` moves it.

    Pictures are prepared as the finetuning's own test did, with its crop. Any number of threads may call one
    classifier. Raises CheckpointError for a finetuning that is not complete, and what is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        from openslip.interop import finetuned

        found = finetuned.read(path)
        self.names, self.recipe, self.about = found.names, found.recipe, found.about
        self.model = _Logits(found)

    @property
    def module(self) -> Layers:
        """The image tower with its head, a module from prepared pictures (N, 3, S, S) to logits (N, C)."""
        return cast("Layers", self.model.model.image_tower)

    def __repr__(self) -> str:
        return f"FinetunedClassifier({len(self.names)} classes, {self.model.size} pixels)"

    def _features(self, images: Images, **options: Any) -> Tensor | Encoded:
        return self.model.image_features(images, **options)

    def _scores(self, features: Tensor) -> Tensor:
        return features


class _Logits(Encoder):
    """An encoder whose image features are a classifier's logits, and whose pictures are prepared for the classifier."""

    def __init__(self, found: Finetuned) -> None:
        from openslip.evaluation.finetune.data import test_transform

        super().__init__(found.model, found.config)
        views = found.config.views
        usual: dict[str, Any] = asdict(Preprocess.of(views)) | {"interpolation": found.recipe.interpolation}
        self._prepare = _AsTested(**usual, transform=test_transform(found.recipe, views))

    @property
    def preprocess(self) -> Preprocess:
        """What turns one picture into the (3, S, S) float32 tensor that the classifier takes, as its test did."""
        return self._prepare


@dataclass(frozen=True)
class _AsTested(Preprocess):
    transform: Callable[[Image.Image], Tensor]

    def unnamed(self, image: Picture) -> Tensor:
        # Of the whole size, as the finetuning's test decodes them.
        return self.transform(Image.fromarray(pixels_of(image)))


def _checked(names: Iterable[str], *, alike: bool = False) -> tuple[str, ...]:
    """Return the names of the classes. Raises ConfigError for no names, one text, and a name that is there twice.

    alike: names may differ in capitals or spaces alone, as no text tower reads them.
    """
    if isinstance(names, str):
        raise ConfigError("Classes are several names, not one text", got=names, fix=f"Write [{names!r}, …]")
    found = tuple(names)
    if odd := [name for name in found if not isinstance(name, str) or not name.strip()]:
        raise ConfigError("The name of a class must be text, and not empty", got=repr(odd[0]))
    if not found:
        raise ConfigError("There are no classes to choose from", fix="Give the names of the classes")
    if not alike and (twice := named_twice(found)):
        raise ConfigError(
            "Classes of one name cannot be told apart", got=", ".join(twice[:5]), fix="Name each class once"
        )
    return found
