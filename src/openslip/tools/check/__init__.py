"""Read all records once, before training: find what is damaged, odd or duplicate, and judge whether to train on it."""

from __future__ import annotations

import numpy as np

from openslip.data.fanout import fan_out, spans
from openslip.data.record import Source, as_source
from openslip.errors import ConfigError, DataError
from openslip.processes import Processes
from openslip.tools.check.facts import Facts, look
from openslip.tools.check.summary import Summary
from openslip.tools.check.verdict import Finding, Verdict, as_text, judge

__all__ = ["Finding", "Summary", "Verdict", "as_text", "check", "judge"]

_SPANS = 64


def check(
    source: Source,
    *,
    limit: int = 0,
    needs_captions: bool = True,
    processes: int = -1,
    ranks: Processes | None = None,
    shown: bool = False,
    title: str = "checking",
) -> Summary | None:
    """Look at all records of a source, or at `limit` of them spread over it, and return what was found.

    needs_captions: a record without a caption cannot be used. processes: -1 for one per core. shown: progress on
    stderr, under this `title`.
    ranks: the joined processes that `torchrun` started; all except rank 0 return None. Memory: 321 bytes per record
    beside its key, and 12 per caption.

    Raises ConfigError for a negative limit, DataError when the source has no records or a process is killed, and
    ProcessError when another rank has failed.
    """
    if limit < 0:
        raise ConfigError("The number of records to check must be at least 1, or 0 for all", got=limit)
    source = as_source(source)
    if not len(source):
        raise DataError("The source has no records", got=source.name)
    ranks = ranks or Processes()
    all_spans = spread(source, limit) if 0 < limit < len(source) else spans(source)
    facts = Facts()
    mine = ranks.share(all_spans)
    with ranks.together():
        for part in fan_out(
            look, source, mine, title=title, processes=processes, shown=shown and ranks.first
        ):
            facts.add(part)
    if ranks.world > 1:
        gathered = ranks.gather(facts.to_bytes())
        if not ranks.first:
            return None
        for part in gathered[1:]:
            facts.add(Facts.from_bytes(part))
    indices = np.concatenate([np.arange(span.start, span.stop) for span in all_spans])
    return Summary.of(facts, source, indices, needs_captions=needs_captions)


def spread(source: Source, limit: int) -> list[range]:
    """Return spans of `limit` records in all, evenly spread over the source."""
    count = min(limit, _SPANS)
    starts = [len(source) * k // count for k in range(count)]
    sizes = [limit * (k + 1) // count - limit * k // count for k in range(count)]
    return [range(start, start + size) for start, size in zip(starts, sizes)]
