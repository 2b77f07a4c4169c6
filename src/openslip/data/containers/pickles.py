"""Metadata in pickles and in .npy files that hold them; reading them runs no code.

The reader is Python's own unpickler, cut down. Of its opcodes only those of plain data are left. In place of numpy's
functions it calls stand-ins, which make Python's values. It is the unpickler that is written in Python, because the one
in C cannot be bounded: six bytes make that one reserve 64 GB, and hashing a deep tuple ends the process.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openslip.data.limits import MEMORY, PICKLE_BYTES, Budget
from openslip.errors import DataError
from openslip.files import open_regular

_HEADS = {
    b"\x1f\x8b": "compressed with gzip: unpack it with gunzip",
    b"BZh": "compressed with bzip2: unpack it with bunzip2",
    b"\xfd7zXZ": "compressed with xz: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it with unzstd",
    b"PK\x03\x04": "a zip file: unpack it with unzip",
    b"PAR1": "a Parquet file: let its name end in .parquet",
    b"SQLite format": "an SQLite database",
    b"\x93NUMPY": "a numpy file: let its name end in .npy",
    b"<": "a web page or XML",
}
_OPCODES = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)
"""Those that are followed. The last four are for numpy's values; what they may name and call is in `_StandIn`."""
_KEYS = 2**60
"""Numbers up to this are hashes of their own."""


def read_list(path: str | Path) -> Iterator[Any]:
    """Yield the elements of the list, or numpy object array, that the pickle at `path` holds, one after the other.

    Elements are made of tuple, list, dict, str, bytes, int, float, bool and None; numpy's numbers and strings come as
    Python's. Protocols 0 to 5. The whole list is in memory before its first element is given: some four times the
    size of a file of short texts, and a hundred times at worst. Elements are released as they are given.

    Raises DataError when the file cannot be read, is larger than PICKLE_BYTES, is damaged, is no pickle, holds
    anything but one list, or asks for anything but plain data: nothing of it is executed.
    """
    with _Mapped(path, "pickle") as data:
        head = data[:16]
        what = next((what for magic, what in _HEADS.items() if head.startswith(magic)), "")
        if what or head[0] not in _Unpickler.dispatch:
            raise DataError("The file is not a pickle", got=str(path), cause=what and f"It is {what}")
        elements = _load(data, str(path))
    yield from _given(elements)


def read_object_array(path: str | Path) -> Iterator[Any]:
    """Yield the elements of the object array in the .npy file at `path`, one after the other, as `read_list` does.

    Raises DataError as `read_list` does, and when the file is no .npy file or holds numbers instead of objects.
    """
    with _Mapped(path, ".npy file") as data:
        shape, dtype = _npy_header(data, path)
        if dtype != np.dtype(object):
            raise DataError(
                "The .npy file holds no object array",
                got=f"{path}, an array of {dtype}",
                fix="Store captions as an array of dicts, each with the image and its captions",
            )
        elements = _load(data, str(path))
    if len(elements) != prod(shape):
        announced = f"{prod(shape):,}" if prod(shape) < 10**18 else "countless"
        raise DataError(
            f"The .npy file announces {announced} entries but holds {len(elements):,}", got=str(path)
        )
    yield from _given(elements)


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Return the dict in the pickle at `path`, whose values are plain data, or numpy arrays of numbers, uncopied.

    Texts that Python 2 wrote are taken as Latin-1, as the batches of CIFAR have them. Raises DataError as `read_list`
    does.
    """
    with _Mapped(path, "pickle") as data:
        top = _top(_ArrayUnpickler(data, str(path)), str(path))
    if not isinstance(top, dict):
        raise DataError(f"The pickle holds a {type(top).__name__}, not a dict of arrays", got=str(path))
    return {_text(key): _plain(value) for key, value in top.items()}


def _plain(value: Any) -> Any:
    """Return what a value of the dict stands for: arrays, and texts instead of bytes."""
    if isinstance(value, _Array):
        return list(value) if value.numbers is None else value.numbers
    if isinstance(value, list):
        return [_text(one) for one in value]
    return _text(value)


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _given(elements: list[Any]) -> Iterator[Any]:
    """Yield the elements, dropping each from the list."""
    elements.reverse()
    while elements:
        yield elements.pop()


def _load(data: mmap.mmap, path: str) -> list[Any]:
    """Return the list in the pickle that begins at the position of `data` and ends with the data."""
    top = _top(_Unpickler(data, path), path)
    if not isinstance(top, list):
        raise DataError(
            f"The pickle holds a {type(top).__name__.strip('_').lower()}, not a list of entries", got=path
        )
    rest = len(data) - data.tell()
    if rest:
        raise DataError(
            f"After the list, the file goes on for {rest:,} bytes",
            got=path,
            cause="The file may hold several pickles, of which only one is read",
            fix="Write all entries as one list",
        )
    return top


def _top(unpickler: _Unpickler, path: str) -> Any:
    """Return what the pickle holds that begins at the position of the unpickler's data."""
    try:
        return unpickler.load()
    except DataError:
        raise
    except Exception as error:  # whatever the unpickler makes of hostile bytes
        cause = "it ends too early" if isinstance(error, EOFError) else str(error)
        raise DataError(
            f"The pickle is damaged before byte {unpickler.data.tell():,}",
            got=path,
            cause=f"there is no opcode {error}" if isinstance(error, KeyError) else cause,
            fix="If it was cut off on the way, fetch it again",
        ) from None


