"""Small indexes as `slip embed` writes them, for the tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from openslip.encoder import Encoder
from openslip.evaluation.fingerprint import of_picture
from openslip.search.index import ABOUT, FORMAT, OWN, RECORDS, VECTORS, Index, fingerprint
from toys import make_tiny_config, with_loss

COLOURS = ("red", "green", "blue")


@cache
def tiny_model(loss: str = "clip + 1.0 * simclr") -> Encoder:
    """Return an untrained model; of the loss simclr, one that knows no text."""
    torch.manual_seed(0)
    return Encoder.from_config(with_loss(make_tiny_config(), loss))


def write_index(
    folder: Path,
    vectors: np.ndarray,
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    model: Encoder | None = None,
    **own: Sequence[Any],
) -> Index:
    """Write an index of some vectors (N, D) and open it; own: values of our columns other than the usual ones."""
    count = len(vectors)
    model = model or tiny_model()
    usual: dict[str, Sequence[Any]] = {
        "key": [f"k{row}" for row in range(count)],
        "path": [None] * count,
        "captions": [[f"picture {row}"] for row in range(count)],
        "record": range(count),
        "digest": [of_picture(str(row).encode()).hex() for row in range(count)],
        "stamp": [None] * count,
    } | own
    usual["caption"] = [each[0] if each else None for each in usual["captions"]]
    types = {"captions": pa.list_(pa.string()), "record": pa.int64()}
    table = pa.table(
        {name: pa.array(list(usual[name]), types.get(name, pa.string())) for name in OWN if name in usual}
    )
    for name, values in (columns or {}).items():
        table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(list(values)))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / VECTORS, vectors.astype(np.float16))
    # Row groups as a large index has them.
    pq.write_table(table, folder / RECORDS, row_group_size=7)
    about = {
        "format": FORMAT,
        "rows": count,
        "dim": vectors.shape[1],
        "model": {"spec": "", "which": "latest", "name": "tiny", "fingerprint": fingerprint(model)},
        "source": {"spec": "", "name": "toy", "options": {}},
        "precision": "float32",
        "captions": False,
        "skipped": 0,
    }
    (folder / ABOUT).write_text(json.dumps(about))
    return Index.open(folder, model=model)


def some_vectors(count: int, dim: int | None = None, seed: int = 0) -> np.ndarray:
    """Return random vectors (N, D) float16 of length 1; D that of the tiny model."""
    dim = tiny_model().config.model.embed_dim if dim is None else dim
    found = np.random.default_rng(seed).standard_normal((count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write small pictures that all differ, PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"picture {number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 16 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def index_of_pictures(folder: Path, pictures: Sequence[Path], columns: Any = None, **own: Any) -> Index:
    """Write an index of picture files, with embeddings by the tiny model."""
    vectors = tiny_model().encode_image(list(pictures), numpy=True)
    digests = [of_picture(path.read_bytes()).hex() for path in pictures]
    known: dict[str, Any] = {"path": [str(path) for path in pictures], "digest": digests}
    return write_index(folder, vectors, columns, **known | own)


def unnormalised(model: Encoder) -> Encoder:
    """Return the model with another preprocessing, and so another fingerprint."""
    views = replace(model.config.views, mean=(0.0, 0.0, 0.0))
    return Encoder(model.model, replace(model.config, views=views))
