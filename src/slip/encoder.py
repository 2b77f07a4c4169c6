"""A model with everything around it that turns pictures and texts into embeddings."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from slip.config import Config
from slip.data.decode import decode
from slip.data.limits import FILE_BYTES
from slip.data.tokenizer import Tokenizer
from slip.data.views import center
from slip.errors import DataError, EvaluationError
from slip.files import read_whole
from slip.models import Model, build
from slip.models.text import cut, end_of_text

Picture = Image.Image | np.ndarray | bytes | str | os.PathLike[str]
Images = Tensor | Picture | Iterable[Tensor | Picture]

CHUNK = 256
"""Pictures or texts that go through the model at a time."""

_ORIENTATION = 0x0112


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
        if self.model.logit_scale is None:
            raise self._no_text("logit scale")
        return float(self.model.logit_scale.detach().exp())

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
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

    def encode_image(self, images: Images, *, normalize: bool = True) -> Tensor:
        """Return image embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        images: a preprocessed tensor (N, 3, S, S) or (3, S, S); or a picture as a path, the bytes of a file, a PIL
        image or an RGB uint8 array (H, W, 3); or any number of these in a list or other iterable. One picture
        gives N = 1. A model without text gives its image tower's features.

        Raises DataError, naming the picture, when one cannot be used.
        """
        projection, width = self.model.image_projection, self.model.image_tower.width
        dim = width if projection is None else projection.shape[1]
        embeddings = self._through(self.model.encode_image, self._batches(images), dim)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def image_features(self, images: Images) -> Tensor:
        """Return the image tower's features (N, width), before projection; `images` as in `encode_image`."""
        return self._through(self.model.image_features, self._batches(images), self.model.image_tower.width)

    def encode_text(self, texts: str | Sequence[str] | Tensor, *, normalize: bool = True) -> Tensor:
        """Return text embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        texts: one text, several, or token ids (N, L) or (L,) as `tokenize` gives. Raises EvaluationError when
        the model has no text tower.
        """
        if self.model.text_tower is None:
            raise self._no_text("encode_text")
        if isinstance(texts, Tensor):
            rows = (texts if texts.ndim == 2 else texts[None]).split(CHUNK)
            parts = (cut(part, end_of_text(part)) for part in rows)
        else:
            several = [texts] if isinstance(texts, str) else list(texts)
            parts = (self.tokenize(several[i : i + CHUNK]) for i in range(0, len(several), CHUNK))
        embeddings = self._through(self.model.encode_text, parts, self.config.model.embed_dim)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Return token ids (N, longest), int64, zero-padded. Raises EvaluationError without a text tower."""
        if self.model.text_tower is None:
            raise self._no_text("tokenize")
        return self.tokenizer(texts)

    def preprocess(self, image: Picture) -> Tensor:
        """Turn one picture into the (3, S, S) float32 tensor that the model takes.

        Decoded to RGB, short side resized to S, centre cropped, normalised by the mean and deviation of the views
        the model was trained on. Raises DataError on a picture that cannot be used.
        """
        pixels = torch.from_numpy(center(decode(_encoded(image), min_side=self.size), self.size))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.views.mean, self.config.views.std))
        return (pixels.float() / 255 - mean) / std

    def _batches(self, images: Images) -> Iterator[Tensor]:
        """Yield `images` as preprocessed tensors (up to CHUNK, 3, S, S)."""
        if isinstance(images, Tensor) and images.ndim == 4:
            yield from self._checked(images).split(CHUNK)
            return
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        if isinstance(images, Tensor | np.ndarray | Image.Image | bytes | str | os.PathLike):
            yield self._prepared(images)[None]
            return
        pictures = enumerate(images)
        while chunk := list(islice(pictures, CHUNK)):
            yield torch.stack([self._prepared(image, f"Picture {i}: ") for i, image in chunk])

    def _prepared(self, image: Tensor | Picture, which: str = "") -> Tensor:
        """Return one picture, preprocessed now or before; an error names `which` one."""
        try:
            return self._checked(image) if isinstance(image, Tensor) else self.preprocess(image)
        except DataError as error:
            raise DataError(which + error.what, got=error.got, cause=error.cause, fix=error.fix) from None

    def _checked(self, images: Tensor) -> Tensor:
        """Return a tensor (N, 3, S, S) or (3, S, S) of preprocessed images, or raise DataError."""
        side = self.size
        if images.shape[-3:] == (3, side, side) and images.ndim in (3, 4) and images.is_floating_point():
            return images
        raise DataError(
            f"A tensor of images must be preprocessed: floats of shape (3, {side}, {side}), or several of these",
            got=f"{images.dtype}, shape {tuple(images.shape)}",
            fix="Pass pictures as files, bytes, PIL images or RGB uint8 arrays instead, or use `preprocess`.",
        )

    def _through(self, call: Callable[[Tensor], Tensor], parts: Iterable[Tensor], dim: int) -> Tensor:
        with _evaluating(self.model):
            results = [call(part.to(self.device)).float() for part in parts if len(part)]
        return torch.cat(results) if results else torch.empty(0, dim, device=self.device)

    def _no_text(self, call: str) -> EvaluationError:
        return EvaluationError(
            f"This model has no text tower, so there is no {call}",
            got=f"a model trained with {self.config.objective.loss!r}",
            fix="Use its image features (linear probe, k-NN, finetuning), or a model with 'clip' in its objective.",
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
    """Return what `decode` takes: the bytes of an image file, or an array."""
    if isinstance(image, bytes | np.ndarray):
        return image
    try:
        if isinstance(image, str | os.PathLike):
            return read_whole(image, FILE_BYTES)
        if isinstance(image, Image.Image):
            return _from_pil(image)
    except Exception as error:  # of a PIL image nothing may have been decoded until now
        named = "" if isinstance(image, Image.Image) else str(image)
        raise DataError("The image cannot be read", got=named or None, cause=str(error)) from None
    raise DataError(
        "This is not a picture",
        got=type(image).__name__,
        fix="Pass a path, the bytes of an image file, a PIL image or an RGB uint8 array.",
    )


def _from_pil(image: Image.Image) -> bytes | np.ndarray:
    """Return the pixels of a plain upright RGB image; any other is written to a file, for `decode` to sort out."""
    if image.mode == "RGB" and not image.has_transparency_data and image.getexif().get(_ORIENTATION, 1) == 1:
        return np.array(image)
    file = io.BytesIO()
    writable = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
    writable.save(file, "PNG", compress_level=1, exif=image.getexif())
    return file.getvalue()
