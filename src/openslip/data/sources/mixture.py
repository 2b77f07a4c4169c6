"""Several sources as one: `shards/a-*.tar + 0.5 * pairs.csv`."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from openslip.data.contents import Contents
from openslip.data.record import ImageFile, Part, Record, Records, Source, as_source
from openslip.data.storage.paths import stands_for_something
from openslip.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = "labels:"
"""The prefix of a spec of labelled images (see `openslip.data.sources.class_captions`)."""


class Mixture(Source):
    """The records of all `sources`, one source after the other; the order of training mixes them.

    A weight is how often an epoch goes through a source: 1 once, 2 twice, 0.5 half of it, and the other half in the
    next epoch. Every batch has the same proportions, to within a record of each source. Classes with the same name in
    different sources are one class, even if capitals differ. If some sources have captions that name classes, only
    records of these sources have a class: captions of the others say more.
    Raises DataError when a weight is not above 0.
    """

    def __init__(self, sources: Sequence[Records], weights: Sequence[float], name: str = "") -> None:
        for source, weight in zip(sources, weights, strict=True):
            if not 0 < weight < float("inf"):
                raise DataError(
                    "The weight of a source must be above 0",
                    got=f"{weight:g} for {source.name}",
                    fix="A weight of 1 goes through the source once per epoch, 0.5 through half of it",
                )
        self.sources, self.weights = tuple(map(as_source, sources)), tuple(map(float, weights))
        self.name = name or " + ".join(source.name for source in self.sources)
        lines = [
            f"{len(source):,} records × {weight:g} from {source.name}"
            for source, weight in zip(self.sources, self.weights)
        ]
        self.note = "\n".join([*lines, *(source.note for source in self.sources if source.note)])
        self.options = tuple(sorted({option for source in self.sources for option in source.options}))
        self._ends = list(itertools.accumulate(map(len, self.sources)))
        self.captions_name_classes = any(source.captions_name_classes for source in self.sources)
        named = self.captions_name_classes
        self.class_names, self._classes = _joined(
            [() if named and not one.captions_name_classes else one.class_names for one in self.sources]
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        """Return record `index`, counted over all sources. Raises what the record's source raises."""
        source, own = self.origin(index)
        return source[own]

    def origin(self, index: int) -> tuple[Source, int]:
        """Return the source that record `index` comes from, and its index there."""
        number, own = self._origin(index)
        return self.sources[number], own

    def label(self, index: int) -> int | None:
        number, own = self._origin(index)
        label = self.sources[number].label(own) if self._classes[number] else None
        return None if label is None else self._classes[number][label]

    def file(self, index: int) -> ImageFile | None:
        source, own = self.origin(index)
        return source.file(own)

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the own columns of these records, from all their sources; null where a source lacks a column."""
        from openslip.data.own_columns import in_parts

        return in_parts(indices, self._origin, lambda number, own: self.sources[number].columns(own))

    @property
    def columns_note(self) -> str:  # type: ignore[override]
        return "\n".join(filter(None, (source.columns_note for source in self.sources)))

    def _origin(self, index: int) -> tuple[int, int]:
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The sources' lengths and shares of an epoch, for `openslip.data.order`."""
        return tuple(
            replace(part, share=max(1, round(part.share * weight)))
            for source, weight in zip(self.sources, self.weights)
            for part in source.parts
        )

    def contents_by_name(self) -> list[tuple[str, Contents]]:
        return [found for source in self.sources for found in source.contents_by_name()]


def _joined(each: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Return the names of the classes of all sources, and for each source the numbers of its classes among them.

    Names that differ only in capitals are one name, unless a source has both.
    """
    differ = {key for names in each for key, n in Counter(map(str.casefold, names)).items() if n > 1}
    numbers: dict[str, int] = {}
    found, classes = [], []
    for names in each:
        keys = [name if name.casefold() in differ else name.casefold() for name in names]
        found += [name for key, name in zip(keys, names) if key not in numbers]
        classes.append([numbers.setdefault(key, len(numbers)) for key in keys])
    return tuple(found), classes


def split_mixture(spec: str) -> list[tuple[float, str]]:
    """Split `A + 0.5 * B` into weights and specs; a spec of one source has the weight 1.

    The plus and the star need spaces around them, so that file names and patterns can contain both. Even with spaces
    they are part of the name if a file or folder of that name exists, as in `C + D/*.tar`.
    Raises DataError when a source is missing beside a plus or a star.
    """
    terms = []
    for term in _terms(f" {spec}" if spec.startswith("+") else spec):
        weighted = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s+\*(?:\s+(.*))?", term, re.DOTALL)
        if weighted and _in_a_name(term.strip(), term.strip().index("*")):
            weighted = None
        weight, name = (float(weighted[1]), weighted[2] or "") if weighted else (1.0, term)
        terms.append((weight, name.strip()))
    if len(terms) > 1 or terms[0][0] != 1:
        for _, name in terms:
            if not name:
                raise DataError(
                    "A source is missing in the mixture",
                    got=spec,
                    fix="Write a mixture as 'shards/a-*.tar + 0.5 * pairs.csv'",
                )
    return terms


def _terms(spec: str) -> list[str]:
    """Split at each plus between spaces that is not part of a name."""
    terms, start = [], 0
    for plus in re.finditer(r"\s\+(?:\s|$)", spec):
        term = spec[start:].lstrip()
        weight = re.match(r"(\d+\.?\d*|\.\d+)\s+\*\s+", term)
        at = plus.start() + 1 - start - (len(spec[start:]) - len(term))
        if _in_a_name(term, at) or (weight and _in_a_name(term[weight.end() :], at - weight.end())):
            continue
        terms.append(spec[start : plus.start()])
        start = plus.end()
    return [*terms, spec[start:]]


def _in_a_name(term: str, at: int) -> bool:
    """Whether the character at `at` is part of the name, or of a pattern, of existing files or folders."""
    if at <= 0:
        return False
    end = term.find("/", at)
    end = len(term) if end < 0 else end
    ends = [end, *(plus.start() for plus in re.finditer(r"\s\+\s", term[:end]) if plus.start() > at)]
    return any(stands_for_something(term[:end].removeprefix(LABELS)) for end in ends)


def labelled_ones(spec: str) -> list[str]:
    """Return the specs of labelled images, which begin with `labels:`, in a mixture or a single source."""
    return [name for _, name in split_mixture(spec) if name.startswith(LABELS)]
