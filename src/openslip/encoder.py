"""A model with everything around it that turns pictures and texts into embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any, Generic, Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import TypeVar, Unpack

from openslip.config import Config
from openslip.data.given import Picture
from openslip.data.own_tokenizer import OwnTokenizer, tokenizer_of
from openslip.data.preprocess import Preprocess
from openslip.data.tokenizer import Tokenizer
from openslip.errors import ConfigError, DataError, EvaluationError, did_you_mean
from openslip.models import Model, build
from openslip.models.text import TextTower
from openslip.options import AUTOCAST, How, Options
from openslip.pictures import ALONE, Images, Unusable, chunks_ahead, in_turn, name_of, refusal, several
from openslip.progress import Progress

ERRORS = ("raise", "skip")

Values = TypeVar("Values", Tensor, np.ndarray, default=Tensor)


class Encoded(NamedTuple, Generic[Values]):
    """The result of a call with `errors="skip"`: K of N pictures that could be used, and the others.

    values: (K, D) float32, a tensor or an array, in the order of the pictures. kept: the K indices of these pictures
    among the N, a list that can index arrays, tensors and data frames. skipped: the N - K other pictures.
    """

    values: Values
    kept: list[int]
    skipped: list[Unusable]

    def __repr__(self) -> str:
        return f"Encoded(values {tuple(self.values.shape)}, {len(self.skipped):,} skipped)"


class Encoder:
    """A model, its tokenizer and its preprocessing.

    The calls compute without gradient and change no weights, buffers or modes. So any number of threads may call at
    once. The model must be in evaluation mode, as `openslip.load` and `openslip.create` return it; calls refuse a model
    in training mode. Results are float32 on the model's device, whatever the precision of its weights.
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
                f"The configuration {config.name} is for a run that starts from a model, and makes no model by itself",
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
        """The tokenizer that turns texts into token ids: CLIP's, or the one that the weights bring with them."""
        tower, text = self.model.text_tower, self.config.model.text
        held = getattr(tower, "tokenizer", None)
        if tower is None or held is None:
            return tokenizer_of(text, b"")
        if (
            self._tokenizer is None or self._tokenizer[0] is not held
        ):  # the weights may be on another device now
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
        self,
        images: Images,
        *,
        normalize: bool = True,
        errors: Literal["raise"] = "raise",
        numpy: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Tensor: ...

    @overload
    def encode_image(
        self,
        images: Images,
        *,
        normalize: bool = True,
        errors: Literal["raise"] = "raise",
        numpy: Literal[True],
        **options: Unpack[Options],
    ) -> np.ndarray: ...

    @overload
    def encode_image(
        self,
        images: Images,
        *,
        normalize: bool = True,
        errors: Literal["skip"],
        numpy: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Encoded: ...

    @overload
    def encode_image(
        self,
        images: Images,
        *,
        normalize: bool = True,
        errors: Literal["skip"],
        numpy: Literal[True],
        **options: Unpack[Options],
    ) -> Encoded[np.ndarray]: ...

    def encode_image(
        self,
        images: Images,
        *,
        normalize: bool = True,
        errors: Literal["raise", "skip"] = "raise",
        numpy: bool = False,
        **options: Unpack[Options],
    ) -> Tensor | np.ndarray | Encoded | Encoded[np.ndarray]:
        """Return image embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        images: a preprocessed tensor (N, 3, S, S) or (3, S, S), of any floating precision; or a picture as a path, the
        bytes of a file, a PIL image or an RGB uint8 array (H, W, 3); or any number of these in a list, an array of
        paths, a column of a data frame, a generator or another iterable; or a folder, whose pictures are taken as
        `openslip.find_pictures` lists them. One picture gives N = 1. A model without text gives its image tower's
        features.

        errors: with "raise" the result is a tensor, and unusable pictures raise a DataError that names and counts
        them. With "skip" the result is an `Encoded`: the embeddings of the usable pictures, their indices, and the
        skipped pictures with reasons. numpy: whether the values are an array; each batch then leaves the model's device
        when it is done. options: see `Options`.

        Raises DataError for anything that is no picture, ConfigError for a wrong value of an option, EvaluationError
        for a model in training mode.
        """
        projection, width = self.model.image_projection, self.model.image_tower.width
        dim = width if projection is None else projection.shape[1]
        how = How.of(options)
        encoded = self._pictures(self.model.encode_image, images, dim, errors, how, normalize, numpy)
        return encoded if errors == "skip" else encoded.values

    @overload
    def image_features(
        self,
        images: Images,
        *,
        errors: Literal["raise"] = "raise",
        numpy: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Tensor: ...

    @overload
    def image_features(
        self,
        images: Images,
        *,
        errors: Literal["raise"] = "raise",
        numpy: Literal[True],
        **options: Unpack[Options],
    ) -> np.ndarray: ...

    @overload
    def image_features(
        self,
        images: Images,
        *,
        errors: Literal["skip"],
        numpy: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Encoded: ...

    @overload
    def image_features(
        self,
        images: Images,
        *,
        errors: Literal["skip"],
        numpy: Literal[True],
        **options: Unpack[Options],
    ) -> Encoded[np.ndarray]: ...

    def image_features(
        self,
        images: Images,
        *,
        errors: Literal["raise", "skip"] = "raise",
        numpy: bool = False,
        **options: Unpack[Options],
    ) -> Tensor | np.ndarray | Encoded | Encoded[np.ndarray]:
        """Return the image tower's features (N, width), before projection; arguments and errors of `encode_image`."""
        call, dim = self.model.image_features, self.model.image_tower.width
        encoded = self._pictures(call, images, dim, errors, How.of(options), normalize=False, numpy=numpy)
        return encoded if errors == "skip" else encoded.values

    def project(self, features: Tensor, *, normalize: bool = True) -> Tensor:
        """Return the embeddings (N, embed_dim) float32 of features (N, width), as `image_features` gives them.

        They equal the embeddings that `encode_image` gives for the same images. A model without text gives the features
        themselves. Their length is 1 unless `normalize` is false. Raises EvaluationError on a model in training mode.
        """
        return self._through(
            self.model.project_image, [features], features.shape[-1], How(), normalize, False
        )

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str] | Tensor,
        *,
        normalize: bool = True,
        numpy: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Tensor: ...

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str] | Tensor,
        *,
        normalize: bool = True,
        numpy: Literal[True],
        **options: Unpack[Options],
    ) -> np.ndarray: ...

    def encode_text(
        self,
        texts: str | Iterable[str] | Tensor,
        *,
        normalize: bool = True,
        numpy: bool = False,
        **options: Unpack[Options],
    ) -> Tensor | np.ndarray:
        """Return text embeddings (N, embed_dim), of length 1 unless `normalize` is false.

        texts: one text, several, or token ids (N, L) or (L,) as `tokenize` gives. numpy, options: as in `encode_image`;
        texts need no workers. Raises EvaluationError when the model has no text tower or is in training mode,
        DataError for anything that is no text, ConfigError for a wrong value of an option.
        """
        how = How.of(options)
        if self.model.text_tower is None:
            raise self._no_text("encode_text")
        if isinstance(texts, Tensor):
            rows = self._checked_tokens(texts, self.model.text_tower)
            parts, total = (self.model.text_tower.used(part)[0] for part in rows.split(how.batch)), len(rows)
        else:
            given = _texts(texts)
            total = len(given)
            parts = (self.tokenize(given[i : i + how.batch]) for i in range(0, total, how.batch))
        dim = self.config.model.embed_dim
        with _counting("encoding texts", total, how.progress) as advance:
            done = (_told(part, advance) for part in parts)
            return self._through(self.model.encode_text, done, dim, how, normalize, numpy)

    def tokenize(self, texts: str | Iterable[str]) -> Tensor:
        """Return token ids (N, longest), int64, zero-padded; (N, context) if the model's features depend on padding.

        Raises EvaluationError without a text tower, DataError for anything that is no text.
        """
        if self.model.text_tower is None:
            raise self._no_text("tokenize")
        return self.tokenizer(_texts(texts))

    @property
    def preprocess(self) -> Preprocess:
        """The function from one picture to the (3, S, S) float32 tensor that the model takes, by the configuration's
        `views`. It holds no weights, and can be a data set's `transform`."""
        return Preprocess.of(self.config.views)

    def compile(self, **options: Any) -> Encoder:
        """Have `torch.compile` compile the towers, at their first call for each kind of shape; return this encoder.

        options: those of `torch.compile`. Results differ by rounding. Assigning `torch.compile(encoder.model)` instead
        has no effect: it compiles `forward`, which training calls and encoding does not.
        """
        for tower in self.model.towers:
            tower.compile(**options)
        return self

    def __repr__(self) -> str:
        return f"Encoder({', '.join(' '.join(row) for row in self._described())})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in self._described())
        return f"<table>{rows}</table>"

    def _described(self) -> list[tuple[str, str]]:
        """Return a description of the model, in pairs of a name and a value."""
        millions = {
            name: sum(p.numel() for p in tower.parameters()) / 1e6
            for name, tower in (
                ("image tower", self.model.image_tower),
                ("text tower", self.model.text_tower),
            )
            if tower is not None
        }
        projection = self.model.image_projection
        dim = self.model.image_tower.width if projection is None else projection.shape[1]
        return [
            ("model", self.config.name or self.config.model.image.name),
            *((name, f"{count:,.1f} M parameters") for name, count in millions.items()),
            ("pictures", f"{self.size} × {self.size}"),
            ("embeddings", f"{dim:,} numbers"),
            ("on", f"{self.device}, {str(self.dtype).removeprefix('torch.')}"),
        ]

    def _pictures(
        self,
        call: Callable[[Tensor], Tensor],
        images: Images,
        dim: int,
        errors: str,
        how: How,
        normalize: bool,
        numpy: bool,
    ) -> Encoded[Any]:
        """Return `call` of all usable pictures; raise DataError for the others unless they are skipped."""
        if errors not in ERRORS:
            raise ConfigError("`errors` has no such value", got=errors, fix=did_you_mean(str(errors), ERRORS))
        if isinstance(images, Tensor) and images.ndim == 4:
            total = len(images)
            with _counting("encoding images", total, how.progress) as advance:
                parts = (_told(part, advance) for part in self._checked(images).split(how.batch))
                return Encoded(self._through(call, parts, dim, how, normalize, numpy), list(range(total)), [])
        kept: list[int] = []
        bad: list[tuple[Unusable, DataError]] = []
        given = several(images)
        size = len(given) if hasattr(given, "__len__") else None  # type: ignore[arg-type]
        total = 0

        def prepare(
            numbered: tuple[int, Tensor | Picture],
        ) -> tuple[int, Tensor | Picture, Tensor | DataError]:
            index, picture = numbered
            try:
                return index, picture, self._prepared(picture)
            except DataError as error:
                return index, picture, error

        def batches(chunks: Iterator[list[Any]], advance: Callable[[int], None]) -> Iterator[Tensor]:
            nonlocal total
            for chunk in chunks:
                total += len(chunk)
                ready = []
                for index, picture, made in chunk:
                    if isinstance(made, Tensor):
                        ready.append(made)
                        kept.append(index)
                    else:
                        bad.append((Unusable(index, name_of(picture, index), str(made)), made))
                if ready and (
                    errors == "skip" or not bad
                ):  # else the rest is only checked, to count bad pictures
                    yield torch.stack([pixels.to(ready[0].device, self.dtype) for pixels in ready])
                advance(len(chunk))

        with (
            chunks_ahead(prepare, enumerate(given), how.batch, how.workers) as chunks,
            _counting("encoding images", size, how.progress) as advance,
        ):
            values = self._through(call, batches(chunks, advance), dim, how, normalize, numpy)
        if bad and errors == "raise":
            raise refusal(bad, total, alone=total == 1 and isinstance(images, ALONE))
        return Encoded(values, kept, [unusable for unusable, _ in bad])

    def _prepared(self, image: Tensor | Picture) -> Tensor:
        """Return one picture, preprocessed now or before."""
        if not isinstance(image, Tensor):
            with in_turn(image):
                return self.preprocess.unnamed(image)
        if image.ndim == 4:
            raise DataError(
                "This tensor holds several images in the place of one",
                got=f"shape {tuple(image.shape)}",
                fix="Pass them as one tensor, `torch.cat(tensors)`, or one after the other",
            )
        return self._checked(image)

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
            f"A tensor of images must be preprocessed: floats of shape (3, {side}, {side}), or several of this shape",
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
        """Return token ids (N, L) with one end-of-text token in each row, or raise DataError.

        Hugging Face's tokenizer pads rows with that token, while ours and open_clip's pad with zeros. A feature is read
        at the last such token of a row.
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

    def _through(
        self,
        call: Callable[[Tensor], Tensor],
        parts: Iterable[Tensor],
        dim: int,
        how: How,
        normalize: bool,
        numpy: bool,
    ) -> Any:
        """Return `call` of all parts in one tensor or array (N, dim), float32."""
        self._check_mode()
        device, dtype = self.device, self.dtype
        results = []
        precision = torch.autocast(device.type, AUTOCAST.get(how.autocast or ""), enabled=bool(how.autocast))
        # Not inference_mode: a linear probe could not be trained on its tensors.
        with torch.no_grad():
            for part in parts:
                if len(part):
                    with precision:
                        values = call(part.to(device, dtype if part.is_floating_point() else part.dtype))
                    values = F.normalize(values.float(), dim=-1) if normalize else values.float()
                    results.append(values.cpu() if numpy else values)
        values = torch.cat(results) if results else torch.empty(0, dim, device="cpu" if numpy else device)
        return values.numpy() if numpy else values

    def _check_mode(self) -> None:
        """Raise EvaluationError for a model in training mode.

        The mode is not switched and switched back, because other threads may use or train the model meanwhile.
        """
        if any(module.training for module in self.model.modules()):
            raise EvaluationError(
                "The model is in training mode, so its embeddings would depend on chance and on the batch",
                cause="If the model has BatchNorm, encoding would change its statistics for good",
                fix="Call `encoder.eval()` first, and `encoder.model.train()` to go on training",
            )

    def _no_text(self, call: str) -> EvaluationError:
        return EvaluationError(
            f"This model has no text tower, so there is no {call}",
            got=f"a model trained with {self.config.objective.loss!r}",
            fix="Use the image features (linear probe, k-NN, finetuning), or a model with 'clip' in its objective.",
        )


def _within(tokens: Tensor, vocabulary: int) -> bool:
    return not tokens.numel() or bool((tokens.min() >= 0) & (tokens.max() < vocabulary))


@contextmanager
def _counting(what: str, total: int | None, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts what is done, and shows the progress if `shown`."""
    if not shown:
        yield lambda done: None
        return
    with Progress(what, total, transient=True, brief=True) as bar:
        yield bar.advance


def _told(part: Tensor, advance: Callable[[int], None]) -> Tensor:
    """Return a part that is about to go through the model, and count its rows."""
    advance(len(part))
    return part


def _texts(texts: Any) -> list[str]:
    """Return the texts that a call was given, one or many. The tokenizer checks that each is a text."""
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
            "This is neither a text nor several texts",
            got=type(texts).__name__,
            fix="Pass a `str`, or a list of them",
        ) from None
