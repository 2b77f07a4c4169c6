"""A model with everything around it that turns pictures and texts into embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from openslip.config import Config
from openslip.data.given import Picture, check_array, not_a_picture, pixels_of
from openslip.data.own_tokenizer import OwnTokenizer, tokenizer_of
from openslip.data.tokenizer import Tokenizer
from openslip.data.views import center
from openslip.errors import ConfigError, DataError, EvaluationError, did_you_mean
from openslip.models import Model, build
from openslip.models.text import TextTower

Images = Tensor | Picture | Iterable[Tensor | Picture]

CHUNK = 256
"""Pictures or texts that go through the model at a time."""
LISTED = 5
"""Unusable pictures that an error shows; the others are counted."""
ERRORS = ("raise", "skip")
ALONE = (Tensor, np.ndarray, Image.Image, bytes, bytearray, memoryview, str, os.PathLike)
"""What one picture can be, apart from arrays and tensors that hold several."""


class Unusable(NamedTuple):
    """A picture that could not be used: its place among those that were given, what to call it, and why."""

    index: int
    name: str
    reason: str


class Encoded(NamedTuple):
    """What a call with `errors="skip"` returns: the K of N pictures that could be used, and those that could not.

    values: (K, D) float32, in the order of the pictures. kept: their K indices among the N, a list, with which arrays,
    tensors and data frames can be indexed. skipped: the N - K others.
    """

    values: Tensor
    kept: list[int]
    skipped: list[Unusable]


class Encoder:
    """A model, its tokenizer and its preprocessing.

    The calls compute without gradient and change nothing, neither weights nor buffers nor modes, so that any number of
    threads may call at once. They are for a model in evaluation mode, as `openslip.load` and `openslip.create` return
    it, and refuse one in training mode. Results are float32 on the model's device, whatever the precision of its
    weights.
    """

    def __init__(self, model: Model, config: Config) -> None:
        self.model = model
        self.config = config
        self._tokenizer: tuple[Tensor, Tokenizer | OwnTokenizer] | None = None

    @classmethod
    def from_config(cls, config: Config) -> Encoder:
        """Build a fresh, untrained model for `config`, in evaluation mode; its weights come from torch's generator.

        Raises ConfigError on an objective or model that cannot be made.
        """
        from openslip import objectives

        if not config.views.size:
            raise ConfigError(
                f"The configuration {config.name} is for a run that starts from a model, and is none by itself",
                got="views.size 0, the size of the weights",
                fix="Load the model with openslip.load, train with openslip.train(..., init=MODEL), or set views.size",
            )
        loss = objectives.parse(config.objective)
        return cls(build(config.model, config.views.size, loss.needs).eval(), config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the image tower's weights, in which pictures enter it."""
        return next(self.model.image_tower.parameters()).dtype

    @property
    def size(self) -> int:
        """Side of the images the model takes, in pixels."""
        return self.config.views.size

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities of image and text. Raises EvaluationError without text."""
        if self.model.logit_scale is None:
            raise self._no_text("logit scale")
        return float(self.model.logit_scale.detach().float().exp())

    @property
    def tokenizer(self) -> Tokenizer | OwnTokenizer:
        """What turns texts into token ids: CLIP's, or that which the weights bring with them."""
        tower, text = self.model.text_tower, self.config.model.text
        held = getattr(tower, "tokenizer", None)
        if tower is None or held is None:
            return tokenizer_of(text, b"")
        if (
            self._tokenizer is None or self._tokenizer[0] is not held
        ):  # of weights that may lie on another device
            self._tokenizer = held, tokenizer_of(text, tower.own_tokenizer)
        return self._tokenizer[1]

    def to(self, *to: Any, **options: Any) -> Encoder:
        """Move the model to a device, a precision or both, as `torch.nn.Module.to` does; return this encoder."""
        self.model.to(*to, **options)
        return self

    def half(self) -> Encoder:
        """Keep the model's weights in float16, which takes half the memory; return this encoder."""
        return self.to(torch.float16)

    def bfloat16(self) -> Encoder:
        """Keep the model's weights in bfloat16, which takes half the memory; return this encoder."""
        return self.to(torch.bfloat16)

    def float(self) -> Encoder:
        """Keep the model's weights in float32; return this encoder."""
        return self.to(torch.float32)

    def double(self) -> Encoder:
        """Keep the model's weights in float64; return this encoder."""
        return self.to(torch.float64)

    def eval(self) -> Encoder:
        """Put the model in evaluation mode and return this encoder."""
        self.model.eval()
        return self

    @overload
    def encode_image(
        self, images: Images, *, normalize: bool = True, errors: Literal["raise"] = "raise"
    ) -> Tensor: ...

    @overload
    def encode_image(self, images: Images, *, normalize: bool = True, errors: Literal["skip"]) -> Encoded: ...

    def encode_image(
        self, images: Images, *, normalize: bool = True, errors: Literal["raise", "skip"] = "raise"
    ) -> Tensor | Encoded:
        """Return image embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        images: a preprocessed tensor (N, 3, S, S) or (3, S, S), of any floating precision; or a picture as a path, the
        bytes of a file, a PIL image or an RGB uint8 array (H, W, 3); or any number of these in a list, an array of
        paths, a column of a data frame or another iterable. One picture gives N = 1. A model without text gives its
        image tower's features.

        errors: with "raise" the result is a tensor, and an unusable picture raises DataError, which names it and
        counts all others that are. With "skip" the result is an `Encoded`: the embeddings of those that can be used,
        their indices, and which were left out and why.

        Raises DataError on what is no picture, ConfigError on another value of `errors`, EvaluationError on a model in
        training mode.
        """
        projection, width = self.model.image_projection, self.model.image_tower.width
        dim = width if projection is None else projection.shape[1]
        encoded = self._pictures(self.model.encode_image, images, dim, errors)
        if normalize:
            encoded = encoded._replace(values=F.normalize(encoded.values, dim=-1))
        return encoded if errors == "skip" else encoded.values

    @overload
    def image_features(self, images: Images, *, errors: Literal["raise"] = "raise") -> Tensor: ...

    @overload
    def image_features(self, images: Images, *, errors: Literal["skip"]) -> Encoded: ...

    def image_features(
        self, images: Images, *, errors: Literal["raise", "skip"] = "raise"
    ) -> Tensor | Encoded:
        """Return the image tower's features (N, width), before projection; arguments and errors of `encode_image`."""
        encoded = self._pictures(self.model.image_features, images, self.model.image_tower.width, errors)
        return encoded if errors == "skip" else encoded.values

    def encode_text(self, texts: str | Iterable[str] | Tensor, *, normalize: bool = True) -> Tensor:
        """Return text embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        texts: one text, several, or token ids (N, L) or (L,) as `tokenize` gives. Raises EvaluationError when
        the model has no text tower or is in training mode, DataError for what is no text.
        """
        if self.model.text_tower is None:
            raise self._no_text("encode_text")
        if isinstance(texts, Tensor):
            rows = self._checked_tokens(texts, self.model.text_tower).split(CHUNK)
            parts = (self.model.text_tower.used(part)[0] for part in rows)
        else:
            several = _texts(texts)
            parts = (self.tokenize(several[i : i + CHUNK]) for i in range(0, len(several), CHUNK))
        embeddings = self._through(self.model.encode_text, parts, self.config.model.embed_dim)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def tokenize(self, texts: str | Iterable[str]) -> Tensor:
        """Return token ids (N, longest), int64, zero-padded; of a model whose features depend on it, (N, context).

        Raises EvaluationError without a text tower, DataError for what is no text.
        """
        if self.model.text_tower is None:
            raise self._no_text("tokenize")
        return self.tokenizer(_texts(texts))

    def preprocess(self, image: Picture) -> Tensor:
        """Turn one picture into the (3, S, S) float32 tensor that the model takes.

        Decoded to RGB; short side resized to S and centre cropped, or squashed to a square; normalised by the mean and
        deviation. All of it is as the configuration's `views` say. Raises DataError on a picture that cannot be used.
        """
        try:
            return self._preprocessed(image)
        except DataError as error:
            raise _named(error, _path(image)) from None

    def _pictures(self, call: Callable[[Tensor], Tensor], images: Images, dim: int, errors: str) -> Encoded:
        """Return `call` of all pictures that can be used; raise DataError for the others unless they are skipped."""
        if errors not in ERRORS:
            raise ConfigError("`errors` has no such value", got=errors, fix=did_you_mean(str(errors), ERRORS))
        if isinstance(images, Tensor) and images.ndim == 4:
            values = self._through(call, self._checked(images).split(CHUNK), dim)
            return Encoded(values, list(range(len(values))), [])
        kept: list[int] = []
        bad: list[tuple[Unusable, DataError]] = []
        total = 0

        def batches() -> Iterator[Tensor]:
            nonlocal total
            pictures = enumerate(_several(images))
            while chunk := list(islice(pictures, CHUNK)):
                total += len(chunk)
                ready = []
                for index, picture in chunk:
                    try:
                        ready.append(self._prepared(picture))
                        kept.append(index)
                    except DataError as error:
                        bad.append((Unusable(index, _name(picture, index), str(error)), error))
                if ready and (errors == "skip" or not bad):  # else the rest is looked at, to be counted
                    yield torch.stack([pixels.to(ready[0].device, self.dtype) for pixels in ready])

        values = self._through(call, batches(), dim)
        if bad and errors == "raise":
            raise _refusal(bad, total, alone=total == 1 and isinstance(images, ALONE))
        return Encoded(values, kept, [unusable for unusable, _ in bad])

    def _prepared(self, image: Tensor | Picture) -> Tensor:
        """Return one picture, preprocessed now or before."""
        if not isinstance(image, Tensor):
            return self._preprocessed(image)
        if image.ndim == 4:
            raise DataError(
                "This tensor holds several images, and stands for one",
                got=f"shape {tuple(image.shape)}",
                fix="Pass them as one tensor, `torch.cat(tensors)`, or one after the other",
            )
        return self._checked(image)

    def _preprocessed(self, image: Picture) -> Tensor:
        """`preprocess`, whose error does not name the picture."""
        views = self.config.views
        pixels = center(pixels_of(image, min_side=self.size), self.size, views.interpolation, views.fit)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (views.mean, views.std))
        return (torch.from_numpy(pixels).float() / 255 - mean) / std

    def _checked(self, images: Tensor) -> Tensor:
        """Return a tensor (N, 3, S, S) or (3, S, S) of preprocessed images, or raise DataError."""
        side = self.size
        if images.shape[-3:] == (3, side, side) and images.ndim in (3, 4) and images.is_floating_point():
            return images
        fix = "Pass pictures as files, bytes, PIL images or RGB uint8 arrays instead, or use `preprocess`"
        if images.dtype == torch.uint8 and images.ndim in (3, 4):
            last = "" if images.shape[-1] == 3 else ".movedim(-3, -1)"
            fix = f"If these are RGB levels, pass `tensor{last}.cpu().numpy()`"
        raise DataError(
            f"A tensor of images must be preprocessed: floats of shape (3, {side}, {side}), or several of these",
            got=f"{images.dtype}, shape {tuple(images.shape)}",
            fix=fix,
        )

    def _checked_tokens(self, tokens: Tensor, tower: TextTower) -> Tensor:
        """Return token ids as (N, L) int64, or raise DataError."""
        rows = tokens if tokens.ndim == 2 else tokens[None]
        whole = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
        context, vocabulary = tower.context, self.config.model.text.vocabulary
        least = context if tower.padded else 1
        if rows.ndim == 2 and whole and least <= rows.shape[1] <= context and _within(rows, vocabulary):
            return rows.long() if tower.pool == "last" else self._ended(rows.long(), tower.end)
        many = f"{context}" if tower.padded else f"up to {context}"
        raise DataError(
            f"A tensor of texts must be token ids: whole numbers below {vocabulary:,}, {many} a text",
            got=f"{tokens.dtype}, shape {tuple(tokens.shape)}",
            fix="Pass the texts themselves, or what this model's `tokenize` gives",
        )

    def _ended(self, rows: Tensor, end: int) -> Tensor:
        """Return token ids (N, L) whose rows have one end of their text each, or raise DataError.

        Hugging Face's tokenizer fills rows with that token, where ours and open_clip's fill them with zeros; a feature
        is read at the last one that a row has.
        """
        ends = rows == end
        keeps = self.config.model.text.truncation == "keep-end" and self.tokenizer.end == end
        if keeps and not ends.any(1).all():
            raise DataError(
                "A row of token ids has no end",
                got=f"row {int(ends.any(1).int().argmin())}, without the id {end}",
                cause="Another tokenizer made it, or it was cut off",
                fix="Pass the texts themselves, or what this model's `tokenize` gives",
            )
        filled = torch.zeros_like(ends)
        filled[:, 1:] = ends[:, 1:] & ends[:, :-1]
        return rows.masked_fill(filled, 0)

    def _through(self, call: Callable[[Tensor], Tensor], parts: Iterable[Tensor], dim: int) -> Tensor:
        self._check_mode()
        device, dtype = self.device, self.dtype
        # Not inference_mode: its tensors could not be what a linear probe is trained on.
        with torch.no_grad():
            results = [
                call(part.to(device, dtype if part.is_floating_point() else part.dtype)).float()
                for part in parts
                if len(part)
            ]
        return torch.cat(results) if results else torch.empty(0, dim, device=device)

    def _check_mode(self) -> None:
        """Raise EvaluationError for a model in training mode.

        It could be switched, and switched back; but other threads use it meanwhile, and may be training it.
        """
        if any(module.training for module in self.model.modules()):
            raise EvaluationError(
                "The model is in training mode, so its embeddings would depend on chance and on the batch",
                cause="Where it has BatchNorm, encoding would change its statistics for good",
                fix="Call `encoder.eval()` first, and `encoder.model.train()` to go on training",
            )

    def _no_text(self, call: str) -> EvaluationError:
        return EvaluationError(
            f"This model has no text tower, so there is no {call}",
            got=f"a model trained with {self.config.objective.loss!r}",
            fix="Use its image features (linear probe, k-NN, finetuning), or a model with 'clip' in its objective.",
        )


