"""Writing checkpoints while training goes on: each process writes its part, and the first process joins the parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from openslip.errors import CheckpointError
from openslip.processes import Processes
from openslip.training.saving import checkpoint
from openslip.training.saving.tensors import Snapshot

Commit = Callable[[Mapping[str, str]], object]
"""Makes a checkpoint of files, given their checksums by name; see `openslip.training.saving.checkpoint.commit`."""


class BackgroundWriter:
    """Writes one checkpoint at a time. All processes call all methods together, except `busy` and `close`.

    Processes exchange nothing in the background. Between two steps, `settle` finds out whether all parts are written.
    A checkpoint that cannot be written is reported to `failed`; the earlier checkpoints stay.
    """

    def __init__(
        self, folder: Path, processes: Processes, failed: Callable[[CheckpointError], object]
    ) -> None:
        self.folder, self.processes, self.failed = folder, processes, failed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._step = 0
        self._part: tuple[Future[dict[str, str]], Commit] | None = None
        self._whole: Future[object] | None = None

    def start(self, step: int, take: Callable[[], Snapshot], commit: Commit) -> None:
        """Take a snapshot of `step`, write and `commit` it, after the previous checkpoint is written.

        So there are never two snapshots in memory.
        """
        self.catch_up()
        self._step, snapshot = step, take()
        if snapshot.parts > 1:
            self._part = (self._pool.submit(checkpoint.write, self.folder, step, snapshot), commit)
        elif self.processes.first:
            write = partial(checkpoint.write, self.folder, step, snapshot)
            self._whole = self._pool.submit(self._commit, step, commit, write)

    @property
    def busy(self) -> bool:
        """Whether this process is still writing its part of a checkpoint."""
        return self._part is not None and not self._part[0].done()

    def settle(self) -> None:
        """Let the first process make a checkpoint of the parts, in the background. Call it when none is `busy`."""
        try:
            self._settle()
        except CheckpointError as error:
            self.failed(error)

    def catch_up(self) -> None:
        """Wait until everything is on disk, or has been reported as impossible to write."""
        try:
            self.finish()
        except CheckpointError as error:
            self.failed(error)

    def finish(self) -> None:
        """Wait until everything is on disk, however long that takes any of the processes.

        Raises CheckpointError, on every process, if it could not be written.
        """
        failure: BaseException | None = None
        with self.processes.together():
            if self._part is not None:
                wait([self._part[0]])
        try:
            self._settle()
        except CheckpointError as error:
            failure = error
        whole, self._whole = self._whole, None
        with self.processes.together():
            if whole is not None:
                failure = whole.exception() or failure
        (failed,) = self.processes.any(failure is not None)
        if failed:
            raise failure or CheckpointError("The first process could not write the checkpoint")

    def close(self) -> None:
        """Wait until this process has stopped writing, with or without success."""
        self._pool.shutdown()

    def _settle(self) -> None:
        if self._part is None:
            return
        (part, commit), self._part = self._part, None
        try:
            outcome: dict[str, dict[str, str]] = {"checksums": part.result()}
        except CheckpointError as error:
            outcome = {"failure": {"what": error.what, "cause": error.cause, "fix": error.fix}}
        everyones = [json.loads(told) for told in self.processes.all_gather(json.dumps(outcome).encode())]
        failures = [other["failure"] for other in everyones if "failure" in other]
        if failures:
            if self.processes.first:
                checkpoint.discard(self.folder, self._step)
            raise CheckpointError(got=str(self.folder), **failures[0])
        checksums = {name: crc for other in everyones for name, crc in other["checksums"].items()}
        if self.processes.first:
            self._whole = self._pool.submit(self._commit, self._step, commit, lambda: checksums)

    def _commit(self, step: int, commit: Commit, checksums: Callable[[], Mapping[str, str]]) -> None:
        try:
            commit(checksums())
        except CheckpointError:
            checkpoint.discard(self.folder, step)
            raise
