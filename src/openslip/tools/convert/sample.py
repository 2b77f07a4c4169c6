"""Make the files of a WebDataset sample from a record: the image, a `.json`, and a `.txt` if there is a caption."""

from __future__ import annotations

import json
from typing import Any

from openslip.data.encode import Encoding
from openslip.data.record import Record, Skipped, Source
from openslip.errors import DataError


def make_sample(source: Source, index: int, encoding: Encoding) -> dict[str, bytes] | Skipped:
    """Return a record's files by extension, or a `Skipped` with the reason why there are none."""
    key, name = f"#{index}", source.name
    try:
        record = source[index]
        key, name = record.key, record.source
        extension, image = encoding(record.image)
    except DataError as error:
        return Skipped(index, key, name, str(error))
    about: dict[str, Any] = {}
    if (label := source.label(index)) is not None:
        about["label"] = int(label)
        if source.class_names:
            about["class"] = source.class_names[label]
    json_, text = sidecars(record, about)
    return {extension: image, "json": json_} | ({"txt": text} if record.captions else {})


def sidecars(record: Record, about: dict[str, Any] | None = None) -> tuple[bytes, bytes]:
    """Return a sample's `.json`, with key, captions and the fields in `about`, and its `.txt`."""
    fields = {"key": record.key, "captions": list(record.captions)} | (about or {})
    texts = json.dumps(fields, ensure_ascii=False), next(iter(record.captions), "")
    return texts[0].encode(errors="replace"), texts[1].encode(errors="replace")
