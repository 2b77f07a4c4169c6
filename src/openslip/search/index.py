"""An index: a folder of embeddings with the records of their pictures.

`slip embed` writes the folder, and all other commands of search read it.

    vectors.npy       (N, D) float16, of length 1: a memory-map that a search reads in blocks
    records.parquet   N rows: key, path, caption, captions, class, the user's own columns; record, digest, stamp; a map
    captions.npy      if captions were embedded: one row for each caption, in the order of the records
    skipped.jsonl     the records without embedding, and why
    index.json        the model with its fingerprint, and the source. Written last: without it, there is no index

All of these files can be opened without slip.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from openslip.data.preprocess import Preprocess
from openslip.errors import ConfigError, DataError, SlipError
from openslip.files import expand, read_json
from openslip.models.weights import digest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from openslip.data.record import Source
    from openslip.encoder import Encoder
    from openslip.search.hits import Hits
    from openslip.search.hnsw import Graph
    from openslip.search.where import Filter

VECTORS, CAPTIONS, RECORDS, SKIPPED, ABOUT = (
    "vectors.npy",
    "captions.npy",
    "records.parquet",
    "skipped.jsonl",
    "index.json",
)
GRAPH, GRAPH_ABOUT = "vectors.usearch", "vectors.usearch.json"
"""The files that `openslip.search.hnsw` writes beside the vectors when a search asks for a graph."""
PARTS = "parts"
"""The folder with the finished chunks of an unfinished run of `slip embed`."""
FORMAT = 1
_OPTIONS = ("image_root", "image_column", "caption_column", "label_column", "templates", "class_names")
ABOUT_KINDS: dict[str, Any] = {
    "format": int,
    "rows": int,
    "dim": int,
    "precision": str,
    "captions": bool,
    "model": {"spec": str, "which": str, "name": str, "fingerprint": str},
    "source": {"spec": str, "name": str, "options": {}},
}
"""The keys of `index.json`, with the types of their values."""
MAPPED = ("x", "y", "neighbors")
"""Columns of a map of the collection, which an index may have."""
OWN = ("key", "path", "caption", "captions", "class", "record", "digest", "stamp", *MAPPED)
"""Columns of `records.parquet` that slip writes. A user's column with one of these names gets the suffix `_2`.
A dot in the name of a user's column becomes `_`.

