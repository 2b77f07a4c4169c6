"""Features on disk: a model's features of a batch of pictures are computed once, for all later measurements.

The cache has a folder for every model, with a file for each batch. The name of a file is a digest of its batch's
pictures. So a batch has another file once a picture changes, comes or goes, and nothing that is read is stale. Features
are kept as they were computed, bit for bit.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from openslip.data.record import Skipped
from openslip.errors import EvaluationError, note
from openslip.evaluation.kept_outcomes import DAMAGED
from openslip.files import expand, read_whole, whole_or_not
from openslip.models.weights import digest

if TYPE_CHECKING:
    import torch

    from openslip.encoder import Encoder

FORMAT = 1
"""The version of the files, and of the way features are computed. With another version, all are computed anew."""
LARGEST = 4 << 30
"""The most bytes of a file."""


@dataclass(frozen=True)
class Batch:
    """Features of neighbouring pictures of a set, K of which could be read.

    values: (K, D) float32; kept: (K,) their indices in the set; digests: a digest of each (see
    `fingerprint.of_picture`); skipped: the other pictures. beside: a text for each of the K pictures, or nothing.
    """

    values: np.ndarray
    kept: np.ndarray
    digests: tuple[bytes, ...]
    skipped: tuple[Skipped, ...] = ()
    beside: tuple[str, ...] = ()

    @classmethod
    def joined(cls, batches: Sequence[Self]) -> Self:
        """Return several batches, at least one, as one batch in their order."""
        dim = max(batch.values.shape[1] for batch in batches)
        return cls(
            np.concatenate([batch.values.reshape(len(batch.values), dim) for batch in batches]),
            np.concatenate([batch.kept for batch in batches]),
            tuple(digest for batch in batches for digest in batch.digests),
            tuple(one for batch in batches for one in batch.skipped),
            tuple(one for batch in batches for one in batch.beside),
        )

    def to_bytes(self) -> bytes:
        """Return the batch as a file's content: arrays of NumPy."""
        file = io.BytesIO()
        skipped = [[one.index, one.key, one.source, one.reason] for one in self.skipped]
        told = json.dumps([skipped, self.beside]).encode("utf-8", "surrogatepass")
        np.savez(
            file,
            values=self.values,
            kept=self.kept,
            digests=np.array([one.hex() for one in self.digests], dtype="S32"),
            told=np.frombuffer(told, np.uint8),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the batch that `to_bytes` wrote. Raises one of DAMAGED for anything else."""
        with ZipFile(io.BytesIO(data)) as archive:
            # A few bytes of a compressed file could expand to any size.
            if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()):
                raise ValueError("Its arrays are compressed")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            values, kept, digests = (file[name] for name in ("values", "kept", "digests"))
            skipped, beside = json.loads(file["told"].tobytes().decode("utf-8", "surrogatepass"))
        if values.ndim != 2 or values.dtype != np.float32 or not len(values) == len(kept) == len(digests):
            raise ValueError("These are not features")
        told = tuple(bytes.fromhex(one.decode()) for one in digests.tolist())
        return cls(values, kept, told, tuple(Skipped(*one) for one in skipped), tuple(beside))

    def check_of(self, pictures: Sequence[bytes]) -> None:
        """Raise ValueError unless the batch is of pictures with these digests, with indices from 0."""
        kept, skipped = self.kept.tolist(), [one.index for one in self.skipped]
        if (
            sorted([*kept, *skipped]) != list(range(len(pictures)))
            or kept != sorted(kept)
            or any(type(index) is not int for index in (*kept, *skipped))
            or list(self.digests) != [pictures[index] for index in kept]
            or not all(
                isinstance(text, str) for text in (*self.beside, *(one.reason for one in self.skipped))
            )
            or not np.isfinite(self.values).all()
        ):
            raise ValueError("These are features of other pictures")

    def moved(self, by: int, label: str) -> Self:
        """Return the batch with indices that are `by` higher. label: the name of the pictures, for skipped ones."""
        skipped = tuple(
            Skipped(one.index + by, str(one.index + by), label, one.reason) for one in self.skipped
        )
        return type(self)(self.values, self.kept + by, self.digests, skipped)


class FeatureCache:
    """A folder of features of any number of models. Several processes may use it at once.

    Raises EvaluationError if the folder cannot be created.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expand(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationError(
                "The folder for features cannot be created",
                got=str(folder),
                cause=error.strerror or str(error),
                fix="Name another folder with --cache, or for a suite with --out",
            ) from None

    def of(self, encoder: Encoder, dtype: torch.dtype) -> ModelCache:
        """Return the cache of a model whose image tower computes in the given precision."""
        told = {
            "format": FORMAT,
            "tower": digest(encoder.model.image_tower),
            # Weights do not determine everything: the activation, for example, is only in the configuration.
            "model": asdict(encoder.config.model.image),
            "preprocess": asdict(encoder.preprocess),
            "precision": str(dtype),
        }
        return ModelCache(self.folder / _digest(told))


class ModelCache:
    """The features of one model: a file for each batch of pictures, found by the pictures' digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._full = False

    @property
    def empty(self) -> bool:
        return not self.folder.exists()

    def read(self, pictures: Sequence[bytes]) -> Batch | None:
        """Return the features of pictures with these digests, with indices from 0; None if there are no usable ones."""
        try:
            found = Batch.from_bytes(read_whole(self.folder / _name(pictures), LARGEST))
            found.check_of(pictures)
            return found
        except DAMAGED:
            return None

    def write(self, pictures: Sequence[bytes], batch: Batch) -> None:
        """Keep a batch, with indices from 0. If a batch cannot be written, a note says so once, and none is kept."""
        if self._full or not all(pictures):
            return
        try:
            self.folder.mkdir(exist_ok=True)
            with whole_or_not(self.folder / _name(pictures), durable=False) as file:
                file.write(batch.to_bytes())
        except OSError as error:
            self._full = True
            note(
                f"Features cannot be kept in {self.folder} ({error.strerror or error}); they are computed anew."
            )


def _name(pictures: Sequence[bytes]) -> str:
    return f"{_digest([one.hex() for one in pictures])}.npz"


def _digest(told: Any) -> str:
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()
