"""Find what two sets have in common, such as a training set and a set to measure on.

A result on a picture or caption that was trained on tells how well the model remembers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from openslip.errors import printable
from openslip.tools.check.commands import UNKNOWN, Commands
from openslip.tools.check.facts import FINE
from openslip.tools.check.groups import most_in_common, said
from openslip.tools.check.near import alike, close_pairs, hashes
from openslip.tools.check.summary import Summary
from openslip.tools.check.verdict import FIX, KNOW, Finding, Verdict, by_level, percent

PICTURE, NEAR, CAPTION = (
    "picture in the other set",
    "near picture in the other set",
    "caption in the other set",
)
"""What a record can have in common with the other set."""
NONE = -1
_EXAMPLES, _PAIRS = 3, 8192


@dataclass(frozen=True, eq=False)
class Against:
    """What the records `here` have in common with the records `there`.

    of: for PICTURE (the same bytes), NEAR (a near copy of a picture there, and no picture there has the same bytes) and
    CAPTION, (R,) each: for each record here, the position of the first record there that shares this; NONE for none.
    back: how many records there share each with a record here. common: captions in both sets that do not count,
    because too many records have them (see `groups.most_in_common`). complete: as in `near.near`.
    """

    here: Summary
    there: Summary
    of: dict[str, np.ndarray]
    back: dict[str, int]
    common: int
    complete: bool

    def positions(self, what: str) -> np.ndarray:
        """Return the positions here of the records that have this in common with a record there."""
        return np.flatnonzero(self.of[what] != NONE)

    @property
    def any(self) -> np.ndarray:
        """Whether a record here has anything in common with a record there, (R,)."""
        return np.any([found != NONE for found in self.of.values()], axis=0)


def compare(here: Summary, there: Summary) -> Against:
    """Return what two checked sets have in common. Time and memory grow as for `near.near` on both together."""
    ours, theirs = _pictures(here), _pictures(there)
    same = _first_there(here, ours, theirs)
    near, near_back, complete = _near(here, there)
    near[same != NONE] = NONE
    texts, texts_back, common = _texts(here, there)
    known = _among(theirs[0], ours[0])
    same_back = _among(there.records["content"], theirs[0][known]) & there.fine
    near_back &= ~same_back
    back = {PICTURE: int(same_back.sum()), NEAR: int(near_back.sum()), CAPTION: texts_back}
    return Against(here, there, {PICTURE: same, NEAR: near, CAPTION: texts}, back, common, complete)


def with_findings(verdict: Verdict, against: Against, commands: Commands = UNKNOWN) -> Verdict:
    """Return the verdict with the findings about the other set, which never speak against training."""
    return replace(verdict, findings=by_level([*_findings(against, commands), *verdict.findings]))


def _findings(against: Against, commands: Commands) -> Iterator[Finding]:
    here, there = against.here, against.there
    other, of, notes = there.name, here.checked, _notes(against)
    if not against.any.any():
        none = f"None has an equal caption or picture, or a near copy, among its {there.checked:,} records."
        yield Finding(KNOW, f"Records that have something in common with {other}", 0, of, none + notes)
        return
    findings = {
        PICTURE: f"Records whose picture is in {other}, too, byte by byte",
        NEAR: f"Records whose picture is a near copy of one in {other}",
        CAPTION: f"Records with a caption that is in {other}, too",
    }
    advice = (
        " If you train on one set and measure on the other, you measure memory. Leave such records out of one set."
        + notes
    )
    ways = commands.without_common()
    for what, positions in ((what, against.positions(what)) for what in findings):
        if len(positions):
            count = against.back[what]
            share = f"There it is {count:,} of {there.checked:,} records ({percent(count / there.checked)})."
            yield Finding(
                FIX, findings[what], len(positions), of, f"{share} {_examples(against, what)}{advice}", ways
            )
            advice, ways = "", ()


def _examples(against: Against, what: str) -> str:
    pairs = [
        f"{printable(against.here.key(here))!r} here and {printable(against.there.key(there))!r} there"
        for here, there in against_pairs(against, what, _EXAMPLES)
    ]
    return f"For example {'; '.join(pairs)}."


def against_pairs(against: Against, what: str, most: int) -> list[tuple[int, int]]:
    """Return the first pairs of positions, here and there, that have this in common."""
    positions = against.positions(what)[:most]
    return list(zip(positions.tolist(), against.of[what][positions].tolist()))


def _notes(against: Against) -> str:
    """Return sentences on what was not compared."""
    there, notes = against.there, ""
    if against.common:
        notes += f" Captions in both that are not counted, because very many records have them: {against.common:,}."
    if lost := there.checked - int(there.fine.sum()):
        notes += f" Records there that were not compared, because they cannot be read or decoded: {lost:,}."
    if not against.complete:
        notes += " So many pictures are alike that not all pairs were compared."
    return notes


def _pictures(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Return the fingerprints of the images that can be used, each once and sorted, and the first position of each."""
    fine = np.flatnonzero(summary.fine)
    contents, first = np.unique(summary.records["content"][fine], return_index=True)
    return contents, fine[first]


