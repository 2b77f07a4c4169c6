"""The readers: of each a tiny sample of what it reads, made here, and a function that reads all of it.

To join, add an entry to READERS. What is imported inside a function fails only its own reader where it is gone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import signal
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from slip.errors import DataError, SlipError

Files = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """files: the sample, by path. read: reads all of it, below a folder; raises SlipError for what cannot be read.

    damaged: a pattern of the paths that are damaged. mend: puts checksums right after the damage, half of the time, so
    that it reaches what is behind them. megabytes, seconds: of memory and of a core, that reading may take; the
    slowest machine that tests run on needs a tenth.
    """

    name: str
    files: Callable[[], Files]
    read: Callable[[Path], object]
    damaged: str = ""
    mend: Callable[[bytes], bytes] | None = None
    megabytes: int = 900
    seconds: int = 20


READERS: dict[str, Reader] = {}


def register(
    name: str, files: Callable[[], Files], read: Callable[[Path], object], **options: object
) -> None:
    READERS[name] = Reader(name, cache(files), read, **options)


# Pictures.


def picture(width: int = 24, height: int = 20, seed: int = 0) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0) -> bytes:
    return encoded(picture(seed=seed), "JPEG")


def _pictures() -> dict[str, tuple[str, dict[str, object]]]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    frames = {"save_all": True, "append_images": [picture(seed=1), picture(seed=2)]}
    text = {"pnginfo": _png_text()}
    return {
        "jpeg": ("RGB", {"format": "JPEG", "exif": exif}),
        "jpeg-progressive": ("RGB", {"format": "JPEG", "progressive": True}),
        "jpeg-cmyk": ("CMYK", {"format": "JPEG"}),
        "jpeg-mpo": ("RGB", {"format": "MPO"} | frames),
        "png": ("RGBA", {"format": "PNG", "exif": exif} | text),
        "png-palette": ("P", {"format": "PNG", "transparency": 3}),
        "png-grey-16": ("I;16", {"format": "PNG"}),
        "png-animated": ("RGB", {"format": "PNG"} | frames),
        "webp": ("RGB", {"format": "WEBP", "exif": exif}),
        "webp-animated": ("RGB", {"format": "WEBP", "lossless": True} | frames),
        "gif": ("P", {"format": "GIF"} | frames),
        "bmp": ("RGB", {"format": "BMP"}),
        "bmp-palette": ("P", {"format": "BMP"}),
        "tiff": ("RGB", {"format": "TIFF", "exif": exif}),
        "tiff-grey-16": ("I;16", {"format": "TIFF"}),
        "tiff-lzw": ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}),
        "tiff-deflate": ("RGBA", {"format": "TIFF", "compression": "tiff_adobe_deflate"}),
        "tiff-jpeg": ("RGB", {"format": "TIFF", "compression": "jpeg"}),
        "tiff-fax": ("1", {"format": "TIFF", "compression": "group4"}),
        "tiff-packbits-pages": ("RGB", {"format": "TIFF", "compression": "packbits"} | frames),
        "ppm": ("RGB", {"format": "PPM"}),
        "pgm-16": ("I;16", {"format": "PPM"}),
        "jpeg2000": ("RGB", {"format": "JPEG2000"}),
        "jpeg2000-tiled": ("RGB", {"format": "JPEG2000", "tile_size": (16, 16), "no_jp2": True}),
        "avif": ("RGB", {"format": "AVIF", "speed": 10, "exif": exif}),
        "avif-animated": ("RGB", {"format": "AVIF", "speed": 10} | frames),
    }


def _png_text() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a prompt", zip=True)
    info.add_itxt("Comment", "ein Bild", "de", "Kommentar", zip=True)
    return info


def _picture(mode: str, options: dict[str, object]) -> Files:
    image = picture()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return {"picture": encoded(image.convert(mode), **options)}


def _ascii() -> Files:
    return {"picture": b"P3\n# a comment\n4 3\n255\n" + b" ".join(b"%d" % (7 * k) for k in range(36)) + b"\n"}


def _decode(folder: Path) -> None:
    from slip.data.check.fingerprints import of_image
    from slip.data.decode import decode
    from slip.data.header import header

    data = (folder / "picture").read_bytes()
    of_image(data)
    with contextlib.suppress(SlipError):
        header(data)
    for min_side in (8, 0):
        pixels = decode(data, min_side)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


def mend_png(data: bytes) -> bytes:
    """Put the checksums of a PNG's chunks right."""
    out, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        size = min(int.from_bytes(data[position : position + 4], "big"), len(data) - position - 12)
        chunk = data[position + 4 : position + 8 + size]
        out += data[position : position + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        position += 12 + size
    return bytes(out)


for _name, (_mode, _options) in _pictures().items():
    register(
        _name, partial(_picture, _mode, _options), _decode, mend=mend_png if _name.startswith("png") else None
    )
register("ppm-ascii", _ascii, _decode)


# Sources.


def _source(name: str, folder: Path, **options: object) -> None:
    """Open a source and read all its records."""
    from slip.data.sources import open_source

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


def _with_images(name: str, data: bytes) -> Files:
    return {name: data} | IMAGES


def _csv(separator: str, encoding: str = "utf-8") -> bytes:
    import csv

    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator).writerows([("image", "caption"), *ROWS])
    return buffer.getvalue().encode(encoding)


