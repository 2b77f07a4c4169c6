"""Tar shards behind an address, in the layout of CLIP_benchmark: `test/0.tar`, and the number in `test/nshards.txt`."""

from __future__ import annotations

import re

from openslip.addresses import shown
from openslip.data.labelled.data_files import DataFiles
from openslip.data.storage.reading import cache_folder, cache_name, open_file, stat
from openslip.data.storage.retry import NO_SUCH_FILE
from openslip.errors import DataError
from openslip.files import write_bytes

BESIDE = ("classnames.txt", "zeroshot_classification_templates.txt")
"""Files beside shards. They are copied into the cache folder, and read there like local files."""
MOST_BYTES = 1 << 20
MOST_SHARDS = 100_000
_HUB = re.compile(r"https://huggingface\.co/datasets/([^/]+/[^/]+)(?:/(?:tree|resolve|blob)/([^/]+))?")


def find_remote(url: str) -> DataFiles | None:
    """Return the shards below an address by split, None if no file tells their number.

    url: of the folder that holds the folders of the splits, or of a data set's page on the Hugging Face hub. Raises
    DataError if the number of shards is not a number.
    """
    base = url.rstrip("/")
    if "?" in base:
        return None
    if hub := _HUB.fullmatch(base):
        base = f"https://huggingface.co/datasets/{hub[1]}/resolve/{hub[2] or 'main'}"
    splits = {}
    for split, folders in {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}.items():
        for folder in folders:
            if (text := _text(f"{base}/{folder}/nshards.txt")) is not None:
                splits[split] = [f"{base}/{folder}/{i}.tar" for i in range(_count(text, base, folder))]
                break
    if not splits:
        return None
    kept = cache_folder() / "labelled" / cache_name(base)
    kept.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        text = _text(f"{base}/{name}")
        (kept / name).unlink(missing_ok=True) if text is None else write_bytes(kept / name, text)
    if list(splits) == ["train"]:  # data without a split to measure on are a set without splits
        splits = {"all": splits["train"]}
    return DataFiles("tar", splits, None, kept=kept)


def _text(url: str) -> bytes | None:
    """Return a small file of a server, None if there is no such file."""
    try:
        status = stat(url)
        return open_file(url, status).read(0, status.size) if status.size <= MOST_BYTES else None
    except DataError as error:
        if error.what == NO_SUCH_FILE:
            return None
        raise


def _count(text: bytes, base: str, folder: str) -> int:
    digits = text.decode("ascii", "replace").strip()
    if not re.fullmatch(r"\d{1,6}", digits) or not 0 < int(digits) <= MOST_SHARDS:
        raise DataError(
            "The number of shards is invalid", got=digits[:40], cause=f"In {shown(base)}/{folder}/nshards.txt"
        )
    return int(digits)
