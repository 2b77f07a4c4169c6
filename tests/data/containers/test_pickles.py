"""Metadata without pickle: the same data as pickle gives, and nothing that runs."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openslip.data.containers.pickles import read_list, read_object_array
from openslip.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.binary(max_size=9)
    | st.text(max_size=20)
    | st.sampled_from(["", "é", "\ud800", "title"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=9) | st.integers(-(2**59), 2**59), inner, max_size=4)
    ),
    max_leaves=12,
)


class Harmful:
    """Leaves a file behind when it is unpickled the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


OBJECTS = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR\x89"
ARRAY_OF_ITSELF = (  # twice as long each time it is told to be so
    b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btRq\x00"
    b"(K\x01]" + OBJECTS + b"](K\x07etb" + (b"(K\x01K\x01" + OBJECTS + b"h\x00tb") * 60 + b"."
)


def test_the_harmful_pickle_is_one(tmp_path):
    pickle.loads(pickle.dumps(Harmful(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.fixture
def dumped(tmp_path):
    def dump(value, protocol=4):
        path = tmp_path / "a.pkl"
        path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
        return path

    return dump


@settings(max_examples=80, deadline=None)
@given(entries=st.lists(VALUES, max_size=5), protocol=st.sampled_from(PROTOCOLS), optimize=st.booleans())
def test_same_as_pickle(tmp_path_factory, entries, protocol, optimize):
    data = pickle.dumps(entries, protocol)
    path = tmp_path_factory.mktemp("pickles") / "a.pkl"
    path.write_bytes(pickletools.optimize(data) if optimize else data)
    assert list(read_list(path)) == entries
    assert repr(list(read_list(path))) == repr(entries)  # True is not 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_texts_that_many_entries_share(dumped, protocol):
    shared = "a title that thousands of pictures have"
    rows = [(i, shared if i % 2 else f"title {i}", "" if i % 3 else "é") for i in range(3000)]
    rows[7] = rows[1200] = (8, "long", "x" * 70_000)
    assert list(read_list(dumped(rows, protocol))) == rows


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_numbers_and_texts_come_as_pythons(dumped, tmp_path, protocol):
    entries = [
        {
            "image_id": np.int64(i),
            "captions": [np.str_(f"é {i}"), np.str_("")],
            "scores": (np.float32(0.5), np.uint8(3), np.bool_(True), np.array([1])[0].astype(">i4")),
            "same": np.array(["a", f"{i}"], dtype=object),
        }
        for i in range(1010)
    ]
    plain = [
        {
            "image_id": i,
            "captions": [f"é {i}", ""],
            "scores": (0.5, 3, True, 1),
            "same": ["a", f"{i}"],
        }
        for i in range(1010)
    ]
    read = list(read_list(dumped(entries, protocol)))
    assert read == plain
    assert type(read[0]["captions"][0]) is str
    assert list(read_list(dumped(np.array(entries, dtype=object), protocol))) == plain
    np.save(tmp_path / "a.npy", np.array(entries, dtype=object))
    assert list(read_object_array(tmp_path / "a.npy")) == plain


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("protocol", [0, 2])
def test_arrays_of_old_and_new_numpy(dumped, module, protocol):
    data = pickle.dumps(np.array([{"a": 1}, {"a": 2}], dtype=object), protocol)
    there = b"cnumpy._core.multiarray\n" if b"numpy._core" in data else b"cnumpy.core.multiarray\n"
    assert data.count(there) == 1
    path = dumped(data.replace(there, f"c{module}\n".encode()))
    assert list(read_list(path)) == [{"a": 1}, {"a": 2}]


def memory_of(path):
    """Return the peak in bytes while a pickle is read, whether it can be or not."""
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            sum(1 for _ in read_list(path))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_in_proportion_to_the_file(dumped):
    count = 15_000
    path = dumped([(i, f"{i}" * 10, f"{i}" + "x" * 300) for i in range(count)])
    assert memory_of(path) < 3 * path.stat().st_size


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02]r\xff\xff\xff\xffe.",  # an object number that would make C's unpickler reserve 64 GB
        b"\x80\x02](" + b"".join(b"K\x01r" + struct.pack("<I", 4096 * i) for i in range(4000)) + b"e.",
        b"\x80\x04]\x8d" + struct.pack("<Q", 1 << 40) + b"abc",  # a text of 1 TiB
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"].",  # a frame of 1 TiB
        b"\x80\x02](" + b"]" * 20_000 + b"e.",
        b"\x80\x02](" + b"]q\x00" * 20_000 + b"e.",
        b"\x80\x02](" + b"(" * 20_000 + b".",
        b"\x80\x04](" + b"}\x94" * 20_000 + b"e.",
        b"\x80\x02](" + b"]" * 20_000 + b"a" * 20_000 + b"e.",
        b"\x80\x02](" + b")" + b"\x85" * 20_000 + b"e.",
        b"\x80\x02]q\x00(" + b"h\x00" * 20_000 + b"e.",
    ],
)
def test_no_program_takes_more_than_a_hundred_times_its_length(dumped, program):
    assert memory_of(dumped(program)) < 150 * len(program) + 100_000


