"""Write any source as WebDataset tar shards, each whole or not there at all; run again, it goes on where it stopped.

The shards themselves say what is done: a finished one holds all of its records but those that cannot be read. Beside
them lie their index, so that they open at once; `convert.json`, which says what they are made of; and `skipped.jsonl`,
the records left out and why.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slip.data.encode import Encoding
from slip.data.fanout import Tick, fan_out
from slip.data.ranks import Ranks
from slip.data.record import Record, Skipped, Source
from slip.data.sources.tar_index import write_index
from slip.data.subset import Subset
from slip.errors import ConfigError, DataError
from slip.files import TEMPORARY, whole_or_not, write_bytes, write_json

_SAMPLED = 64  # records whose mean size stands for all


@dataclass(frozen=True)
class Conversion:
    """What was made: the shards in order, the number of records, and those that could not be written.

    On any rank but the first, `written` and `skipped` are that rank's alone.
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
    prefix: str = "",
    encoding: Literal["jpg", "png"] = "jpg",
    quality: int = 92,
    short_side: int = 0,
    verify: bool = True,
    processes: int = 1,
    ranks: Ranks | None = None,
    shown: bool = False,
) -> Conversion:
    """Write the records of `source` into `folder`/[prefix]000000.tar, …, `shard_size` records in each.

    Each sample holds its image (`encoding`, `quality`, `short_side` and `verify` are those of `Encoding`: encoded
    images go in unchanged unless they are shrunk), a `.json` with key, captions and, where the source has
    `label(index)`, label and class; and a `.txt` with the first caption, if there is one. A shard is written to a
    temporary name, synced and renamed, so it is never seen half-written. Finished shards are kept when the same call
    is made again. The bytes depend on the records alone, not on `processes` (-1: one a core) or `ranks`. A record
    that cannot be read or decoded is left out, counted, and listed in [prefix]skipped.jsonl. `shown`: progress.

    Raises ConfigError for bad settings, a mixture with weights among them; DataError when the folder cannot be written
    or holds other shards.
    """
    if shard_size < 1:
        raise ConfigError("A shard holds at least 1 sample", got=shard_size)
    _refuse_weights(source)
    ranks = ranks or Ranks()
    plan = _Plan(Path(folder), prefix, shard_size, Encoding(encoding, quality, short_side, verify))
    spans = [range(k, min(k + shard_size, len(source))) for k in range(0, len(source), shard_size)]
    if ranks.first:
        _begin(plan, source)
    ranks.gather(b"")  # the others begin when the folder is known to be good
    mine = ranks.share(spans)
    work = functools.partial(_shard, plan)
    try:
        parts = list(
            fan_out(work, source, mine, title="writing", processes=processes, shown=shown and ranks.first)
        )
    finally:
        _sweep(plan, mine)
    gathered = ranks.gather(json.dumps(parts).encode()) or [json.dumps(parts).encode()]
    counts = [count for part in gathered for count in json.loads(part)]
    skipped = [Skipped(*entry) for count in counts for entry in count["skipped"]]
    written = sum(count["written"] for count in counts)
    if ranks.first:
        _finish(plan, written, skipped)
    return Conversion([plan.path(span) for span in spans], len(source), written, skipped)


