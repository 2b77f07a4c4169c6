"""Captioned pictures through both towers: each picture and each caption once, shared by the protocols that need them.

An image belongs to its own captions. Captions that are equal in lower case, with white space collapsed, are one
caption. So an image is right for a caption if the image has an equal caption. Records with the same image bytes, as in
a table with one row a caption, are one image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from openslip.data.contents import losses
from openslip.data.labelled import dataset_name
from openslip.data.record import Source, as_source
from openslip.data.sources.karpathy import with_split
from openslip.errors import ConfigError, DataError, SlipError, note
from openslip.evaluation import fingerprint, settings
from openslip.evaluation.feature_cache import Batch
from openslip.evaluation.features import (
    BATCH,
    Features,
    batches_of,
    checked,
    embeddings,
    encode_texts,
    has_text,
    once,
    remembered,
)
from openslip.evaluation.opened import Kept, location, opened_once

if TYPE_CHECKING:
    from openslip.encoder import Encoder


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of captioned pictures, normalised, float32.

    images: (I, D), texts: (T, D), each image and each distinct caption once. (image_ids[p], text_ids[p]), p < P: the
    distinct pairs of an image and one of its captions; every image and caption is in at least one pair. An image-only
    model has no texts, and all images, with captions or without. digests: I times 16 bytes; captions: T texts. skipped:
    images that could not be read. content: a digest of pictures and captions. records: (I,) the record of the source
    that each image comes from.
    """

    images: np.ndarray
    texts: np.ndarray | None
    image_ids: np.ndarray
    text_ids: np.ndarray
    digests: tuple[bytes, ...]
    captions: tuple[str, ...]
    skipped: int
    content: str
    records: np.ndarray


@dataclass(frozen=True)
class OnCaptioned(Kept[Source]):
    """An evaluator of a captioned source. The source is open, or a spec that `open_source` takes.

    task: the name of the results; empty: the protocol and the source's name. image_root, image_column, caption_column,
    leave_broken: as `open_source` takes them. Images without any caption are left out, except for image-only models.
    captions: how many of an image's captions count, the first ones; 0: all.
    """

    source: Source | str
    task: str = ""
    image_root: str = ""
    image_column: str = ""
    caption_column: str = ""
    batch_size: int = BATCH
    leave_broken: bool = False
    captions: int = 0
    protocol = ""
    captions_required = True  # a table without captions cannot be opened

    @property
    def name(self) -> str:
        spec = self.source if isinstance(self.source, str) else self.source.name
        return self.task or f"{self.protocol}:{dataset_name(spec)}"

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        names = ("image_root", "image_column", "caption_column", "leave_broken", "captions")
        source = with_split(self.source, "test") if isinstance(self.source, str) else self.source
        return {"data": location(source), "settings": settings(self, *names)}

    def check(self) -> None:
        """Raise DataError or ConfigError for a source that cannot be opened, ConfigError for less than 0 captions.

        If captions are required, raise DataError also for a source without captions, as far as that is known without
        reading pictures.
        """
        if self.captions < 0:
            raise ConfigError(
                "The number of captions per image is 0 (all) or more", got=f"captions={self.captions}"
            )
        source = self.keep()
        if self.captions_required and not _may_have_captions(source):
            raise _without_captions(source)

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        source = self.opened()
        lines = [f"{self.name.partition(':')[2] or self.name}: {len(source):,} records"]
        return [*lines, *filter(None, (source.note, *losses(source)))]

    def open(self) -> Source:
        """Open the source, unless it is open already. Within `opened.shared`, all protocols share one opened source."""
        from openslip.data.sources import open_source

        spec = self.source
        if not isinstance(spec, str):
            return as_source(spec)
        options: dict[str, Any] = {
            "image_root": self.image_root,
            "image_column": self.image_column,
            "caption_column": self.caption_column,
            "leave_broken": self.leave_broken,
            "split": "test",
        }

        def opened() -> Source:
            try:
                return open_source(spec, **options)
            except SlipError:
                if self.captions_required:
                    raise
                return open_source(spec, **options, captions_required=False)

        return opened_once(("captioned", spec, *options.values()), opened)

    def share(self, encoder: Encoder) -> None:
        """Have all processes compute the features that `evaluate` needs. Every process must call this method."""
        self._extracted(encoder, self.opened())

    def embedded(self, encoder: Encoder) -> Embeddings:
        """Return the embeddings of all pictures and captions. A session computes them once for all protocols.

        Raises DataError if the model has a text tower and the source has no caption.
        """
        source = self.opened()
        extracted = self._extracted(encoder, source)
        assert extracted is not None  # nobody evaluates while processes share the images
        # The session keeps the source, whose features it has.
        return remembered(
            encoder,
            "captioned",
            id(source),
            self.captions,
            compute=lambda: self._embedded(encoder, source, *extracted),
        )

    def _embedded(
        self, encoder: Encoder, source: Source, captioned: _Captioned, found: Features
    ) -> Embeddings:
        texts: list[str] = []
        image_ids = text_ids = np.empty(0, dtype=np.int64)
        rows = captioned.distinct(found.kept)
        if has_text(encoder):
            rows, texts, image_ids, text_ids = captioned.pairs(found.kept)
            if not texts:
                raise _without_captions(source)
            if without := len(found.kept) - sum(bool(captioned.captions[i]) for i in found.kept):
                note(f"{self.name}: {without} images without a caption are left out.")
        return Embeddings(
            embeddings(encoder, found.values)[rows],
            encode_texts(encoder, texts, self.batch_size) if texts else None,
            image_ids,
            text_ids,
            tuple(captioned.digests[index] for index in found.kept[rows].tolist()),
            tuple(texts),
            len(found.skipped),
            captioned.content(found.kept),
            found.kept[rows],
        )

    def _extracted(self, encoder: Encoder, source: Source) -> tuple[_Captioned, Features] | None:
        def part(share: Callable[[range], Sequence[int]]) -> Batch:
            captioned = _Captioned(source, self.captions)
            found = batches_of(encoder, captioned, self.batch_size, self.name, share)
            told = [json.dumps(captioned.captions[index]) for index in found.kept.tolist()]
            return replace(found, beside=tuple(told))

        def join(batch: Batch) -> tuple[_Captioned, Features]:
            captioned = _Captioned(source, self.captions)
            for index, told, digest in zip(batch.kept.tolist(), batch.beside, batch.digests):
                captioned.captions[index], captioned.digests[index] = tuple(json.loads(told)), digest
            return captioned, checked(batch, len(source), self.name)

        return once(encoder, source, self.captions, part=part, join=join)


