"""What a run adds up as it goes, and its checkpoints keep: counts of its records, and the losses to be logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openslip.data.data import Data
from openslip.data.record import Part, Skipped, Tally
from openslip.errors import TrainingError

MIN_READ = 200
"""Records that must be read of a source before its share of unusable records is judged or gets a warning."""
MIN_BLOCKS = 100
"""Blocks that must be read before that share is judged. Records of a shard fail together, so few blocks tell little."""
WORTHLESS = 0.5
"""Share of unusable records above which a source among several gets a warning."""


@dataclass
class _Counted:
    """One of the sources that a run's records come from."""

    option: str
    name: str
    part: Part
    tally: Tally
    warned: bool = False

    @property
    def judged(self) -> bool:
        """Whether MIN_READ records were read, and the whole source or MIN_BLOCKS blocks: more than bad luck."""
        return self.tally.read >= max(MIN_READ, min(MIN_BLOCKS * self.part.block, self.part.length))


class Counts:
    """The counts of a run: a `Tally` for each part of each source, in the order of `Batch.tallies`.

    saved: `state` of a checkpoint, to continue from there; None counts from `step` on.
    """

    def __init__(self, data: Data, saved: Mapping[str, Any] | None = None, step: int = 0) -> None:
        self.sources = [
            _Counted(option, name, part, Tally())
            for option, source in data.sources.items()
            for name, part in zip(source.part_names, source.parts)
        ]
        self.contents = [
            {"lane": option, "name": name, **found.to_dict()}
            for option, source in data.sources.items()
            for name, found in source.contents_by_name()
        ]
        self.since = step
        if saved is not None:
            self.since = int(saved["since"])
            for source, tally in zip(self.sources, saved["tallies"], strict=True):
                source.tally = Tally(**{name: int(count) for name, count in tally.items()})

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"since": self.since, "tallies": [asdict(source.tally) for source in self.sources]}

    @property
    def total(self) -> Tally:
        return sum((source.tally for source in self.sources), Tally())

    def add(self, tallies: Sequence[Tally]) -> None:
        """Add the tallies of a batch; with several processes, add those of each process."""
        for source, tally in zip(self.sources, tallies, strict=True):
            source.tally += tally

    def judge(self, allowed: float, example: Skipped, listed: Path) -> None:
        """Raise TrainingError if more than the share `allowed` of the records read could not be used.

        Only sources of which enough was read count (see `_Counted.judged`). With one dead shard of a hundred, a tenth
        of the first few hundred records that a run reads may well be unusable.
        """
        judged = sum((source.tally for source in self.sources if source.judged), Tally())
        if judged.skipped > allowed * judged.read:
            raise TrainingError(
                f"{judged.skipped / judged.read:.1%} of the records read could not be used, "
                f"more than the {allowed:.1%} allowed",
                got=f"{judged.skipped} of {judged.read}, for example {example.key}: {example.reason}",
                fix=f"See {listed}; repair the data, or allow more with --data.max-skipped",
            )

    def warnings(self) -> list[str]:
        """Return a warning, once, for each source among several that gives hardly any usable record."""
        found = []
        for source in self.sources if len(self.sources) > 1 else ():
            tally = source.tally
            if not source.warned and tally.read >= MIN_READ and tally.skipped > WORTHLESS * tally.read:
                source.warned = True
                found.append(
                    f"{tally.skipped:,} of {tally.read:,} records of {source.name} (data.{source.option}) could not be "
                    "used; others stand in for them"
                )
        return found

    def summary(self, listed: Path, nonfinite: int, batch: int) -> str:
        """Return the counts as lines of text. `listed`: where the skipped records are; `nonfinite`: steps of `batch`
        samples each that were not taken."""
        total = self.total
        since = f", since step {self.since:,}" if self.since else ""
        lines = [f"{total.read:,} records read{since}, all usable"]
        if total.skipped:
            used = f"{total.used:,} used, {total.skipped:,} skipped and stood in for by others"
            lines = [f"{total.read:,} records read{since}: {used}, listed in {listed}"]
        if len(self.sources) > 1:
            lines += [
                f"  data.{source.option} {source.name}: {_described(source.tally)}" for source in self.sources
            ]
        if nonfinite:
            steps = f"{nonfinite:,} step{'s' if nonfinite > 1 else ''}"
            lines.append(
                f"{nonfinite * batch:,} samples were in {steps} with a loss that was not finite: nothing was learned "
                "from them"
            )
        return "\n".join(lines)

    def to_dict(self, step: int, nonfinite: int, batch: int) -> dict[str, Any]:
        """Return the content of counts.json, as of `step`."""
        return {
            "since_step": self.since,
            "steps": step,
            "samples": (step - self.since) * batch,
            "nonfinite_steps": nonfinite,
            "nonfinite_samples": nonfinite * batch,
            "sources": [
                {"lane": source.option, "name": source.name, **asdict(source.tally)}
                for source in self.sources
            ],
            "contents": self.contents,
        }


def _described(tally: Tally) -> str:
    text = f"{tally.read:,} read, {tally.used:,} used, {tally.skipped:,} skipped"
    return text + (f"; {tally.stood_in:,} stood in for others" if tally.stood_in else "")


class Window:
    """Means since the last line, each over the steps that had the value. Checkpoints keep the state of a Window."""

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None) -> None:
        self.sums = {name: (total, steps) for name, (total, steps) in (sums or {}).items()}

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            total, steps = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, steps + 1)

    def take(self) -> dict[str, float]:
        """Return the means, and start anew."""
        line = {name: total / steps for name, (total, steps) in self.sums.items()}
        self.sums = {}
        return line
