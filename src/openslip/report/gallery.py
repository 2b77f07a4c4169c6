"""What a model says about pictures: answers, retrieval and neighbours for pictures drawn at random, as plain data.

Nothing here picks good examples: pictures and captions are a function of the seed, and failures are shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from openslip.data.record import Source, as_source
from openslip.errors import DataError, EvaluationError
from openslip.report.picture_map import PictureMap, picture_map

if TYPE_CHECKING:
    from torch import Tensor

    from openslip.encoder import Encoder
    from openslip.report.similarity import Heats

SIDE = 192
"""Side in pixels of a picture in the page; smaller ones stay as they are."""
NEIGHBOUR_SIDE = 128
FEWEST_WORDS = 3
"""Captions with fewer words ("untitled", "IMG 2034") are not used as queries: nobody can say what they should find."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: pixels (H, W, 3) uint8, captions, the true class if it is known, and its side in the page."""

    pixels: np.ndarray
    captions: tuple[str, ...]
    label: int | None
    side: int = SIDE

    @property
    def alt(self) -> str:
        """The text for people who cannot see the picture: its first caption."""
        return next((caption for caption in self.captions if caption.strip()), "picture without a caption")

    def data_url(self) -> str:
        """Return the middle square as a small JPEG, ready for an <img>."""
        return data_url(self.pixels, self.side)


@dataclass(frozen=True)
class Answer:
    """One possible answer of a model, how sure the model is (a share, or None), and whether it is right (None: not
    known)."""

    text: str
    share: float | None
    right: bool | None

    @property
    def percent(self) -> str:
        """How sure the model is, in percent, for an answer with a share."""
        share = self.share or 0.0
        return f"{share:.0%}" if share >= 0.005 else "<1%"


@dataclass(frozen=True)
class Reading:
    """A picture, the model's answers, best first, and the truth if it is known.

    rank: place of the first right answer among all possible answers, from 1.
    """

    picture: Picture
    answers: tuple[Answer, ...]
    truth: str | None = None
    rank: int | None = None

    @property
    def right(self) -> bool | None:
        return self.answers[0].right

    @property
    def missed(self) -> bool:
        """Whether none of the answers is known to be right."""
        return not any(answer.right for answer in self.answers)


@dataclass(frozen=True)
class Search:
    """A query (words or a picture) and the pictures found, best first; own: which of them carry the same caption.

    rank: place of the first such picture among all, from 1; None if there is none.
    """

    query: str | Picture
    found: tuple[Picture, ...]
    own: tuple[bool, ...]
    rank: int | None = None


@dataclass(frozen=True)
class Gallery:
    """All answers of one model; a list is empty if the model or the data cannot give it."""

    pool: tuple[Picture, ...] = ()
    unreadable: int = 0
    examples: tuple[Reading, ...] = ()
    searches: tuple[Search, ...] = ()
    readings: tuple[Reading, ...] = ()
    neighbours: tuple[Search, ...] = ()
    map: PictureMap | None = None
    heats: tuple[Heats, ...] = ()
    captions: int = 0

    @property
    def judged(self) -> list[bool]:
        """Whether the first answer is right, for each example whose truth is known."""
        return [reading.right for reading in self.examples if reading.right is not None]


def gather(
    encoder: Encoder | None,
    pictures: Source,
    *,
    class_names: Sequence[str] = (),
    templates: Sequence[str] = ("a {}",),
    labels: Sequence[int] | None = None,
    captions: Sequence[str] = (),
    seed: int = 0,
    pool: int = 500,
    examples: int = 12,
) -> Gallery:
    """Ask a model about `pool` pictures drawn at random from `pictures`.

    captions: queries to search with; default: six of the pool's own. Without an encoder the gallery has only the pool;
    without a text tower it has neighbours and a map, too.
    """
    from openslip.evaluation.zeroshot import classifier
    from openslip.report.similarity import similarity_maps

    shown, unreadable = read_pool(pictures, labels, pool, seed)
    if encoder is None or not shown:
        return Gallery(pool=tuple(shown), unreadable=unreadable)
    images = _numbers(encoder.encode_image([picture.pixels for picture in shown]))
    alone = Gallery(
        tuple(shown), unreadable, neighbours=_neighbours(shown, images, 4), map=picture_map(shown, images)
    )
    candidates = _distinct(caption for picture in shown for caption in picture.captions)
    queries = list(captions) or draw_captions(candidates, 6, seed)
    try:
        scale = float(encoder.logit_scale)
        texts, asked = (
            _numbers(encoder.encode_text(words)) if words else None for words in (candidates, queries)
        )
    except EvaluationError:
        return alone
    classes = classifier(encoder, class_names, templates) if class_names else None
    readings = _readings(shown, images, candidates, texts, examples) if texts is not None else ()
    owned = [(reading.picture, reading.truth) for reading in readings if reading.truth is not None]
    return replace(
        alone,
        examples=_examples(shown[:examples], images, classes, class_names, scale)
        if classes is not None
        else (),
        searches=_searches(shown, images, queries, asked) if asked is not None else (),
        readings=readings,
        heats=similarity_maps(encoder, [picture for picture, _ in owned], [caption for _, caption in owned]),
        captions=len(candidates),
    )


