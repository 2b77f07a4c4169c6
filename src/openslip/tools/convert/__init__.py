"""Write any source as WebDataset tar shards, each whole or not at all. The same call again continues where it stopped.

The shards themselves show what is done: a finished shard holds all of its records except those that cannot be read.
Beside the shards are their index, so that they open at once; `convert.json`, which records what they are made of; and
`skipped.jsonl`, the records left out and why.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from openslip.data.encode import Encoding
from openslip.data.fanout import check_processes, fan_out
from openslip.data.record import Skipped, Source, as_source
from openslip.data.sources.mixture import Mixture
from openslip.data.subset import Subset
from openslip.errors import ConfigError, DataError
from openslip.processes import Processes
from openslip.tools.convert.sample import sidecars
from openslip.tools.convert.shard import make_shard
from openslip.tools.convert.shard_folder import ShardFolder

__all__ = ["Conversion", "shard_size_for", "write_shards"]

_SAMPLED = 64  # records whose mean size is taken for all


@dataclass(frozen=True)
class Conversion:
    """What was made: the shards in order, the number of records, and the records that could not be written.

    On ranks other than 0, `written` and `skipped` count only the rank's own records.
    """

    paths: list[Path]
    records: int
    written: int
    skipped: list[Skipped]


def write_shards(
    source: Source,
    folder: str | Path,
    shard_size: int = 1000,
    *,
    shard_mb: float = 0.0,
    prefix: str = "",
    encoding: Literal["jpg", "png"] = "jpg",
    quality: int = 92,
    short_side: int = 0,
    verify: bool = True,
    processes: int = 1,
    ranks: Processes | None = None,
    shown: bool = False,
) -> Conversion:
    """Write the records of `source` into `folder`/[prefix]000000.tar, …, `shard_size` records in each.

    With `shard_mb`, each shard holds as many records as make about `shard_mb` MB. Rank 0 chooses the number, for all
    ranks and for later continuations.

    Each sample holds its image (`encoding`, `quality`, `short_side` and `verify` are those of `Encoding`: encoded
    images are stored unchanged unless they are shrunk), a `.json` with key, captions and, where the source has
    `label(index)`, label and class; and a `.txt` with the first caption, if there is one. A shard is written to a
    temporary name, synced and renamed, so it is never seen half-written. Finished shards are kept when the same call
    is made again. The bytes depend only on the records, not on `processes` (-1: one per core) or `ranks` (joined). A
    record that cannot be read or decoded is left out, counted, and listed in [prefix]skipped.jsonl. `shown`: progress.

    Raises ConfigError for bad settings, such as a mixture with weights; DataError when the folder cannot be written
    or holds other shards; ProcessError when another rank has failed.
    """
    if shard_size < 1:
        raise ConfigError("A shard holds at least 1 sample", got=shard_size)
    check_processes(processes)
    if os.path.basename(prefix) != prefix:
        raise ConfigError("A prefix begins the shards' names, and cannot name a folder", got=prefix)
    source = as_source(source)
    _refuse_weights(source)
    ranks = ranks or Processes()
    shard_folder = ShardFolder(
        Path(folder), prefix, shard_size, Encoding(encoding, quality, short_side, verify)
    )
    shard_folder = _begun(shard_folder, source, shard_mb, ranks)
    spans = shard_folder.spans(source)
    mine = ranks.share(spans)
    work = functools.partial(make_shard, shard_folder)
    with ranks.together():
        try:
            parts = list(
                fan_out(work, source, mine, title="writing", processes=processes, shown=shown and ranks.first)
            )
        finally:
            shard_folder.sweep(mine)
    payload = json.dumps(parts).encode()
    gathered = ranks.gather(payload) or [payload]
    counts = [count for part in gathered for count in json.loads(part)]
    skipped = [Skipped(*entry) for count in counts for entry in count["skipped"]]
    written = sum(count["written"] for count in counts)
    if ranks.first:
        shard_folder.finish(source, written, skipped)
    return Conversion([shard_folder.path(span) for span in spans], len(source), written, skipped)


def _begun(shard_folder: ShardFolder, source: Source, shard_mb: float, ranks: Processes) -> ShardFolder:
    """Let rank 0 make the folder, and return `shard_folder` with the shard size that rank 0 has chosen."""
    with ranks.first_goes_ahead():  # the others begin once the folder is known to be good
        if ranks.first:
            if shard_mb:
                size = shard_folder.chosen_size(shard_mb) or shard_size_for(
                    source, shard_mb, shard_folder.encoding
                )
                shard_folder = replace(shard_folder, shard_size=size)
            shard_folder.begin(source, shard_mb)
        elif shard_mb:
            shard_folder = replace(shard_folder, shard_size=shard_folder.begun_size())
    return shard_folder


def shard_size_for(source: Source, megabytes: float, encoding: Encoding) -> int:
    """Return how many records make a shard of about `megabytes`, by the mean size of 64 spread over the source.

    Raises ConfigError unless `megabytes` is above 0, DataError when none of the 64 can be read.
    """
    if megabytes <= 0:
        raise ConfigError("The size of a shard must be above 0 MB", got=megabytes)
    count = min(_SAMPLED, len(source))
    sizes, error = [], None
    for index in (len(source) * k // count for k in range(count)):
        try:
            record = source[index]
            image = encoding(record.image)[1]
        except DataError as caught:
            error = caught
            continue
        sizes.append(sum(512 + -(-len(part) // 512) * 512 for part in (image, *sidecars(record))))
    if not sizes:
        raise DataError(
            f"Not one of {count} records of {source.name} can be read", cause=f"The last one: {error}"
        )
    return max(1, round(megabytes * 1e6 * len(sizes) / sum(sizes)))


def _refuse_weights(source: Source) -> None:
    """Raise ConfigError for a mixture with weights, which shards cannot hold."""
    mixture = source.source if isinstance(source, Subset) else source
    if isinstance(mixture, Mixture) and any(weight != 1 for weight in mixture.weights):
        raise ConfigError(
            "A conversion writes every record once, and cannot give weights to sources",
            got=source.name,
            fix="Leave the weights out ('A + B'); or convert each source on its own, and pass the weights to training",
        )