def _jsonl() -> bytes:
    return b"".join(json.dumps({"image": i, "caption": [c, c]}).encode() + b"\n" for i, c in ROWS)


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
    return _with_images("t.parquet", parquet(pa.table({"image": list(names), "caption": list(texts)})))


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
    from slip.data.sources.tar_index import FOLDER, write_index

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


source("csv", lambda: _with_images("t.csv", _csv(",")), "t.csv", r"^t")
source("csv-semicolon-bom", lambda: _with_images("t.csv", _csv(";", "utf-8-sig")), "t.csv", r"^t")
source("tsv", lambda: _with_images("t.tsv", _csv("\t")), "t.tsv", r"^t")
source("jsonl", lambda: _with_images("t.jsonl", _jsonl()), "t.jsonl", r"^t")
source("coco", lambda: _with_images("captions.json", _coco()), "captions.json", r"^captions")
source("redcaps", lambda: _with_images("images_2018.json", _redcaps()), "images_2018.json", r"json")
source(
    "redcaps-list",
    lambda: _with_images("a.json", json.dumps(json.loads(_redcaps())["annotations"]).encode()),
    "a.json",
    r"json",
)
source("conceptual", lambda: _with_images("cc.npy", _npy()), "cc.npy", r"npy")
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


# What our own tools write, which may come from elsewhere.


