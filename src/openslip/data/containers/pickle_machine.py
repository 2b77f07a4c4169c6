"""Pickle's stack machine, with data on its stack and nothing else: no Python object is ever looked up or called.

Python's own reader, with an allow-list or without, builds the whole list before it gives any of it: several GB for the
metadata of YFCC15M. This one hands over element after element. What it keeps is 8 bytes for each object that the
file numbers, since a later element may refer back to it. Memory is in proportion to the file: numbers run no further
ahead than bytes, and copies of what is referred to again and again are drawn from a budget.
"""

from __future__ import annotations

import mmap
import pickletools
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import islice
from sys import getsizeof
from typing import Any

from openslip.data.containers.pickle_values import call, complete, copied, lasts, named, refusal
from openslip.data.limits import MEMORY, Budget
from openslip.errors import DataError

HOT_TEXTS = 4096
"""Texts referred back to that are held ready: the keys of dicts, mostly."""

_KEYS = 2**60
"""Numbers up to this are hashes of their own."""

_TEXTS = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_ATOMS = (
    *("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)

_OPCODES: dict[str, Any] = {opcode.code: opcode for opcode in pickletools.opcodes}

_Reader = Callable[[Any], Any]


class _LetGo(Exception):
    """The pickle refers to an object that was not kept."""


class Machine:
    """Follows the program that a pickle is.

    The first list it is told to make is the one whose elements are handed over; it stays empty. `count` is how many.
    """

    def __init__(self, data: mmap.mmap, path: str, *, keep: bool = False) -> None:
        """`data`: the file, to be read from where it stands. `path`: what to call it. `keep`: all that has a number."""
        self._data, self._path, self._keep = data, path, keep
        self.count = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._stream: list[Any] | None = None
        # The memo: numbered objects that later ones may refer to. Texts by their place in the file, 0 for other
        # objects; those are in `_kept`, or in `_recent` until the element that they are part of is handed over.
        self._places = array("Q")
        self._kept: dict[int, Any] = {}
        self._recent: dict[int, Any] = {}
        self._text_place = 0  # where the text on top of the stack is spelled; 0: it is not, or is no text
        self._text = lru_cache(HOT_TEXTS)(self._read_text)
        self._budget = self._anew()  # of the copies in the element that is being made
        self._do = self._instructions()

    def items(self) -> Iterator[Any]:
        """Run the program; yield the elements of its list as they are complete."""
        start = self._data.tell()
        try:
            yield from self._run()
        except _LetGo:
            # Rare: an element has more than texts in common with one long before it. Once more, keeping everything.
            self._data.seek(start)
            again = Machine(self._data, self._path, keep=True)
            yield from islice(again.items(), self.count, None)
            self.count = again.count

    def _run(self) -> Iterator[Any]:
        data, start = self._data, self._data.tell()
        code = b""
        try:
            while code != b".":
                place, code = data.tell(), data.read(1)
                if code not in self._do:
                    raise self._not_done(code, place == start)
                read, do = self._do[code]
                elements = do(read(data) if read else None)
                if elements:
                    yield from elements
            self._check_end()
        except (ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError) as error:
            raise DataError(
                f"The pickle is damaged at byte {data.tell():,}",
                got=self._path,
                cause=str(error),
                fix="If it was cut off on the way, fetch it again",
            ) from None

    def _not_done(self, code: bytes, first: bool) -> DataError:
        """Return the error for an opcode that is not followed."""
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None and code and first:
            return DataError("The file is not a pickle", got=self._path)
        if opcode is None:
            raise ValueError("it ends too early" if not code else f"there is no opcode {code}")
        return refusal(self._path, opcode.name, opcode.arg.reader(self._data) if opcode.arg else "")

    def _instructions(self) -> dict[bytes, tuple[_Reader | None, Callable[[Any], Any]]]:
        """Return by opcode how its argument is read, and what to do with it. That returns what to hand over, if any."""
        push, stack, marks = self._stack.append, self._stack, self._marks
        by_name: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(_ATOMS, push),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "MARK": lambda _: marks.append(len(stack)),
            "EMPTY_LIST": lambda _: push(self._list([])),
            "LIST": lambda _: push(self._list(self._marked())),
            "APPEND": lambda _: self._extend([stack.pop()]),
            "APPENDS": lambda _: self._extend(self._marked()),
            "EMPTY_TUPLE": lambda _: push(()),
            "TUPLE": lambda _: push(tuple(self._marked())),
            **{f"TUPLE{n}": lambda _, n=n: push(self._tuple(n)) for n in (1, 2, 3)},
            "EMPTY_DICT": lambda _: push({}),
            "DICT": lambda _: push(_pairs(self._marked())),
            "SETITEM": lambda _: self._update([stack.pop(-2), stack.pop()]),
            "SETITEMS": lambda _: self._update(self._marked()),
            "MEMOIZE": lambda _: self._put(len(self._places)),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            "GLOBAL": lambda name: push(named(name.replace(" ", "."), self._path)),
            "STACK_GLOBAL": lambda _: push(named(f"{stack.pop(-2)}.{stack.pop()}", self._path)),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._build(),
        }
        table: dict[bytes, tuple[_Reader | None, Callable[[Any], Any]]] = {}
        for opcode in _OPCODES.values():
            code, read = opcode.code.encode("latin-1"), opcode.arg.reader if opcode.arg else None
            if opcode.name in _TEXTS and read:
                table[code] = None, partial(self._push_text, read)
            elif opcode.name in by_name:
                table[code] = read, by_name[opcode.name]
        return table

    def _push_text(self, read: _Reader, _: None) -> None:
        self._text_place = self._data.tell()  # just behind the opcode, hence never 0
        self._stack.append(read(self._data))

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        mark = self._marks.pop()
        taken = self._stack[mark:]
        del self._stack[mark:]
        return taken

    def _tuple(self, size: int) -> tuple[Any, ...]:
        taken = tuple(self._stack[-size:])
        if len(taken) < size:
            raise IndexError("the stack is empty")
        del self._stack[-size:]
        return taken

    def _list(self, elements: list[Any]) -> list[Any]:
        if self._stream is None and not elements:
            self._stream = elements
        return elements

    def _extend(self, elements: list[Any]) -> list[Any] | None:
        """Add to the list on top of the stack, or return the elements to hand over."""
        target = self._stack[-1]
        if target is self._stream:
            if not self._keep:
                self._recent.clear()
            if self._budget.memory < MEMORY:
                self._budget = self._anew()
            self.count += len(elements)
            return elements
        if type(target) is not list:
            raise TypeError(f"elements for a {type(target).__name__}")
        target.extend(elements)
        return None

    def _anew(self) -> Budget:
        return Budget("The pickle", self._path, memory=MEMORY)

    def _update(self, flat: list[Any]) -> None:
        if type(self._stack[-1]) is not dict:
            raise TypeError(f"keys for a {type(self._stack[-1]).__name__}")
        self._stack[-1].update(_pairs(flat))

    def _put(self, number: int) -> None:
        """Give the object on top of the stack a number."""
        missing = number - len(self._places)
        if number < 0 or (missing > 0 and number > self._data.tell()):
            raise ValueError(f"object number {number} follows on number {len(self._places) - 1}")
        top = self._stack[-1]
        place = self._text_place if type(top) is str else 0
        if missing < 0:
            self._places[number] = place
        else:
            self._places.extend([0] * missing)
            self._places.append(place)
        if not place:
            (self._kept if top is self._stream or lasts(top) else self._recent)[number] = top

    def _get(self, number: int) -> None:
        """Push the object with this number."""
        place = self._places[number] if 0 <= number < len(self._places) else 0
        if place:
            self._stack.append(self._text(place))
            self._text_place = place
        elif number in self._kept or number in self._recent:
            self._stack.append(self._recent[number] if number in self._recent else self._kept[number])
            self._text_place = 0
        elif 0 <= number < len(self._places) and not self._keep:
            raise _LetGo
        else:
            raise LookupError(f"object number {number} is not defined")

    def _read_text(self, place: int) -> str:
        """Return the text that is spelled at this place of the file."""
        here = self._data.tell()
        self._data.seek(place - 1)
        argument = _OPCODES[self._data.read(1).decode("latin-1")].arg
        text = argument.reader(self._data) if argument else ""
        self._data.seek(here)
        self._budget.draw(memory=getsizeof(text))
        return text

    def _reduce(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        self._text_place = 0
        self._budget.draw(memory=copied(arguments))
        self._stack.append(call(name, arguments, self._path))

    def _build(self) -> None:
        state = self._stack.pop()
        self._budget.draw(memory=copied(state))
        complete(self._stack[-1], state, self._path)

    def _check_end(self) -> None:
        top = self._stack.pop()
        if self._stream is None or not (top is self._stream or getattr(top, "source", None) is self._stream):
            raise DataError(
                f"The pickle holds a {type(top).__name__.strip('_').lower()}, not a list of entries",
                got=self._path,
            )
        rest = len(self._data) - self._data.tell()
        if rest:
            raise DataError(
                f"After the list, the file goes on for {rest:,} bytes",
                got=self._path,
                cause="It may hold several pickles, of which one is read",
                fix="Write all entries as one list",
            )


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    # The hash of a tuple in a tuple in a tuple …, a million times, would end the process; huge numbers can share one.
    for key in flat[::2]:
        if isinstance(key, tuple) or (isinstance(key, int) and not -_KEYS < key < _KEYS):
            raise TypeError(f"a {'tuple' if isinstance(key, tuple) else 'huge number'} as the key of a dict")
    return dict(zip(flat[::2], flat[1::2], strict=True))
