"""Published sets in their own layouts: the files that tell which picture is of which class, and pictures as bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from fuzzing.registry import Files, register

DAMAGED = {
    "food101": "meta/",
    "pets": "annotations/t",
    "aircraft": "images_variant",
    "cub": r"\.txt",
    "sun397": r"_01\.txt|ClassName",
    "gtsrb": r"test\.csv",
    "cifar10": "batch",
    "cifar10_binary": r"\.bin",
    "mnist": "ubyte",
    "fer2013": "csv",
    "svhn": "mat",
    "flowers": "mat",
    "cars": "mat",
    "cars_together": "mat",
    "clevr": "json",
    "kitti": "label_2",
    "hateful_memes": "jsonl",
    "voc": r"xml|test\.txt",
}
"""Makers of sets in `published_sets` and `published_arrays`, and the files of each that are damaged."""


def _made(maker: str) -> Callable[[], Files]:
    def files() -> Files:
        import published_arrays
        import published_sets

        module = published_arrays if hasattr(published_arrays, maker) else published_sets
        with tempfile.TemporaryDirectory() as folder:
            getattr(module, maker)(Path(folder) / "set")
            paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
            return {os.path.relpath(path, folder): path.read_bytes() for path in paths}

    return files


def _read(folder: Path) -> None:
    from openslip.data.labelled import open_labelled
    from openslip.errors import DataError

    found = open_labelled(str(folder / "set"), several=True)
    found.describe().encode("utf-8", "replace")
    for labelled in found.splits.values():
        assert len(labelled.labels) == len(labelled.images)
        for index in range(len(labelled.images)):
            try:
                labelled.images[index]
            except DataError:
                continue


for _maker, _damaged in DAMAGED.items():
    register(f"published-{_maker.replace('_', '-')}", _made(_maker), _read, damaged=_damaged, megabytes=2200)