path: of the picture's file, null for a picture in a shard or table. caption: the first of `captions`. record: the
number of the record in the source. digest: a hash of the picture's bytes. stamp: size and time of change of its file.
x, y, neighbors: see `openslip.search.map`.
"""


class Index:
    """Embeddings of N pictures, with their records.

    vectors: (N, D) float16, a memory-map. about: the contents of `index.json`.

    Any number of threads may use one index.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.vectors: np.ndarray = _mapped(folder / VECTORS)
        self._lock = threading.RLock()
        self._given: Encoder | None = None
        self._graph: Graph | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        model: Encoder | str | Path | None = None,
        which: str = "",
    ) -> Self:
        """Open the index that `slip embed` wrote.

        model: the model that made the embeddings, or what `openslip.load` takes, if the model has moved; `open`
        compares its fingerprint. which: the checkpoint of a run, as `load` takes it.

        Raises DataError for a missing, unfinished or damaged index, and for an index of another model.
        """
        folder = expand(folder)
        about = _read_about(folder)
        index = cls(folder, about)
        index._check()
        if model is not None:
            index._given = index._same(_loaded(model, which or "latest"))
        return index

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """The number of dimensions of an embedding."""
        return self.vectors.shape[1]

    @cached_property
    def columns(self) -> dict[str, str]:
        """The names of the columns of the records, with the names of their Arrow types."""
        return {field.name: str(field.type) for field in self._parquet.schema_arrow}

    def search(
        self,
        query: Any,
        *,
        where: str = "",
        filters: Sequence[Filter] = (),
        top: int = 10,
        threshold: float | None = None,
        method: Literal["exact", "hnsw"] = "exact",
    ) -> Hits:
        """Return the pictures that are most similar to a query.

        query: a text; a picture as `Encoder.encode_image` takes one, or its path as a `Path` or as a text that looks
        like a path; the row of a picture of this index; an embedding (D,); or a mixture, as a text
        `"2:dress" + ./a.jpg - "long sleeves"` or as [(2, "dress"), (1, Path("a.jpg")), (-1, "long sleeves")].
        where: a condition on the columns, in SQL. filters: conditions that a program has put together. top: the most
        pictures to return. threshold: the least cosine similarity, -1 to 1.

        method: "exact" compares all pictures, and gives the same result every time. "hnsw" finds most of the nearest
        with a graph, and builds the graph if there is none (see `openslip.search.hnsw`); scores and order are exact.

        Raises ConfigError, DataError and EvaluationError as `query.vector_of` and `where.rows_where` do.
        """
        from openslip.search import exact
        from openslip.search.hits import Hits
        from openslip.search.query import notes_of, terms_of, vector_of
        from openslip.search.where import rows_where

        if not isinstance(top, int) or top < 1:
            raise ConfigError("A search returns 1 picture or more", got=f"top {top}")
        if threshold is not None and not -1 <= threshold <= 1:
            raise ConfigError(
                "A threshold is a cosine similarity, from -1 to 1", got=f"threshold {threshold}"
            )
        if method not in ("exact", "hnsw"):
            raise ConfigError("There is no such search method", got=method, fix="Known: exact, hnsw")
        terms = terms_of(query)
        among = rows_where(self, where, filters)
        vector = vector_of(self, terms)
        notes = notes_of(self.model, terms) if any(term.text for term in terms) else []
        if method == "hnsw":
            rows, scores, note = self.graph.nearest(vector, top, among)
            notes += [note] * bool(note)
        else:
            found = exact.nearest(vector[None], self.vectors, top, among)
            rows, scores = found.rows[0], found.scores[0]
        if threshold is not None:
            rows, scores = rows[scores >= threshold], scores[scores >= threshold]
        return Hits(self, rows, scores, len(self) if among is None else len(among), notes)

    @property
    def graph(self) -> Graph:
        """The graph that finds most of the nearest rows; it is built when there is none. Raises as `Graph.of` does."""
        return self.open_graph()

    def open_graph(self, *, shown: bool = False) -> Graph:
        """Return `graph`. shown: whether to show the progress of building the graph."""
        from openslip.search.hnsw import Graph

        with self._lock:
            if self._graph is None:
                self._graph = Graph.of(self, shown=shown)
            return self._graph

    def records(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Return these rows of the records, in this order. columns: the columns to read, None for all."""
        import pyarrow as pa

        wanted = np.asarray(rows, dtype=np.int64)
        groups, inverse = np.unique(np.searchsorted(self._ends, wanted, side="right"), return_inverse=True)
        with self._reading():
            tables = [self._parquet.read_row_group(int(group), columns=columns) for group in groups]
        if not tables:
            return self._parquet.schema_arrow.empty_table().select(
                columns or self._parquet.schema_arrow.names
            )
        lengths = np.cumsum([0, *(len(table) for table in tables)])
        firsts = np.concatenate([[0], self._ends])[groups]
        return pa.concat_tables(tables).take(wanted - firsts[inverse] + lengths[inverse])

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column of all records. Raises DataError if no column has this name."""
        if name not in self.columns:
            raise DataError(
                "The records have no such column", got=name, fix=f"Columns: {', '.join(self.columns)}"
            )
        with self._reading():
            return self._parquet.read(columns=[name]).column(0)

    def picture(self, row: int) -> bytes | np.ndarray:
        """Return the picture of a row: the bytes of its file, or RGB pixels (H, W, 3) uint8 of a rendered one.

        Raises DataError if the picture is gone, or has changed since it was embedded.
        """
        from openslip.data.sources.image_files import read_image
        from openslip.evaluation.fingerprint import of_picture

        found = self.records([row], ["key", "path", "record", "digest"]).to_pylist()[0]
        if found["path"]:
            picture: Any = read_image(found["path"])
        else:
            with self._lock:
                try:
                    picture = self.source[found["record"]].image
                except IndexError:
                    picture = b""
        if of_picture(picture).hex() != found["digest"]:
            raise DataError(
                "The picture is not the one that was embedded",
                got=found["path"] or found["key"],
                cause="It has changed since then",
                fix=f"Run `slip embed` with --out {self.folder} again: it embeds pictures that are new or have changed",
            )
        return picture

    @cached_property
    def source(self) -> Source:
        """The source of the pictures, opened again. Raises DataError if the source is gone."""
        from openslip.data.sources import open_source

        about = self.about["source"]
        if not about["spec"]:
            raise DataError(
                "A program handed in the source of this index, so its pictures cannot be opened again",
                got=about["name"],
            )
        with self._lock:
            options: Any = {name: str(value) for name, value in about["options"].items() if name in _OPTIONS}
            # Leave out shards that are broken now: the digest shows if a record has another picture.
            return open_source(
                about["spec"], **options, captions_required=False, must_fit=False, leave_broken=True
            )

    @property
    def model(self) -> Encoder:
        """The model of the embeddings, loaded when it is first needed.

        Raises DataError if the model is gone, or its weights have changed.
        """
        with self._lock:
            if self._given is None:
                about = self.about["model"]
                if not about["spec"]:
                    raise DataError(
                        "The index does not say where its model is",
                        cause="A program handed in the model",
                        fix="Name the model with --model, or in Python with Index.open(folder, model=…)",
                    )
                try:
                    found = _loaded(about["spec"], about["which"])
                except SlipError as error:
                    raise DataError(
                        "The model of the index cannot be loaded",
                        got=about["spec"],
                        cause=str(error),
                        fix="Name the model with --model, or in Python with Index.open(folder, model=…)",
                    ) from None
                self._given = self._same(found)
            return self._given

    def _same(self, model: Encoder) -> Encoder:
        """Return the model. Raises DataError if another model made the embeddings."""
        if fingerprint(model) != self.about["model"]["fingerprint"]:
            raise DataError(
                "The embeddings were made with another model",
                got=model.config.name or "a model",
                cause=f"They were made with {self.about['model']['spec'] or 'a model that a program handed in'}, whose "
                "weights or preprocessing were different then. Training a run further also changes its weights",
                fix="Name the model or checkpoint that made the embeddings with --model, or embed the pictures again "
                "with `slip embed … --replace`",
            )
        return model

    @cached_property
    def _parquet(self) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        with self._reading():
            return pq.ParquetFile(self.folder / RECORDS, memory_map=True)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Let one thread at a time read the records in the block. Raises DataError if they are damaged."""
        import pyarrow as pa

        with self._lock:
            try:
                yield
            except (OSError, pa.ArrowException) as error:
                raise _damaged(self.folder, RECORDS, " ".join(str(error).split())) from None

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each row group of the records ends, (groups,)."""
        found = self._parquet.metadata
        return np.cumsum([found.row_group(i).num_rows for i in range(found.num_row_groups)], dtype=np.int64)

    def _check(self) -> None:
        """Raise DataError where the files do not belong together."""
        rows, dim = self.about["rows"], self.about["dim"]
        if self.vectors.shape != (rows, dim) or self.vectors.dtype != np.float16:
            raise _damaged(
                self.folder, VECTORS, f"{self.vectors.dtype} {self.vectors.shape}, not ({rows}, {dim})"
            )
        if self._parquet.metadata.num_rows != rows:
            raise _damaged(self.folder, RECORDS, f"{self._parquet.metadata.num_rows} rows, not {rows}")
        if missing := [name for name in OWN if name not in ("class", *MAPPED) and name not in self.columns]:
            raise _damaged(self.folder, RECORDS, f"no column {', '.join(missing)}")

    def __repr__(self) -> str:
        return f"Index({str(self.folder)!r}, {len(self):,} pictures × {self.dim})"


def own_columns(names: Iterable[str]) -> list[str]:
    """Return the names of the user's own columns among those of the records, and the class."""
    return [name for name in names if name not in OWN or name == "class"]


def fingerprint(encoder: Encoder) -> str:
    """Return a hash of a model's weights and preprocessing, 32 digits; it differs if the embeddings differ."""
    about = json.dumps(asdict(Preprocess.of(encoder.config.views)), sort_keys=True, default=str)
    return hashlib.sha256(f"{digest(encoder.model)} {about}".encode()).hexdigest()[:32]


def _loaded(model: Encoder | str | Path, which: str) -> Encoder:
    from openslip.encoder import Encoder
    from openslip.interop import load

    return model if isinstance(model, Encoder) else load(model, which=which)  # type: ignore[bad-argument-type]


def _read_about(folder: Path) -> dict[str, Any]:
    """Return the contents of `index.json`. Raises DataError if it is missing, or not written by slip."""
    try:
        about = read_json(folder / ABOUT)
        if not _fits(about, ABOUT_KINDS):
            raise ValueError("it does not belong to an index, or somebody has edited it")
    except FileNotFoundError:
        raise _no_index(folder) from None
    except (OSError, ValueError) as error:
        raise _damaged(folder, ABOUT, str(error)) from None
    if about["format"] > FORMAT:
        raise DataError(
            "The index was written by a later version of slip",
            got=f"format {about['format']}",
            fix="Update slip, or embed the pictures again",
        )
    return about


def _fits(value: Any, kinds: dict[str, Any]) -> bool:
    """Whether a JSON object has all these names, with values of these types; a dictionary stands for an object."""
    return isinstance(value, dict) and all(
        _fits(value.get(name), kind) if isinstance(kind, dict) else type(value.get(name)) is kind
        for name, kind in kinds.items()
    )


def _no_index(folder: Path) -> DataError:
    if (folder / PARTS).is_dir() or (folder / VECTORS).exists():
        return DataError(
            "The index is not finished",
            got=str(folder),
            cause="`slip embed` is still writing it, or was ended before it had finished",
            fix="Run the same `slip embed` command again: it continues where it stopped",
        )
    return DataError(
        "There is no index here" if folder.exists() else "There is no such folder",
        got=str(folder),
        fix="Make an index of pictures with `slip embed MODEL PICTURES --out FOLDER`",
    )


def _damaged(folder: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{name} of the index is damaged",
        got=str(folder),
        cause=why,
        fix="Remove the folder, and embed the pictures again with `slip embed`",
    )


def _mapped(path: Path) -> np.ndarray:
    """Return the array of a file as a memory-map. Raises DataError if the file has none."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path.parent, path.name, str(error)) from None
