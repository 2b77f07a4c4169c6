"""Training goes on, and every record is accounted for, whatever happens to the data on the way."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openslip.config import ViewsConfig
from openslip.data.data import Data
from openslip.data.loader import Loader
from openslip.data.record import Batch
from openslip.data.sources import open_source, webdataset
from openslip.data.sources.yfcc import write_metadata
from openslip.data.tokenizer import Tokenizer
from openslip.needs import IMAGE, SSL_VIEWS

CAPTIONS = [
    "a\0NUL\0in it",
    "two\nlines\r\nand a tab\t.",
    "ab " * 40_000,
    "👩‍👩‍👧‍👦 🏳️‍🌈 ☃️",
    "كلب يركض على العشب",
    "lone \ud800 half",
    "<b>html</b> &amp; &lt;entities&gt;",
    "x" * 120_000,
]


def picture(seed: int, size: tuple[int, int] = (20, 16), mode: str = "RGB", format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


GOOD = {
    "plain": picture(0),
    "one pixel": picture(1, (1, 1)),
    "wrong ending": picture(2, format="PNG"),
    "grey": picture(3, mode="L"),
    "cmyk": picture(4, mode="CMYK"),
    "palette": picture(5, mode="P", format="PNG"),
    "alpha": picture(6, mode="RGBA", format="PNG"),
    "strip": picture(7, (3000, 2)),
}


def damaged(middle: bytes | None) -> bytes:
    """A picture of 160 kB whose second half is missing, or that has other bytes in its middle; its end is there."""
    data = picture(9, (500, 375))
    half = len(data) // 2
    return data[:half] + (b"" if middle is None else middle + data[half + len(middle) : -2]) + data[-2:]


BAD = {
    "cut off": damaged(None),
    "zero tail": damaged(bytes(len(picture(9, (500, 375))) // 2 - 2)),
    "zeros inside": damaged(bytes(4096)),
    "noise inside": damaged(np.random.default_rng(0).bytes(4096)),
    "truncated": picture(8)[:300],
    "zero bytes": b"",
    "text": b"<html>404</html>",
    "bomb": bomb(20_000, 20_000),
    "a zip": b"PK\x03\x04" + bytes(100),
}


def shard(path: Path, pictures: dict[str, bytes]) -> Path:
    """Write pictures with the odd captions in turn."""
    with tarfile.open(path, "w") as tar:
        for number, (name, image) in enumerate(pictures.items()):
            caption = json.dumps({"caption": CAPTIONS[number % len(CAPTIONS)]}).encode()
            for ending, data in (("jpg", image), ("json", caption)):
                member = tarfile.TarInfo(f"{number:02}{name.replace(' ', '-')}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def epochs(source, count: int, batch: int = 1, workers: int = 0) -> list[Batch]:
    """Return the batches of some epochs."""
    loader = Loader(
        Data(source),
        views=(IMAGE, *SSL_VIEWS),
        config=ViewsConfig(size=8),
        tokenizer=Tokenizer(),
        batch=batch,
        seed=0,
        workers=workers,
    )
    return list(itertools.islice(loader, count * len(source) // batch))


def account(batches: list[Batch]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how often each record was skipped, and how often it stood in a batch."""
    skipped = [record.key for batch in batches for record in batch.skipped]
    used = [key for batch in batches for key in batch.keys]
    return ({k: skipped.count(k) for k in set(skipped)}, {k: used.count(k) for k in set(used)})


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_picture_and_caption(tmp_path: Path, workers: int) -> None:
    source = open_source(str(shard(tmp_path / "a.tar", GOOD | BAD)))
    assert len(source) == len(GOOD) + len(BAD)
    batches = epochs(source, 3, workers=workers)
    skipped, used = account(batches)
    bad = {source[i].key for i in range(len(source)) if source[i].key[2:].replace("-", " ") in BAD}
    assert skipped == dict.fromkeys(bad, 3)  # once an epoch, and nothing else
    assert not bad & used.keys()
    read = sum(tally.read for batch in batches for tally in batch.tallies)
    assert sum(used.values()) == batches[-1].position == read == 3 * len(source)
    assert all(count >= 3 for count in used.values())
    assert len(used) == len(GOOD)


def test_a_shard_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", {f"{k}": picture(10 * number + k) for k in range(8)})
    source = open_source(str(tmp_path / "{0..2}.tar"))
    loader = iter(
        Loader(
            Data(source),
            views=(IMAGE,),
            config=ViewsConfig(size=8),
            tokenizer=None,
            batch=4,
            seed=0,
            workers=0,
        )
    )
    first = [next(loader) for _ in range(6)]
    with open(tmp_path / "1.tar", "r+b") as file:
        file.truncate(2000)
    rest = [next(loader) for _ in range(12)]
    assert account(first)[0] == {}
    gone = [record for batch in rest for record in batch.skipped]
    assert sum(record.index in range(8, 16) for record in gone) == len(gone) >= 2 * 7  # its first may be left
    assert all(len(batch.keys) == 4 for batch in rest)


def test_a_server_that_fails_in_the_middle(tmp_path: Path, server) -> None:
    for number in range(3):
        path = shard(tmp_path / f"{number}.tar", {f"{k}": picture(10 * number + k) for k in range(8)})
        server.files[f"/{number}.tar"] = path.read_bytes()
    source = open_source(server.url + "/{0..2}.tar")
    server.faults["/1.tar"] = [500, "always"]
    server.faults["/2.tar"] = ["reset", 503, "stall"]
    server.impatient()
    batches = epochs(source, 2, batch=6)
    skipped, used = account(batches)
    assert sum(skipped.values()) == 16  # every record of that shard, each epoch
    assert {record.index for batch in batches for record in batch.skipped} == set(range(8, 16))
    assert sum(used.values()) == 48
    assert all("500" in record.reason for batch in batches for record in batch.skipped)


@pytest.mark.parametrize("bad", [0, 50])
def test_damaged_pictures_on_a_server_cost_no_more_requests(
    tmp_path: Path, server, monkeypatch, bad: int
) -> None:
    monkeypatch.setattr(webdataset, "HELD", 1)
    good = picture(0)
    for number in range(3):
        pictures = {f"{k}": b"damaged" if bad and (128 * number + k) % bad == 9 else good for k in range(128)}
        server.files[f"/{number}.tar"] = shard(tmp_path / f"{number}.tar", pictures).read_bytes()
    source = open_source(server.url + "/{0..2}.tar")
    server.asked.clear()
    batches = epochs(source, 2, batch=32)
    assert len(server.asked) == 2 * 6  # a block of 64 each
    assert sum(len(batch.skipped) for batch in batches) == 2 * len(range(9, 384, bad) if bad else ())


def test_zips_and_tables_with_holes(tmp_path: Path) -> None:
    (tmp_path / "images" / "00").mkdir(parents=True)
    for number in range(2):
        with zipfile.ZipFile(tmp_path / "images" / "00" / f"00{number}.zip", "w") as file:
            for k in range(4):
                file.writestr(f"00{k}.jpg", picture(10 * number + k))
    rows = [
        (1000 * z + k, f"title {z} {k}", "") for z in range(3) for k in range(5)
    ]  # zip 2, and every 004.jpg, missing

    write_metadata(rows, tmp_path / "meta.parquet")
    os.truncate(tmp_path / "images" / "00" / "001.zip", 700)
    source = open_source(str(tmp_path / "meta.parquet"))
    skipped, used = account(epochs(source, 2))
    assert len(source) == 15
    assert sum(skipped.values()) == 2 * (15 - 4)
    assert used.keys() == {f"0000000{k}" for k in range(4)}
