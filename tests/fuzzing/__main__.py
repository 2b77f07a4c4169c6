"""Run the fuzz by hand, over some readers or all: how it is told what failed, and where the files are."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fuzzing.readers import READERS
from fuzzing.sandbox import fuzz

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(READERS)}")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    failed = 0
    for name in options.names or READERS:
        begun = time.perf_counter()
        failures = fuzz(name, folder / name, count=options.count, seed=options.seed)
        print(f"{name}: {len(failures)} failed, {time.perf_counter() - begun:.1f} s", flush=True)
        for failure in {
            failure.what[-200:]: failure for failure in reversed(failures)
        }.values():  # one a kind
            print(f"  {failure}", flush=True)
        failed += len(failures)
    sys.exit(failed > 0)