def read_pool(
    source: Source, labels: Sequence[int] | None, count: int, seed: int
) -> tuple[list[Picture], int]:
    """Return up to `count` pictures in random order, and how many of those drawn could not be read."""
    from openslip.data.decode import decode

    source = as_source(source)
    label_of = source.label if labels is None else labels.__getitem__
    pictures, unreadable = [], 0
    for index in np.random.default_rng(seed).permutation(len(source))[:count].tolist():
        try:
            record = source[index]
            pixels = decode(record.image)
        except DataError:
            unreadable += 1
            continue
        label = label_of(index)
        pictures.append(Picture(pixels, record.captions, None if label is None else int(label)))
    return pictures, unreadable


def draw_captions(captions: Sequence[str], count: int, seed: int) -> list[str]:
    """Return `count` captions of at least `FEWEST_WORDS` words, at random."""
    usable = [caption for caption in captions if len(caption.split()) >= FEWEST_WORDS]
    chosen = np.random.default_rng([seed, 1]).permutation(len(usable))[:count]
    return [usable[i] for i in chosen]


def rank_of_first(similarity: np.ndarray, own: np.ndarray) -> int | None:
    """Return the place, from 1, of the most similar item that is `own`; None if there is none."""
    if not own.any():
        return None
    return 1 + int((similarity[~own] > similarity[own].max()).sum())


def normal(caption: str) -> str:
    """Return a caption in a form in which captions are equal if they differ only in case and spaces."""
    return " ".join(caption.lower().split())


def data_url(pixels: np.ndarray, side: int = SIDE) -> str:
    """Return the middle square of an RGB picture (H, W, 3), at most `side` wide, as a JPEG data URL."""
    from PIL import Image

    height, width = pixels.shape[:2]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    image = Image.fromarray(np.ascontiguousarray(pixels[top : top + square, left : left + square]))
    if square > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _examples(
    shown: Sequence[Picture], images: np.ndarray, classes: np.ndarray, names: Sequence[str], scale: float
) -> tuple[Reading, ...]:
    """Zero-shot answers: the three likeliest classes, with the softmax over all classes as confidence."""
    logits = scale * images[: len(shown)] @ classes.T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    readings = []
    for picture, row in zip(shown, shares):
        known = picture.label is not None and 0 <= picture.label < len(names)
        answers = tuple(
            Answer(names[i], float(row[i]), i == picture.label if known else None) for i in _top(row, 3)
        )
        own = np.arange(len(names)) == picture.label
        truth = names[picture.label] if known and picture.label is not None else None
        readings.append(Reading(picture, answers, truth, rank_of_first(row, own)))
    return tuple(readings)


def _searches(
    shown: Sequence[Picture], images: np.ndarray, queries: Sequence[str], asked: np.ndarray
) -> tuple[Search, ...]:
    """Text to pictures: the five most similar of the pool."""
    keys = [{normal(caption) for caption in picture.captions} for picture in shown]
    searches = []
    for query, similarity in zip(queries, asked @ images.T):
        own = np.array([normal(query) in key for key in keys])
        top = _top(similarity, 5)
        found, hits = tuple(shown[i] for i in top), tuple(bool(own[i]) for i in top)
        searches.append(Search(query, found, hits, rank_of_first(similarity, own)))
    return tuple(searches)


def _readings(
    shown: Sequence[Picture], images: np.ndarray, candidates: Sequence[str], texts: np.ndarray, skip: int
) -> tuple[Reading, ...]:
    """Picture to text: the three most similar of the pool's captions, for other pictures than the examples."""
    start = skip if len(shown) >= skip + 6 else 0
    chosen = [i for i in range(start, len(shown)) if any(map(str.strip, shown[i].captions))][:6]
    readings = []
    for i in chosen:
        own_keys = {normal(caption) for caption in shown[i].captions}
        own = np.array([normal(caption) in own_keys for caption in candidates])
        similarity = texts @ images[i]
        top = _top(similarity, 3)
        answers = tuple(Answer(candidates[j], None, bool(own[j])) for j in top)
        truth = candidates[int(np.where(own, similarity, -np.inf).argmax())]
        readings.append(Reading(shown[i], answers, truth, rank_of_first(similarity, own)))
    return tuple(readings)


def _neighbours(shown: Sequence[Picture], images: np.ndarray, count: int) -> tuple[Search, ...]:
    """Picture to pictures: the five most similar others, of the pool's last pictures, which nothing else shows."""
    small = [replace(picture, side=NEIGHBOUR_SIDE) for picture in shown]
    searches = []
    for i in range(max(0, len(shown) - count), len(shown)):
        top = [j for j in _top(images @ images[i], 6) if j != i][:5]
        same = tuple(shown[i].label is not None and shown[j].label == shown[i].label for j in top)
        searches.append(Search(small[i], tuple(small[j] for j in top), same))
    return tuple(searches)


def _top(similarity: np.ndarray, count: int) -> list[int]:
    """Return the indices of the largest values, best first."""
    return [int(i) for i in np.argsort(-similarity, kind="stable")[:count]]


def _numbers(embeddings: Tensor) -> np.ndarray:
    """Return embeddings (N, D) as a float32 array."""
    return embeddings.float().cpu().numpy()


def _distinct(captions: Iterable[str]) -> list[str]:
    """Return the captions that are not empty, each once."""
    return list({normal(caption): caption for caption in captions if caption.strip()}.values())
