"""Embed all pictures of a source, and write an index (see `openslip.search.index`).

A run works in chunks of records, and writes each finished chunk to disk as a part. It reuses the embeddings of earlier
runs, finished or not, for pictures that are the same. So an interrupted run continues where it stopped, and a second
run embeds only pictures that are new or have changed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from openslip.data.own_columns import told_apart
from openslip.data.record import Records, Skipped, Source, as_source
from openslip.data.sources.image_files import read_image
from openslip.data.sources.mixture import LABELS, Mixture, split_mixture
from openslip.data.storage.retry import is_url
from openslip.encoder import Encoder
from openslip.errors import ConfigError, DataError, encodable
from openslip.evaluation.features import encode_texts, require_text
from openslip.evaluation.fingerprint import of_picture
from openslip.files import TEMPORARY, expand, read_json, whole_or_not, write_bytes, write_json
from openslip.pictures import chunks_ahead
from openslip.processes import Processes
from openslip.progress import Progress
from openslip.search.index import (
    ABOUT,
    CAPTIONS,
    FORMAT,
    GRAPH,
    GRAPH_ABOUT,
    OWN,
    PARTS,
    RECORDS,
    SKIPPED,
    VECTORS,
    Index,
    fingerprint,
)
from openslip.search.map import make_map
from openslip.search.parts import Old, Part, Pool, join, load
from openslip.training.precision import choose_precision
from openslip.training.saving import lock

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 4096
"""The most records of a part: an interruption costs no more, and no more are in memory beside the batches."""

CHUNKS = 64
"""The fewest chunks of a source with as many batches: each process has some, and a small set has parts."""
THEIRS = ":"
"""The prefix of the source's own columns in parts, which keeps them apart from the columns that slip writes."""
GROUP = 1024
"""Records of a row group of `records.parquet`: to show one of them, all are decoded."""


@dataclass(frozen=True)
class Embedded:
    """The result of `embed`: `rows` embeddings in `folder`, of which `new` were computed in this run.

    reused: embeddings from earlier runs. gone: embeddings of an earlier index whose pictures are gone. skipped: records
    without embedding. notes: remarks on the columns.
    """

    folder: Path
    rows: int
    new: int
    reused: int
    gone: int
    skipped: list[Skipped]
    notes: tuple[str, ...] = ()


def embed(
    model: Encoder | str | Path,
    source: Records | str,
    out: str | Path,
    *,
    which: Literal["latest", "best"] = "latest",
    captions: bool = False,
    mapped: bool = False,
    replace: bool = False,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    batch: int = 256,
    workers: int = -1,
    columns: Mapping[str, str] | None = None,
    spec: str = "",
    ranks: Processes | None = None,
    shown: bool = False,
) -> Embedded:
    """Embed the pictures of a source into the folder `out`, and return how many were embedded, reused and left out.

    model: a loaded model, or what `openslip.load` takes with `which`. source: what `open_source` takes with `columns`,
    or an open source. spec: what opens an open source again; without a spec, only pictures that are files can be shown
    later. captions: embed all captions, too. mapped: lay the pictures out on a plane (see `openslip.search.map`).
    replace: overwrite an index of another model or source. precision: of the arithmetic, as in training; vectors are
    always float16. batch: pictures that go through the model at a time. workers: threads that read and decode.
    ranks: the processes that share the work; they need one folder in common.

    `embed` reuses the embeddings of an index in `out` for files of the same path, size and time of change, and for
    pictures of the same bytes. The result is the same for any number of processes, and after a kill.

    Raises ConfigError for options that do not fit, and for an index of another model or source in `out`; DataError if
    no picture can be used, or the folder cannot be written; ProcessError if another rank failed.
    """
    ranks = ranks or Processes()
    out = expand(out)
    if batch < 1 or workers < -1:
        raise ConfigError(
            "batch must be 1 or more, and workers -1 or more", got=f"batch {batch}, workers {workers}"
        )
    spec = source if isinstance(source, str) else spec
    named = {"spec": "" if isinstance(model, Encoder) else _absolute_model(model), "which": which}
    with ranks.first_goes_ahead():
        if not isinstance(model, Encoder):
            from openslip.interop import load

            model = load(model, which=which)
        opened = _opened(source, columns or {})
    if ranks.device is not None:
        model.to(ranks.device)
    if captions:
        require_text(model, "Embedding captions")
    about = {
        "format": FORMAT,
        "model": {**named, "name": model.config.name, "fingerprint": fingerprint(model)},
        "source": _about_source(opened, spec, columns or {}),
        "precision": str(choose_precision(precision, model.device)).removeprefix("torch."),
        "captions": captions,
    }
    with ExitStack() as held:
        with ranks.first_goes_ahead(), _writing(out):
            if ranks.first:
                held.enter_context(lock.held(out))
                _check_before(out, about, replace=replace)
                (out / PARTS).mkdir(exist_ok=True)
        run = ranks.bytes_from_first(secrets.token_hex(8).encode()).decode()
        work = _Work(model, opened, out, out / PARTS / run, about, batch, workers)
        with ranks.together(), _writing(out):
            work.do(ranks, shown=shown)
        notes = ranks.gather(encodable(opened.columns_note).encode())
        with ranks.first_goes_ahead(), _writing(out):
            return (
                work.finish(notes, mapped=mapped, shown=shown)
                if ranks.first
                else Embedded(out, 0, 0, 0, 0, [])
            )


