"""The pass that computes the outputs which a run keeps (`openslip.training.kept_features`), before its first step.

The processes work side by side. Each computes a block of rows, and the first process writes all blocks in order. A
block always has the same rows, so its numbers depend neither on the number of processes nor on where a pass was
interrupted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from openslip.data.identity import differences
from openslip.data.kept import Records
from openslip.data.own_tokenizer import tokenizer_of
from openslip.data.record import Batch
from openslip.errors import DataError, TrainingError
from openslip.files import read_json
from openslip.models.inputs import Inputs
from openslip.models.weights import digest
from openslip.needs import TEXT, Need
from openslip.progress import Progress
from openslip.training.kept_features import Keeping, KeptFeatures, Key, Output
from openslip.training.precision import autocast
from openslip.training.saving.feature_files import FOLDER, TYPE, FeatureFiles, lines_of
from openslip.training.signals import Interrupted, Stopped, StopSignal
from openslip.training.state import State

SETTLE_SECONDS = 10.0
"""Seconds after which computed blocks are forced to disk."""

Made = tuple[dict[str, np.ndarray], list[str]]
"""A block: its rows of every output, by the name of the file; and lines about records."""


class Pass:
    """Computes the missing outputs that a run keeps, and opens all of them. Every process makes a Pass and runs it.

    inputs: moves a batch to the device and draws its colours there.
    """

    def __init__(
        self,
        keeping: Keeping,
        state: State,
        stop: StopSignal,
        inputs: Callable[[Batch], Inputs],
        console: Console,
    ) -> None:
        self.keeping, self.state, self.stop, self.inputs = keeping, state, stop, inputs
        self.processes, self.plan = state.processes, state.plan
        self.console = console
        self._digests: dict[bool, str] = {}

    def run(self) -> KeptFeatures:
        """Return the complete outputs. Raises Interrupted if the run is asked to stop; finished blocks stay."""
        keeping, student = self.keeping, self.state.parallel.student
        identity = self._identity()
        student.eval()
        records: dict[str, Records] = {}
        arrays: dict[Output, np.ndarray] = {}
        texts = keeping.of(TEXT)
        for source in self.state.data.sources:
            outputs = keeping.of(source)
            if outputs or (texts and source == "train"):
                rows = keeping.rows(source, self.state.data)
                files = self._files(source, outputs, rows, {"data": {source: identity.get(source, [])}})
                self._fill(files, lambda blocks, files=files: self._of_pictures(files, blocks))
                records[source] = Records(files.records())
                arrays |= self._load(files, outputs)
        if texts:
            captions = records["train"].every_caption()
            of = {"captions": _digest_of(captions)}
            files = self._files(TEXT, texts, len(captions), of)
            self._fill(files, lambda blocks: self._of_captions(files, blocks, captions))
            arrays |= self._load(files, texts)
        return KeptFeatures(arrays, replace(keeping.kept, records=records))

    def _identity(self) -> Mapping[str, Any]:
        """Return the identity of the data, on the first process alone. Raises DataError if the data have changed."""
        state = self.state
        now: Mapping[str, Any] = {}
        with self.processes.together():
            if self.processes.first:
                now = state.data.identity(captioned=self.plan.loss.captioned)
                known = now
                with suppress(OSError, ValueError):  # the run folder has told of it
                    known = read_json(state.run.path / "data.json")
                if changed := differences(known, now):
                    raise DataError(
                        "The records differ when they are read again, so nothing computed from them can be kept",
                        got="; ".join(changed),
                        fix="Leave --training.keep-features out, or let the source return the same record for an index",
                    )
        return now

    def _files(
        self, source: str, outputs: Sequence[Output], rows: int, of: Mapping[str, Any]
    ) -> FeatureFiles:
        """Return the files of outputs, with a description of what the outputs were computed from."""
        config = self.plan.config
        weights = {output.name: self._digest(output) for output in outputs}
        about = {
            "weights": weights,
            "views": asdict(config.views),
            "drawn": sorted(view.name for view in self._views(source)),
            "captioned, labelled": [source == "train" and self.plan.loss.captioned, self.plan.loss.labelled],
            "seed": config.training.seed,
            "precision": str(self.plan.dtype),
            "augment": config.data.augment,
            "text": asdict(config.model.text) if source == TEXT else {},
            **of,
        }
        widths = {output.name: output.width for output in outputs}
        return FeatureFiles(self.state.run.path / FOLDER / source, rows, widths, about)

    def _views(self, source: str) -> tuple[Any, ...]:
        """Return all views of a source's pictures: the largest of them decides at what size pictures are decoded."""
        apart = self.state.data.ssl is not None
        return tuple(
            view
            for view in self.state.parallel.student.views
            if source != TEXT and (source == "ssl") == (apart and view.scheduled)
        )

    def _digest(self, output: Output) -> str:
        """Return a digest of the weights that compute an output. All processes call it."""
        student = self.state.parallel.student
        if output.by:
            return student.fixed.models[student.fixed.spec(output.by)].digest
        of_text = output.view == TEXT
        if of_text not in self._digests:
            tower = student.model.text_tower if of_text else student.model.image_tower
            self._digests[of_text] = "" if tower is None else digest(tower)
        return self._digests[of_text]

    def _load(self, files: FeatureFiles, outputs: Sequence[Output]) -> dict[Output, np.ndarray]:
        arrays = files.load()
        return {output: arrays[output.name] for output in outputs}

    def _fill(self, files: FeatureFiles, make: Callable[[Sequence[int]], Generator[Made]]) -> None:
        """Compute the blocks that are missing."""
        processes, done = self.processes, 0
        with processes.together():
            if processes.first:
                if reason := files.begin():
                    self.state.inform(
                        f"the outputs in {files.folder} are not used, and computed again: {reason}"
                    )
                done = files.done
        done = processes.from_first(done)
        try:
            if done < files.blocks:
                self._compute(files, make, done)
            if processes.first:
                files.settle()
        finally:
            files.close()
        processes.any(False)  # no process reads before the first process has closed them

    def _compute(
        self, files: FeatureFiles, make: Callable[[Sequence[int]], Generator[Made]], done: int
    ) -> None:
        processes, stop = self.processes, self.stop
        starts = range(done, files.blocks, processes.world)
        # A process without a block left computes one that is thrown away, because some models need all processes.
        mine = [min(start + processes.rank, files.blocks - 1) for start in starts]
        left, settled = files.rows - done * files.block, time.monotonic()
        shown = processes.first and not self.console.quiet
        title = f"computing the features of {files.folder.name} once"
        with (
            Progress(title, left, console=self.console if shown else None, shown=shown) as bar,
            closing(make(mine)) as blocks,
        ):
            for start in starts:
                made = None
                try:
                    with suppress(Stopped), stop.interrupts():
                        made = next(blocks)
                except Exception:
                    if not stop.asked:  # else the signal has ended the loader processes, too
                        raise
                late = time.monotonic() - settled > SETTLE_SECONDS
                stopped, late = processes.any(made is None, late)
                if made is None or stopped:
                    if processes.first:
                        files.settle()
                    done = start * files.block
                    raise Interrupted(
                        f"Stopped while features were computed; {done:,} of {files.rows:,} rows are kept",
                        number=stop.number,
                        fix="Continue with the same command and --resume",
                    )
                for payload in processes.gather(_packed(made)):
                    if files.done < files.blocks:
                        files.write(*_unpacked(payload, files))
                        bar.advance(min(files.block, left - bar.done))
                if late:
                    settled = time.monotonic()
                    if processes.first:
                        files.settle()

    def _of_pictures(self, files: FeatureFiles, blocks: Sequence[int]) -> Generator[Made]:
        """Yield the blocks of a source's pictures: outputs, and in the first epoch a line about each record."""
        state, plan, source = self.state, self.plan, files.folder.name
        outputs = self.keeping.of(source)
        # If no outputs of pictures are kept, the pass only learns whether the pictures can be read.
        views = self._views(source) if outputs else ()
        kept = frozenset(output.view for output in outputs)
        others = frozenset(view.name for view in views) - kept
        loader = state.data.loader(
            0,
            plan.config,
            views,
            captions=plan.loss.captions if source == "train" else 0,
            labelled=source == "train" and plan.loss.labelled,
            pinned=plan.device.type == "cuda",
            kept=replace(self.keeping.kept, views=kept, undrawn=others, records={}),
            in_turn=source,
            positions=[block * files.block for block in blocks],
            batch=files.block,
        )
        length = len(state.data.sources[source])
        with closing(iter(loader)) as batches:
            for block, batch in zip(blocks, batches):
                found = self._outputs(self.inputs(batch), outputs) if outputs else {}
                first_epoch = max(0, length - block * files.block)
                yield found, list(lines_of(batch.own_records[:first_epoch]))

    def _of_captions(
        self, files: FeatureFiles, blocks: Sequence[int], captions: Sequence[str]
    ) -> Generator[Made]:
        """Yield the blocks of all captions. Copies of the last caption fill up the last block."""
        tower = self.state.parallel.student.model.text_tower
        tokenizer = tokenizer_of(self.plan.config.model.text, b"" if tower is None else tower.own_tokenizer)
        outputs = self.keeping.of(TEXT)
        for block in blocks:
            some = captions[block * files.block : (block + 1) * files.block]
            some = [*some, *[some[-1]] * (files.block - len(some))]
            tokens = tokenizer(some).to(self.plan.device)
            yield self._outputs(Inputs({}, tokens), outputs), []

    @torch.no_grad()
    def _outputs(self, inputs: Inputs, outputs: Sequence[Output]) -> dict[str, np.ndarray]:
        """Return the models' outputs for a block, in the type in which they are kept."""
        with autocast(inputs.device, self.plan.dtype):
            made = self._made(inputs, outputs)
        found = {}
        for output in outputs:
            rows = made[output.key].to(torch.float16).cpu().numpy()
            if not np.isfinite(rows).all():
                raise TrainingError(
                    f"The {output.need.out}s of {output.view} cannot be kept: some are not finite in fp16",
                    got=f"at most {float(made[output.key].abs().max()):g}; fp16 ends at 65,504",
                    fix="Leave --training.keep-features out",
                )
            found[output.name] = rows
        return found

    def _made(self, inputs: Inputs, outputs: Sequence[Output]) -> dict[Key, Tensor]:
        """Return the outputs of the student's frozen towers and of the fixed models for a block."""
        student, asked = self.state.parallel.student, dict[str, list[Need]]()
        for output in outputs:
            asked.setdefault(output.by, []).append(output.need)
        found: dict[Key, Tensor] = {}
        for by, needs in asked.items():
            model = student.fixed.models[student.fixed.spec(by)] if by else student.model
            found |= {(by, need): feature for need, feature in model.features(inputs, needs).items()}
        return found


def _digest_of(texts: Sequence[str]) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return found.hexdigest()


def _packed(made: Made) -> bytes:
    """Return a block as bytes: the arrays in the order of their names, then the lines."""
    arrays, lines = made
    parts = [np.ascontiguousarray(arrays[name], TYPE).tobytes() for name in sorted(arrays)]
    return b"".join([*parts, json.dumps(lines).encode()])


def _unpacked(payload: bytes, files: FeatureFiles) -> Made:
    arrays, start = {}, 0
    for name in sorted(files.widths):
        count = files.block * files.widths[name]
        arrays[name] = np.frombuffer(payload, TYPE, count, start).reshape(files.block, -1)
        start += count * TYPE.itemsize
    return arrays, json.loads(payload[start:])
