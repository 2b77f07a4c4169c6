"""Images through the encoder, in batches, once each.

Inside `with session():` a labelled split that several protocols need goes through the image tower once. Outside, every
call computes anew, because the encoder may have been trained between two calls. The model is in evaluation mode while
it computes, and afterwards in its earlier mode.

Several processes share the batches of a set. Batches, and so features, are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from openslip.data.labelled import Labelled, LabelledSet
from openslip.data.record import Skipped
from openslip.errors import DataError, EvaluationError, note
from openslip.evaluation import fingerprint
from openslip.evaluation.classification import Samples
from openslip.evaluation.feature_cache import Batch, FeatureCache
from openslip.evaluation.opened import labelled_set, shared
from openslip.pictures import chunks_ahead
from openslip.processes import Processes
from openslip.progress import Progress

if TYPE_CHECKING:
    from openslip.encoder import Encoder

T = TypeVar("T")
Kind = Literal["features", "embeddings"]
"""`features`: from the image tower, before any projection. `embeddings`: in the space shared with text, normalised."""

BATCH = 256
TOKENIZED = 2**14
"""Texts whose tokens are held at a time."""


@dataclass(frozen=True)
class Features:
    """Features of the K of N images that could be read.

    values: (K, D) float32; kept: (K,) their indices; skipped: the other images; digests: a digest of each of the K (see
    `fingerprint.of_picture`).
    """

    values: np.ndarray
    kept: np.ndarray
    skipped: tuple[Skipped, ...]
    digests: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class LabelledFeatures:
    """One split for a classifier: (K, D) float32 values and (K,) int64 labels of the K images that could be read.

    skipped: how many could not be read. content: a digest of pictures, labels and class names. samples: the K pictures.
    """

    name: str
    values: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    named: bool
    skipped: int
    split: str
    location: str
    content: str
    samples: Samples

    def about(self, train: LabelledFeatures | None = None) -> dict[str, str]:
        """Return the fields of results that describe the data. train: the features that a classifier was fitted on."""
        content = fingerprint.of_all([train.content, self.content]) if train else self.content
        return {"data": self.location, "split": self.split, "content": content}


@dataclass
class _Session:
    """The state that the evaluators of a suite share. memory: results of extraction, with the objects whose ids are in
    the keys. ranks: the processes that share the images now. parts: this process's shares, and how to join them."""

    progress: bool = False
    precision: torch.dtype = torch.float32
    cache: FeatureCache | None = None
    ranks: Processes = field(default_factory=Processes)
    parts: dict[tuple[object, ...], tuple[Batch, Callable[[Batch], Any], object, object]] = field(
        default_factory=dict
    )
    memory: dict[tuple[object, ...], tuple[Any, ...]] = field(default_factory=dict)


_session: ContextVar[_Session | None] = ContextVar("slip_evaluation_session", default=None)
_told: WeakKeyDictionary[Encoder, set[torch.dtype]] = WeakKeyDictionary()
"""The precisions for which a note on exactness was given, by model."""


@contextmanager
def session(
    progress: bool = False,
    *,
    precision: torch.dtype = torch.float32,
    cache: FeatureCache | None = None,
) -> Iterator[None]:
    """Share features between the evaluators that run inside. The encoder must not change meanwhile.

    progress: show a bar for each pass over images if standard error is a terminal, else a line now and then.
    precision: the precision of the image tower. cache: the cache in which features are kept and found.
    """
    token = _session.set(_Session(progress, precision, cache))
    try:
        with shared():
            yield
    finally:
        _session.reset(token)


@contextmanager
def sharing(ranks: Processes) -> Iterator[None]:
    """Within this context, `once` computes only this process's share, and `gather` joins the shares afterwards. All
    processes must call `once` for the same data, in the same order."""
    current = _session.get()
    assert current is not None  # the session holds the shares
    current.ranks, current.parts = ranks, {}
    try:
        yield
    finally:
        current.ranks = Processes()


def gather(ranks: Processes) -> None:
    """Join on rank 0 what all processes have computed while sharing. Every process must call this function.

    Raises EvaluationError on rank 0 if no image can be read.
    """
    current = _session.get()
    assert current is not None
    gathered = [ranks.gather(part.to_bytes()) for part, *_ in current.parts.values()]
    for (key, (_, join, *held)), parts in zip(current.parts.items(), gathered):
        whole = join(Batch.joined([Batch.from_bytes(part) for part in parts])) if parts else None
        current.memory[key] = whole, *held
    current.parts = {}


