"""Pair choice: is the right caption nearer to a picture than a caption that is nearly the same?

For two pictures and two captions (Winoground; Thrush et al. 2022, equations 1 to 3), with s the cosine similarity:
`text_score`: each picture's caption is nearer to it than the other's: s(C0, I0) > s(C1, I0) and s(C1, I1) > s(C0, I1).
`image_score`: each caption's picture is nearer to it than the other's: s(C0, I0) > s(C0, I1) and s(C1, I1) > s(C1, I0).
`group_score`: both. By chance these are 25 %, 25 % and 16.7 %.

For one picture (SugarCrepe; Hsieh et al. 2023), `top1`: its caption is nearer to it than each wrong caption.

Ties count against the model. `METRIC[CATEGORY]` is the metric of a category's examples alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from openslip.data.choices import Choices, open_choices
from openslip.data.labelled import dataset_name
from openslip.errors import EvaluationError, note
from openslip.evaluation import Result, fingerprint, settings
from openslip.evaluation.features import (
    BATCH,
    Features,
    batches_of,
    checked,
    embeddings,
    encode_texts,
    once,
    require_text,
)
from openslip.evaluation.metrics import mean_per_class_interval, wilson_clustered
from openslip.evaluation.opened import Kept, location
from openslip.evaluation.outcomes import Outcomes

if TYPE_CHECKING:
    from openslip.encoder import Encoder


@dataclass(frozen=True)
class Pairs(Kept[Choices]):
    """group_score, text_score and image_score, or top1, of examples as `open_choices` opens them.

    The same metrics of each category follow. Examples with a picture that cannot be read are skipped and counted.
    """

    dataset: str
    image_root: str = ""
    image_column: str = ""
    caption_column: str = ""
    batch_size: int = BATCH
    needs_text = True

    @property
    def name(self) -> str:
        return f"pairs:{dataset_name(self.dataset)}"

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        columns = settings(self, "image_root", "image_column", "caption_column")
        return {"data": location(self.dataset), "settings": columns}

    def check(self) -> None:
        """Raise DataError for examples that cannot be opened."""
        self.keep()

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        data = self.opened()
        kinds = [f"{kind} {count:,}" for kind, count in Counter(data.categories).items() if kind]
        of = f" ({', '.join(kinds[:10])}{', …' if len(kinds) > 10 else ''})" if kinds else ""
        what = "two pictures and two captions" if data.both else "a picture with right and wrong captions"
        return [f"{dataset_name(self.dataset)}: {len(data):,} examples of {what}{of}", *data.notes]

    def open(self) -> Choices:
        """Open the examples."""
        return open_choices(
            self.dataset,
            image_root=self.image_root,
            image_column=self.image_column,
            caption_column=self.caption_column,
        )

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a model without text, or if no example is left."""
        require_text(encoder, self.name)
        data = self.opened()
        found = self._extracted(encoder, data)
        assert found is not None  # nobody evaluates while processes share the images
        pictured = embeddings(encoder, found.values).astype(np.float64)
        # Pictures of equal bytes share one embedding, and so do equal texts: rounding must not decide between them.
        first: dict[bytes, int] = {}
        rows = {
            index: first.setdefault(digest or index.to_bytes(8, "little"), row)
            for row, (index, digest) in enumerate(zip(found.kept.tolist(), found.digests))
        }
        usable = [i for i, pictures in enumerate(data.pictures) if all(one in rows for one in pictures)]
        if not usable:
            raise EvaluationError(f"{self.name} has no example left whose pictures can be read")
        if lost := len(data) - len(usable):
            note(f"{self.name}: {lost:,} of {len(data):,} examples skipped: their pictures cannot be read.")
        texts: dict[str, int] = {}
        for i in usable:
            for caption in data.captions[i]:
                texts.setdefault(caption, len(texts))
        embedded = encode_texts(encoder, list(texts), self.batch_size).astype(np.float64)
        scored = []
        for i in usable:
            pictures = [rows[one] for one in data.pictures[i]]
            told = "\n".join(
                [*(found.digests[row].hex() for row in pictures), *data.captions[i], data.categories[i]]
            )
            similarities = _similarities(
                pictured[pictures],
                embedded[[texts[caption] for caption in data.captions[i]]],
            )
            scored.append((told, pictures[0], data.categories[i], similarities))
        scored.sort(key=lambda one: one[0])  # results do not depend on the order of the examples
        about: dict[str, Any] = self.about() | {"content": fingerprint.of_all(one[0] for one in scored)}
        about["skipped"] = lost + data.left_out
        groups = np.array([picture for _, picture, *_ in scored])
        categories = [category for *_, category, _ in scored]
        hits = (both_scores if data.both else right_caption)([similarities for *_, similarities in scored])
        samples = fingerprint.of_samples((told,) for told, *_ in scored)
        results = [self._result(metric, each, groups, samples, about) for metric, each in hits.items()]
        if len({*categories}) > 1 and not data.both:
            results.append(self._mean_per_category(hits["top1"], categories, samples, about))
        for kind in sorted({*categories} - {""}):
            rows_of = np.array([category == kind for category in categories])
            name = kind.replace("/", "-").replace("[", "(").replace("]", ")")
            results += [
                self._result(f"{metric}[{name}]", each[rows_of], groups[rows_of], samples[rows_of], about)
                for metric, each in hits.items()
            ]
        return results

    def share(self, encoder: Encoder) -> None:
        """Have all processes compute the features that `evaluate` needs. Every process must call this method."""
        self._extracted(encoder, self.opened())

    def _extracted(self, encoder: Encoder, data: Choices) -> Features | None:
        images = data.images
        return once(
            encoder,
            images,
            part=lambda share: batches_of(encoder, images, self.batch_size, self.name, share),
            join=lambda batch: checked(batch, len(images), self.name),
        )

    def _result(
        self, metric: str, hits: np.ndarray, groups: np.ndarray, samples: np.ndarray, about: dict[str, Any]
    ) -> Result:
        """Return the share of hits. Examples of one picture form a group."""
        outcomes = Outcomes(hits, groups=groups, samples=samples)
        found = outcomes.value(), len(hits), *wilson_clustered(hits, groups)
        return Result(self.name, metric, *found, **about, outcomes=outcomes)

    def _mean_per_category(
        self, hits: np.ndarray, categories: list[str], samples: np.ndarray, about: dict[str, Any]
    ) -> Result:
        classes = np.unique(categories, return_inverse=True)[1].ravel()
        outcomes = Outcomes(hits, "mean_per_class", classes, samples=samples)
        found = outcomes.value(), len(hits), *mean_per_class_interval(hits, classes)
        return Result(self.name, "mean_per_category", *found, **about, outcomes=outcomes)


def both_scores(similarities: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the group, text and image scores (N,) of N examples, float64 of 0 and 1.

    similarities: N arrays (2, 2), [i, j] for picture i and caption j.
    """
    s = np.stack(similarities)
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    scores = {"group_score": text & image, "text_score": text, "image_score": image}
    return {name: score.astype(np.float64) for name, score in scores.items()}


def right_caption(similarities: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return whether the first caption of each of N examples is the nearest, float64 of 0 and 1, as top1 (N,).

    similarities: N arrays (1, K), for the picture and K captions, of which the first is right.
    """
    hits = [bool((s[0, :1] > s[0, 1:]).all()) for s in similarities]
    return {"top1": np.array(hits, dtype=np.float64)}


def _similarities(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the cosine similarities (P, K) of embeddings (P, D) and (K, D): equal ones for equal embeddings.

    A matrix product does not promise that, because it may sum each row in another order.
    """
    return (images[:, None, :] * texts[None]).sum(axis=-1)