class _Unpickler(pickle._Unpickler):
    """Makes plain data, and values in place of numpy's; see the module. numbers: whether arrays may be of numbers."""

    numbers = False
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {}  # by opcode; filled below

    def __init__(self, data: mmap.mmap, path: str) -> None:
        """data: gives no more than the file has, whatever length is asked for; a file object would reserve it all."""
        super().__init__(data, encoding="bytes")
        self.data, self.path = data, path
        # For what stand-ins copy, which may be one text any number of times.
        self.copies = Budget("The pickle", path, memory=8 * len(data) + MEMORY)

    def find_class(self, module: str, name: str) -> _StandIn:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in _StandIn.names:
            raise _refusal(self.path, full)
        return _StandIn(full, self.copies, self.numbers)


def _followed(name: str, code: int) -> Callable[[Any], None]:
    """Return what the unpickler does on an opcode."""
    follow: Callable[[Any], None] = pickle._Unpickler.dispatch[code]
    if name not in _OPCODES:

        def refuse(unpickler: Any) -> None:
            raise _refusal(unpickler.path, name)

        return refuse
    if name not in ("DICT", "SETITEM", "SETITEMS"):
        return follow

    def check_keys(unpickler: Any) -> None:
        _check_keys(unpickler.stack[-2:-1] if name == "SETITEM" else unpickler.stack[::2])
        follow(unpickler)

    return check_keys


def _check_keys(keys: Iterable[Any]) -> None:
    # The hash of a tuple in a tuple in a tuple …, a million times, would end the process; huge numbers can share one.
    for key in keys:
        if isinstance(key, tuple) or (isinstance(key, int) and not -_KEYS < key < _KEYS):
            raise TypeError(f"a {'tuple' if isinstance(key, tuple) else 'huge number'} as the key of a dict")


for _opcode in pickletools.opcodes:
    _Unpickler.dispatch[ord(_opcode.code)] = _followed(_opcode.name, ord(_opcode.code))


class _ArrayUnpickler(_Unpickler):
    """Makes arrays of numbers as well, and bytes of the texts that Python 2 wrote."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _Unpickler.dispatch | {
        ord(code): pickle._Unpickler.dispatch[ord(code)]
        for code in (pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING)
    }
    numbers = True


class _StandIn:
    """Stands for a function or type of numpy's or Python's that pickles of plain values name."""

    names = frozenset(
        (
            *("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"),
            *("numpy.core.multiarray.scalar", "_codecs.encode", "__builtin__.bytes"),
        )
    )
    """What numpy's object arrays and numbers ask for, newer ones in numpy._core, and bytes before protocol 3."""

    def __init__(self, name: str, copies: Budget, numbers: bool = False) -> None:
        """copies: what may still be copied from the file at `copies.got`. numbers: whether arrays may be of numbers."""
        self._name, self._copies, self._numbers = name, copies, numbers

    def __call__(self, *arguments: Any) -> Any:
        """Return what the call would. Raises DataError for any call that plain values do not need."""
        match self._name.rpartition(".")[2], arguments:
            case "_reconstruct", (_StandIn(_name="numpy.ndarray"), (0,), b"b"):
                return _Array(self._copies, self._numbers)
            case "dtype", (str() | bytes() as kind, _, _) | (str() | bytes() as kind,):
                return _Dtype(str(_text(kind)), self._copies)
            case "scalar", (_Dtype() as dtype, bytes(data)):
                self._copies.draw(memory=len(data))
                return dtype.value(data)
            case "encode", (str(text), "latin1"):
                self._copies.draw(memory=len(text))
                return text.encode("latin-1")
            case "bytes", ():
                return b""
        raise _refusal(self._copies.got, f"{self._name} with unusual arguments")

    def __setstate__(self, _: Any) -> None:  # without it, a pickle could set any attribute
        raise _refusal(self._copies.got, "BUILD")