def once(
    encoder: Encoder,
    data: object,
    *key: object,
    part: Callable[[Callable[[range], Sequence[int]]], Batch],
    join: Callable[[Batch], T],
) -> T | None:
    """Return the result of an extraction by a model from data; from the session, if the session has it.

    part: computes this process's share of the batches; it takes a function that chooses among the first indices of the
    batches. join: makes the result from all batches, and checks it. While sharing, the result is None.
    """
    current = _session.get() or _Session()
    whole = (id(encoder), id(data), *key)
    if whole in current.memory:
        return current.memory[whole][0]
    share: Callable[[range], Sequence[int]] = current.ranks.share
    if current.ranks.world > 1:
        if whole not in current.parts:
            current.parts[whole] = part(share), join, encoder, data  # which keeps their ids
        return None
    found = join(part(share))
    current.memory[whole] = found, encoder, data
    return found


def remembered(encoder: Encoder, *key: object, compute: Callable[[], T]) -> T:
    """Return a value that rank 0 computes with a model, such as embeddings of texts; from the session, if it is there.

    key: everything else that the value depends on. An id in the key belongs to an object that the session keeps.
    """
    current = _session.get() or _Session()
    whole = (id(encoder), *key)
    if whole not in current.memory:
        current.memory[whole] = compute(), encoder
    return current.memory[whole][0]


def labelled_features(
    encoder: Encoder, data: str | LabelledSet, split: str, kind: Kind = "features", batch_size: int = BATCH
) -> LabelledFeatures:
    """Extract one split of labelled images, or recall it from the session.

    data: an open set, or a spec that `open_labelled` takes. split: `train`, `val`, `test`; or `untrained` for protocols
    that train nothing: the test split, or all images of a set without splits.
    """
    opened = labelled_set(data) if isinstance(data, str) else data
    labelled, found = _split(opened, split), _extracted(encoder, opened, split, batch_size)
    assert found is not None  # nobody asks while processes share the images
    labels = labelled.labels[found.kept]
    return LabelledFeatures(
        labelled.name,
        found.values if kind == "features" else embeddings(encoder, found.values),
        labels,
        labelled.class_names,
        labelled.named,
        len(found.skipped),
        labelled.split,
        labelled.location,
        fingerprint.of_labelled(found.digests, labels.tolist(), labelled.class_names),
        Samples(found.kept, found.digests, labelled.class_names),
    )


def share(encoder: Encoder, data: LabelledSet, splits: Sequence[str], batch_size: int = BATCH) -> None:
    """Compute features of a set's splits, so that `labelled_features` finds them in the session."""
    for split in splits:
        _extracted(encoder, data, split, batch_size)


def _extracted(encoder: Encoder, opened: LabelledSet, split: str, batch_size: int) -> Features | None:
    """Return the features of a split, from the session if it has them."""
    labelled = _split(opened, split)
    label = f"{labelled.name} {labelled.split}"
    return once(
        encoder,
        opened,
        labelled.split,  # of a set with splits, `untrained` is the test split
        part=lambda share: batches_of(encoder, labelled.images, batch_size, label, share),
        join=lambda batch: checked(batch, len(labelled.images), label),
    )


def _split(opened: LabelledSet, split: str) -> Labelled:
    return opened.untrained() if split == "untrained" else opened.split(split)


@contextmanager
def evaluating(encoder: Encoder) -> Iterator[None]:
    """Put the encoder's model into evaluation mode, and afterwards put every module back into its earlier mode."""
    model = encoder.model
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def extract(
    encoder: Encoder,
    images: Sequence[Any],
    kind: Kind = "features",
    batch_size: int = BATCH,
    label: str = "images",
) -> Features:
    """Return features or embeddings of N images, in their order, as float32.

    images: anything indexable whose items `encoder.preprocess` takes. Reading and decoding run in threads, one batch
    ahead of the tower. An image that raises DataError is skipped and counted, and a note names the first reason.

    Raises EvaluationError if no image can be read or a feature is not finite.
    """
    found = checked(batches_of(encoder, images, batch_size, label), len(images), label)
    return found if kind == "features" else replace(found, values=embeddings(encoder, found.values))


