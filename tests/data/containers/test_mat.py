"""MAT-files: what scipy writes is read as scipy reads it, and damage is refused."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from openslip.data.containers.mat import read_mat
from openslip.errors import DataError

KINDS = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"], min_codepoint=32, max_codepoint=0xD7FF),
    max_size=8,
)


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0, draw(st.sampled_from([3, 120])), shape)
    return np.asarray(values, draw(st.sampled_from(KINDS)), order=draw(st.sampled_from("CF")))


@given(value=arrays(), compressed=st.booleans())
def test_numbers_are_scipys(tmp_path_factory, value, compressed):
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    savemat(path, {"other": [1, 2], "x": value, "more": "text"}, do_compression=compressed)
    found, theirs = read_mat(path, "x")["x"], loadmat(path)["x"]
    assert found.dtype == theirs.dtype
    assert np.array_equal(found, theirs)


@given(names=st.lists(texts, min_size=1, max_size=4), compressed=st.booleans())
def test_texts_cells_and_structs(tmp_path_factory, names, compressed):
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    row = np.empty((1, len(names)), dtype=object)
    row[0, :] = names
    records = np.empty((1, len(names)), dtype=[("name", object), ("class", object)])
    for i, name in enumerate(names):
        records[0, i] = (name, np.uint8(i))
    savemat(path, {"cells": row, "records": records, "text": names[0] or "x"}, do_compression=compressed)
    found = read_mat(path, "cells", "records", "text")
    assert found["cells"] == names
    assert [one["name"] for one in found["records"]] == names
    assert [int(one["class"][0, 0]) for one in found["records"]] == list(range(len(names)))
    assert found["text"] == (names[0] or "x")


def test_lines_of_a_text(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.array(["ab ", "cde"])})
    assert read_mat(tmp_path / "a.mat", "x")["x"] == "ab \ncde"


def test_other_byte_order(tmp_path):
    # A 1 × 2 array of uint16 called x, as a machine with the high byte first writes it.
    def element(kind, data):
        return kind.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data + bytes(-len(data) % 8)

    flags = (11).to_bytes(4, "big") + bytes(4)
    shape = (1).to_bytes(4, "big") + (2).to_bytes(4, "big")
    matrix = element(6, flags) + element(5, shape) + element(1, b"x") + element(4, b"\x01\x02\x00\x03")
    (tmp_path / "a.mat").write_bytes(b" " * 124 + b"\x01\x00MI" + element(14, matrix))
    assert read_mat(tmp_path / "a.mat", "x")["x"].tolist() == [[258, 3]]
    assert loadmat(tmp_path / "a.mat")["x"].tolist() == [[258, 3]]


def test_what_is_not_read_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    for data, message in (
        (b"", "cannot be read|not a MAT-file"),
        (b"x" * 200, "not a MAT-file of level 5"),
        (b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\x02IM", r"version 7\.3.*-v7"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_mat(path, "x")
    savemat(path, {"y": [1]})
    with pytest.raises(DataError, match="no variable 'x'"):
        read_mat(path, "x")


@given(place=st.integers(128, 400), value=st.integers(0, 255), cut=st.integers(0, 300))
def test_damage_is_an_error_or_other_values(tmp_path_factory, place, value, cut):
    buffer = io.BytesIO()
    savemat(buffer, {"x": np.arange(12.0).reshape(3, 4), "c": np.array(["a", "bc"], dtype=object)})
    data = bytearray(buffer.getvalue())
    data[min(place, len(data) - 1)] = value
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    path.write_bytes(bytes(data[: len(data) - cut]))
    with suppress(DataError):
        read_mat(path, "x", "c")


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("openslip.data.containers.mat.TABLE_BYTES", 1 << 20)
    packed = zlib.compress(bytes(4 << 20))
    head = b" " * 124 + b"\0\x01IM"
    (tmp_path / "a.mat").write_bytes(
        head + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    )
    with pytest.raises(DataError, match="takes too much"):
        read_mat(tmp_path / "a.mat", "x")


def _element(kind, content):
    return (
        kind.to_bytes(4, "little")
        + len(content).to_bytes(4, "little")
        + content
        + b"\0" * (-len(content) % 8)
    )


def _matrix(kind, shape, *parts):
    numbers = np.array(shape, "<i4").tobytes()
    head = _element(6, np.array([kind, 0], "<u4").tobytes()) + _element(5, numbers) + _element(1, b"x")
    return _element(14, head + b"".join(parts))


@pytest.mark.parametrize(
    "matrix",
    [
        _matrix(1, (1, 200_000), _element(14, b"") * 200_000),
        _matrix(2, (1, 1 << 30), _element(5, np.array([32], "<i4").tobytes()), _element(1, b"")),
        _matrix(4, (1 << 30, 1), _element(16, b"a")),
    ],
    ids=["cells of nothing", "structs without fields", "lines of nothing"],
)
def test_few_bytes_that_stand_for_many_objects_are_refused(tmp_path, monkeypatch, matrix):
    monkeypatch.setattr("openslip.data.containers.mat.TABLE_BYTES", 1 << 30)
    monkeypatch.setattr("openslip.data.containers.mat._ARRAY", 1 << 14)
    (tmp_path / "a.mat").write_bytes(b" " * 124 + b"\0\x01IM" + matrix)
    with pytest.raises(DataError, match="takes too much"):
        read_mat(tmp_path / "a.mat", "x")