def test_the_billion_laughs_are_shared_not_copied(dumped):
    """Each list holds the one before it ten times."""
    levels = b"".join(b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(60))
    path = dumped(b"\x80\x02](](K\x07eq\x00" + levels + b"e.")
    last = list(read_list(path))[-1]
    assert len(last) == 10
    assert all(inner is last[0] for inner in last)
    assert memory_of(path) < 100_000


def test_files_beyond_the_limit_are_refused(dumped, monkeypatch):
    monkeypatch.setattr("openslip.data.containers.pickles.PICKLE_BYTES", 100)
    assert list(read_list(dumped([1]))) == [1]
    with pytest.raises(DataError, match="The pickle is too large"):
        list(read_list(dumped(list(range(100)))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_executed(dumped, tmp_path, protocol):
    harmful = Harmful(tmp_path / "ran")
    for value in (harmful, [(1, "a", harmful)], np.array([{"captions": [harmful]}], dtype=object)):
        with pytest.raises(DataError, match=r"(posix|nt)\.system.*refused|refused.*(posix|nt)\.system"):
            list(read_list(dumped(value, protocol)))
    buffer = io.BytesIO()
    np.save(buffer, np.array([harmful, None], dtype=object))
    path = tmp_path / "a.npy"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="nothing of it was executed"):
        list(read_object_array(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"(S'touch RAN'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch RAN'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nU\x09touch RAN\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch RAN\x85R.",
        ARRAY_OF_ITSELF,
        b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00i8tR}(X\x03\x00\x00\x00abcK\x01ub.",  # BUILD with a dict
        b"\x80\x02c__builtin__\neval\nX\x0a\x00\x00\x00__import__\x85R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x05tX\x01\x00\x00\x00b\x87R.",
        b"\x80\x02]cnumpy\ndtype\n\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x05]\x97a.",  # NEXT_BUFFER, which lies outside the file
        b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00namesK\x01s\x86b.",  # BUILD of what is called
        b"\x80\x02cnumpy.core.multiarray\nscalar\n}X\x08\x00\x00\x00__call__K\x01sb.",
        b"\x80\x02ccollections\nOrderedDict\n)R.",
        b"\x80\x04\x8c\x0fnumpy.ndarray.x\x8c\x01y\x93.",
        b"P1\n.",  # PERSID
        b"\x80\x02](X\x01\x00\x00\x00aK\x01K\x02e0.",  # POP
        b"\x80\x02U\x03abc.",  # a text of Python 2
    ],
)
def test_opcodes_that_do_more_than_data(dumped, tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="refused|Python 2"):
        list(read_list(dumped(program)))
    assert not (tmp_path / "RAN").exists()


def long_tuple(depth):
    return b"\x80\x02](}(" + b")" + b"\x85" * depth + b"K\x01ue."


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02]r\xff\xff\xff\xffe.",  # an object number that would make pickle reserve 64 GB
        b"\x80\x04]\x8d" + struct.pack("<Q", 1 << 60) + b"abc",  # a text of 1 EiB
        b"\x80\x02](h\x07e.",  # an object that was not numbered
        b"\x80\x02]K\x01s.",  # a key for a list
        b"\x80\x02}K\x01a.",  # an element for a dict
        b"\x80\x02(]K\x01u.",  # keys, but an odd number
        b"\x80\x02](}](K\x01K\x02ue.",  # a list for a key
        long_tuple(300_000),  # a key whose hash would overflow the stack
        # A number of numpy's that is a pointer.
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n(X\x02\x00\x00\x00O8tRC\x08ABCDEFGH\x86R.",
        b"\x80\x02]K\x01R.",  # a call of a list
        b"\x80\x02R.",
        b"\x80\x02\x87.",
        b"\x80\x02e.",
        b".",
        b"L" + b"9" * 10_000 + b"L\n.",
        b"\x80\x02](X\x02\x00\x00\x00\xff\xfee.",  # no UTF-8
    ],
)
def test_senseless_programs(dumped, program):
    with pytest.raises(DataError, match="damaged before byte"):
        list(read_list(dumped(program)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage_ends_with_our_error_or_not_at_all(tmp_path_factory, data):
    protocol = data.draw(st.sampled_from(PROTOCOLS))
    entries = [{"image_id": np.int64(i), "captions": [f"a{i}", "", "b"]} for i in range(3)] + [
        (1, "é", b"x", 2.5)
    ]
    content = bytearray(pickle.dumps(entries, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pickles") / "a.pkl"
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    with contextlib.suppress(DataError):
        list(read_list(path))


def test_cut_off_anywhere(dumped):
    rows = [(i, f"title {i}", "b") for i in range(12)]
    content = pickle.dumps(rows)
    for length in range(0, len(content), 3):
        with pytest.raises(DataError, match="cut off|cannot be read"):
            list(read_list(dumped(content[:length])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (gzip.compress(pickle.dumps([1]), mtime=0), "not a pickle.*gunzip"),
        (b"PK\x03\x04....", "unzip"),
        (b"SQLite format 3\0", "SQLite"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://example.org/spec/v1\n", "not a pickle"),
        (pickle.dumps({"a": 1}), "holds a dict, not a list"),
        (pickle.dumps({"a": [1]}), "holds a dict, not a list"),
        (pickle.dumps(((1, "a", "b"),)), "holds a tuple, not a list"),
        (pickle.dumps("text"), "holds a str, not a list"),
        (pickle.dumps([1]) + pickle.dumps([2]), "goes on for 17 bytes.*several pickles"),
        (pickle.dumps([{1, 2}]), "refused"),
    ],
)
def test_something_else(dumped, content, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        list(read_list(dumped(content)))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_list(dumped(b"x").with_name("none")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_entries_that_share_more_than_texts(dumped, protocol):
    captions, row, bytes_ = ["a", "b"], (1, "a", "b"), b"abc"
    entries = [row if i == 700 else {"captions": captions, "id": i, "bytes": bytes_} for i in range(2500)]
    entries[2200] = row
    assert list(read_list(dumped(entries, protocol))) == entries
    assert list(read_list(dumped(np.array(entries, dtype=object), protocol))) == entries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not numpy", "not a .npy file"),
        (b"\x93NUMPY\x01\x00\x05\x00{'a':\n", "not a .npy file"),
        (b"\x93NUMPY\x03\x00\x05\x00\x00\x00{'a':\n", "not a .npy file"),
        (b"\x93NUMPY", "not a .npy file"),
        (b"", "cannot be read"),
    ],
)
def test_not_npy(tmp_path, content, message):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_object_array(path))


def test_npy_of_numbers_or_cut_off_or_with_another_length(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(3))
    with pytest.raises(DataError, match="holds no object array.*int64"):
        list(read_object_array(path))
    np.save(path, np.array([{"a": i} for i in range(12)], dtype=object))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(DataError, match="cut off"):
        list(read_object_array(path))
    path.write_bytes(whole.replace(b"(12,)", b"(13,)", 1))
    with pytest.raises(DataError, match="announces 13 entries but holds 12"):
        list(read_object_array(path))


def test_copies_of_one_text_are_bounded(dumped, monkeypatch):
    monkeypatch.setattr("openslip.data.containers.pickles.MEMORY", 40_000)
    text = b"X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x00"
    copy = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    assert list(read_list(dumped(b"\x80\x02](" + text + 40 * copy + b"e.")))[1:] == 40 * [b"x" * 1000]
    with pytest.raises(DataError, match="takes too much"):
        list(read_list(dumped(b"\x80\x02](" + text + 100 * copy + b"e.")))


def test_keys_that_share_a_hash_are_refused(dumped):
    with pytest.raises(DataError, match="a huge number as the key"):
        list(read_list(dumped([{2**61 - 1: 0}])))


def test_a_header_that_announces_countless_entries(tmp_path):
    with io.BytesIO() as file:
        np.save(file, np.array([{}], dtype=object))
        content = file.getvalue()
    number = b"9" * 30
    header = content[10 : 10 + int.from_bytes(content[8:10], "little")].replace(b"(1,)", b"(%s,)" % number)
    header = header.rstrip() + b"\n"
    path = tmp_path / "a.npy"
    path.write_bytes(
        content[:8] + len(header).to_bytes(2, "little") + header + content[content.index(b"\n") + 1 :]
    )
    with pytest.raises(DataError, match="countless entries but holds 1"):
        list(read_object_array(path))