def _about_source(source: Source, spec: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the spec and options that open a source again from any working directory."""
    options = {name: value for name, value in columns.items() if value}
    if "image_root" in options:
        options["image_root"] = os.path.abspath(options["image_root"])
    return {"spec": absolute(spec) if spec else "", "name": source.name, "options": options}


def absolute(spec: str) -> str:
    """Return a source's spec with paths that hold in any working directory."""
    terms = split_mixture(spec) if not os.path.exists(spec) else [(1.0, spec)]
    return " + ".join(_absolute_term(term) for _, term in terms)


def _absolute_term(term: str) -> str:
    if is_url(term) or term == "scenes" or term.startswith(("scenes:", "hf:", "hf-stream:")):
        return term
    if term.startswith(LABELS):
        return LABELS + _absolute_term(term.removeprefix(LABELS))
    return os.path.join(os.getcwd(), os.path.expanduser(term)) if term.strip() else term


def _absolute_model(model: str | Path) -> str:
    path = expand(model)
    return os.path.abspath(path) if path.exists() else os.fspath(model)


def _opened(source: Records | str, columns: Mapping[str, str]) -> Source:
    """Return the source. Raises ConfigError for a mixture with weights."""
    if isinstance(source, str):
        from openslip.data.sources import open_source

        source = open_source(source, **columns, captions_required=False)  # type: ignore[bad-argument-type]
    opened = as_source(source)
    if isinstance(opened, Mixture) and any(weight != 1 for weight in opened.weights):
        raise ConfigError(
            "Every picture is embedded once, so sources can have no weights",
            got=opened.name,
            fix="Leave the weights out, as in 'A + B'",
        )
    return opened


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Raise DataError if the folder cannot be written. Finished parts stay, and a later run reuses them."""
    try:
        yield
    except OSError as error:
        place = str(error.filename or out)
        raise DataError(
            "The index cannot be written", got=place, cause=error.strerror or str(error)
        ) from None


def _check_before(out: Path, about: Mapping[str, Any], *, replace: bool) -> None:
    """Raise ConfigError if the folder has something that would be lost, or mixed with something else."""
    if not (out / ABOUT).exists():
        others = [
            name
            for name in os.listdir(out)
            if name not in (PARTS, VECTORS, CAPTIONS, RECORDS, SKIPPED, GRAPH, GRAPH_ABOUT, lock.NAME)
            and not name.startswith(TEMPORARY)
        ]
        if others and not replace:
            raise ConfigError(
                "The folder holds other files, and is not an index",
                got=f"{out}, with {sorted(others)[0]}",
                fix="Name a new folder with --out",
            )
        return
    try:
        before = Index.open(out).about
    except DataError:
        if replace:
            return
        raise
    if replace:
        return
    if before["model"]["fingerprint"] != about["model"]["fingerprint"]:
        raise ConfigError(
            "The index in this folder was made with another model",
            got=f"{before['model']['spec'] or before['model']['name']}; now {about['model']['spec']}",
            fix="Name another folder with --out, or overwrite the index with --replace",
        )
    old, new = (set(_terms(one["source"]["spec"])) for one in (before, about))
    if not old <= new:
        both = " + ".join(
            dict.fromkeys([*_terms(before["source"]["spec"]), *_terms(about["source"]["spec"])])
        )
        raise ConfigError(
            "The index in this folder has other pictures, which would be dropped",
            got=f"{before['source']['spec'] or before['source']['name']}",
            fix=f"Name all sources, '{both}', to keep these pictures with their embeddings, or drop them with "
            "--replace",
        )


def _terms(spec: str) -> list[str]:
    return [spec] if os.path.exists(spec) else [term for _, term in split_mixture(spec)]


def _names(columns: Sequence[str]) -> list[str]:
    """Return the names that the columns of parts have in the index, no two alike.

    A dot in the name of an own column becomes `_`: LanceDB takes no dots, and SQL reads a name with a dot as a field of
    an object. If another column has the new name already, without a dot, that column keeps it.
    """
    theirs = sorted((name for name in columns if name.startswith(THEIRS)), key=lambda name: "." in name)
    told = told_apart([*OWN, *(name.removeprefix(THEIRS).replace(".", "_") for name in theirs)])
    called = dict(zip(theirs, told[len(OWN) :]))
    return [called.get(name, name) for name in columns]


@dataclass
class _Ready:
    """One record in work: its pixels to embed, or its earlier embedding `old`, or the reason `why` it has neither."""

    index: int
    key: str
    captions: tuple[str, ...] = ()
    path: str = ""
    stamp: str = ""
    digest: str = ""
    pixels: Tensor | None = None
    old: Old | None = None
    why: str = ""


@dataclass
class _Work:
    """The embedding of a source's records, chunk by chunk."""

    model: Encoder
    source: Source
    out: Path
    folder: Path
    about: dict[str, Any]
    batch: int
    workers: int
    reading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.pool = Pool(self.out, self.about, self.folder)
        self.preprocess = self.model.preprocess
        self.autocast = {"bfloat16": "bf16", "float16": "fp16"}.get(self.about["precision"])
        # No batch crosses the end of a chunk, so batches are the same for any number of processes.
        batches = min(CHUNK // self.batch, len(self.source) // (CHUNKS * self.batch))
        self.chunk = max(1, batches) * self.batch
        self.chunks = [
            range(start, min(start + self.chunk, len(self.source)))
            for start in range(0, len(self.source), self.chunk)
        ]

    def do(self, ranks: Processes, *, shown: bool) -> None:
        """Embed this process's chunks."""
        mine = ranks.share(self.chunks)
        self.folder.mkdir(exist_ok=True)
        total = sum(map(len, mine))
        indices = (index for chunk in mine for index in chunk)
        with (
            chunks_ahead(self._prepared, indices, self.batch, self.workers) as batches,
            Progress("embedding", total, shown=shown and ranks.first) as bar,
        ):
            for chunk in mine:
                self._write(chunk, self._of_chunk(chunk, batches, bar))

    def _of_chunk(
        self, chunk: range, batches: Iterator[list[_Ready]], bar: Progress
    ) -> Iterable[tuple[_Ready, np.ndarray | None]]:
        """Yield the records of a chunk, each with its embedding (D,) float16, None for one without."""
        done = 0
        while done < len(chunk):
            batch = next(batches)
            done += len(batch)
            new = [one.pixels for one in batch if one.pixels is not None]
            vectors = iter(self._embedded(new) if new else ())
            for one in batch:
                old = None if one.old is None else self.pool.vector(one.old)
                yield one, next(vectors) if one.pixels is not None else old
                one.pixels = None
            bar.advance(len(batch))

    def _embedded(self, pixels: list[Tensor]) -> np.ndarray:
        stacked = torch.stack(pixels).to(self.model.device)
        options: Any = {"autocast": self.autocast, "batch": self.batch}
        images = self.preprocess.normalised(stacked).to(self.model.dtype)
        values = self.model.encode_image(images, numpy=True, **options)
        if not np.isfinite(values).all():
            raise DataError(
                "The model's embeddings of pictures are not finite",
                cause="The weights diverged in training or are damaged, or the arithmetic overflows",
                fix="Try --precision fp32, or an earlier checkpoint",
            )
        return values.astype(np.float16)

    def _prepared(self, index: int) -> _Ready:
        """Read and decode a record, as far as its embedding is not known yet; called by several threads."""
        ready = _Ready(index, f"#{index}")
        try:
            if file := self.source.file(index):
                ready.key, ready.captions, ready.path = file.key, file.captions, file.path
                ready.stamp = f"{file.size}-{file.changed}"
                ready.old = self.pool.of_file(ready.path, ready.stamp)
                if ready.old:
                    ready.digest = self.pool.digest(ready.old)
                    return ready
                image: Any = read_image(file.path)
            else:
                with self.reading:  # sources cache what they read last, and serve one thread at a time
                    record = self.source[index]
                ready.key, ready.captions, image = record.key, record.captions, record.image
            ready.digest = of_picture(image).hex()
            ready.old = self.pool.of_content(ready.digest)
            if ready.old is None:
                ready.pixels = self.preprocess.pixels(image)
        except DataError as error:
            ready.why = str(error)
        return ready

    def _write(self, chunk: range, ready: Iterable[tuple[_Ready, np.ndarray | None]]) -> None:
        """Write a chunk's part, its description last."""
        import pyarrow.parquet as pq

        vectors, kept, skipped, new = [], [], [], 0
        for one, vector in ready:
            if vector is None:
                skipped.append([one.index, one.key, self.source.origin(one.index)[0].name, one.why])
            else:
                vectors.append(vector)
                kept.append(one)
                new += one.old is None
        part = Part(self.folder, chunk.start // self.chunk)
        dim = vectors[0].shape[0] if vectors else 0
        stacked = np.stack(vectors) if vectors else np.empty((0, dim), np.float16)
        with whole_or_not(part.vectors, durable=False) as file:
            np.save(file, stacked)
        if self.about["captions"]:
            with whole_or_not(part.texts, durable=False) as file:
                np.save(file, self._of_captions(kept, dim))
        with whole_or_not(part.records, durable=False) as file:
            pq.write_table(self._records(kept), file)
        described = {"about": self.about, "rows": len(kept), "new": new, "skipped": skipped}
        write_bytes(part.described, json.dumps(described).encode())

    def _of_captions(self, kept: list[_Ready], dim: int) -> np.ndarray:
        """Return the embeddings of the captions of these records, one record after the other."""
        known = [self.pool.texts(one.old, one.captions) if one.old else None for one in kept]
        texts = [text for one, old in zip(kept, known) if old is None for text in one.captions]
        new = iter(encode_texts(self.model, texts).astype(np.float16) if texts else ())
        rows = [
            np.array([next(new) for _ in one.captions]).reshape(-1, dim) if old is None else old
            for one, old in zip(kept, known)
        ]
        return np.concatenate(rows) if rows else np.empty((0, dim), np.float16)

    def _records(self, kept: list[_Ready]) -> pa.Table:
        """Return the columns of these records, a row for each record."""
        import pyarrow as pa

        text = pa.string()
        own = {
            "key": pa.array([encodable(one.key) for one in kept], text),
            "path": pa.array(
                [one.path if one.path and one.path == encodable(one.path) else None for one in kept], text
            ),
            "caption": pa.array([encodable(one.captions[0]) if one.captions else None for one in kept], text),
            "captions": pa.array([[*map(encodable, one.captions)] for one in kept], pa.list_(text)),
            "record": pa.array([one.index for one in kept], pa.int64()),
            "digest": pa.array([one.digest for one in kept], text),
            "stamp": pa.array([one.stamp or None for one in kept], text),
        }
        if names := self.source.class_names:
            labels = [self.source.label(one.index) for one in kept]
            own["class"] = pa.array([None if label is None else names[label] for label in labels], text)
        table = pa.table({name: own[name] for name in OWN if name in own})
        with self.reading:
            theirs = self.source.columns([one.index for one in kept])
        if theirs is not None:
            for name, column in zip(told_apart(theirs.column_names), theirs.columns):
                table = table.append_column(THEIRS + name, column)
        return table

    def finish(self, notes: Sequence[bytes], *, mapped: bool, shown: bool) -> Embedded:
        """Join all parts into an index, and remove the parts. notes: each process's remark on the columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from openslip.data.own_columns import common_schema, conform

        parts = [Part(self.folder, number) for number in range(len(self.chunks))]
        described = [read_json(part.described) for part in parts]
        skipped = [Skipped(*entry) for one in described for entry in one["skipped"]]
        rows, new = (sum(one[name] for one in described) for name in ("rows", "new"))
        if not rows:
            shutil.rmtree(self.out / PARTS)
            raise DataError(
                f"None of {len(self.source):,} picture{'s' * (len(self.source) != 1)} can be used",
                got=self.source.name,
                cause=skipped[0].reason if skipped else "There are none",
            )
        in_parts = common_schema(
            [pq.read_schema(part.records) for part in parts],
            lambda number, name: pq.read_table(parts[number].records, columns=[name])[name],
        )
        schema = pa.schema([field.with_name(name) for field, name in zip(in_parts, _names(in_parts.names))])
        layout = (
            make_map(np.concatenate([load(part.vectors) for part in parts]), shown=shown) if mapped else None
        )
        if layout:
            for name, column in layout.columns(0, 0).items():
                schema = schema.append(pa.field(name, column.type))
        first = 0
        with ExitStack() as files:
            vectors = files.enter_context(whole_or_not(self.out / VECTORS))
            dim = join(vectors, [part.vectors for part in parts])
            if self.about["captions"]:
                join(files.enter_context(whole_or_not(self.out / CAPTIONS)), [part.texts for part in parts])
            records = files.enter_context(whole_or_not(self.out / RECORDS))
            with pq.ParquetWriter(records, schema, compression="zstd") as writer:
                for part in parts:
                    table = conform(pq.read_table(part.records), in_parts).rename_columns(
                        _names(in_parts.names)
                    )
                    for name, column in layout.columns(first, len(table)).items() if layout else ():
                        table = table.append_column(name, column)
                    first += len(table)
                    if len(table):
                        writer.write_table(table.cast(schema), row_group_size=GROUP)
            # From here until all files belong together, the folder holds no index.
            (self.out / ABOUT).unlink(missing_ok=True)
        if not self.about["captions"]:
            (self.out / CAPTIONS).unlink(missing_ok=True)
        lines = [json.dumps(vars(entry), ensure_ascii=False) + "\n" for entry in skipped]
        write_bytes(self.out / SKIPPED, "".join(lines).encode(errors="replace"))
        write_json(self.out / ABOUT, self.about | {"rows": rows, "dim": dim, "skipped": len(skipped)})
        shutil.rmtree(self.out / PARTS)
        gone = self.pool.gone(pq.read_table(self.out / RECORDS, columns=["digest"])["digest"])
        told = tuple(dict.fromkeys(note.decode() for note in notes if note))
        return Embedded(self.out, rows, new, rows - new, gone, skipped, told)
