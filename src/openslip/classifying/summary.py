"""Counts of the answers, in a few lines for the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from openslip.classifying.labels import Label, Rule

CLASSES = 20
"""The most classes that are listed; the others are summed up."""
NAMED = 5
"""The most unusable pictures that are named; the others are counted."""


class Summary:
    """Counts answers as they come. classes: the number of classes; rule: the rule that made the answers."""

    def __init__(self, classes: int, rule: Rule) -> None:
        self.classes, self.rule = classes, rule
        self.usable = self.unusable = 0
        self.first: list[Label] = []
        self._counts: Counter[str] = Counter()

    def add(self, labels: Iterable[Label]) -> None:
        """Count further pictures."""
        for label in labels:
            if label.error:
                self.unusable += 1
                self.first += [label] if self.unusable <= NAMED else []
            else:
                self.usable += 1
                self._counts[label.answer] += 1

    def lines(self) -> list[str]:
        """Return the lines of the summary, the most frequent classes first."""
        counts = self._counts.copy()
        none = counts.pop(self.rule.none, 0) if self.rule.threshold else 0
        ranked = counts.most_common()
        told = [f"{self.usable - none:,} in {len(ranked):,} of {self.classes:,} classes"]
        if self.rule.threshold:
            told.append(f"{none:,} {self.rule.none} (below {self.rule.threshold:.4g})")
        if self.unusable:
            told.append(f"{self.unusable:,} cannot be used")
        count = self.usable + self.unusable
        lines = [f"{count:,} picture{'' if count == 1 else 's'}: {', '.join(told)}."]
        lines += [f"  {count:>7,}  {name}" for name, count in ranked[:CLASSES]]
        if rest := ranked[CLASSES:]:
            lines.append(f"  {sum(count for _, count in rest):>7,}  in {len(rest):,} other classes")
        lines += [f"  cannot be used: {label.picture}: {label.error}" for label in self.first]
        if others := self.unusable - len(self.first):
            lines.append(f"  and {others:,} others, listed in the column `error`")
        return lines
