"""Outputs of models that do not change, in a run folder: computed a block at a time, in order, and read back by row.

features/train/         of the records of data.train, epoch after epoch of their views
  about.json            what the outputs are of, and how many blocks are done
  NAME.npy              an output, (rows, width) in fp16, as numpy writes arrays
  records.jsonl         what each record is: key, captions and class, or why it cannot be used
features/ssl/           the same of data.ssl
features/text/          of the captions
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
"""Most rows of a block. What a row is must not depend on who computes it with which others: blocks are always the
same ones."""
TYPE = np.dtype(np.float16)
_VERSION = 1


class FeatureFiles:
    """Some outputs of the same `rows`, in a folder; widths: of each output by its name.

    of: what they are of, as JSON holds it. Outputs of something else that lie in the folder are computed again. What
    stands under `data` is compared as an `Identity` (`openslip.data.identity`).

    One process writes: `begin`, then `write` of each block in order, `settle` now and then and at the end. When all
    blocks are done, any process reads.
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
        """Open the files to write what is missing; set `done`. Return why outputs that are there are not used, or "".

        Raises CheckpointError where the folder cannot be written.
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
        """Open the files where they are, cut to what is known to be complete, if they are of the same."""
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
                return f"{path.name} is not whole"
        for name, end in ends.items():
            file = self._opened(name, "r+b")
            file.truncate(end)
            file.seek(end)
        self.done = done
        return ""

    def _differs(self, of: Mapping[str, Any]) -> str:
        """Return in words what outputs that lie here are of, if it is something else; else ""."""
        changed = [key for key in self.of if key != "data" and of.get(key) != self.of[key]]
        if changed:
            return f"they are of other {', '.join(changed)}"
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
        """Return how long the file of an output is with so many blocks."""
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
        """Force to disk what was written, then note that it is."""
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
            with suppress(OSError):  # what the disk does not take has been told of
                file.close()
        self._files.clear()

    def load(self) -> dict[str, np.ndarray]:
        """Return the complete outputs, mapped into memory. Raises CheckpointError where they cannot be read."""
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
        """Yield what each record is. Raises CheckpointError where that cannot be read."""
        path = self.folder / "records.jsonl"
        try:
            with open_regular(path) as file:
                yield from records_of(file)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._unreadable(path, error) from None

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            "What is computed once cannot be kept in the run folder",
            got=str(self.folder),
            cause=str(error),
            fix=f"It takes {self.size / 2**30:.2f} GiB. Make room, choose another folder with --out, or lower "
            "--training.keep-features",
        )

    def _unreadable(self, path: Path, error: Exception) -> CheckpointError:
        return CheckpointError(
            "What was kept of models that do not change cannot be read",
            got=str(path),
            cause=str(error),
            fix=f"Where several machines train, the run folder must be one that they share. Else delete {self.folder}, "
            "and it is computed again",
        )


def lines_of(records: Iterable[Known]) -> Iterator[str]:
    """Yield what is known of each record as a line of JSON. Captions that are the record's before are left out."""
    before: tuple[str, ...] | None = None
    for record in records:
        if isinstance(record, Skipped):
            yield json.dumps({"skipped": asdict(record)})
        else:
            key, captions, label = record
            yield json.dumps([key, None if captions == before else captions, label])
            before = captions


def records_of(lines: Iterable[bytes]) -> Iterator[Known]:
    """Yield what lines say of records. Raises ValueError, LookupError or TypeError for others than of `lines_of`."""
    before: tuple[str, ...] = ()
    for line in lines:
        value = parse_json(line)
        if isinstance(value, dict):
            yield Skipped(**value["skipped"])
        else:
            key, captions, label = value
            before = before if captions is None else tuple(map(str, captions))
            yield str(key), before, int(label)
