"""A model with everything around it that turns pictures and texts into embeddings."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slip.config import Config
from slip.errors import DataError, EvaluationError
from slip.models import Model, build

if TYPE_CHECKING:
    from PIL import Image

    from slip.data.tokenizer import Tokenizer

    Picture = Tensor | Image.Image | np.ndarray | bytes | str | os.PathLike[str]

CHUNK = 256
"""Pictures or texts that go through the model at a time."""


class Encoder:
    """A model, its tokenizer and its preprocessing.

    The calls compute without gradient and in evaluation mode, and leave the model in the mode they found it
    in: the model may be one that is being trained. Results are float32 on the model's device.
    """

    def __init__(self, model: Model, config: Config) -> None:
        self.model = model
        self.config = config
        self._tokenizer: Tokenizer | None = None

    @classmethod
    def from_config(cls, config: Config) -> Encoder:
        """Build a fresh, untrained model for `config`, weights drawn from torch's global generator.

        Raises ConfigError on an objective or model that cannot be made.
        """
        from slip import objectives

        wanted = config.objective
        objective = objectives.parse(wanted.loss, temperature=wanted.temperature, block=wanted.block)
        return cls(build(config.model, config.views.size, objective.needs), config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def size(self) -> int:
        """Side of the images the model takes, in pixels."""
        return self.config.views.size

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities of image and text. Raises EvaluationError without text."""
        self._need_text("logit_scale")
        assert self.model.logit_scale is not None  # for the type checker
        return float(self.model.logit_scale.exp())

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            from slip.data.tokenizer import Tokenizer

            self._tokenizer = Tokenizer(self.config.model.text.context, self.config.model.text.truncation)
        return self._tokenizer

    def to(self, device: str | torch.device) -> Encoder:
        """Move the model to `device` and return this encoder."""
        self.model.to(device)
        return self

    def eval(self) -> Encoder:
        """Put the model in evaluation mode and return this encoder."""
        self.model.eval()
        return self

    def encode_image(self, images: Picture | Sequence[Picture], *, normalize: bool = True) -> Tensor:
        """Return image embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        images: a preprocessed tensor (N, 3, S, S) or (3, S, S); or a picture as a file's path or bytes, a PIL
        image or an RGB uint8 array (H, W, 3); or a sequence of such pictures. One picture gives N = 1. A
        model without text gives its image tower's features. Raises DataError on a picture that cannot be
        used.
        """
        dim = (
            self.config.model.embed_dim if "image" in self.model.embeddings else self.model.image_tower.width
        )
        embeddings = self._through(self.model.encode_image, self._images(images), dim)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def image_features(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Return the image tower's features (N, width), before projection; `images` as in `encode_image`."""
        return self._through(self.model.image_features, self._images(images), self.model.image_tower.width)

    def encode_text(self, texts: str | Sequence[str] | Tensor, *, normalize: bool = True) -> Tensor:
        """Return text embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        texts: one text, several, or token ids (N, L) or (L,) as `tokenize` gives. Raises EvaluationError when
        the model has no text tower.
        """
        self._need_text("encode_text")
        if isinstance(texts, Tensor):
            parts = (texts if texts.ndim == 2 else texts[None]).split(CHUNK)
        else:
            several = [texts] if isinstance(texts, str) else list(texts)
            parts = (self.tokenize(several[i : i + CHUNK]) for i in range(0, len(several), CHUNK))
        embeddings = self._through(self.model.encode_text, parts, self.config.model.embed_dim)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Return token ids (N, length of the longest), int64, zero-padded. Raises EvaluationError without text."""
        self._need_text("tokenize")
        return self.tokenizer(texts)

    def preprocess(self, image: Picture) -> Tensor:
        """Turn one picture into the (3, S, S) float32 tensor that the model takes.

        Decoded to RGB, short side resized to S, centre cropped, normalised by the mean and deviation of the
        views the model was trained on. Raises DataError on a picture that cannot be used.
        """
        from slip.data.decode import decode
        from slip.data.views import center

        pixels = torch.as_tensor(center(decode(_encoded(image), min_side=self.size), self.size))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.views.mean, self.config.views.std))
        return (pixels.float() / 255 - mean) / std

    def _images(self, images: Any) -> Iterator[Tensor]:
        """Yield `images` as preprocessed tensors of up to CHUNK images."""
        if isinstance(images, Tensor):
            batch = images if images.ndim == 4 else images[None]
            if batch.shape[1:] != (3, self.size, self.size) or not batch.is_floating_point():
                raise DataError(
                    f"A tensor of images is taken as preprocessed: float, (N, 3, {self.size}, {self.size})",
                    got=f"{images.dtype}, {tuple(images.shape)}",
                    fix="Pass pictures as arrays, files or bytes instead, or use `preprocess`.",
                )
            yield from batch.split(CHUNK)
            return
        single = isinstance(images, np.ndarray) and images.ndim != 4
        if single or isinstance(images, bytes | str | os.PathLike) or hasattr(images, "getexif"):
            images = [images]
        for start in range(0, len(images), CHUNK):
            yield torch.stack([self.preprocess(image) for image in images[start : start + CHUNK]])

    def _through(self, call: Callable[[Tensor], Tensor], parts: Iterable[Tensor], dim: int) -> Tensor:
        with _evaluating(self.model):
            results = [call(part.to(self.device)).float() for part in parts if len(part)]
        return torch.cat(results) if results else torch.empty(0, dim, device=self.device)

    def _need_text(self, call: str) -> None:
        if "text" not in self.model.embeddings:
            raise EvaluationError(
                f"This model has no text tower, so there is no {call}",
                got=f"a model of {self.config.objective.loss!r}",
                cause="It was trained on images alone",
                fix="Use its image features (linear probe, k-NN, finetuning), or a model trained with 'clip' in its "
                "objective.",
            )


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """No gradients and evaluation mode inside; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # Not inference_mode: its tensors could not be what a linear probe is trained on.
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _encoded(image: Picture) -> bytes | np.ndarray:
    """Return what `slip.data.decode.decode` takes: the bytes of a file, or an array."""
    if isinstance(image, bytes | np.ndarray):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise DataError(
                "The image cannot be read", got=str(image), cause=str(error.strerror), fix="Check the path."
            ) from None
    if isinstance(image, Tensor) or not hasattr(image, "getexif"):
        raise DataError(
            "This is not a picture",
            got=type(image).__name__,
            fix="Pass a path, the bytes of an image file, a PIL image or an RGB uint8 array.",
        )
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, exif=image.getexif())
    return file.getvalue()