def shard_size_for(source: Source, megabytes: float, encoding: Encoding) -> int:
    """Return how many records make a shard of about `megabytes`, by the mean size of 64 spread over the source.

    Raises ConfigError when that is no positive size, DataError when not one of them can be read.
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
        sizes.append(sum(512 + -(-len(part) // 512) * 512 for part in (image, *_texts(record))))
    if not sizes:
        raise DataError(
            f"Not one of {count} records of {source.name} can be read", cause=f"The last one: {error}"
        )
    return max(1, round(megabytes * 1e6 * len(sizes) / sum(sizes)))


@dataclass(frozen=True)
class _Plan:
    """All that the bytes of the shards depend on beside the records."""

    folder: Path
    prefix: str
    shard_size: int
    encoding: Encoding

    def path(self, span: range) -> Path:
        return self.folder / f"{self.prefix}{span.start // self.shard_size:06d}.tar"

    @property
    def manifest(self) -> Path:
        return self.folder / f"{self.prefix}convert.json"

    def identity(self, source: Source) -> dict[str, Any]:
        """Return what must be the same when a conversion goes on."""
        settings = dataclasses.asdict(self.encoding)
        probes = {len(source) * k // 4 for k in range(4)} if len(source) else ()
        digests = {str(index): _digest(source, index) for index in sorted(probes)}
        about = {"source": source.name, "records": len(source), "shard_size": self.shard_size}
        about["left_out"] = source.fingerprint if isinstance(source, Subset) else ""
        return about | settings | {"digests": digests}


def _refuse_weights(source: Source) -> None:
    """Raise ConfigError for a mixture with weights, which shards cannot hold."""
    mixture = source.source if isinstance(source, Subset) else source
    weights = getattr(mixture, "weights", ())
    if any(weight != 1 for weight in weights):
        raise ConfigError(
            "A conversion writes every record once, and cannot give its sources weights",
            got=source.name,
            fix="Leave the weights out ('A + B'); or convert each source on its own, and give the weights to training",
        )


def _sweep(plan: _Plan, spans: Sequence[range]) -> None:
    """Remove what a process that was killed has left of its shard."""
    names = {plan.path(span).name for span in spans}
    for path in plan.folder.glob(f"{TEMPORARY}*-*.tar"):
        if path.name.removeprefix(TEMPORARY).partition("-")[2] in names:
            path.unlink(missing_ok=True)


def _begin(plan: _Plan, source: Source) -> None:
    """Make the folder and the manifest, and refuse to mix two sets of shards in it."""
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        identity, before = plan.identity(source), _manifest(plan.manifest)
        if before is not None:
            _compare(plan, {key: before.get(key, "") for key in identity}, identity)
            return
        others = sorted(plan.folder.glob(f"{plan.prefix}[0-9][0-9][0-9][0-9][0-9][0-9].tar"))
        if others:
            raise DataError(
                f"The folder holds {len(others)} shards of another origin, such as {others[0].name}",
                got=str(plan.folder),
                fix="Write to an empty folder, or choose another prefix",
            )
        write_json(plan.manifest, identity)
    except OSError as error:
        raise DataError(
            "The folder for the shards cannot be made or written", got=str(plan.folder), cause=str(error)
        ) from None


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    raise DataError("The file does not say which shards these are", got=str(path), fix="Remove it and them")


def _compare(plan: _Plan, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise DataError where a conversion is not the one that was begun in the folder."""
    digests = before.pop("digests") or {}
    # A record that cannot be read, then or now, says nothing.
    changed = [
        i for i, digest in now.pop("digests").items() if digest and digests.get(i) not in (None, digest)
    ]
    other = [f"{key} was {before[key]!r} and is {now[key]!r}" for key in now if before[key] != now[key]]
    if before["left_out"] != now["left_out"]:
        other = ["Other records were left out then"]
    if other or changed:
        raise DataError(
            "The folder holds shards of another conversion",
            got=str(plan.folder),
            cause="; ".join(other) or f"Record {changed[0]} has changed since",
            fix="Go on with the same source and settings, write to an empty folder, or choose another prefix",
        )


def _finish(plan: _Plan, written: int, skipped: list[Skipped]) -> None:
    """Write the counts, and the list of what was left out."""
    listed = plan.folder / f"{plan.prefix}skipped.jsonl"
    lines = [json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n" for entry in skipped]
    try:
        if lines:
            write_bytes(listed, "".join(lines).encode(errors="replace"))
        else:
            listed.unlink(missing_ok=True)
        manifest = _manifest(plan.manifest) or {}
        write_json(plan.manifest, manifest | {"written": written, "skipped": len(skipped)})
    except OSError as error:
        raise DataError("The counts cannot be written", got=str(plan.folder), cause=str(error)) from None


def _shard(plan: _Plan, source: Source, span: range, tick: Tick) -> dict[str, Any]:
    """Make a shard, or keep a finished one: the number of records written, and the fields of those left out."""
    path = plan.path(span)
    written = _written(path)
    if written is not None:
        missing = [index for index in span if index not in written]
        again = [entry for index in missing if isinstance(entry := _sample(plan, source, index), Skipped)]
        if len(again) == len(missing):  # else one can be read now: the shard is made anew
            tick(len(span))
            return _counts(again, span)
    skipped: list[Skipped] = []
    try:
        with (
            whole_or_not(path) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for index in span:
                sample = _sample(plan, source, index)
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
    """Return the records that a shard holds, None when there is none that is whole."""
    try:
        with tarfile.open(path) as tar:
            return {int(name.partition(".")[0]) for name in tar.getnames()}
    except (OSError, tarfile.TarError, ValueError):
        return None


def _sample(plan: _Plan, source: Source, index: int) -> dict[str, bytes] | Skipped:
    """Return a record's files by extension, or why there are none."""
    key, name = f"#{index}", source.name
    try:
        record = source[index]
        key, name = record.key, record.source
        extension, image = plan.encoding(record.image)
    except DataError as error:
        return Skipped(index, key, name, str(error))
    about: dict[str, Any] = {}
    label_of, names = getattr(source, "label", None), getattr(source, "class_names", ())
    if label_of is not None:
        about["label"] = int(label_of(index))
        if names:
            about["class"] = names[about["label"]]
    json_, text = _texts(record, about)
    return {extension: image, "json": json_} | ({"txt": text} if record.captions else {})


def _texts(record: Record, about: dict[str, Any] | None = None) -> tuple[bytes, bytes]:
    """Return a sample's `.json` and `.txt`."""
    fields = {"key": record.key, "captions": list(record.captions)} | (about or {})
    texts = json.dumps(fields, ensure_ascii=False), next(iter(record.captions), "")
    return texts[0].encode(errors="replace"), texts[1].encode(errors="replace")


def _digest(source: Source, index: int) -> str | None:
    """Return a fingerprint of a record, None when it cannot be read."""
    try:
        record = source[index]
    except DataError:
        return None
    image = record.image if isinstance(record.image, bytes) else record.image.tobytes()
    return hashlib.blake2b(image + _texts(record)[0], digest_size=8).hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add one member; owner and time are left empty so that equal records give equal shards."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))
