"""Sources of records: tables, annotations, containers, folders."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing.pictures import jpeg
from fuzzing.registry import Files, register
from openslip.errors import SlipError


def _source(name: str, folder: Path, **options: Any) -> None:
    """Open a source and read all its records."""
    from openslip.data.sources import open_source

    source = open_source(str(folder / name) if ":" not in name else name.format(folder), **options)
    for index in range(min(len(source), 50)):
        try:
            record = source[index]
        except SlipError:
            continue
        for text in (record.key, *record.captions):
            text.encode("utf-8", "replace")


def source(name: str, files: Callable[[], Files], spec: str, damaged: str = "", **options: object) -> None:
    """Register a source."""
    mend, megabytes = options.pop("mend", None), options.pop("megabytes", 900)
    read = partial(_source, spec, **options)
    register(name, files, read, damaged=damaged, mend=mend, megabytes=megabytes)


ROWS = [
    ("images/a.jpg", "a red house"),
    ("images/b.jpg", "zwei Bäume, grün"),
    ("images/c.jpg", 'the "third"'),
]
IMAGES = {name: jpeg(k) for k, (name, _) in enumerate(ROWS)}


def with_images(name: str, data: bytes) -> Files:
    return {name: data} | IMAGES


def _csv(separator: str, encoding: str = "utf-8") -> bytes:
    import csv

    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator).writerows([("image", "caption"), *ROWS])
    return buffer.getvalue().encode(encoding)


def jsonl() -> bytes:
    return b"".join(json.dumps({"image": i, "caption": [c, c]}).encode() + b"\n" for i, c in ROWS)


def _workbook() -> bytes:
    import openpyxl

    book, buffer = openpyxl.Workbook(), io.BytesIO()
    sheet: Any = book.active
    for row in [("image", "caption"), *ROWS]:
        sheet.append(row)
    book.save(buffer)
    with (
        zipfile.ZipFile(buffer) as packed,
        zipfile.ZipFile(plain := io.BytesIO(), "w") as unpacked,
    ):  # so that damage reaches the XML
        for name in packed.namelist():
            unpacked.writestr(name, packed.read(name))
    return plain.getvalue()


def mend_zip(data: bytes) -> bytes:
    """Put the checksums of stored members right."""
    out, start = bytearray(data), data.find(b"PK\3\4")
    directory = data.find(b"PK\1\2")
    while 0 <= start < directory and directory >= 0:
        names = data[start + 26 : start + 30]
        begin = start + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
        size = int.from_bytes(data[start + 18 : start + 22], "little")
        checksum = zlib.crc32(data[begin : begin + size]).to_bytes(4, "little")
        out[start + 14 : start + 18] = checksum
        out[directory + 16 : directory + 20] = checksum
        start, directory = data.find(b"PK\3\4", begin), data.find(b"PK\1\2", directory + 4)
    return bytes(out)


def _coco() -> bytes:
    images = [{"id": k, "file_name": name} for k, (name, _) in enumerate(ROWS)]
    captions = [{"id": 9 + k, "image_id": k, "caption": text} for k, (_, text) in enumerate(ROWS)]
    return json.dumps({"images": images, "annotations": captions}).encode()


def _redcaps() -> bytes:
    entries = [
        {"image_id": name[7:-4], "subreddit": "images", "caption": text, "raw_caption": text}
        for name, text in ROWS
    ]
    return json.dumps({"info": {}, "annotations": entries}).encode()


def _npy() -> bytes:
    buffer = io.BytesIO()
    entries = [{"image_name": name, "captions": [text]} for name, text in ROWS]
    np.save(buffer, np.array(entries, dtype=object))
    return buffer.getvalue()


def _yfcc_rows() -> list[tuple[int, str, str]]:
    return [(12345678 + k, text, "what is seen") for k, (_, text) in enumerate(ROWS)]


def _yfcc_zip(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for index, *_ in _yfcc_rows():
            archive.writestr(f"{index % 1000:03}.jpg", jpeg())
    return buffer.getvalue()


def _yfcc(metadata: str, data: Callable[[], bytes], compression: int = zipfile.ZIP_STORED) -> Files:
    return {metadata: data(), "images/12/345.zip": _yfcc_zip(compression)}


def parquet(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _parquet_pictures(**options: object) -> Files:
    images = [{"bytes": IMAGES[name], "path": name} for name, _ in ROWS]
    captions = [[text, text] for _, text in ROWS]
    return {"t.parquet": parquet(pa.table({"image": images, "captions": captions}), **options)}


def _parquet_paths() -> Files:
    names, texts = zip(*ROWS)
    return with_images("t.parquet", parquet(pa.table({"image": list(names), "caption": list(texts)})))


def _yfcc_parquet() -> bytes:
    index, title, description = zip(*_yfcc_rows())
    return parquet(pa.table({"index": index, "title": title, "description": description}))


def _saved() -> Files:
    """What `save_to_disk` of the library `datasets` writes."""
    images = [{"bytes": IMAGES[name], "path": None} for name, _ in ROWS]
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("caption", pa.string())]
    )
    table = pa.table({"image": images, "caption": [text for _, text in ROWS]}, schema=schema)
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, schema) as writer:
        writer.write_table(table)
    features = {
        "image": {"_type": "Image"},
        "caption": {"dtype": "string", "_type": "Value"},
    }
    info = {"features": features, "dataset_name": "saved", "citation": "", "description": ""}
    state = {
        "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    return {
        "saved/data-00000-of-00001.arrow": buffer.getvalue(),
        "saved/dataset_info.json": json.dumps(info).encode(),
        "saved/state.json": json.dumps(state).encode(),
    }


def tar(format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for k, (_, text) in enumerate(ROWS):
            stem = f"{'long/' * 30 * (k == 2)}{k:05}ä"
            for ending, data in (
                ("jpg", jpeg(k)),
                ("json", json.dumps({"caption": text, "key": stem}).encode()),
                ("txt", text.encode()),
            ):
                member = tarfile.TarInfo(f"{stem}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def mend_tar(data: bytes) -> bytes:
    """Put the checksums of what may be tar headers right."""
    out = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        block = out[start : start + 512]
        if block[257:262] == b"ustar":
            total = sum(block[:148]) + sum(block[156:]) + 8 * 32
            out[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(out)


def _tar_index() -> Files:
    """A shard with its index, as walking over it leaves it."""
    from openslip.data.sources.tar_index import FOLDER, write_index

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(tar())
        os.utime(path, (1, 1))
        write_index(str(path))
        (index,) = (Path(folder) / FOLDER).iterdir()
        return {"a.tar": tar(), f"{FOLDER}/{index.name}": index.read_bytes()}


def _read_tar_index(folder: Path) -> None:
    """The index counts only where the shard has the time that it had."""
    os.utime(folder / "a.tar", (1, 1))
    _source("a.tar", folder)


def mend_index(data: bytes) -> bytes:
    """Put the checksum of a tar index right."""
    start = data.find(b"\n") + 1
    return data[:start] + zlib.crc32(data[start + 4 :]).to_bytes(4, "little") + data[start + 4 :]


def _sidecars() -> Files:
    return {f"folder/{k}.jpg": jpeg(k) for k in range(3)} | {f"folder/{k}.txt": b"a text\n" for k in range(3)}


def _needs_datasets(folder: Path) -> None:
    _source("hf:{}/saved", folder)


source("csv", lambda: with_images("t.csv", _csv(",")), "t.csv", r"^t")
source("csv-semicolon-bom", lambda: with_images("t.csv", _csv(";", "utf-8-sig")), "t.csv", r"^t")
source("tsv", lambda: with_images("t.tsv", _csv("\t")), "t.tsv", r"^t")
source("jsonl", lambda: with_images("t.jsonl", jsonl()), "t.jsonl", r"^t")
if importlib.util.find_spec("openpyxl"):
    source("xlsx", lambda: with_images("t.xlsx", _workbook()), "t.xlsx", r"^t", mend=mend_zip)
source("coco", lambda: with_images("captions.json", _coco()), "captions.json", r"^captions")
source("redcaps", lambda: with_images("images_2018.json", _redcaps()), "images_2018.json", r"json")
source(
    "redcaps-list",
    lambda: with_images("a.json", json.dumps(json.loads(_redcaps())["annotations"]).encode()),
    "a.json",
    r"json",
)
source("conceptual", lambda: with_images("cc.npy", _npy()), "cc.npy", r"npy")
source("yfcc-pickle", lambda: _yfcc("m.pkl", lambda: pickle.dumps(_yfcc_rows(), 4)), "m.pkl", r"^m")
source("yfcc-pickle-2", lambda: _yfcc("m.pkl", lambda: pickle.dumps(_yfcc_rows(), 2)), "m.pkl", r"^m")
source("yfcc-parquet", lambda: _yfcc("m.parquet", _yfcc_parquet), "m.parquet", r"^m", megabytes=2200)
source("zip-stored", lambda: _yfcc("m.pkl", lambda: pickle.dumps(_yfcc_rows(), 4)), "m.pkl", r"zip")
source(
    "zip-deflated",
    lambda: _yfcc("m.pkl", lambda: pickle.dumps(_yfcc_rows(), 4), zipfile.ZIP_DEFLATED),
    "m.pkl",
    r"zip",
)
source("parquet-pictures", _parquet_pictures, "t.parquet", megabytes=2200)
source(
    "parquet-plain",
    lambda: _parquet_pictures(compression="none", use_dictionary=False),
    "t.parquet",
    megabytes=2200,
)
source(
    "parquet-zstd",
    lambda: _parquet_pictures(compression="zstd", data_page_version="2.0"),
    "t.parquet",
    megabytes=2200,
)
source("parquet-paths", _parquet_paths, "t.parquet", r"parquet", megabytes=2200)
register("saved-by-datasets", _saved, _needs_datasets, megabytes=2200)
source("tar", lambda: {"a.tar": tar()}, "a.tar", mend=mend_tar)
source("tar-pax", lambda: {"a.tar": tar(tarfile.PAX_FORMAT)}, "a.tar", mend=mend_tar)
register("tar-index", _tar_index, _read_tar_index, damaged="index", mend=mend_index)
source("folder", _sidecars, "folder", captions_required=False)
