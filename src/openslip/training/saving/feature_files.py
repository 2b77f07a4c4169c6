"""Outputs of models that do not change, in a run folder: computed a block at a time, in order, and read back by row.

features/train/         outputs of the records of data.train, epoch after epoch of their views
  about.json            what the outputs were computed from, and how many blocks are done
  NAME.npy              an output, (rows, width) in fp16, as numpy writes arrays
  records.jsonl         each record's key, captions and class, or why it cannot be used
features/ssl/           outputs of the records of data.ssl
features/text/          outputs of the captions
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from openslip.data.identity import differences
from openslip.data.kept import Known
from openslip.data.record import Skipped
from openslip.errors import CheckpointError
from openslip.files import open_regular, parse_json, read_json, write_json

FOLDER = "features"
BLOCK = 256
"""Most rows of a block. A row must not depend on the process, or on the other rows that are computed with it. So a
block always has the same rows."""
TYPE = np.dtype(np.float16)
_VERSION = 1


class FeatureFiles:
    """Some outputs of the same `rows`, in a folder. widths: the width of each output, by name.

    of: what the outputs are computed from, as JSON holds it. If the folder holds outputs of something else, they are
    computed again. The value under `data` is compared as an `Identity` (`openslip.data.identity`).

    One process writes: `begin`, then `write` for each block in order, `settle` now and then and at the end. When all
    blocks are done, any process may read.
    """

    def __init__(self, folder: Path, rows: int, widths: Mapping[str, int], of: Mapping[str, Any]) -> None:
        self.folder, self.rows, self.widths = folder, rows, dict(widths)
        self.of = json.loads(json.dumps({"version": _VERSION, "rows": rows, "widths": self.widths, **of}))
        self.blocks = max(1, math.ceil(rows / BLOCK))
        self.block = math.ceil(rows / self.blocks)
        self.done = 0
        self._files: dict[str, IO[bytes]] = {}

    @property
    def size(self) -> int:
        """Bytes of all arrays when they are complete."""
        return self.rows * sum(self.widths.values()) * TYPE.itemsize

    def begin(self) -> str:
        """Open the files to write what is missing; set `done`. Return why outputs in the folder are not used, or "".

        Raises CheckpointError if the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            reason = self._go_on()
            if not self._files:
                self._start()
            return reason
        except OSError as error:
            raise self._unwritable(error) from None

    def _go_on(self) -> str:
        """Open the files that are there, cut to what is known to be complete, if they hold the same outputs."""
        try:
            about = read_json(self.folder / "about.json")
            other = self._differs(about["of"])
            done, size = int(about["done"]), int(about["records_bytes"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"about.json cannot be read: {error}"
        if other:
            return other
        ends = {name: self._end(name, done) for name in self.widths} | {"records.jsonl": size}
        for name, end in ends.items():
            path = self.folder / self._file(name)
            if not path.is_file() or path.stat().st_size < end:
                return f"{path.name} is incomplete"
        for name, end in ends.items():
            file = self._opened(name, "r+b")
            file.truncate(end)
            file.seek(end)
        self.done = done
        return ""

    def _differs(self, of: Mapping[str, Any]) -> str:
        """Return in words how the outputs in the folder differ from these; "" if they are the same."""
        changed = [key for key in self.of if key != "data" and of.get(key) != self.of[key]]
        if changed:
            return f"they were computed with other {', '.join(changed)}"
        return "; ".join(differences(of.get("data", {}), self.of.get("data", {})))

    def _start(self) -> None:
        (self.folder / "about.json").unlink(missing_ok=True)
        self.done = 0
        for name in (*self.widths, "records.jsonl"):
            file = self._opened(name, "w+b")
            if name in self.widths:
                file.write(self._header(name))
        self.settle()

    def _header(self, name: str) -> bytes:
        header = io.BytesIO()
        shape = (self.rows, self.widths[name])
        np.lib.format.write_array_header_1_0(
            header, {"descr": TYPE.str, "fortran_order": False, "shape": shape}
        )
        return header.getvalue()

    def _end(self, name: str, blocks: int) -> int:
        """Return the length of an output's file with `blocks` blocks, in bytes."""
        rows = min(blocks * self.block, self.rows)
        return len(self._header(name)) + rows * self.widths[name] * TYPE.itemsize

    def _opened(self, name: str, mode: str) -> IO[bytes]:
        self._files[name] = file = open(self.folder / self._file(name), mode)  # noqa: SIM115 (closed by `close`)
        return file

    def _file(self, name: str) -> str:
        return f"{name}.npy" if name in self.widths else name

    def write(self, outputs: Mapping[str, np.ndarray], records: Iterable[str]) -> None:
        """Add the next block: its rows of every output, and lines about records. Rows beyond the last are left out."""
        left = self.rows - self.done * self.block
        try:
            for name, rows in outputs.items():
                self._files[name].write(np.ascontiguousarray(rows[:left], TYPE).data)
            self._files["records.jsonl"].write("".join(f"{line}\n" for line in records).encode())
        except OSError as error:
            raise self._unwritable(error) from None
        self.done += 1

    def settle(self) -> None:
        """Force the written blocks to disk, then note that they are there."""
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            about = {
                "of": self.of,
                "blocks": self.blocks,
                "done": self.done,
                "records_bytes": self._files["records.jsonl"].tell(),
            }
            write_json(self.folder / "about.json", about)
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Close what `begin` has opened."""
        for file in self._files.values():
            with suppress(OSError):  # a full disk has been reported already
                file.close()
        self._files.clear()

    def load(self) -> dict[str, np.ndarray]:
        """Return the complete outputs, mapped into memory. Raises CheckpointError if they cannot be read."""
        found = {}
        for name, width in self.widths.items():
            path = self.folder / self._file(name)
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                if array.shape != (self.rows, width) or array.dtype != TYPE:
                    raise ValueError(f"it holds {array.dtype} {array.shape}")
            except (OSError, ValueError, EOFError) as error:
                raise self._unreadable(path, error) from None
            found[name] = array
        return found

    def records(self) -> Iterator[Known]:
        """Yield what is known of each record. Raises CheckpointError if that cannot be read."""
        path = self.folder / "records.jsonl"
        try:
            with open_regular(path) as file:
                yield from records_of(file)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._unreadable(path, error) from None

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            "The features that are computed once cannot be kept in the run folder",
            got=str(self.folder),
            cause=str(error),
            fix=f"They take {self.size / 2**30:.2f} GiB. Make room, choose another folder with --out, or lower "
            "--training.keep-features",
        )

    def _unreadable(self, path: Path, error: Exception) -> CheckpointError:
        return CheckpointError(
            "The features that are computed once cannot be read",
            got=str(path),
            cause=str(error),
            fix=f"If several machines train, give a run folder that they share. Otherwise delete {self.folder}; the "
            "features are then computed again",
        )


def lines_of(records: Iterable[Known]) -> Iterator[str]:
    """Yield what is known of each record as a line of JSON, without captions that equal the previous record's."""
    before: tuple[str, ...] | None = None
    for record in records:
        if isinstance(record, Skipped):
            yield json.dumps({"skipped": asdict(record)})
        else:
            key, captions, label = record
            yield json.dumps([key, None if captions == before else captions, label])
            before = captions


def records_of(lines: Iterable[bytes]) -> Iterator[Known]:
    """Yield what lines say of records. Raises ValueError, LookupError or TypeError for lines not from `lines_of`."""
    before: tuple[str, ...] = ()
    for line in lines:
        value = parse_json(line)
        if isinstance(value, dict):
            yield Skipped(**value["skipped"])
        else:
            key, captions, label = value
            before = before if captions is None else tuple(map(str, captions))
            yield str(key), before, int(label)
