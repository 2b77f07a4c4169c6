"""The parts that runs of `slip embed` write before an index is whole, and the embeddings that later runs reuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from openslip.errors import DataError
from openslip.files import read_json
from openslip.search.index import CAPTIONS, PARTS, RECORDS, VECTORS, Index

if TYPE_CHECKING:
    import pyarrow as pa


class Part:
    """The files of one finished chunk; the description is written last."""

    DONE = ".json"

    def __init__(self, folder: Path, number: int) -> None:
        self.vectors = folder / f"{number:06d}.npy"
        self.texts = folder / f"{number:06d}.captions.npy"
        self.records = folder / f"{number:06d}.parquet"
        self.described = folder / f"{number:06d}{self.DONE}"


class Old(NamedTuple):
    """The place of an embedding of an earlier run: the number of its store in `Pool.stores`, and its row."""

    store: int
    row: int


class _Store(NamedTuple):
    """Embeddings (N, D) of an earlier run, and its captions, with embeddings `texts` (M, D) if these were computed.

    firsts: for each record, the row of its first caption in `texts`.
    """

    vectors: np.ndarray
    texts: np.ndarray | None
    captions: pa.ChunkedArray
    firsts: np.ndarray
    digests: pa.ChunkedArray


class Pool:
    """The embeddings of earlier runs with the same model, by file and by content; about 300 bytes a picture."""

    def __init__(self, out: Path, about: Mapping[str, Any], but: Path) -> None:
        """but: the folder of parts to leave out, because other ranks may have begun to fill it."""
        self.stores: list[_Store] = []
        self._by_file: dict[tuple[str, str], Old] = {}
        self._by_content: dict[str, Old] = {}
        self.whole: _Store | None = None
        try:
            index = Index.open(out)
        except DataError:
            index = None
        if index and _same_numbers(index.about, about):
            self._add(out / VECTORS, out / CAPTIONS, out / RECORDS)
            self.whole = self.stores[0] if self.stores else None
        for described in sorted((out / PARTS).glob(f"*/*{Part.DONE}")):
            part = Part(described.parent, int(described.name.removesuffix(Part.DONE)))
            if described.parent == but:
                continue
            with suppress(OSError, ValueError, KeyError, TypeError):
                if _same_numbers(read_json(described)["about"], about) and part.vectors.exists():
                    self._add(part.vectors, part.texts, part.records)

    def of_file(self, path: str, stamp: str) -> Old | None:
        return self._by_file.get((path, stamp))

    def of_content(self, digest: str) -> Old | None:
        return self._by_content.get(digest)

    def gone(self, digests: pa.ChunkedArray) -> int:
        """Return how many pictures of the earlier index are not among these."""
        if self.whole is None:
            return 0
        there = set(digests.to_pylist())
        return sum(digest not in there for digest in self.whole.digests.to_pylist())

    def digest(self, old: Old) -> str:
        return self.stores[old.store].digests[old.row].as_py()

    def vector(self, old: Old) -> np.ndarray:
        return self.stores[old.store].vectors[old.row]

    def texts(self, old: Old, captions: tuple[str, ...]) -> np.ndarray | None:
        """Return the embeddings of a record's captions (n, D), if the captions are unchanged; else None."""
        store = self.stores[old.store]
        if store.texts is None or tuple(store.captions[old.row].as_py()) != captions:
            return None
        first = int(store.firsts[old.row])
        return store.texts[first : first + len(captions)]

    def _add(self, vectors: Path, texts: Path, records: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            found = pq.read_table(records, columns=["path", "stamp", "digest", "captions"], memory_map=True)
            mapped = np.load(vectors, mmap_mode="r", allow_pickle=False)
            mapped_texts = np.load(texts, mmap_mode="r", allow_pickle=False) if texts.exists() else None
        except (OSError, ValueError, pa.ArrowException):
            return  # of a run that was killed: its pictures are embedded again
        if len(mapped) != len(found):
            return
        lengths = [chunk.value_lengths().to_numpy() for chunk in found["captions"].chunks]
        firsts = np.cumsum(np.concatenate([[0], *lengths]))
        number = len(self.stores)
        self.stores.append(_Store(mapped, mapped_texts, found["captions"], firsts, found["digest"]))
        files = zip(found["path"].to_pylist(), found["stamp"].to_pylist(), found["digest"].to_pylist())
        for row, (path, stamp, digest) in enumerate(files):
            old = Old(number, row)
            self._by_content[digest] = old
            if path and stamp:
                self._by_file[path, stamp] = old


def _same_numbers(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the embeddings of an earlier run are those that this run would compute."""
    return (
        before["model"]["fingerprint"] == now["model"]["fingerprint"]
        and before["precision"] == now["precision"]
    )


def join(file: IO[bytes], paths: Sequence[Path]) -> int:
    """Write the arrays (n, D) of some files as one (N, D) float16; return D."""
    shapes = list(map(_shape, paths))
    dim = max(shape[1] for shape in shapes)
    header = {"descr": "<f2", "fortran_order": False, "shape": (sum(shape[0] for shape in shapes), dim)}
    np.lib.format.write_array_header_1_0(file, header)
    for path, shape in zip(paths, shapes):
        if shape[0]:
            file.write(np.ascontiguousarray(load(path)).data)
    return dim


def load(path: Path) -> np.ndarray:
    """Return the array (n, D) of a part's file; an empty one, (0, D), fits between others of any D."""
    return np.load(path, allow_pickle=False)


def _shape(path: Path) -> tuple[int, ...]:
    """Return the shape of the array in a part's file, even of an empty array, which cannot be mapped."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[0]
