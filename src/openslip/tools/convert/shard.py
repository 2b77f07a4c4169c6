"""Write one tar shard, whole or not at all; keep a shard that is already finished."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

from openslip.data.fanout import Tick
from openslip.data.record import Skipped, Source
from openslip.data.sources.tar_index import write_index
from openslip.errors import DataError
from openslip.files import open_regular, whole_or_not
from openslip.tools.convert.sample import make_sample
from openslip.tools.convert.shard_folder import ShardFolder


def make_shard(shard_folder: ShardFolder, source: Source, span: range, tick: Tick) -> dict[str, Any]:
    """Make a shard, or keep a finished one; return the number of records written, and the fields of those left out."""
    path = shard_folder.path(span)
    written = _written(path)
    if written is not None:
        missing = [index for index in span if index not in written]
        samples = (make_sample(source, index, shard_folder.encoding) for index in missing)
        again = [sample for sample in samples if isinstance(sample, Skipped)]
        if len(again) == len(missing):  # else a missing record can be read now: the shard is made again
            tick(len(span))
            return _counts(again, span)
    skipped: list[Skipped] = []
    try:
        with (
            whole_or_not(path) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for index in span:
                sample = make_sample(source, index, shard_folder.encoding)
                if isinstance(sample, Skipped):
                    skipped.append(sample)
                else:
                    for extension, content in sample.items():
                        _add(tar, f"{index:09d}.{extension}", content)
                tick(1)
        write_index(str(path))
    except OSError as error:
        raise DataError(
            "The shard cannot be written",
            got=str(path),
            cause=str(error),
            fix="Free some space or check the permissions; finished shards are kept when the command is run again",
        ) from None
    return _counts(skipped, span)


def _counts(skipped: list[Skipped], span: range) -> dict[str, Any]:
    return {"written": len(span) - len(skipped), "skipped": [dataclasses.astuple(entry) for entry in skipped]}


def _written(path: Path) -> set[int] | None:
    """Return the records that a shard holds, None when there is no whole shard."""
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file) as tar:
            return {int(name.partition(".")[0]) for name in tar.getnames()}
    except (OSError, tarfile.TarError, ValueError):
        return None


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add one member; owner and time stay empty, so that equal records give equal shards."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))