def _within(tokens: Tensor, vocabulary: int) -> bool:
    return not tokens.numel() or bool((tokens.min() >= 0) & (tokens.max() < vocabulary))


def _several(images: Any) -> Iterable[Tensor | Picture]:
    """Return the pictures in what a call was given, one or many. Raises DataError for what is neither."""
    if isinstance(images, np.ndarray):
        return _in_array(images)
    if isinstance(images, ALONE):
        return [images]
    # Going through these would give names of columns, keys, or lines of a file.
    if isinstance(images, Mapping) or hasattr(images, "read") or type(images).__name__ == "DataFrame":
        raise not_a_picture(images)
    try:
        return iter(images)
    except TypeError:
        raise not_a_picture(images) from None


def _in_array(images: np.ndarray) -> Iterable[Any]:
    """Return the pictures of an array: of paths, of objects, or of pixels."""
    if images.dtype.kind in "OUT":
        if images.ndim <= 1:
            return images.reshape(-1).tolist()
        fix = "Pass `array.ravel()`"
    elif images.dtype.kind in "SV":
        fix = "If these are paths, pass `array.astype(str)`; if these are files, a list of `bytes`"
    elif images.ndim == 4:
        if len(images):
            check_array(images, several=True)
        return list(images)
    else:
        return [] if images.shape == (0,) else [images]
    raise DataError(
        "An array of paths must have one dimension, and hold text or objects",
        got=f"{images.dtype}, shape {images.shape}",
        fix=fix,
    )