def batches_of(
    encoder: Encoder,
    images: Sequence[Any],
    batch_size: int,
    label: str,
    share: Callable[[range], Sequence[int]] = lambda starts: starts,
) -> Batch:
    """Return the features of a set's batches as one batch. share: chooses batches by their first indices."""
    current = _session.get() or _Session()
    extraction = _Extraction(encoder, images, batch_size, label, current)
    return extraction.of(share(range(0, len(images), batch_size)))


def checked(batch: Batch, total: int, label: str) -> Features:
    """Return the features of a whole set, with a note on skipped images. Raises EvaluationError if none is readable."""
    skipped = batch.skipped
    if not len(batch.kept):
        raise EvaluationError(
            f"None of the {total} {label} can be read",
            cause=skipped[0].reason if skipped else "There are none",
        )
    if skipped:
        note(f"{len(skipped)} of {total} {label} skipped; the first: {skipped[0].reason}")
    return Features(batch.values, batch.kept, skipped, batch.digests)


def features_of(encoder: Encoder, pixels: Tensor, label: str) -> np.ndarray:
    """Return the features (N, D) float32 of pixels (N, 3, S, S) uint8, computed in the precision of the session.

    Raises EvaluationError if a feature is not finite.
    """
    return _Extraction(encoder, (), len(pixels), label, _session.get() or _Session())._features(pixels)


def embeddings(encoder: Encoder, features: np.ndarray) -> np.ndarray:
    """Return the normalised embeddings (N, E) of features (N, D), both float32."""
    with evaluating(encoder):
        parts = [
            encoder.project(torch.from_numpy(features[start : start + BATCH]).to(encoder.device))
            .cpu()
            .numpy()
            for start in range(0, max(1, len(features)), BATCH)
        ]
    return _finite(np.concatenate(parts), "images")


@dataclass
class _Extraction:
    """Features of a set's images, batch by batch. The index of its first image identifies a batch."""

    encoder: Encoder
    images: Sequence[Any]
    size: int
    label: str
    session: _Session

    def of(self, starts: Sequence[int]) -> Batch:
        """Return the features of some batches, in their order, from the cache if it has them."""
        cache = None
        if self.session.cache:
            cache = self.session.cache.of(self.encoder, self.session.precision)
        found: dict[int, Batch] = {}
        with (
            counting(sum(map(len, map(self._indices, starts))), self.label) as advance,
            evaluating(self.encoder),
        ):
            if cache and not cache.empty:
                for start, digests in self._digests(starts):
                    if known := cache.read(digests):
                        found[start] = known.moved(start, self.label)
                        advance(len(digests))
            missing = [start for start in starts if start not in found]
            for start, pictures, batch in self._computed(missing):
                found[start] = batch
                if cache:
                    cache.write(pictures, batch.moved(-start, self.label))
                advance(len(pictures))
        none = Batch(np.empty((0, 0), np.float32), np.empty(0, np.int64), ())
        return Batch.joined([none, *(found[start] for start in starts)])

    def _indices(self, start: int) -> range:
        return range(start, min(start + self.size, len(self.images)))

    def _digests(self, starts: Sequence[int]) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the digests of each batch's pictures, which are read but not decoded."""

        def digest(index: int) -> bytes:
            try:
                return fingerprint.of_picture(self.images[index])
            except DataError as error:
                return _unreadable(error)

        indices = (index for start in starts for index in self._indices(start))
        with chunks_ahead(digest, indices, self.size) as batches:
            yield from zip(starts, batches)

    def _computed(self, starts: Sequence[int]) -> Iterator[tuple[int, list[bytes], Batch]]:
        """Yield for each batch the digests of its pictures, and its features."""
        preprocess = self.encoder.preprocess

        def prepare(index: int) -> _Prepared:
            digest = b""
            try:
                image = self.images[index]
                digest = fingerprint.of_picture(image)
                return _Prepared(index, preprocess.pixels(image), digest)
            except DataError as error:
                return _Prepared(index, None, digest or _unreadable(error), str(error))

        indices = (index for start in starts for index in self._indices(start))
        with chunks_ahead(prepare, indices, self.size) as batches:
            for start, batch in zip(starts, batches):
                good = [one for one in batch if one.pixels is not None]
                pixels = torch.stack([one.pixels for one in good if one.pixels is not None]) if good else None
                values = np.empty((0, 0), np.float32) if pixels is None else self._features(pixels)
                kept = np.array([one.index for one in good], dtype=np.int64)
                skipped = [
                    Skipped(one.index, str(one.index), self.label, one.why) for one in batch if one.why
                ]
                told = tuple(one.digest for one in good)
                yield start, [one.digest for one in batch], Batch(values, kept, told, tuple(skipped))

    def _features(self, pixels: Tensor) -> np.ndarray:
        """Return the features (N, D) float32 of pixels (N, 3, S, S) uint8."""
        images = self.encoder.preprocess.normalised(pixels.to(self.encoder.device))
        precision = self.session.precision
        lower: Any = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(precision)
        values = self.encoder.image_features(images, numpy=True, autocast=lower)
        if lower and precision not in (told := _told.setdefault(self.encoder, set())):
            told.add(precision)
            exact = self.encoder.image_features(images, numpy=True)
            apart = np.linalg.norm(values - exact, axis=1) / np.linalg.norm(exact, axis=1).clip(1e-12)
            note(
                f"The image tower computes in {str(precision).removeprefix('torch.')}. On {len(exact)} images, "
                f"features differ from float32 by {apart.mean():.2%} on average, {apart.max():.2%} at most."
            )
        return _finite(values, self.label)


