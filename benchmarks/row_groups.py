"""How often a remote Parquet file is fetched in an epoch: each process for itself, or once for all of the machine.

    python benchmarks/row_groups.py
    python benchmarks/row_groups.py --group 100 1000 --batch 512 --ranks 1 --workers 4

A web server on this machine counts the bytes that it sends, in multiples of the file. `alone`: nothing can be written
to the cache folder, so that every loader process of every rank fetches the row groups that it needs. `shared`: they
hand them on through the cache folder (`openslip.data.storage.spool`). The records are small pictures that carry 60 kB
each, as pictures of 300 to 500 pixels do.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from openslip.config import ViewsConfig
from openslip.data import loader as loading
from openslip.data.data import Data
from openslip.data.sources.parquet import open_parquet
from openslip.needs import IMAGE

RECORDS, COMMENT = 5120, 60_000
"""More than the 256 MiB of row groups that a process keeps; bytes of a picture's comment, which decoders pass over."""


class Server(ThreadingHTTPServer):
    """Says nothing of connections that loader processes leave when they end."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def write(path: Path, group: int) -> None:
    buffer, noise = io.BytesIO(), np.random.default_rng(0)
    Image.new("RGB", (16, 16), (200, 40, 90)).save(buffer, "JPEG")
    start, rest = buffer.getvalue()[:2], buffer.getvalue()[2:]
    head = start + b"\xff\xfe" + (COMMENT + 2).to_bytes(2, "big")
    schema = pa.schema({"image": pa.binary(), "caption": pa.string()})
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for first in range(0, RECORDS, group):
            count = min(group, RECORDS - first)
            images = [head + noise.bytes(COMMENT) + rest for _ in range(count)]
            writer.write_table(pa.table([images, ["a picture"] * count], schema=schema), row_group_size=group)


class Ranges(BaseHTTPRequestHandler):
    """Sends ranges of one file, and counts them."""

    protocol_version = "HTTP/1.1"
    path_of: Path
    sent = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        size = self.path_of.stat().st_size
        first, last = map(int, re.findall(r"\d+", self.headers.get("Range", f"bytes=0-{size - 1}")))
        last = min(last, size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", f'"{self.path_of.name}"')
        self.end_headers()
        with open(self.path_of, "rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last - first + 1))
        with Ranges.lock:
            Ranges.sent += last - first + 1

    def log_message(self, format: str, *args: Any) -> None:
        pass


def read(url: str, batch: int, workers: int, rank: int, ranks: int) -> None:
    """Load an epoch's whole batches, as a training process does, and nothing ahead for the next epoch."""
    size = batch * (RECORDS // batch)
    module: Any = loading
    module.itertools = SimpleNamespace(count=lambda start, step: range(start, size, step))
    loader = loading.Loader(
        Data(open_parquet(url)), views=(IMAGE,), config=ViewsConfig(size=16), tokenizer=None,
        batch=batch, seed=0, rank=rank, world=ranks, workers=workers,
    )  # fmt: skip
    assert sum(len(batch.keys) for batch in loader) == size // ranks


def fetched(url: str, size: int, cache: Path, batch: int, workers: int, ranks: int) -> float:
    Ranges.sent = 0
    environment = os.environ | {"OPENSLIP_CACHE": str(cache), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, __file__, "--url", url, "--batch", str(batch), "--workers", str(workers)]
    running = [
        subprocess.Popen([*command, "--ranks", str(ranks), "--rank", str(rank)], env=environment)
        for rank in range(ranks)
    ]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise SystemExit(f"a process failed: {statuses}")
    return Ranges.sent / size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--group", type=int, nargs="+", default=[100, 500, 1000], help="rows of a row group")
    parser.add_argument("--batch", type=int, nargs="+", default=[1024], help="of all ranks together")
    parser.add_argument("--workers", type=int, nargs="+", default=[4], help="loader processes of a rank")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="training processes")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.url:
        read(options.url, options.batch[0], options.workers[0], options.rank, options.ranks[0])
        return
    server = Server(("127.0.0.1", 0), Ranges)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(
        "| rows of a row group | batch | ranks | workers of each | alone | shared |\n|---|---|---|---|---|---|"
    )
    for group in options.group:
        with tempfile.TemporaryDirectory() as folder:
            Ranges.path_of = Path(folder) / f"{group}.parquet"
            write(Ranges.path_of, group)
            size = Ranges.path_of.stat().st_size
            url = f"http://127.0.0.1:{server.server_port}/{group}.parquet"
            for batch, ranks, workers in product(options.batch, options.ranks, options.workers):
                alone = fetched(url, size, Ranges.path_of / "no folder", batch, workers, ranks)
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    shared = fetched(url, size, Path(cache), batch, workers, ranks)
                print(f"| {group} | {batch} | {ranks} | {workers} | {alone:.2f} | {shared:.2f} |", flush=True)


if __name__ == "__main__":
    main()
