"""Images through the encoder, in batches, once each.

`extract` does the work. Inside `with session():` a labelled split that several protocols need goes through the image
tower once; outside, every call computes anew, because the encoder may have been trained on in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from slip.data.fanout import default_processes
from slip.data.record import Skipped
from slip.errors import DataError, EvaluationError
from slip.evaluation import note
from slip.evaluation.datasets import Labelled, open_labelled
from slip.progress import Bar

if TYPE_CHECKING:
    from slip.encoder import Encoder

Kind = Literal["features", "embeddings"]
"""`features`: the image tower's, before any projection. `embeddings`: in the space shared with text, normalised."""

BATCH = 256


@dataclass(frozen=True)
class Features:
    """K of N images that could be read. values: (K, D) float32; kept: (K,) their indices; skipped: the others."""

    values: np.ndarray
    kept: np.ndarray
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class LabelledFeatures:
    """One split as a classifier sees it: (K, D) float32 values, (K,) int64 labels, and what could not be read."""

    name: str
    values: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    named: bool
    skipped: int
    split: str
    place: str

    @property
    def about(self) -> dict[str, str]:
        """What results on them say of the data."""
        return {"data": self.place, "split": self.split}


@dataclass
class _Session:
    progress: bool = False
    memory: dict[tuple[object, ...], LabelledFeatures] = field(default_factory=dict)


_session: ContextVar[_Session | None] = ContextVar("slip_evaluation_session", default=None)


@contextmanager
def session(progress: bool = False) -> Iterator[None]:
    """Share labelled features between the evaluators run inside; the encoder must not change meanwhile.

    progress: show a bar for each pass over images, where standard error is a terminal.
    """
    token = _session.set(_Session(progress))
    try:
        yield
    finally:
        _session.reset(token)


def labelled_features(
    encoder: Encoder, spec: str, split: str, kind: Kind = "features", batch_size: int = BATCH
) -> LabelledFeatures:
    """Extract one split of labelled images (see `open_labelled`), or recall it from the session.

    split: `train`, `val`, `test`; or `untrained`, the test split,
    else all there is, for protocols that train nothing.
    """
    current = _session.get()
    key = (id(encoder), spec, split, kind)
    if current is not None and key in current.memory:
        return current.memory[key]
    opened = open_labelled(spec)
    labelled: Labelled = opened.untrained() if split == "untrained" else opened.split(split)
    found = extract(encoder, labelled.images, kind, batch_size, label=f"{labelled.name} {labelled.split}")
    result = LabelledFeatures(
        labelled.name,
        found.values,
        labelled.labels[found.kept],
        labelled.class_names,
        labelled.named,
        len(found.skipped),
        labelled.split,
        labelled.place,
    )
    if current is not None:
        current.memory[key] = result
    return result


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
    skipped: list[Skipped] = []
    with ThreadPoolExecutor(_threads()) as pool, _bar(len(images), label) as advance:
        for batch in _batches(encoder, images, batch_size, pool):
            good = [(i, value) for i, value in batch if isinstance(value, Tensor)]
            skipped += [Skipped(i, str(i), label, value) for i, value in batch if isinstance(value, str)]
            if good:
                pixels = torch.stack([value for _, value in good]).to(encoder.device)
                rows.append(encode(pixels).float().cpu().numpy())
                kept += [i for i, _ in good]
            advance(len(batch))
    if not rows:
        raise EvaluationError(
            f"None of the {len(images)} {label} can be read",
            cause=skipped[0].reason if skipped else "There are none",
        )
    if skipped:
        note(f"{len(skipped)} of {len(images)} {label} skipped; the first: {skipped[0].reason}")
    return Features(_finite(np.concatenate(rows), label), np.array(kept, dtype=np.int64), tuple(skipped))


def has_text(encoder: Encoder) -> bool:
    """Tell whether the model was built with a text tower."""
    return "text" in encoder.model.embeddings


def require_text(encoder: Encoder, task: str) -> None:
    """Raise EvaluationError when `task` needs a text tower and the model has none."""
    if not has_text(encoder):
        raise EvaluationError(
            f"{task} needs a text tower, and this model has none",
            cause="It was trained with an image-only objective such as SimCLR",
            fix="Measure it with linear, knn or finetune, or train with 'clip' among the objectives.",
        )


def encode_texts(encoder: Encoder, texts: Sequence[str], batch_size: int = BATCH) -> np.ndarray:
    """Return the (N, D) float32 normalised embeddings of N texts; long ones go together, so padding stays short."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = []
    for start in range(0, len(order), batch_size):
        chunk = [texts[i] for i in order[start : start + batch_size]]
        rows.append(encoder.encode_text(chunk).float().cpu().numpy())
    values = _finite(np.concatenate(rows), "texts")
    result = np.empty_like(values)
    result[order] = values
    return result


def _batches(
    encoder: Encoder, images: Sequence[Any], batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[list[tuple[int, Tensor | str]]]:
    """Yield (index, pixels or the reason there are none), preparing the next batch meanwhile."""

    def prepare(index: int) -> tuple[int, Tensor | str]:
        try:
            return index, encoder.preprocess(images[index])
        except DataError as error:
            return index, str(error)

    def submit(start: int) -> list[Any]:
        return [pool.submit(prepare, i) for i in range(start, min(start + batch_size, len(images)))]

    ahead = submit(0)
    for start in range(0, len(images), batch_size):
        current, ahead = ahead, submit(start + batch_size)
        yield [future.result() for future in current]


def _finite(values: np.ndarray, label: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"What the model makes of {label} is not finite",
            cause="Its weights diverged in training, or are damaged",
            fix="Take an earlier checkpoint, or train with a lower learning rate.",
        )
    return values


def _threads() -> int:
    return min(8, default_processes())


@contextmanager
def _bar(total: int, label: str) -> Iterator[Any]:
    """Yield a function that counts images done, shown where the session asks for it and someone can see it."""
    current = _session.get()
    if current is None or not current.progress:
        yield lambda done: None
        return
    with Bar(label, total, transient=True) as bar:
        yield lambda done: bar.update(done=bar.done + done)
