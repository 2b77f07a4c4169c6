"""Images through the encoder, in batches, once each.

`extract` does the work. Inside `with session():` a labelled split that several protocols need goes through the image
tower once; outside, every call computes anew, because the encoder may have been trained on in between. The model is in
evaluation mode meanwhile, and afterwards in the mode it was in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from openslip.data.labelled import Labelled, LabelledSet
from openslip.data.record import Skipped
from openslip.errors import DataError, EvaluationError, note
from openslip.evaluation import fingerprint
from openslip.evaluation.classification import Samples
from openslip.evaluation.opened import labelled_set, shared
from openslip.pictures import chunks_ahead
from openslip.progress import Progress

if TYPE_CHECKING:
    from openslip.encoder import Encoder

Kind = Literal["features", "embeddings"]
"""`features`: the image tower's, before any projection. `embeddings`: in the space shared with text, normalised."""

BATCH = 256
TOKENIZED = 2**14
"""Texts whose tokens are held at a time."""
T = TypeVar("T")


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
    progress: bool = False
    memory: dict[tuple[object, ...], tuple[LabelledSet, LabelledFeatures]] = field(default_factory=dict)
    once: dict[tuple[object, ...], Any] = field(default_factory=dict)


_session: ContextVar[_Session | None] = ContextVar("slip_evaluation_session", default=None)


@contextmanager
def session(progress: bool = False) -> Iterator[None]:
    """Share labelled features between the evaluators run inside; the encoder must not change meanwhile.

    progress: show a bar for each pass over images, where standard error is a terminal, else a line now and then.
    """
    token = _session.set(_Session(progress))
    try:
        with shared():
            yield
    finally:
        _session.reset(token)


def labelled_features(
    encoder: Encoder, data: str | LabelledSet, split: str, kind: Kind = "features", batch_size: int = BATCH
) -> LabelledFeatures:
    """Extract one split of labelled images, or recall it from the session.

    data: an open set, or what `open_labelled` takes. split: `train`, `val`, `test`; or `untrained`, the test split,
    else all there is, for protocols that train nothing.
    """
    current = _session.get()
    opened = labelled_set(data) if isinstance(data, str) else data
    key = (id(encoder), id(opened), split, kind)
    if current is not None and key in current.memory:
        return current.memory[key][1]
    labelled: Labelled = opened.untrained() if split == "untrained" else opened.split(split)
    found = extract(encoder, labelled.images, kind, batch_size, label=f"{labelled.name} {labelled.split}")
    labels = labelled.labels[found.kept]
    result = LabelledFeatures(
        labelled.name,
        found.values,
        labels,
        labelled.class_names,
        labelled.named,
        len(found.skipped),
        labelled.split,
        labelled.location,
        fingerprint.of_labelled(found.digests, labels.tolist(), labelled.class_names),
        Samples(found.kept, found.digests, labelled.class_names),
    )
    if current is not None:
        current.memory[key] = opened, result  # with the set, so that no other gets its id
    return result


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
    encode = encoder.image_features if kind == "features" else encoder.encode_image
    rows: list[np.ndarray] = []
    kept: list[int] = []
    digests: list[bytes] = []
    skipped: list[Skipped] = []

    def prepare(index: int) -> _Prepared:
        try:
            image = images[index]
            return _Prepared(index, encoder.preprocess(image), fingerprint.of_picture(image))
        except DataError as error:
            return _Prepared(index, None, why=str(error))

    with (
        chunks_ahead(prepare, range(len(images)), batch_size) as batches,
        counting(len(images), label) as advance,
        evaluating(encoder),
    ):
        for batch in batches:
            good = [(one.index, one.pixels) for one in batch if one.pixels is not None]
            skipped += [Skipped(one.index, str(one.index), label, one.why) for one in batch if one.why]
            if good:
                pixels = torch.stack([value for _, value in good]).to(encoder.device)
                rows.append(encode(pixels).float().cpu().numpy())
                kept += [i for i, _ in good]
                digests += [one.digest for one in batch if one.pixels is not None]
            advance(len(batch))
    if not rows:
        raise EvaluationError(
            f"None of the {len(images)} {label} can be read",
            cause=skipped[0].reason if skipped else "There are none",
        )
    if skipped:
        note(f"{len(skipped)} of {len(images)} {label} skipped; the first: {skipped[0].reason}")
    values = _finite(np.concatenate(rows), label)
    return Features(values, np.array(kept, dtype=np.int64), tuple(skipped), tuple(digests))


def has_text(encoder: Encoder) -> bool:
    """Tell whether the model was built with a text tower."""
    return encoder.model.text_tower is not None


def require_text(encoder: Encoder, task: str) -> None:
    """Raise EvaluationError when `task` needs a text tower and the model has none."""
    if not has_text(encoder):
        raise EvaluationError(
            f"{task} needs a text tower, and this model has none",
            cause="It was trained with an image-only objective such as SimCLR",
            fix="Measure it with linear, knn or finetune, or train with 'clip' among the objectives.",
        )


def once(key: tuple[object, ...], compute: Callable[[], T]) -> T:
    """Return what `compute` gives, within a session computed once for each key.

    The encoder and whatever else the value depends on are part of the key, by their identity or their content.
    """
    current = _session.get()
    if current is None:
        return compute()
    if key not in current.once:
        current.once[key] = compute()
    return current.once[key]


def encode_texts(encoder: Encoder, texts: Sequence[str], batch_size: int = BATCH) -> np.ndarray:
    """Return the (N, D) float32 normalised embeddings of N texts.

    Texts of as many tokens go together, whatever their order, so hardly anything is computed for padding.
    """
    order = np.argsort(_lengths(encoder, texts), kind="stable").tolist()
    rows = []
    with evaluating(encoder):
        for start in range(0, len(order), batch_size):
            chunk = [texts[i] for i in order[start : start + batch_size]]
            rows.append(encoder.encode_text(chunk).float().cpu().numpy())
    values = _finite(np.concatenate(rows), "texts")
    result = np.empty_like(values)
    result[order] = values
    return result


def _lengths(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Return how many tokens each of N texts has. They are made again for the tower, which takes 0.1 % of its time."""
    parts = (encoder.tokenize(texts[i : i + TOKENIZED]) for i in range(0, len(texts), TOKENIZED))
    return np.concatenate([(tokens != 0).sum(dim=1).cpu().numpy() for tokens in parts])


class _Prepared(NamedTuple):
    """An image on its way: pixels, or `why` there are none; digest: which picture it is."""

    index: int
    pixels: Tensor | None
    digest: bytes = b""
    why: str = ""


def _finite(values: np.ndarray, label: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"What the model makes of {label} is not finite",
            cause="Its weights diverged in training, or are damaged",
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
