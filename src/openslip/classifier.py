"""Zero-shot classification as a call: pictures in, probabilities out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from openslip.data.labelled.prompts import DEFAULT_TEMPLATES, check_templates, read_templates
from openslip.encoder import Encoded, Encoder, Options
from openslip.errors import ConfigError
from openslip.evaluation.features import require_text
from openslip.evaluation.zeroshot import classifier, named_twice
from openslip.pictures import Images


class ZeroShotClassifier:
    """Says which of some names goes with a picture, without training (Radford et al. 2021, section 3.1).

    model: a loaded model, or what `openslip.load` takes; it needs a text tower. names: of the C classes, each once.
    templates: sentences with `{}` where a name goes, the name of a set of them ("imagenet", "cifar"), or a file; empty:
    those of `slip evaluate zeroshot:…` for pictures in general. `weights` are the classes' embeddings (C, embed_dim).

    Any number of threads may call one classifier. Raises ConfigError for names or templates that cannot be used, and
    EvaluationError for a model without a text tower.
    """

    def __init__(
        self, model: Encoder | str | Path, names: Sequence[str], templates: Sequence[str] | str = ()
    ) -> None:
        from openslip.interop import load

        self.model = model if isinstance(model, Encoder) else load(model)
        require_text(self.model, "Zero-shot classification")
        self.names = _checked(names)
        if isinstance(templates, str | os.PathLike):
            self.templates = read_templates(os.fspath(templates))
        else:
            self.templates = tuple(templates) or DEFAULT_TEMPLATES
            check_templates(self.templates)
        self.weights = torch.from_numpy(classifier(self.model, self.names, self.templates))

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

        They are a softmax over the names of cosine similarities times the model's logit scale. So a picture of none of
        the classes has a most probable one, too. images, errors, options: as in `Encoder.encode_image`.
        """
        if errors == "skip":
            found = self.model.encode_image(images, errors="skip", **options)
            return found._replace(values=self._probabilities(found.values))
        return self._probabilities(self.model.encode_image(images, errors=errors, **options))

    def __repr__(self) -> str:
        return f"ZeroShotClassifier({len(self.names)} classes, {len(self.templates)} templates)"

    def _probabilities(self, embeddings: Tensor) -> Tensor:
        weights = self.weights.to(embeddings.device)
        return (self.model.logit_scale * embeddings @ weights.T).softmax(dim=-1)


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes. Raises ConfigError for no names, one text, and a name that is there twice."""
    if isinstance(names, str):
        raise ConfigError("Classes are several names, not one text", got=names, fix=f"Write [{names!r}, …]")
    found = tuple(names)
    if odd := [name for name in found if not isinstance(name, str) or not name.strip()]:
        raise ConfigError("The name of a class must be text, and not empty", got=repr(odd[0]))
    if not found:
        raise ConfigError("There are no classes to choose from", fix="Give the names of the classes")
    if twice := named_twice(found):
        raise ConfigError(
            "Classes of one name cannot be told apart", got=", ".join(twice[:5]), fix="Name each class once"
        )
    return found
