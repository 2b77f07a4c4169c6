"""Specs become paths: braces and globs on disks, braces everywhere, endings of anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.storage.paths import ending, expand_braces, find_paths, stands_for_something
from openslip.errors import DataError


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.TAR", ".tar"),
        ("a.b/c", ""),
        ("https://h/a.tar", ".tar"),
        ("https://h/a.tar?x=1.csv#y", ".tar"),
        ("https://h/get?file=a.tar", ".tar"),
        ("https://h.com", ""),
        ("https://h.com/set/", ""),
        ("s3://bucket/a.Parquet", ".parquet"),
        ("simplecache::s3://bucket/a.tar", ".tar"),
        ("zip://d/a.tar::https://h/all.zip", ".tar"),
    ],
)
def test_ending(path, expected):
    assert ending(path) == expected


def test_ending_of_a_folder(tmp_path):
    (tmp_path / "x.tar").mkdir()
    assert ending(str(tmp_path / "x.tar")) == "/"


def test_addresses_are_not_asked_for():
    assert find_paths("https://h/{b,a}-{08..10}.tar") == [
        f"https://h/{name}-{i:02}.tar" for name in "ba" for i in (8, 9, 10)
    ]
    assert find_paths("HTTPS://h/a.tar") == ["HTTPS://h/a.tar"]


def test_what_is_too_long_for_a_path_is_still_a_spec():
    with pytest.raises(DataError, match="no such file|do not exist"):
        find_paths("a" * 5000 + ".tar")
    assert len(find_paths("https://h/{" + ",".join(f"{i:05}" for i in range(2000)) + "}.tar")) == 2000


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(1, 8))
def test_ranges(first, count, width):
    low, high = f"{first:0{width}}", f"{first + count:0{width}}"
    expanded = expand_braces(f"a-{{{low}..{high}}}.tar")
    assert expanded == [f"a-{i:0{width}}.tar" for i in range(first, first + count + 1)]


@given(st.text(st.sampled_from("{}.,01a*"), max_size=12))
def test_any_braces_expand_or_explain(spec):
    balanced = spec.count("{") == spec.count("}")
    try:
        assert expand_braces(spec)
        assert balanced
    except DataError as error:
        assert error.got == spec  # noqa: PT017


def test_what_exists_as_it_is_written_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p [1]/a.tar", "p 1/a.tar", "{x,y}/a1.tar", "{x,y}/a2.tar", "a[b].tar", "deep/p [1]/a.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_paths("p [1]/*.tar") == ["p [1]/a.tar"]
    assert find_paths("p ?/*.tar") == ["p 1/a.tar"]
    assert find_paths("{x,y}/a{1..2}.tar") == ["{x,y}/a1.tar", "{x,y}/a2.tar"]
    assert find_paths("{x,y}/a[2].tar") == ["{x,y}/a2.tar"]
    assert find_paths("a[b].tar") == ["a[b].tar"]
    assert find_paths("*/p [1]/a.tar") == ["deep/p [1]/a.tar"]
    assert find_paths("**/a?.tar") == ["{x,y}/a1.tar", "{x,y}/a2.tar"]
    assert find_paths(f"{tmp_path}/p [1]/*.tar") == [f"{tmp_path}/p [1]/a.tar"]
    with pytest.raises(DataError, match="Brackets are part of a pattern"):
        find_paths("q [1]/*.tar")
    with pytest.raises(DataError, match="NUL"):
        find_paths("a\0*")


@pytest.mark.parametrize(
    ("path", "there"),
    [("p", True), ("p/*.tar", True), ("p/{a,b}.tar", True), ("p/{a.tar", False), ("q/*", False), ("", True)],
)
def test_stands_for_something(tmp_path, path, there):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.tar").touch()
    assert stands_for_something(f"{tmp_path}/{path}") == there
    assert not stands_for_something(f"{tmp_path}/**/a.tar")
