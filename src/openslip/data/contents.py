"""The contents of a source: how much there is, how much is used, and why the rest is not used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openslip.data.record import Source
from openslip.errors import printable

BROKEN = "a whole shard, which is broken"
"""Why `leave_broken` leaves a file out that `open_source` would else refuse."""
TOLD = 8
"""Reasons that are printed; the others are summed up. `to_dict` has all of them."""
LARGE = 0.01
"""The share of a source from which on its loss is a warning."""
MOST_REASONS = 100
"""Reasons that are counted apart: file names and endings may be part of a reason, and anybody may have chosen these."""
_LONGEST = 200
"""Characters of a reason or example that are kept."""


@dataclass(frozen=True)
class LeftOut:
    """How many things are not used for one reason, and the name of one of them.

    lost: whether a person would expect them to be used, as pictures, captions and annotations. Nobody misses the
    others, such as hidden files and the files of another split.
    """

    count: int
    example: str
    lost: bool = True


@dataclass
class Contents:
    """The things in a source, of the kind `things` ("members", "files", "rows", …): `seen`, and what is left out.

    left_out: reason → `LeftOut`. A reason reads on from "left out:", as in "the sample has no picture".
    """

    things: str
    seen: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    def see(self, count: int = 1) -> None:
        """Count things seen, whether they are used or not."""
        self.seen += count

    def leave_out(self, reason: str, example: str, count: int = 1, *, lost: bool = True) -> None:
        """Count things, which `see` has counted, as not used for this reason. The first example of a reason stays."""
        reason = _line(reason)
        if reason not in self.left_out and len(self.left_out) >= MOST_REASONS:
            reason = "still other reasons" if lost else "still other reasons, which lose nothing"
        before = self.left_out.get(reason)
        if before:
            self.left_out[reason] = LeftOut(before.count + count, before.example, before.lost)
        elif count:
            self.left_out[reason] = LeftOut(count, _line(example), lost)

    def add(self, other: Contents) -> None:
        """Count what another file of the same source holds."""
        self.seen += other.seen
        for reason, left in other.left_out.items():
            self.leave_out(reason, left.example, left.count, lost=left.lost)

    @property
    def used(self) -> int:
        return self.seen - sum(left.count for left in self.left_out.values())

    @property
    def lost(self) -> int:
        """Things not used that a person would expect to be used."""
        return sum(left.count for left in self.left_out.values() if left.lost)

    @property
    def large_loss(self) -> bool:
        """Whether so much is lost that nobody should overlook it."""
        return self.lost > LARGE * self.seen

    def reasons(self, *, lost_only: bool = False) -> list[str]:
        """Return why things are left out: '150 × the sample has no picture, for example a.txt'. Losses come first."""
        rows = sorted(self.left_out.items(), key=lambda item: (not item[1].lost, -item[1].count))
        rows = [(reason, left) for reason, left in rows if left.lost or not lost_only]
        said = [f"{left.count:,} × {reason}, for example {left.example}" for reason, left in rows[:TOLD]]
        if rest := rows[TOLD:]:
            count = sum(left.count for _, left in rest)
            said.append(
                f"{count:,} × {len(rest)} other reasons, for example {rest[0][0]}: {rest[0][1].example}"
            )
        return said

    def summary(self) -> str:
        """Return a line of counts, then a line a reason; "" where everything is used."""
        if not self.left_out:
            return ""
        head = f"{self.seen:,} {self.things} seen, {self.used:,} used; left out:"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons())])

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "things": self.things,
            "seen": self.seen,
            "used": self.used,
            "left_out": {reason: vars(left) for reason, left in self.left_out.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Contents:
        """Return what `to_dict` was called on. Raises KeyError, TypeError, ValueError or AttributeError otherwise."""
        left_out = {
            str(reason): LeftOut(int(left["count"]), str(left["example"]), bool(left["lost"]))
            for reason, left in data["left_out"].items()
        }
        return cls(str(data["things"]), int(data["seen"]), left_out)


def _line(text: str) -> str:
    """Return text that contains data as one line, which cannot pass for another line."""
    return printable(text[:_LONGEST]).replace("\n", "\\n")


def described(source: Source) -> list[str]:
    """Return for people a paragraph for each part of a source that leaves something out."""
    return [f"{name}: {text}" for name, found in source.contents_by_name() if (text := found.summary())]


def losses(source: Source) -> list[str]:
    """Return a sentence for each part of a source that loses so much that nobody should overlook it."""
    return [
        f"{found.lost:,} of {found.seen:,} {found.things} of {name} are not used: "
        + "; ".join(found.reasons(lost_only=True))
        for name, found in source.contents_by_name()
        if found.large_loss
    ]