def _may_have_captions(source: Source) -> bool:
    """Whether a record may have a caption. Only pictures that are separate files can tell without being read."""
    for index in range(len(source)):
        try:
            file = source.file(index)
        except DataError:  # the picture is not there, or its caption cannot be read
            return True
        if file is None or any(caption.strip() for caption in file.captions):
            return True
    return False


def _without_captions(source: Source) -> DataError:
    return DataError(
        "There is no image with a caption",
        got=f"{source.name}: {len(source):,} images",
        fix="Give captioned pictures, as `slip train --data.train` reads them; for pictures in folders of classes, "
        "measure zeroshot:FOLDER",
    )


class _Captioned(Sequence[Any]):
    """A source's images. Reading an image also remembers its captions, so that each record is read once."""

    def __init__(self, source: Source, most: int = 0) -> None:
        self.source, self.most = source, most or None
        self.captions: dict[int, tuple[str, ...]] = {}
        self.digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        record = self.source[index]
        plain = (" ".join(caption.lower().split()) for caption in record.captions[: self.most])
        self.captions[index] = tuple(dict.fromkeys(caption for caption in plain if caption))
        self.digests[index] = fingerprint.of_picture(record.image)
        return record.image

    def content(self, kept: np.ndarray) -> str:
        """Return a digest of the pictures of `kept` and their captions. Their order does not matter."""
        told = (
            "\n".join([self.digests[index].hex(), *sorted(self.captions[index])]) for index in kept.tolist()
        )
        return fingerprint.of_all(sorted(told))

    def distinct(self, kept: np.ndarray) -> np.ndarray:
        """Return rows of `kept` with one record per distinct image."""
        first: dict[bytes, int] = {}
        for row, index in enumerate(kept.tolist()):
            first.setdefault(self.digests[index], row)
        return np.array(list(first.values()), dtype=np.int64)

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