def _unreadable(error: DataError) -> bytes:
    """Return a digest for a picture that cannot be read. It depends on the reason."""
    return fingerprint.of_picture(str(error).encode("utf-8", "surrogatepass"))


def has_text(encoder: Encoder) -> bool:
    """Return whether the model has a text tower."""
    return encoder.model.text_tower is not None


def require_text(encoder: Encoder, task: str) -> None:
    """Raise EvaluationError if the model has no text tower, which `task` needs."""
    if not has_text(encoder):
        raise EvaluationError(
            f"{task} needs a text tower, and this model has none",
            cause="The model was trained with an image-only objective such as SimCLR",
            fix="Measure it with linear, knn or finetune, or train with 'clip' among the objectives.",
        )


def encode_texts(
    encoder: Encoder, texts: Sequence[str], batch_size: int = BATCH, *, normalize: bool = True
) -> np.ndarray:
    """Return the (N, D) float32 embeddings of N texts, of length 1 unless `normalize` is false.

    Texts with about as many tokens go through the tower together, so hardly anything is computed for padding.
    """
    order = np.argsort(_lengths(encoder, texts), kind="stable").tolist()
    encode = encoder.encode_text if normalize else partial(encoder.encode_text, normalize=False)
    rows = []
    with evaluating(encoder):
        for start in range(0, len(order), batch_size):
            chunk = [texts[i] for i in order[start : start + batch_size]]
            rows.append(encode(chunk).float().cpu().numpy())
    values = _finite(np.concatenate(rows), "texts")
    result = np.empty_like(values)
    result[order] = values
    return result


def _lengths(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Return how many tokens each of N texts has. Tokenizing again for the tower takes 0.1 % of the tower's time."""
    parts = (encoder.tokenize(texts[i : i + TOKENIZED]) for i in range(0, len(texts), TOKENIZED))
    return np.concatenate([(tokens != 0).sum(dim=1).cpu().numpy() for tokens in parts])


class _Prepared(NamedTuple):
    """An image on its way: pixels (3, S, S) uint8, or `why` there are none; digest: of the picture."""

    index: int
    pixels: Tensor | None
    digest: bytes
    why: str = ""


def _finite(values: np.ndarray, label: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"The model's outputs for {label} are not finite",
            cause="The weights diverged in training, or are damaged",
            fix="Take an earlier checkpoint, or train with a lower learning rate.",
        )
    return values


def shows_progress() -> bool:
    """Return whether the session shows progress."""
    current = _session.get()
    return current is not None and current.progress


@contextmanager
def counting(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts finished images. The count is shown if the session shows progress."""
    if not shows_progress():
        yield lambda done: None
        return
    with Progress(label, total, transient=True, brief=True) as bar:
        yield bar.advance