def _texts(texts: Any) -> list[str]:
    """Return the texts in what a call was given, one or many; whether each is text is for the tokenizer to say."""
    if isinstance(texts, np.ndarray) and texts.dtype.kind in "OUT":
        texts = texts.tolist()
    if isinstance(texts, str):
        return [texts]
    try:
        if isinstance(texts, bytes | Mapping | Tensor | np.ndarray) or type(texts).__name__ == "DataFrame":
            raise TypeError
        return list(texts)
    except TypeError:
        raise DataError(
            "This is neither a text nor several",
            got=type(texts).__name__,
            fix="Pass a `str`, or a list of these",
        ) from None


def _path(picture: object) -> str:
    """Return the path that a picture comes from, "" where it tells none."""
    if isinstance(picture, str | os.PathLike):
        return str(picture)
    return str(getattr(picture, "filename", "")) if isinstance(picture, Image.Image) else ""


def _name(picture: object, index: int) -> str:
    """Return what to call one picture of several: its path, else what and where it is."""
    if path := _path(picture):
        return path
    kinds = ((Image.Image, "PIL image"), (np.ndarray, "array"), (Tensor, "tensor"))
    kind = next((name for cls, name in kinds if isinstance(picture, cls)), type(picture).__name__)
    return f"the {kind} at index {index}"


def _named(error: DataError, name: str) -> DataError:
    """Return an error about a picture that names it."""
    what = f"{name}: {error.what}" if name else error.what
    return DataError(what, got=error.got, cause=error.cause, fix=error.fix)


def _refusal(bad: Sequence[tuple[Unusable, DataError]], total: int, *, alone: bool) -> DataError:
    """Return the error about pictures that cannot be used: of `total` that were given, or of the one given alone."""
    (first, error), *others = bad
    if alone:
        return _named(error, "" if first.name.startswith("the ") else first.name)
    skip = 'pass errors="skip" to go on without'
    if not others:
        what = f"1 of {total:,} pictures cannot be used: {first.name}: {error.what}"
        fix = f"{error.fix.rstrip('.')}; or {skip} it" if error.fix else f"P{skip[1:]} it"
        return DataError(what, got=error.got, cause=error.cause, fix=fix)
    shown = [f"\n  {unusable.name}: {unusable.reason}" for unusable, _ in bad[:LISTED]]
    more = f"\n  and {len(bad) - LISTED:,} others." if len(bad) > LISTED else ""
    what = f"{len(bad):,} of {total:,} pictures cannot be used:{''.join(shown)}{more}"
    return DataError(what, fix=f"\n  P{skip[1:]} them")
