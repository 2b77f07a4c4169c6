"""Small images and tar files to read, and a web server that fails as told."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image

from openslip.data.storage import remote, retry
from serving import Handler, serve


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 40, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def write_tar() -> Callable[..., Path]:
    def write(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
        with tarfile.open(path, "w", format=format) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


class Server:
    """A web server with `files` (path → bytes) that does to requests what `faults` (path → list) says, in turn.

    Faults: a status; "reset" or "stall" halfway through the body; "silent"; "short" (half the body, said honestly);
    "long" (a byte more than asked for); "whole" (200 and all for a range); "elsewhere" (another range than asked
    for). The last fault of a list goes on for ever if the list ends with "always".
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A silence ends soon where one is to come, and late enough for a busy machine elsewhere.
        self.impatient = lambda: monkeypatch.setattr(remote, "PATIENCE", 0.3)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.etags: dict[str, str] = {}
        self.ranges, self.lengths = True, True
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.released = threading.Event()  # of what stalls
        outer = self

        class Answering(Handler):
            def do_GET(self) -> None:
                outer.answer(self)

        self.http, self.url = serve(Answering)

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    def fault(self, path: str) -> int | str:
        faults = self.faults.get(path, [])
        if faults[1:] == ["always"]:
            return faults[0]
        return faults.pop(0) if faults else ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, asked = handler.path.partition("?")[0], handler.headers.get("Range", "")
        self.asked.append((path, asked))
        fault = self.fault(path)
        data = self.files.get(path)
        if fault == "silent":
            self.released.wait()
        if isinstance(fault, int) or data is None:
            handler.send_response(fault if isinstance(fault, int) else 404)
            for name, value in self.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        first, last = 0, len(data) - 1
        partial = bool(asked) and self.ranges and fault != "whole"
        if partial:
            first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            if first >= len(data):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(data)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            if fault == "elsewhere":
                first, last = first + 1, last + 1
            last = min(last, len(data) - 1)
        body = data[first : last + 1] + (b"+" if fault == "long" else b"")
        if fault == "short":
            body = body[: len(body) // 2]
        handler.send_response(206 if partial else 200)
        if partial:
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        handler.send_header("ETag", self.etags.get(path, '"1"'))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        if self.lengths:
            handler.send_header("Content-Length", str(len(body)))
        else:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        with contextlib.suppress(OSError):  # who only wanted the headers is gone
            handler.wfile.write(body[: len(body) // 2] if fault in ("reset", "stall") else body)
            handler.wfile.flush()
        if fault == "stall":
            self.released.wait()
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    """A `Server`; requests are tried again at once, the cache folder is a new one."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.002)
    monkeypatch.setattr(retry, "_given_up", {})
    monkeypatch.setattr(retry, "_down", {})
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server(monkeypatch)
    yield server
    server.close()
