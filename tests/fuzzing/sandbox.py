"""Damaged samples are read in a process of its own, whose time and memory are bounded; what happens is written down."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import traceback
import zlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import forked
from fuzzing.mutations import mutate
from fuzzing.readers import BROKEN, READERS, Reader
from openslip.errors import SlipError

PATIENCE = 120
"""Seconds by the clock after which a process that uses no core is taken to wait for ever."""
ADDRESSES = 12 << 30
"""Bytes that a process may ask for beside what it has, so that the machine survives what a reader does."""


@dataclass(frozen=True)
class Failure:
    """What a reader did with a damaged sample other than read it, or refuse it in words; the files are in `folder`."""

    reader: str
    seed: int
    index: int
    what: str
    folder: Path

    def __str__(self) -> str:
        return (
            f"{self.reader}, seed {self.seed}, index {self.index}: {self.what}\n  files kept in {self.folder}"
        )


def fuzz(name: str, folder: Path, *, count: int, seed: int, most: int = 10) -> list[Failure]:
    """Read `count` samples of a reader, the first of them whole, in `folder`. Return at most `most` failures."""
    failures: list[Failure] = []
    start = 0
    folder.mkdir(parents=True, exist_ok=True)
    while start < count and len(failures) < most:
        # A process that died is replaced by one that goes on after what killed it.
        start = _watch(name, folder, start, count, seed, failures, most)
    return failures


def sample(reader: Reader, folder: Path, index: int, seed: int) -> None:
    """Write damaged sample `index` of a reader to `folder`; sample 0 is whole."""
    rng = np.random.default_rng([seed, zlib.crc32(reader.name.encode()), index])
    files = dict(reader.files())
    chosen = [name for name in files if re.search(reader.damaged, name)]
    name = chosen[rng.integers(len(chosen))]
    if index:
        files[name] = mutate(files[name], rng)
        if reader.mend and rng.random() < 0.5:
            files[name] = reader.mend(files[name])
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _watch(
    name: str, folder: Path, start: int, count: int, seed: int, failures: list[Failure], most: int
) -> int:
    """Have a process read samples from `start` on. Return where the next one should."""
    receiver, sender = forked.context().Pipe(duplex=False)
    process = forked.context().Process(target=_work, args=(name, folder, start, count, seed, sender))
    process.start()
    sender.close()
    at, why = start, ""
    try:
        while at < count:
            if not receiver.poll(PATIENCE):
                why = f"It has waited for {PATIENCE} s"
                break
            index, what = receiver.recv()
            if what:
                failures.append(Failure(name, seed, index, what, folder / str(index)))
            at = index + 1
            if len(failures) >= most:
                break
    except EOFError:
        process.join()
        code = process.exitcode or 0
        names = {-signal.SIGPROF: "It took too long"}
        why = names.get(code, f"The process ended: {signal.Signals(-code).name if code < 0 else code}")
    finally:
        process.kill()
        process.join()
        receiver.close()
    if why:
        failures.append(Failure(name, seed, at, why, folder / str(at)))
        at += 1
    return at


def _work(name: str, folder: Path, start: int, count: int, seed: int, results: Connection) -> None:
    """Read samples one after the other; send of each its index, and what was wrong."""
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(silence, descriptor)
    os.environ["OPENSLIP_CACHE"] = str(folder / "cache")
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    reader = (READERS | BROKEN)[name]
    for index in range(start, count):
        place = folder / str(index)
        sample(reader, place, index, seed)
        what = _read(reader, place, index)
        results.send((index, what))
        if not what:
            shutil.rmtree(place)


def _read(reader: Reader, place: Path, index: int) -> str:
    """Return what was wrong with how a sample was read, or an empty string."""
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ADDRESSES, resource.RLIM_INFINITY))
    _forget_peak()
    held = _memory("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, reader.seconds)
    try:
        reader.read(place)
        what = ""
    except SlipError as error:
        what = f"The whole sample is refused: {error}" if index == 0 else ""
    except BaseException as error:
        lines = traceback.format_exception(error)
        what = f"{type(error).__name__}: {str(error)[:300]}\n" + "".join(lines[-4:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = (_memory("VmHWM") - held) >> 20
    if not what and taken > reader.megabytes:
        what = f"It took {taken:,} MB of memory, more than {reader.megabytes:,}"
    return what


def _memory(kind: str) -> int:
    """Return bytes of this process as Linux counts them; 0 where it does not."""
    try:
        found = re.search(kind + r":\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else 0


def _forget_peak() -> None:
    """Have the peak of memory counted from now on."""
    with contextlib.suppress(OSError):  # not allowed: the peak is then that of all samples before
        Path("/proc/self/clear_refs").write_text("5")
