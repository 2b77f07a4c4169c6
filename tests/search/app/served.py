"""A small collection, and servers of it in this process."""

from __future__ import annotations

import csv
import http.client
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from openslip.search.app.server import Server
from openslip.search.embed import embed
from openslip.search.index import Index
from toys import save_toy_model

COUNT = 60
COLOURS = ("red", "green", "blue")
EVIL = "<script>document.title = 'broken in'</script> & <img src=x onerror=alert(1)>"


def caption(number: int) -> str:
    return EVIL if number == 7 else f"a {COLOURS[number % 3]} square, number {number}"


def pixels(number: int) -> np.ndarray:
    """Return a picture of one colour with a darker square somewhere, (40, 56, 3)."""
    rng = np.random.default_rng(number)
    found = rng.integers(150, 220, (40, 56, 3), dtype=np.uint8)
    found[..., number % 3] = 250
    y, x = rng.integers(0, 24), rng.integers(0, 40)
    found[y : y + 16, x : x + 16] //= 3
    return found


def make_collection(root: Path, count: int = COUNT) -> Path:
    """Make pictures, a table with columns, a model, and the index of them; return the index's folder."""
    model = save_toy_model(root / "model")
    (root / "pictures").mkdir()
    with open(root / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for n in range(count):
            name = f"{n:03d}.{'jpg' if n % 2 else 'png'}"
            Image.fromarray(pixels(n)).save(root / "pictures" / name)
            writer.writerow([f"pictures/{name}", caption(n)])
    embed(model, str(root / "table.csv"), root / "vectors", spec=str(root / "table.csv"), precision="fp32")
    add_columns(
        root / "vectors",
        price=[n + 0.5 for n in range(count)],
        colour=[COLOURS[n % 3] for n in range(count)],
        sold=[n % 4 == 0 for n in range(count)],
        note=[f"note {n}" for n in range(count)],
    )
    return root / "vectors"


def add_columns(folder: Path, **columns: Sequence[Any] | np.ndarray) -> None:
    """Give the records of an index more columns."""
    table = pq.read_table(folder / "records.parquet", memory_map=False)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, folder / "new.parquet")
    (folder / "new.parquet").replace(folder / "records.parquet")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks one server, with a connection for each request."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Reply:
        """body: bytes as they are, others as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, sent)
            found = connection.getresponse()
            return Reply(found.status, {n.lower(): v for n, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers={n.replace("_", "-"): v for n, v in headers.items()})

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.ask("POST", path, body, {n.replace("_", "-"): v for n, v in headers.items()})


@contextmanager
def running(index: Index, **options: Any) -> Iterator[tuple[Server, Client]]:
    """Serve within the block, on a free port of this machine."""
    started = threading.Event()
    server = Server(index, port=0, ready=lambda _: started.set(), **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(60)
        yield server, Client(server.port)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@cache
def jpeg(number: int) -> bytes:
    """Return the file of a picture that is not in the collection."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(1000 + number)).save(buffer, "JPEG")
    return buffer.getvalue()