def _first_there(
    here: Summary, ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return for each record here the first position there of the same image."""
    of = np.full(here.checked, NONE)
    contents, first = theirs
    if len(contents):
        fine = np.flatnonzero(here.fine)
        found = np.searchsorted(contents, here.records["content"][fine]).clip(max=len(contents) - 1)
        equal = contents[found] == here.records["content"][fine]
        of[fine[equal]] = first[found[equal]]
    return of


def _near(here: Summary, there: Summary) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return for each record here the first position there of a near copy; whether each there is one; completeness.

    Blank pictures are left out. Pictures with the same bytes are near copies of the same pictures.
    """
    sets = [(summary, *_clear(summary)) for summary in (here, there)]
    values = np.concatenate([hashes(summary.records["look"], first) for summary, first, _ in sets])
    tints = np.concatenate([summary.records["look"]["tint"][first] for summary, first, _ in sets])
    count = len(sets[0][1])
    a, b, complete = close_pairs(values, tints, sides=np.arange(len(values)) >= count)
    b -= count  # a < b: the first is always here
    looks = here.records["look"][sets[0][1]], there.records["look"][sets[1][1]]
    same = np.concatenate([np.zeros(0, bool), *(_alike(*looks, a[p], b[p]) for p in _parts(len(a)))])
    a, b = a[same], sets[1][1][b[same]]
    first = np.full(count, there.checked)
    np.minimum.at(first, a, b)
    first[first == there.checked] = NONE
    of = np.full(here.checked, NONE)
    positions, which = sets[0][2]
    of[positions] = first[which]
    touched = np.zeros(there.checked, bool)
    touched[b] = True
    back = np.zeros(there.checked, bool)
    positions, which = sets[1][2]
    back[positions] = touched[sets[1][1]][which]
    return of, back, complete


def _clear(summary: Summary) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the first position of each image that is not blank, and (positions of all of these, the image of each)."""
    clear = np.flatnonzero((summary.records["state"] == FINE) & ~summary.records["flat"])
    _, first, which = np.unique(summary.records["content"][clear], return_index=True, return_inverse=True)
    return clear[first], (clear, which)


def _alike(ours: np.ndarray, theirs: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    pairs = np.arange(len(a))
    return alike(np.concatenate([ours[a], theirs[b]]), pairs, pairs + len(a))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _PAIRS) for start in range(0, count, _PAIRS)]


def _texts(here: Summary, there: Summary) -> tuple[np.ndarray, int, int]:
    """Return for each record here the first position there with an equal caption; how many records there have one; how
    many captions are in both and do not count, because too many have them."""
    sets = []
    for summary in (here, there):
        owners, texts = said(summary.records, summary.captions)
        if summary.of_class.any():  # captions of one class are equal, and identify no record
            owners, texts = (found[~summary.of_class[owners]] for found in (owners, texts))
        values, first, counts = np.unique(texts, return_index=True, return_counts=True)
        telling = counts <= most_in_common(summary.checked)
        sets.append((owners, texts, values, first, telling))
    (owners, texts, values, _, telling), (their_owners, their_texts, their_values, first, their_telling) = (
        sets
    )
    both, ours, theirs = np.intersect1d(values, their_values, assume_unique=True, return_indices=True)
    counted = telling[ours] & their_telling[theirs]
    shared, firsts = both[counted], their_owners[first[theirs[counted]]]
    of = np.full(here.checked, here.checked + there.checked)
    mine = _among(texts, shared)
    if len(shared):
        np.minimum.at(of, owners[mine], firsts[np.searchsorted(shared, texts[mine])])
    of[of == here.checked + there.checked] = NONE
    return of, len(np.unique(their_owners[_among(their_texts, shared)])), int((~counted).sum())


def _among(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each of these hashes is one of the others. By sorting: numpy 2.0 takes a table of the numbers, and
    raises OverflowError for those from 2**63 on."""
    return np.isin(hashes, others, kind="sort")
