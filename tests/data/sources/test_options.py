"""An option need not fit every source that it is given for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.sources import open_source
from openslip.errors import DataError


@pytest.fixture
def data(tmp_path, monkeypatch, write_tar, jpeg):
    """Tables with other columns and other image folders, and shards, which have neither."""
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.jpg").write_bytes(jpeg)
    (tmp_path / "a.csv").write_text("file,words,caption\nhere/here.jpg,words of a,caption of a\n")
    (tmp_path / "b.csv").write_text("file,caption\nhere/here.jpg,caption of b\n")
    (tmp_path / "bare.csv").write_text("file\nhere/here.jpg\n")
    (tmp_path / "far.csv").write_text("file,caption\nthere.jpg,far\n")
    write_tar(tmp_path / "s.tar", [("1.jpg", jpeg), ("1.txt", b"of s")])
    pq.write_table(pa.table({"image": [jpeg], "text": ["of p"]}), tmp_path / "p.parquet")
    entry = {"image_id": "here/here.jpg", "captions": ["of n"]}
    np.save(tmp_path / "n.npy", np.array([entry], dtype=object))
    return tmp_path


def captions(spec: str, **options) -> list[tuple[str, ...]]:
    source = open_source(spec, **options)
    return [source[index].captions for index in range(len(source))]


def test_a_column_of_one_source_of_a_mixture(data) -> None:
    spec = "a.csv + b.csv + s.tar + p.parquet + n.npy"
    found = captions(spec, caption_column="words")
    assert found == [("words of a",), ("caption of b",), ("of s",), ("of p",), ("of n",)]
    note = open_source(spec, caption_column="words", image_column="file").note
    assert "Columns of b.csv: caption from 'caption' (guessed)" in note
    assert "a.csv: caption" not in note


@pytest.mark.parametrize(
    "spec", ["b.csv", "b.csv + s.tar", "s.tar + b.csv + here", "p.parquet", "n.npy", "n.npy + b.csv"]
)
def test_a_column_of_none_is_an_error(data, spec) -> None:
    with pytest.raises(DataError, match="no (column |captions )?'words'"):
        open_source(spec, caption_column="words")
    assert captions(spec, caption_column="words", must_fit=False, captions_required=False)


def test_where_there_is_nothing_to_guess_the_error_is_of_what_was_asked_for(data) -> None:
    with pytest.raises(DataError, match=r"bare\.csv has no column 'words'"):
        open_source("a.csv + bare.csv", caption_column="words")
    assert captions("bare.csv", caption_column="words", must_fit=False, captions_required=False) == [()]


def test_a_folder_of_images_of_one_source_of_a_mixture(data) -> None:
    assert captions("far.csv + b.csv", image_root="there") == [("far",), ("caption of b",)]
    with pytest.raises(DataError, match="not where they were looked for"):
        open_source("b.csv", image_root="there")
    assert captions("b.csv", image_root="there", must_fit=False) == [("caption of b",)]
    with pytest.raises(DataError, match=r"far\.csv names are not where they were looked for.*nowhere"):
        open_source("far.csv", image_root="nowhere", must_fit=False)
