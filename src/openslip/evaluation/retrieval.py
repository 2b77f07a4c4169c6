"""Retrieval: find a picture by its caption, and a caption by its picture.

`text_recall@k`: the queries are images; a hit if any caption of the image is among the k nearest of all captions.
`image_recall@k`: the queries are captions; a hit if any image of the caption is among the k nearest of all images.
`text_median_rank`, `image_median_rank`: the median over the queries of the best right answer's rank, from 1.

`openslip.evaluation.captioned` says which images and captions belong together. Ties count against the model: of equally
near answers the wrong ones come first. So a model that maps everything to one point scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openslip.errors import ConfigError
from openslip.evaluation import Result, fingerprint, settings
from openslip.evaluation.captioned import OnCaptioned
from openslip.evaluation.features import require_text
from openslip.evaluation.metrics import median_interval, wilson, wilson_clustered
from openslip.evaluation.outcomes import Outcomes

if TYPE_CHECKING:
    from openslip.encoder import Encoder

SIMILARITIES = 2**24
"""Similarities held at a time."""


@dataclass(frozen=True)
class Retrieval(OnCaptioned):
    """Recall in both directions on a captioned source. ks: the values of k for recall@k.

    folds: the number of parts into which the records are cut, in their order. Each part ranks only its own images and
    captions, and the numbers are over the queries of all parts.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    folds: int = 1
    needs_text = True
    protocol = "retrieval"

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        about, folds = super().about(), settings(self, "folds")
        return about | {"settings": ", ".join(filter(None, (about["settings"], folds)))}

    def check(self) -> None:
        """Raise DataError or ConfigError for a source that cannot be opened, ConfigError for ranks below 1."""
        if not self.ks or min(self.ks) < 1:
            raise ConfigError("Recall@k needs one k or more, each at least 1", got=f"ks={self.ks}")
        if self.folds < 1:
            raise ConfigError("Retrieval takes 1 fold or more", got=f"folds={self.folds}")
        super().check()
        if self.folds > (records := len(self.opened())):
            raise ConfigError(
                "There are more folds than records", got=f"folds={self.folds}, records {records:,}"
            )

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a model without text, DataError without captions."""
        require_text(encoder, self.name)
        found = self.embedded(encoder)
        assert found.texts is not None  # by construction: the model has a text tower
        text_ranks, image_ranks = _ranks_in_folds(
            found.images,
            found.texts,
            found.image_ids,
            found.text_ids,
            found.records * self.folds // len(self.opened()),
            encoder.device,
        )
        about: dict[str, Any] = self.about() | {"content": found.content}
        ids = zip(found.image_ids.tolist(), found.text_ids.tolist())
        asked = [(found.digests[image], found.captions[text]) for image, text in ids]
        sides = (
            ("text", text_ranks, np.arange(len(text_ranks)), [(digest,) for digest in found.digests]),
            ("image", image_ranks, found.image_ids, asked),
        )
        return [
            result
            for side, rank, groups, samples in sides
            for result in self._results(
                side, rank, groups, fingerprint.of_samples(samples), found.skipped, about
            )
        ]

    def _results(
        self,
        side: str,
        rank: np.ndarray,
        groups: np.ndarray,
        samples: np.ndarray,
        skipped: int,
        about: dict[str, Any],
    ) -> list[Result]:
        """Return recall@k and median rank of one direction. groups: the image of each query. samples: the queries."""
        results = []
        for k in self.ks:
            hits = (rank <= k).astype(np.float64)
            interval = wilson(hits.sum(), len(hits)) if side == "text" else wilson_clustered(hits, groups)
            found = float(hits.mean()), len(hits), *interval
            outcomes = Outcomes(hits, groups=groups, samples=samples)
            results.append(
                Result(self.name, f"{side}_recall@{k}", *found, skipped, **about, outcomes=outcomes)
            )
        found = float(np.median(rank)), len(rank), *median_interval(rank)
        outcomes = Outcomes(rank, "median", groups=groups, samples=samples)
        return [
            *results,
            Result(self.name, f"{side}_median_rank", *found, skipped, **about, outcomes=outcomes),
        ]


def _ranks_in_folds(
    images: np.ndarray,
    texts: np.ndarray,
    image_ids: np.ndarray,
    text_ids: np.ndarray,
    folds: np.ndarray,
    device: torch.device | str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return `ranks` within folds. folds: (I,) the fold of each image, and so of its captions."""
    text_ranks = np.zeros(len(images), dtype=np.int64)
    image_ranks = np.zeros(len(image_ids), dtype=np.int64)
    for fold in np.unique(folds):
        own, pairs = np.flatnonzero(folds == fold), np.flatnonzero(folds[image_ids] == fold)
        captions, text_of = np.unique(text_ids[pairs], return_inverse=True)
        image_of = np.searchsorted(own, image_ids[pairs])
        text_ranks[own], image_ranks[pairs] = ranks(
            images[own], texts[captions], image_of, text_of.ravel(), device
        )
    return text_ranks, image_ranks


@torch.no_grad()
def ranks(
    images: np.ndarray,
    texts: np.ndarray,
    image_ids: np.ndarray,
    text_ids: np.ndarray,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank, from 1, of the best right answer: (I,) for each image, (P,) for each of P caption queries.

    images: (I, D) and texts: (T, D) embeddings, each image and each distinct text once. (image_ids[p], text_ids[p]),
    p < P: the distinct pairs of an image and one of its captions; every image and text is in at least one pair. A text
    that belongs to m images counts as m captions in the gallery, and as m queries.
    """
    copies = np.bincount(text_ids, minlength=len(texts))
    once = np.ones(len(images), dtype=np.int64)
    text_ranks = _best_ranks(images, texts, image_ids, text_ids, copies, device)
    image_ranks = _best_ranks(texts, images, text_ids, image_ids, once, device)
    return text_ranks, image_ranks[text_ids]


def _best_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    copies: np.ndarray,
    device: torch.device | str,
) -> np.ndarray:
    """Return the rank of each query's best right answer in the gallery. Each entry counts `copies` times."""
    order = np.argsort(query_ids, kind="stable")
    row, column = torch.from_numpy(query_ids[order]), torch.from_numpy(gallery_ids[order])
    keys = torch.from_numpy(gallery).to(device)
    # counts up to 2^24 are exact in fp32, and a matrix product is the fast way to add them up
    weight = torch.from_numpy(copies).to(device, torch.float32)
    result: list[torch.Tensor] = []
    step = max(1, SIMILARITIES // len(gallery))
    for start in range(0, len(queries), step):
        scores = torch.from_numpy(queries[start : start + step]).to(device) @ keys.T
        first, last = np.searchsorted(query_ids[order], [start, start + step])
        r, c = (row[first:last] - start).to(device), column[first:last].to(device)
        best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, r, scores[r, c], "amax")
        scores[r, c] = -torch.inf
        result.append((~(scores < best[:, None])).float() @ weight + 1)
    return torch.cat(result).long().cpu().numpy()
