"""Labelled images: Parquet, tables, shards and folders, and the files beside them that name their classes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from fuzzing.pictures import jpeg
from fuzzing.registry import Files, register
from fuzzing.sources import IMAGES, mend_tar, parquet, with_images

NAMES = ["cat", "great_white_shark", "Bäume"]


def _read(spec: str) -> Callable[[Path], None]:
    """Return what opens a set, by its name in the folder, and reads all of it."""

    def read(folder: Path) -> None:
        from openslip.data.labelled import open_labelled

        found = open_labelled(str(folder / spec))
        found.describe().encode("utf-8", "replace")
        for labelled in found.splits.values():
            for image, label in zip(labelled.images, labelled.labels):
                labelled.class_names[label].encode("utf-8", "replace")
                assert len(image)

    return read


def _table(labels: object, names: list[str] | None = None) -> bytes:
    table = pa.table({"image": [{"bytes": data, "path": None} for data in IMAGES.values()], "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        info = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": info})
    return parquet(table)


def _numbers(**beside: bytes) -> Files:
    return {"set/test-0.parquet": _table([0, 1, 2])} | {f"set/{name}": data for name, data in beside.items()}


def _readme() -> Files:
    names = "".join(f"          '{i}': {name}\n" for i, name in enumerate(NAMES))
    head = (
        "---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    )
    return _numbers(**{"README.md": f"{head}{names}---\n".encode()})


def _infos() -> Files:
    features = {"label": {"names": NAMES, "_type": "ClassLabel"}}
    return _numbers(**{"dataset_infos.json": json.dumps({"default": {"features": features}}).encode()})


def _of_each_file() -> Files:
    return {
        "set/train.parquet": _table([0, 1, 2], NAMES),
        "set/test.parquet": _table(pa.array([2, None, 0], pa.uint8()), NAMES[::-1]),
    }


def _csv() -> Files:
    rows = "".join(
        f"{path},{name},{split}\n" for path, name, split in zip(IMAGES, NAMES, ("train", "test", "test"))
    )
    return with_images("t.csv", f"image,label,split\n{rows}".encode())


def _tar(beside: Callable[[int], dict[str, bytes]], key: Callable[[int], str] = "{:05}".format) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for k in range(3):
            for ending, data in {"jpg": jpeg(k), **beside(k)}.items():
                member = tarfile.TarInfo(f"{key(k)}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _shard() -> Files:
    tar = _tar(lambda k: {"cls": str(k).encode()})
    return {"set/test/0.tar": tar, "set/classnames.txt": "\n".join(NAMES).encode()}


def _shard_of_json() -> Files:
    return {
        "test.tar": _tar(
            lambda k: {"json": json.dumps({"label": k, "meta": {"class_name": NAMES[k]}}).encode()}
        )
    }


def _shard_of_folders() -> Files:
    return {"test.tar": _tar(lambda k: {}, lambda k: f"test/{NAMES[k]}/{k}")}


register(
    "labelled-parquet",
    lambda: _numbers(**{"classes.json": json.dumps(NAMES).encode()}),
    _read("set"),
    megabytes=2200,
)
register(
    "labelled-mapping",
    lambda: _numbers(**{"classes.json": json.dumps({"a": 1, "b": 0, "c": 2}).encode()}),
    _read("set"),
    damaged="json",
)
register("labelled-readme", _readme, _read("set"), damaged="README")
register("labelled-infos", _infos, _read("set"), damaged="json")
register("labelled-names-of-each-file", _of_each_file, _read("set"), megabytes=2200)
register("labelled-table", _csv, _read("t.csv"), damaged="csv")
register("labelled-shard", _shard, _read("set"), mend=mend_tar)
register("labelled-shard-json", _shard_of_json, _read("test.tar"), mend=mend_tar)
register("labelled-shard-folders", _shard_of_folders, _read("test.tar"), mend=mend_tar)
register(
    "labelled-folder",
    lambda: {f"set/test/{name}/{k}.jpg": jpeg(k) for k, name in enumerate(("cat", "dog"))},
    _read("set"),
)
