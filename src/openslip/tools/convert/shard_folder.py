"""The folder that a conversion writes: which shard holds which records, its `convert.json` and `skipped.jsonl`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openslip.data.encode import Encoding
from openslip.data.record import Skipped, Source
from openslip.data.subset import Subset
from openslip.errors import DataError
from openslip.files import TEMPORARY, read_json, write_bytes, write_json
from openslip.tools.convert.sample import sidecars


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards: everything that the shards' bytes depend on, except the records."""

    folder: Path
    prefix: str
    shard_size: int
    encoding: Encoding

    def spans(self, source: Source) -> list[range]:
        """Return the range of records of each shard."""
        size, count = self.shard_size, len(source)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def path(self, span: range) -> Path:
        """Return the path of the shard of these records."""
        return self.folder / f"{self.prefix}{span.start // self.shard_size:06d}.tar"

    @property
    def manifest(self) -> Path:
        return self.folder / f"{self.prefix}convert.json"

    def chosen_size(self, shard_mb: float) -> int | None:
        """Return the shard size of a conversion that was begun here with `shard_mb`, None without such a conversion."""
        before = _read(self.manifest) or {}
        return before.get("shard_size") if before.get("shard_mb") == shard_mb else None

    def begun_size(self) -> int:
        """Return the shard size that rank 0 began with. Raises DataError when the manifest of rank 0 is not here."""
        if before := _read(self.manifest):
            return before["shard_size"]
        raise DataError(
            "What rank 0 has written is not here",
            got=str(self.manifest),
            fix="Give all ranks one shared folder",
        )

    def begin(self, source: Source, shard_mb: float = 0.0) -> None:
        """Make the folder and the manifest, which records `shard_mb` if given.

        Raises DataError rather than mix two sets of shards in the folder.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            identity, before = self._identity(source), _read(self.manifest)
            if before is not None:
                self._compare({key: before.get(key, "") for key in identity}, identity)
                return
            others = sorted(self.folder.glob(f"{self.prefix}[0-9][0-9][0-9][0-9][0-9][0-9].tar"))
            if others:
                raise DataError(
                    f"The folder holds {len(others)} shards of another origin, such as {others[0].name}",
                    got=str(self.folder),
                    fix="Write to an empty folder, or choose another prefix",
                )
            write_json(self.manifest, identity | ({"shard_mb": shard_mb} if shard_mb else {}))
        except (OSError, ValueError) as error:
            raise DataError(
                "The folder for the shards cannot be made or written", got=str(self.folder), cause=str(error)
            ) from None

    def finish(self, source: Source, written: int, skipped: list[Skipped]) -> None:
        """Write the counts, the contents of the source, and the list of the records that were left out.

        Raises DataError when they cannot be written.
        """
        listed = self.folder / f"{self.prefix}skipped.jsonl"
        lines = [json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n" for entry in skipped]
        try:
            if lines:
                write_bytes(listed, "".join(lines).encode(errors="replace"))
            else:
                listed.unlink(missing_ok=True)
            manifest = _read(self.manifest) or {}
            counts = {"written": written, "skipped": len(skipped)}
            contents = [{"name": name, **found.to_dict()} for name, found in source.contents_by_name()]
            write_json(self.manifest, manifest | counts | {"contents": contents})
        except OSError as error:
            raise DataError("The counts cannot be written", got=str(self.folder), cause=str(error)) from None

    def sweep(self, spans: Sequence[range]) -> None:
        """Remove the temporary files of these shards that a killed process left."""
        names = {self.path(span).name for span in spans}
        for path in self.folder.glob(f"{TEMPORARY}*-*.tar"):
            if path.name.removeprefix(TEMPORARY).partition("-")[2] in names:
                path.unlink(missing_ok=True)

    def _identity(self, source: Source) -> dict[str, Any]:
        """Return what must be the same when a conversion is continued."""
        settings = dataclasses.asdict(self.encoding)
        probes = {len(source) * k // 4 for k in range(4)} if len(source) else ()
        digests = {str(index): _digest(source, index) for index in sorted(probes)}
        about = {"source": source.name, "records": len(source), "shard_size": self.shard_size}
        about["left_out"] = source.fingerprint if isinstance(source, Subset) else ""
        return about | settings | {"digests": digests}

    def _compare(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Raise DataError when this is not the conversion that was begun in the folder."""
        digests = before.pop("digests") or {}
        # A record that cannot be read, then or now, is not compared.
        changed = [
            i for i, digest in now.pop("digests").items() if digest and digests.get(i) not in (None, digest)
        ]
        other = [f"{key} was {before[key]!r} and is {now[key]!r}" for key in now if before[key] != now[key]]
        if before["left_out"] != now["left_out"]:
            other = ["Other records were left out before"]
        if other or changed:
            raise DataError(
                "The folder holds shards of another conversion",
                got=str(self.folder),
                cause="; ".join(other) or f"Record {changed[0]} has changed since",
                fix="Continue with the same source and settings, write to an empty folder, or choose another prefix",
            )


def _read(manifest: Path) -> dict[str, Any] | None:
    """Return the content of a manifest, None where there is none. Raises DataError for any other file."""
    try:
        content = read_json(manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError("The file cannot be read", got=str(manifest), cause=str(error)) from None
    except ValueError:
        content = None
    if isinstance(content, dict) and isinstance(content.get("digests", {}), dict | None):
        size = content.get("shard_size")
        if isinstance(size, int) and size > 0 and not isinstance(size, bool):
            return content
    raise DataError(
        "The file does not say which shards these are", got=str(manifest), fix="Remove it and the shards"
    )


def _digest(source: Source, index: int) -> str | None:
    """Return a fingerprint of a record, None when it cannot be read."""
    try:
        record = source[index]
    except DataError:
        return None
    image = record.image if isinstance(record.image, bytes) else record.image.tobytes()
    return hashlib.blake2b(image + sidecars(record)[0], digest_size=8).hexdigest()