class _Dtype:
    """Stands for a numpy dtype."""

    def __init__(self, kind: str, copies: Budget) -> None:
        self._kind, self._order, self._copies = kind, "<", copies

    @property
    def is_object(self) -> bool:
        return self._kind in ("O8", "O4", "O")

    def numbers(self, data: bytes, shape: tuple[Any, ...], transposed: bool) -> np.ndarray:
        """Return the array of numbers whose bytes these are. transposed: whether the first axis runs fastest."""
        if not re.fullmatch(r"f[248]|[iu][1248]", self._kind):
            raise ValueError(f"an array of numpy type {self._kind[:20]!r}")
        flat = np.frombuffer(data, self._order + self._kind)
        return flat.reshape(shape[::-1]).T if transposed else flat.reshape(shape)

    def value(self, data: bytes) -> Any:
        """Return the number or text whose bytes these are."""
        if not re.fullmatch(r"b1|f[248]|[iu][1248]|[US]\d{1,9}", self._kind):
            raise ValueError(f"a value of numpy type {self._kind[:20]!r}")
        if not data:
            return "" if self._kind[0] == "U" else b""
        return np.frombuffer(data, self._order + self._kind)[0].item()

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, "<" | ">" | "=" | "|" | b"<" | b">" | b"=" | b"|" as order, *_):
                self._order = _text(order)
            case _:
                raise _refusal(self._copies.got, "BUILD")


class _Array(list):
    """Stands for a numpy array: of objects, or, where that is allowed, of numbers, which `numbers` then holds."""

    numbers: np.ndarray | None = None

    def __init__(self, copies: Budget, may_be_numbers: bool = False) -> None:
        self._copies, self._may_be_numbers = copies, may_be_numbers

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, tuple() as shape, _Dtype(is_object=False) as dtype, transposed, bytes() as data) if (
                self._may_be_numbers and not self and self.numbers is None
            ):
                self.numbers = dtype.numbers(data, shape, bool(transposed))
            case (*_, _Dtype(is_object=True), _, list() as elements) if not self:
                self._copies.draw(memory=8 * len(elements))
                self.extend(elements)
            case _:
                raise _refusal(self._copies.got, "BUILD")


def _refusal(path: str | None, asked: str) -> DataError:
    """Return the error for what is not plain data."""
    if asked in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
        return DataError(
            "The pickle holds texts of unknown encoding",
            got=path,
            cause="Python 2 wrote it",
            fix="Read it with Python 2, decode its texts, and write it again",
        )
    return DataError(
        "The pickle asks for more than plain data, and was refused; nothing of it was executed",
        got=f"{asked[:200]}, in {path}",
        cause="A pickle can run any program on the machine of whoever reads it in the usual way",
        fix="If you trust it, let its author write it again as a list of tuples, or dicts, of str and int",
    )


def _npy_header(data: mmap.mmap, path: str | Path) -> tuple[tuple[int, ...], np.dtype]:
    """Read the header, which leaves `data` at the pickle behind it, and return the array's shape and type."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(data)  # type: ignore[arg-type]
        if version not in readers:
            raise ValueError(f"version {version} of the format")
        shape, _, dtype = readers[version](data)  # type: ignore[arg-type]
    except Exception as error:  # whatever numpy's parser of hostile text raises
        raise DataError(
            "The file is not a .npy file",
            got=str(path),
            cause=str(error),
            fix="If it was cut off, fetch it again",
        ) from None
    return shape, dtype


class _Mapped:
    """A file as read-only memory, for a `with` block."""

    def __init__(self, path: str | Path, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> mmap.mmap:
        try:
            with open_regular(self._path) as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise DataError(
                f"The {self._what} cannot be read", got=str(self._path), cause=str(error)
            ) from None
        if len(self._data) > PICKLE_BYTES:
            raise DataError(
                f"The {self._what} is too large",
                got=f"{self._path}, {len(self._data) / 1e9:.1f} GB",
                cause=f"Up to {PICKLE_BYTES / 1e9:.0f} GB are read, since all of it has to be in memory at once",
                fix="Write the entries to Parquet",
            )
        return self._data

    def __exit__(self, *_: object) -> None:
        self._data.close()
