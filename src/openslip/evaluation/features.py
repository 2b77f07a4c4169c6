"""Images through the encoder, in batches, once each.

Inside `with session():` a labelled split that several protocols need goes through the image tower once; outside, every
call computes anew, because the encoder may have been trained on in between. The model is in evaluation mode meanwhile,
and afterwards in the mode it was in.

Several processes share the batches of a set, which are the same whatever their number. So the features are, too.
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
"""`features`: the image tower's, before any projection. `embeddings`: in the space shared with text, normalised."""

BATCH = 256
TOKENIZED = 2**14
"""Texts whose tokens are held at a time."""


@dataclass(frozen=True)
class Features:
    """K of N images that could be read. values: (K, D) float32; kept: (K,) their indices; skipped: the others.

    digests: what tells each of the K from others (see `fingerprint.of_picture`).
    """

    values: np.ndarray
    kept: np.ndarray
    skipped: tuple[Skipped, ...]
    digests: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class LabelledFeatures:
    """One split as a classifier sees it: (K, D) float32 values, (K,) int64 labels, and what could not be read.

    content: a digest of pictures, labels and class names. samples: which of the split's pictures these are.
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
        """Return what results on them say of the data; train: what a classifier was fitted on."""
        content = fingerprint.of_all([train.content, self.content]) if train else self.content
        return {"data": self.location, "split": self.split, "content": content}


@dataclass
class _Session:
    """What the evaluators of a suite have in common. memory: what was extracted, with what its key has the id of.
    ranks: the processes that share the images now. parts: what was computed for all, and how it is joined."""

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
"""Of which models was said how exact their features are in which precision."""


@contextmanager
def session(
    progress: bool = False,
    *,
    precision: torch.dtype = torch.float32,
    cache: FeatureCache | None = None,
) -> Iterator[None]:
    """Share labelled features between the evaluators run inside; the encoder must not change meanwhile.

    progress: show a bar for each pass over images, where standard error is a terminal, else a line now and then.
    precision: what the image tower computes in. cache: where features are kept, and found.
    """
    token = _session.set(_Session(progress, precision, cache))
    try:
        with shared():
            yield
    finally:
        _session.reset(token)


@contextmanager
def sharing(ranks: Processes) -> Iterator[None]:
    """Within, what `once` is asked for is computed in part, for `gather` to put together; all processes must ask for
    the same, in the same order."""
    current = _session.get()
    assert current is not None  # there is nowhere else to leave what was computed
    current.ranks, current.parts = ranks, {}
    try:
        yield
    finally:
        current.ranks = Processes()


def gather(ranks: Processes) -> None:
    """Have on the first process what all have computed while sharing; all must call it.

    Raises EvaluationError on the first process where no image can be read.
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
    """Return what is extracted of a model and data, from the session where it has been extracted.

    part: takes a function that says which of the batches' first indices this process is to compute, and computes them.
    join: makes of all of them what is wanted, and checks it. While sharing, the result is None.
    """
    current = _session.get() or _Session()
    whole = (id(encoder), id(data), *key)
    if whole in current.memory:
        return current.memory[whole][0]
    share: Callable[[range], Sequence[int]] = current.ranks.share
    if current.ranks.world > 1:
        if whole not in current.parts:
            current.parts[whole] = part(share), join, encoder, data  # which keep their ids
        return None
    found = join(part(share))
    current.memory[whole] = found, encoder, data
    return found


def remembered(encoder: Encoder, *key: object, compute: Callable[[], T]) -> T:
    """Return what is computed of a model on the first process, such as texts, from the session where it has been.

    key: what else it depends on. An id among it is of an object that the session keeps.
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

    data: an open set, or what `open_labelled` takes. split: `train`, `val`, `test`; or `untrained`, the test split,
    else all there is, for protocols that train nothing.
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
    """Return the features of a split, from the session where it has them."""
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
    """Have the encoder's model in evaluation mode, and afterwards every module in the mode it was in."""
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
    """Return what `encoder` makes of N images, in their order, as float32.

    images: anything indexable whose items `encoder.preprocess` takes. Reading and decoding run in threads, one batch
    ahead of the tower. An image that raises DataError is skipped, counted and said.

    Raises EvaluationError when no image can be read or a feature is not finite.
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
    """Return the features of a set's batches as one, or of those that `share` chooses by their first indices."""
    current = _session.get() or _Session()
    extraction = _Extraction(encoder, images, batch_size, label, current)
    return extraction.of(share(range(0, len(images), batch_size)))


def checked(batch: Batch, total: int, label: str) -> Features:
    """Return the features of a whole set, and say what is skipped. Raises EvaluationError without a readable image."""
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

    Raises EvaluationError when a feature is not finite.
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
    """Features of a set's images, batch by batch. A batch is called by the index of its first image."""

    encoder: Encoder
    images: Sequence[Any]
    size: int
    label: str
    session: _Session

    def of(self, starts: Sequence[int]) -> Batch:
        """Return the features of some batches, in their order, from the cache where it has them."""
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
        """Yield of each batch the digests of its pictures, for which they are read and not decoded."""

        def digest(index: int) -> bytes:
            try:
                return fingerprint.of_picture(self.images[index])
            except DataError as error:
                return _unreadable(error)

        indices = (index for start in starts for index in self._indices(start))
        with chunks_ahead(digest, indices, self.size) as batches:
            yield from zip(starts, batches)

    def _computed(self, starts: Sequence[int]) -> Iterator[tuple[int, list[bytes], Batch]]:
        """Yield of each batch the digests of its pictures, and its features."""
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
    """Return a digest for a picture that cannot be read: another one when the reason is another."""
    return fingerprint.of_picture(str(error).encode("utf-8", "surrogatepass"))


def has_text(encoder: Encoder) -> bool:
    """Tell whether the model was built with a text tower."""
    return encoder.model.text_tower is not None


def require_text(encoder: Encoder, task: str) -> None:
    """Raise EvaluationError when `task` needs a text tower and the model has none."""
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

    Texts of as many tokens go together, whatever their order, so hardly anything is computed for padding.
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
    """Return how many tokens each of N texts has. They are made again for the tower, which takes 0.1 % of its time."""
    parts = (encoder.tokenize(texts[i : i + TOKENIZED]) for i in range(0, len(texts), TOKENIZED))
    return np.concatenate([(tokens != 0).sum(dim=1).cpu().numpy() for tokens in parts])


class _Prepared(NamedTuple):
    """An image on its way: pixels (3, S, S) uint8, or `why` there are none; digest: which picture it is."""

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
    """Return whether the session shows how far the work is."""
    current = _session.get()
    return current is not None and current.progress


@contextmanager
def counting(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts images done, which are shown where the session asks for it."""
    if not shows_progress():
        yield lambda done: None
        return
    with Progress(label, total, transient=True, brief=True) as bar:
        yield bar.advance
