"""Retrieval: find a picture by its caption, and a caption by its picture.

`text_recall@k`: the queries are images; a hit when any caption of the image is among the k nearest of all captions.
`image_recall@k`: the queries are captions; a hit when any image it belongs to is among the k nearest of all images.
`text_median_rank`, `image_median_rank`: the median over the queries of the best right answer's rank, from 1.

What belongs together: an image and its own captions; captions equal after lower-casing and collapsing white space are
one caption, so an image is right for a caption if any equal one is its own; records with the same image bytes (a table
of one row a caption) are one image. Ties count against the model: of equally near answers the wrong ones come first,
so a model that maps everything to one point scores 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openslip.data.contents import losses
from openslip.data.labelled import dataset_name
from openslip.data.record import Source, as_source
from openslip.errors import ConfigError, DataError, note
from openslip.evaluation import Result, fingerprint, settings
from openslip.evaluation.feature_cache import Batch
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
from openslip.evaluation.metrics import median_interval, wilson, wilson_clustered
from openslip.evaluation.opened import Kept, location
from openslip.evaluation.outcomes import Outcomes

if TYPE_CHECKING:
    from openslip.encoder import Encoder

SIMILARITIES = 2**24
"""Similarities held at a time."""


@dataclass(frozen=True)
class Retrieval(Kept[Source]):
    """Recall both ways on a captioned source, given open or as what `open_source` takes.

    task: the name of the results; empty: `retrieval:` and the source's name. image_root, image_column, caption_column,
    leave_broken: as `open_source` takes them. Images without any caption are left out.
    """

    source: Source | str
    task: str = ""
    image_root: str = ""
    image_column: str = ""
    caption_column: str = ""
    ks: tuple[int, ...] = (1, 5, 10)
    batch_size: int = BATCH
    leave_broken: bool = False
    needs_text = True

    @property
    def name(self) -> str:
        spec = self.source if isinstance(self.source, str) else self.source.name
        return self.task or f"retrieval:{dataset_name(spec)}"

    def about(self) -> dict[str, str]:
        """Return what tells this measurement from others."""
        columns = settings(self, "image_root", "image_column", "caption_column", "leave_broken")
        return {"data": location(self.source), "settings": columns}

    def check(self) -> None:
        """Raise DataError or ConfigError for a source that cannot be opened, ConfigError for ranks below 1."""
        if not self.ks or min(self.ks) < 1:
            raise ConfigError("Recall is counted among the k nearest, at least 1", got=f"ks={self.ks}")
        self.keep()

    def lines(self) -> list[str]:
        """Return sentences for people about what is measured on."""
        source = self.opened()
        lines = [f"{self.name.partition(':')[2] or self.name}: {len(source):,} records"]
        return [*lines, *filter(None, (source.note, *losses(source)))]

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a model without text, DataError without captions."""
        require_text(encoder, self.name)
        source = self.opened()
        extracted = self._extracted(encoder, source)
        assert extracted is not None  # nobody evaluates while processes share the images
        captioned, found = extracted
        images, texts, image_ids, text_ids = captioned.pairs(found.kept)
        if not texts:
            raise DataError(f"{self.name} has no image with a caption", got=len(source))
        if without := len(found.kept) - sum(bool(captioned.captions[i]) for i in found.kept):
            note(f"{self.name}: {without} images without a caption left out.")
        text_ranks, image_ranks = ranks(
            embeddings(encoder, found.values)[images],
            encode_texts(encoder, texts, self.batch_size),
            image_ids,
            text_ids,
            encoder.device,
        )
        about: dict[str, Any] = self.about() | {"content": captioned.content(found.kept)}
        digests = [captioned.digests[index] for index in found.kept[images].tolist()]
        asked = [(digests[image], texts[text]) for image, text in zip(image_ids.tolist(), text_ids.tolist())]
        sides = (
            ("text", text_ranks, np.arange(len(text_ranks)), [(digest,) for digest in digests]),
            ("image", image_ranks, image_ids, asked),
        )
        return [
            result
            for side, rank, groups, samples in sides
            for result in self._results(
                side, rank, groups, fingerprint.of_samples(samples), len(found.skipped), about
            )
        ]

    def share(self, encoder: Encoder) -> None:
        """Have all processes compute the features that `evaluate` asks for; all must call it."""
        self._extracted(encoder, self.opened())

    def _extracted(self, encoder: Encoder, source: Source) -> tuple[_Captioned, Features] | None:
        def part(share: Callable[[range], Sequence[int]]) -> Batch:
            captioned = _Captioned(source)
            found = batches_of(encoder, captioned, self.batch_size, self.name, share)
            told = [json.dumps(captioned.captions[index]) for index in found.kept.tolist()]
            return replace(found, beside=tuple(told))

        def join(batch: Batch) -> tuple[_Captioned, Features]:
            captioned = _Captioned(source)
            for index, told, digest in zip(batch.kept.tolist(), batch.beside, batch.digests):
                captioned.captions[index], captioned.digests[index] = tuple(json.loads(told)), digest
            return captioned, checked(batch, len(source), self.name)

        return once(encoder, source, part=part, join=join)

    def open(self) -> Source:
        """Open the source, unless it was given open."""
        from openslip.data.sources import open_source

        if not isinstance(self.source, str):
            return as_source(self.source)
        return open_source(
            self.source,
            image_root=self.image_root,
            image_column=self.image_column,
            caption_column=self.caption_column,
            leave_broken=self.leave_broken,
        )

    def _results(
        self,
        side: str,
        rank: np.ndarray,
        groups: np.ndarray,
        samples: np.ndarray,
        skipped: int,
        about: dict[str, Any],
    ) -> list[Result]:
        """Recall@k and median rank of one direction; queries of one group are of one image. samples: the queries."""
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
    p < P: the distinct pairs of an image and a caption of it, every image and text in at least one. A text that stands
    with m images is m captions in the gallery, and m queries.
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
    """Rank of each query's best right answer among the gallery, whose entries count `copies` times each."""
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


class _Captioned(Sequence[Any]):
    """A source's images, whose captions are remembered as they pass, so that each record is read once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.captions: dict[int, tuple[str, ...]] = {}
        self.digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        record = self.source[index]
        plain = (" ".join(caption.lower().split()) for caption in record.captions)
        self.captions[index] = tuple(dict.fromkeys(caption for caption in plain if caption))
        self.digests[index] = fingerprint.of_picture(record.image)
        return record.image

    def content(self, kept: np.ndarray) -> str:
        """Return a digest of the pictures of `kept` and their captions, in whatever order they lie."""
        told = (
            "\n".join([self.digests[index].hex(), *sorted(self.captions[index])]) for index in kept.tolist()
        )
        return fingerprint.of_all(sorted(told))

    def pairs(self, kept: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
        """Return rows of `kept` with one record per distinct captioned image, the distinct texts, and the pairs."""
        images: dict[bytes, int] = {}
        rows: list[int] = []
        texts: dict[str, int] = {}
        pairs: dict[tuple[int, int], None] = {}
        for row, index in enumerate(kept.tolist()):
            for caption in self.captions[index]:
                image = images.setdefault(self.digests[index], len(images))
                if image == len(rows):
                    rows.append(row)
                pairs[image, texts.setdefault(caption, len(texts))] = None
        ids = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
        return np.array(rows, dtype=np.int64), list(texts), ids[:, 0].copy(), ids[:, 1].copy()