def _list() -> Files:
    from slip.data.check.fingerprints import of_image

    lines = [
        {"index": k, "key": f"{k}.jpg", "what": ["damaged"], "image": f"{of_image(jpeg(k)):016x}"}
        for k in range(3)
    ]
    return {"list.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines)}


def _read_list(folder: Path) -> None:
    from slip.data.check.listing import compare, read_list
    from slip.data.record import Record

    class Three:
        name = "three"

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Record:
            return Record(jpeg(index), ("a",), f"{index}.jpg", "three")

    compare(Three(), read_list(folder / "list.jsonl"), processes=1)


def _convert(folder: Path) -> None:
    from slip.data.convert import write_shards
    from slip.data.sources import open_source

    write_shards(open_source(str(folder / "t.jsonl")), folder / "shards", 2)


@cache
def _converted() -> Files:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, data in _with_images("t.jsonl", _jsonl()).items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
        _convert(folder)
        shards = {
            f"shards/{path.name}": path.read_bytes()
            for path in (folder / "shards").iterdir()
            if path.is_file()
        }
    return _with_images("t.jsonl", _jsonl()) | shards


def _resume_conversion(folder: Path) -> None:
    manifest = folder / "shards" / "convert.json"
    place = json.dumps(str(folder / "t.jsonl")).encode()
    manifest.write_bytes(re.sub(rb'"[^"]*t\.jsonl"', lambda _: place, manifest.read_bytes()))
    _convert(folder)


def _run() -> Files:
    from slip import toml
    from slip.config import Config

    lines = [{"step": k, "position": 8 * k, "epoch": k / 10, "loss": 3.0 / k} for k in (1, 2, 3)]
    lines.append({"step": 3, "position": 24, "epoch": 0.3, "evaluation": {"zeroshot:scenes/top1": 0.5}})
    result = {"task": "zeroshot:scenes", "metric": "top1", "count": 100, "skipped": 0}
    return {
        "run/config.toml": toml.dumps(Config(name="tiny")).encode(),
        "run/metrics.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines),
        "run/results.json": json.dumps([result | {"value": 0.5, "low": 0.4, "high": 0.6}]).encode(),
        "run/versions.json": json.dumps({"python": "3.12.1", "torch": "2.99"}).encode(),
        "run/skipped.jsonl": json.dumps({"step": 1, "index": 3, "key": "a", "reason": "x"}).encode() + b"\n",
        "run/data.json": json.dumps({"train": {"name": "toy", "records": 3}}).encode(),
        "run/counts.json": json.dumps({"toy": {"records": 3, "skipped": 1}}).encode(),
    }


def _load_run(folder: Path) -> None:
    from slip.report.runs import load_run

    run = load_run(folder / "run")
    assert run.method is not None
    assert run.terms is not None
    assert run.done is None or isinstance(run.done, int | float)


def _page(folder: Path) -> None:
    from slip.report.page import write_report
    from slip.report.runs import load_run

    write_report(folder / "report.html", [load_run(folder / "run")], title="A report")


def _rewind(folder: Path) -> None:
    from slip.training.saving.run import RunFolder

    run = RunFolder(folder / "run")
    run._data()
    run.rewind(2, measured=False)


def _state() -> Files:
    state = {"step": 3, "position": 24, "rng": [1, 2, 3], "checksums": {"model.safetensors": "0" * 8}}
    return {"checkpoints/step-00000003/state.json": json.dumps(state).encode()}


def _read_state(folder: Path) -> None:
    from slip.training.saving.checkpoint import list_checkpoints, newest_good, read_state

    for checkpoint in list_checkpoints(folder / "checkpoints"):
        with contextlib.suppress(SlipError):
            read_state(checkpoint)
    with contextlib.suppress(SlipError):  # its weights are not there
        newest_good(folder / "checkpoints", lambda error: None)


def _tensors() -> Files:
    import torch
    from safetensors.torch import save

    return {"model.safetensors": save({"a": torch.zeros(3, 4), "b": torch.ones(2)})}


def _read_tensors(folder: Path) -> None:
    from slip.training.saving.tensors import read_tensors

    for tensor in read_tensors(folder / "model.safetensors").values():
        tensor.sum()


def _labelled_parquet() -> Files:
    table = pa.table(
        {"image": [{"bytes": data, "path": None} for data in IMAGES.values()], "label": [0, 1, 2]}
    )
    return {"set/test-0.parquet": parquet(table), "set/classes.json": json.dumps(["a", "b", "c"]).encode()}


def _labelled_folder() -> Files:
    return {f"set/test/{name}/{k}.jpg": jpeg(k) for k, name in enumerate(("cat", "dog"))}


def _labelled(folder: Path) -> None:
    from slip.evaluation.datasets import load_labelled

    labelled = load_labelled(str(folder / "set"))
    for image, label in zip(labelled.images, labelled.labels):
        labelled.class_names[label].encode("utf-8", "replace")
        assert len(image)


register("check-list", _list, _read_list)
register("convert-resumed", _converted, _resume_conversion, damaged="shards/")
register("run", _run, _load_run)
register("report", _run, _page)
register("run-resumed", _run, _rewind, damaged="metrics|skipped|data")
register("checkpoint-state", _state, _read_state)
register("checkpoint-tensors", _tensors, _read_tensors)
register("labelled-parquet", _labelled_parquet, _labelled, megabytes=2200)
register("labelled-folder", _labelled_folder, _labelled)


# Readers that do what none may, for a test of the fuzz itself.


def _raise(folder: Path) -> None:
    raise ValueError("a traceback")


def _refuse(folder: Path) -> None:
    raise DataError("It is refused, though it is whole")


def _die(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _leave(folder: Path) -> None:
    os._exit(3)


def _loop(folder: Path) -> None:
    while True:
        pass


def _eat(folder: Path) -> None:
    np.ones(60_000_000, np.uint8).sum()


BROKEN = {
    name: Reader(name, lambda: {"a": b"a"}, read, megabytes=30, seconds=1)
    for name, read in (
        *(("raises", _raise), ("refuses", _refuse), ("dies", _die)),
        *(("leaves", _leave), ("loops", _loop), ("eats", _eat)),
    )
}
