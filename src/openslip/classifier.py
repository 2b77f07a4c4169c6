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

    names: the names of the C classes, in the order of the columns. model: the encoder. Its `preprocess` prepares
    pictures, and its device computes; `classifier.model.to("cuda")` moves a classifier. Any number of threads may call
    one classifier.
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

        Probabilities are a softmax over the classes. So even a picture of none of the classes has a most probable
        class. images, errors, options: as in `Encoder.encode_image`. Tensors must come from
        `classifier.model.preprocess`.
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
        """Return the logits (N, C) float32, whose softmax are the probabilities. Arguments as in a call."""
        return self._encoded(images, errors, options)

    def _encoded(self, images: Images, errors: Any, options: Mapping[str, Any]) -> Tensor | Encoded:
        How.of(options)  # refuses other options of the encoder, such as `normalize`
        found = self._features(images, errors=errors, **options)
        if isinstance(found, Encoded):
            return found._replace(values=self._scores(found.values))
        return self._scores(found)

    @abstractmethod
    def _features(self, images: Images, **options: Any) -> Tensor | Encoded:
        """Return the features or embeddings from which the classes follow, as a call of the encoder does."""

    @abstractmethod
    def _scores(self, features: Tensor) -> Tensor:
        """Return logits (N, C) of features (N, D)."""


class ZeroShotClassifier(Classifier):
    """Chooses the class name that fits a picture best, without training (Radford et al. 2021, section 3.1).

    model: a loaded model, or what `openslip.load` takes; it needs a text tower. names: the C class names, each once; or
    a mapping from the name of a class to its words in the templates, {"Tshirts": "t-shirt"}. templates: sentences with
    `{}` in place of the name, the name of a set of templates ("imagenet", "cifar"), or a file; empty: the templates of
    `slip evaluate zeroshot:…` for pictures in general. `words` are the texts that fill the templates, and `weights` the
    classes' embeddings (C, embed_dim).

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
    """Chooses the class that a picture shows, by the linear probe that `slip evaluate RUN linear:DATA` fitted.

    path: the folder that the command keeps, RUN/linear/NAME, or a copy. model: the model that the probe belongs to,
    loaded, or what `openslip.load` takes; None: the model at its place when the probe was fitted.

    `names` are the names of the C classes, `about` says what the probe was fitted on, and `probe` has its arrays. Any
    number of threads may call one classifier. Raises CheckpointError if the probe or the model is missing or damaged,
    or if the model has other weights or another preprocessing than when the probe was fitted.
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
    """Chooses the class that a picture shows, by a tower and head that `slip evaluate RUN finetune:DATA` trained.

    path: the folder that the command keeps, RUN/finetune/NAME, or a copy; or the folder that
    `slip export RUN/finetune/NAME --to openslip` wrote, also as `hf:owner/name` on the hub.

    `names` are the names of the C classes, in the order of the columns. `recipe` is the recipe of the finetuning, and
    `about` describes the finetuned model. `model` is an `Encoder` whose image features are the logits;
    `classifier.model.to("cuda")` moves the classifier.

    Pictures are prepared with the crop of the finetuning's own test. Any number of threads may call one classifier.
    Raises CheckpointError for a finetuning that is incomplete, and for missing or damaged files.
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
        """The function from one picture to the (3, S, S) float32 tensor that the classifier takes, as in its test."""
        return self._prepare


@dataclass(frozen=True)
class _AsTested(Preprocess):
    transform: Callable[[Image.Image], Tensor]

    def unnamed(self, image: Picture) -> Tensor:
        # Decoded at full size, as in the finetuning's test.
        return self.transform(Image.fromarray(pixels_of(image)))


def _checked(names: Iterable[str], *, alike: bool = False) -> tuple[str, ...]:
    """Return the names of the classes. Raises ConfigError for no names, one text, and a repeated name.

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
            "Classes with the same name cannot be told apart",
            got=", ".join(twice[:5]),
            fix="Name each class once",
        )
    return found
