"""Small collections of pictures in every kind of place, with captions and columns of one's own; and a small model."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from openslip.encoder import Encoder
from toys import make_tiny_config

COUNT = 10
PLACES = ("folder", "csv", "tar", "parquet", "labels", "mixture")
CLASSES = ("cat", "dog")
BROKEN = 3
"""The picture that is none."""


def small_model(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder.from_config(make_tiny_config())


def png(number: int) -> bytes:
    """Return a picture that differs from those of other numbers."""
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def content(number: int) -> bytes:
    return b"no picture" if number == BROKEN else png(number)


def caption(number: int) -> str:
    return f"picture number {number}"


def price(number: int) -> int:
    return 10 * number


def make(place: str, root: Path, count: int = COUNT) -> str:
    """Make `count` pictures in one kind of place below `root`; return its spec."""
    numbers = range(count)
    folder = root / "pictures"
    match place:
        case "folder":
            folder.mkdir()
            for n in numbers:
                (folder / f"{n:02d}.png").write_bytes(content(n))
                (folder / f"{n:02d}.txt").write_text(caption(n))
                (folder / f"{n:02d}.json").write_text(json.dumps({"price": price(n)}))
            return str(folder)
        case "csv":
            make("folder", root, count)
            with open(root / "table.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["image", "caption", "price"])
                writer.writerows([f"pictures/{n:02d}.png", caption(n), price(n)] for n in numbers)
            return str(root / "table.csv")
        case "labels":
            for n in numbers:
                (folder / CLASSES[n % 2]).mkdir(parents=True, exist_ok=True)
                (folder / CLASSES[n % 2] / f"{n:02d}.png").write_bytes(content(n))
            return f"labels:{folder}"
        case "tar":
            with tarfile.open(root / "shard.tar", "w") as tar:
                for n in numbers:
                    described = json.dumps({"price": price(n)}).encode()
                    for name, data in (
                        ("png", content(n)),
                        ("txt", caption(n).encode()),
                        ("json", described),
                    ):
                        info = tarfile.TarInfo(f"{n:02d}.{name}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
            return str(root / "shard.tar")
        case "parquet":
            table = pa.table({
                "image": [content(n) for n in numbers],
                "caption": [caption(n) for n in numbers],
                "price": [price(n) for n in numbers],
            })  # fmt: skip
            pq.write_table(table, root / "table.parquet")
            return str(root / "table.parquet")
        case "mixture":
            half = count // 2
            (root / "a").mkdir()
            (root / "b").mkdir()
            return f"{make('csv', root / 'a', half)} + {make('tar', root / 'b', count - half)}"
    raise AssertionError(place)
