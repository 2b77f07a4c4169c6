"""One table: what can be decoded can be found by its name, wherever names decide."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from openslip.data.decode import decode, known_formats
from openslip.data.encode import STORED
from openslip.data.formats import EXTENSIONS, FORMATS, image_endings
from openslip.data.header import header
from openslip.data.labelled import load_labelled
from openslip.data.sources import open_source
from openslip.tools.check.facts import FORMAT_NAMES as TOLD


def encoded(format):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_found_opened_and_decoded(tmp_path, format):
    if format not in known_formats():
        pytest.skip(f"This Pillow was built without {format}")
    data = encoded(format)
    assert header(data).format == format
    assert decode(data).shape == (10, 20, 3)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for extension in FORMATS[format]:
            (tmp_path / name / f"0.{extension}").write_bytes(data)
            (tmp_path / name / f"1.{extension.upper()}").write_bytes(data)
    source = open_source(str(tmp_path))
    assert len(source) == 4 * len(FORMATS[format])
    assert all(np.abs(decode(record.image).astype(int) - (255, 0, 0)).max() < 3 for record in source)
    both = [load_labelled(str(tmp_path), split) for split in ("train", "test")]
    assert sum(map(len, both)) == len(source)
    assert all(image == data for labelled in both for image in labelled.images)


def test_the_table_is_whole():
    assert known_formats() == tuple(format for format in FORMATS if format in known_formats())
    assert set(TOLD) == {"unknown", "pixels", *FORMATS}
    assert FORMATS.keys() >= STORED
    assert sum(map(len, FORMATS.values())) == len(EXTENSIONS)
    assert image_endings().split(", ")[:2] == [".apng", ".avif"]
