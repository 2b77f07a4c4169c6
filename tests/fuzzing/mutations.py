"""Damage to the bytes of a file, drawn by a generator: as disks, networks, other programs and attackers do it."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

HUGE = (
    b"1e400",
    b"-1",
    b"9" * 400,
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"18446744073709551616",
    b"4294967295",
    b"0",
)
ODD = (
    *HUGE,
    *(
        b"null",
        b"true",
        b"{}",
        b"[]",
        b'""',
        b'"\\ud800"',
        b'"../../../etc/passwd"',
        b'"/dev/zero"',
        b'"a\\u0000b"',
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b'"' + b"x" * 70_000 + b'"',
        b"[[1, 2], {}]",
        b'{"0": 1}',
        b"0.5",
        b'"1"',
    ),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_VALUE = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?|null|true|false|\[\]|\{\}')
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the data after one to about four pieces of damage."""
    for _ in range(min(6, int(rng.geometric(0.5)))):
        data = KINDS[rng.integers(len(KINDS))](data, rng)
    return data


def _span(data: bytes, rng: np.random.Generator, most: int = 64) -> tuple[int, int]:
    """A place, in the first bytes half of the time, and an end behind it."""
    bound = len(data) if rng.random() < 0.5 else min(len(data), 64)
    start = int(rng.integers(bound + 1))
    return start, start + int(rng.integers(1, most + 1))


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    start, _ = _span(data, rng)
    flipped = bytes(byte ^ (1 << int(rng.integers(8))) for byte in data[start : start + 1])
    return data[:start] + flipped + data[start + 1 :]


def _noise(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng, 8)
    return data[:start] + rng.bytes(end - start) + data[end:]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng, 16)
    return data[:start] + rng.bytes(end - start) + data[start:]


def _zero(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng, 600)
    return data[:start] + bytes(min(end, len(data)) - start) + data[end:]


def _zero_sector(data: bytes, rng: np.random.Generator) -> bytes:
    start = 512 * int(rng.integers(len(data) // 512 + 1))
    return data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng, 200)
    times = int(rng.choice([2, 3, 20, 200]))
    return data[:start] + data[start:end] * times + data[end:]


def _splice(data: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of the file goes on somewhere else in it."""
    first, second = rng.integers(len(data) + 1, size=2)
    return data[: int(first)] + data[int(second) :]


def _edge(data: bytes, rng: np.random.Generator) -> bytes:
    """A number at the edge of what its bytes can hold."""
    start, _ = _span(data, rng)
    size = int(rng.choice([1, 2, 4, 8]))
    value = _EDGES[rng.integers(len(_EDGES))] & (256**size - 1)
    return (
        data[:start] + value.to_bytes(size, "little" if rng.random() < 0.5 else "big") + data[start + size :]
    )


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    return _replace(data, rng, _NUMBER, HUGE)


def _value(data: bytes, rng: np.random.Generator) -> bytes:
    return _replace(data, rng, _VALUE, ODD)


def _replace(data: bytes, rng: np.random.Generator, what: re.Pattern[bytes], by: tuple[bytes, ...]) -> bytes:
    """Replace one of what is found in the data, if anything is."""
    found = list(what.finditer(data[:100_000]))
    if not found:
        return _edge(data, rng)
    chosen = found[rng.integers(len(found))]
    return data[: chosen.start()] + by[rng.integers(len(by))] + data[chosen.end() :]


KINDS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(_flip, _noise, _cut, _remove, _insert, _zero, _zero_sector, _repeat, _splice, _edge, _edge, _number),
    *(_value, _value),
)
