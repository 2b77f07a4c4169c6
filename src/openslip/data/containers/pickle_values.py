"""What may lie on the stack of the pickle machine beside plain data, and the few calls that have a meaning there.

All of it stands for something of numpy's or Python's; nothing is looked up, imported or called.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from openslip.errors import DataError

RECONSTRUCT, SCALAR = "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"
DTYPE, ARRAY, ENCODE, BYTES = "numpy.dtype", "numpy.ndarray", "_codecs.encode", "__builtin__.bytes"
NAMES = frozenset({RECONSTRUCT, SCALAR, DTYPE, ARRAY, ENCODE, BYTES})
"""What numpy's object arrays and numbers ask for, newer ones in numpy._core, and bytes before protocol 3."""


class Name(str):
    """The name of something in a module, never looked up."""


class Dtype:
    """Stands for a numpy dtype."""

    def __init__(self, kind: str) -> None:
        self.kind, self.order = kind, "<"

    def value(self, data: bytes) -> Any:
        """Return the number or text whose bytes these are."""
        if not re.fullmatch(r"b1|f[248]|[iu][1248]|[US]\d{1,9}", self.kind):
            raise ValueError(f"a value of numpy type {self.kind!r}")
        if not data:
            return "" if self.kind[0] == "U" else b""
        return np.frombuffer(data, self.order + self.kind)[0].item()


class Array(list):
    """Stands for a numpy object array; `source` is the list that its elements came in."""

    source: list[Any] | None = None


def lasts(value: Any) -> bool:
    """Tell whether elements throughout the file may refer to this object, of which there are few."""
    match value:
        case Dtype(kind=str(kind)):
            return kind[:1] not in "US"  # numpy makes a new one for each text
        case bytes():
            return len(value) < 2  # Python has each single byte but once
        case _:
            return isinstance(value, (Name, bool))


def named(name: str, path: str) -> Name:
    """Return the name in a module that a pickle asks for. Raises DataError when it is none of NAMES."""
    name = name.replace("numpy._core.", "numpy.core.")
    if name not in NAMES:
        raise refusal(path, "", name)
    return Name(name)


def call(name: Any, arguments: Any, path: str) -> Any:
    """Return what stands for the result of what would be a call. Raises DataError for any without a meaning here."""
    match name, arguments:
        case _ if not isinstance(name, Name):
            raise TypeError(f"a call of a {type(name).__name__}")
        case str(), (Name(), (0,), b"b") if name == RECONSTRUCT:
            return Array()
        case str(), (str(kind), *_) if name == DTYPE:
            return Dtype(kind)
        case str(), (Dtype() as dtype, bytes(data)) if name == SCALAR:
            return dtype.value(data)
        case str(), (str(text), "latin1") if name == ENCODE:
            return text.encode("latin-1")
        case str(), () if name == BYTES:
            return b""
        case _:
            raise refusal(path, "", f"{name} with unusual arguments")


def copied(values: Any) -> int:
    """Return about how many bytes `call` or `complete` copy of the values that they are given."""
    if not isinstance(values, tuple):
        return 0
    return sum(
        8 * len(value) if isinstance(value, list) else len(value)
        for value in values[-4:]
        if isinstance(value, (str, bytes, list))
    )


def complete(target: Any, state: Any, path: str) -> None:
    """Give an array or dtype its state. Raises DataError for anything else."""
    match target, state:
        case Dtype(), (_, "<" | ">" | "=" | "|" as order, *_):
            target.order = order
        case Array(), (*_, Dtype(kind="O8" | "O4" | "O"), _, list() as elements) if not target:
            target.source = elements
            target.extend(elements)
        case _:
            raise refusal(path, "BUILD", None)


def refusal(path: str, opcode: str, argument: Any) -> DataError:
    """Return the error for what is not plain data."""
    if opcode in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
        return DataError(
            "The pickle holds texts of unknown encoding",
            got=path,
            cause="Python 2 wrote it",
            fix="Read it with Python 2, decode its texts, and write it again",
        )
    return DataError(
        "The pickle asks for more than plain data, and was refused; nothing of it was executed",
        got=" ".join(filter(None, [opcode, str(argument or "")]))[:200] + f", in {path}",
        cause="A pickle can run any program on the machine of whoever reads it in the usual way",
        fix="If you trust it, let its author write it again as a list of tuples, or dicts, of str and int",
    )
