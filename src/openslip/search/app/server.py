"""The server: its socket and address, its start and its end, and its time limits for clients that stall."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import secrets
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from openslip.errors import ConfigError
from openslip.search.app.routes import Service
from openslip.search.app.security import LOOPBACK, TOKEN, Guard
from openslip.search.index import Index

BEGINNING, STUCK, IDLE = 20.0, 60.0, 30
"""Seconds for a client to send a request, to read more of an answer, and to wait between requests."""
GRACE = 1.5
"""Seconds that answers have to finish when the server ends."""
FILES = 8192
"""Open files that the server asks the system for, because every connection is one."""


class Patient(H11Protocol):
    """HTTP with time limits: a client that sends no request, or reads no answer, loses its connection."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._limit(BEGINNING, lambda: None if self.cycle else transport.close())

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle and not self.flow.write_paused:
            if not self.cycle.response_complete:
                self._limit()
            elif not self._timer:  # another request has begun, and its head is not complete
                self._limit(BEGINNING, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        self._limit()
        super().resume_writing()

    def _expect_reading(self) -> None:
        """End the connection unless the client reads some of the answer in STUCK seconds; all of it may take longer."""
        unread = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < unread:
                self._expect_reading()
            else:
                self.transport.abort()

        self._limit(STUCK, look)

    def _limit(self, seconds: float = 0, end: Callable[[], object] | None = None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, end) if end else None


class Server(uvicorn.Server):
    """A server of one index.

    host: a name or address of this machine. port: 0 for any free port. token: what clients must send; if other machines
    can reach the server, a token is drawn. Raises ConfigError for an address that cannot be used, and what `Service`
    raises. `run` serves until a signal, or until `should_exit` is set.
    """

    def __init__(
        self,
        index: Index,
        *,
        host: str = "127.0.0.1",
        port: int,
        token: str = "",
        max_upload: int = 20_000_000,
        ready: Callable[[Server], None] | None = None,
    ) -> None:
        if token and not TOKEN.fullmatch(token):
            raise ConfigError(
                "A token has 16 to 128 letters, digits, `-` and `_`",
                got=f"{len(token)} characters",
                fix="Leave --token out: if other machines can reach the server, it draws a token",
            )
        self.socket = _listening(host, port)
        bound, self.port = self.socket.getsockname()[:2]
        self.alone = ipaddress.ip_address(bound).is_loopback
        self.token = token or ("" if self.alone else secrets.token_urlsafe(24))
        shown = f"[{bound}]" if ":" in bound else bound
        self.host = host if self.alone and host == "localhost" else shown
        self._ready = ready
        try:
            self.service = Service(index, max_upload=max_upload)
        except BaseException:
            self.socket.close()
            raise
        names = LOOPBACK | {shown} if self.alone else None
        guard = Guard(self.service.app, names=names, token=self.token, port=self.port)
        super().__init__(
            uvicorn.Config(
                guard,
                http=Patient,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=2048,
                timeout_keep_alive=IDLE,
                timeout_graceful_shutdown=10,
                log_level="error",
            )
        )

    @property
    def address(self) -> str:
        """The address for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        _more_files()
        try:
            super().run([self.socket])
        finally:
            self.service.close()
            self.socket.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end the server in the block. Signals that the process was started to ignore stay ignored."""
        ignored = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is signal.SIG_IGN]
        with super().capture_signals():
            if threading.current_thread() is threading.main_thread():
                for one in ignored:
                    signal.signal(one, signal.SIG_IGN)
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers finish, and drop clients that take longer than GRACE."""

        def part() -> None:
            for connection in [*self.server_state.connections]:
                connection.transport.abort()

        timer = asyncio.get_running_loop().call_later(GRACE, part)
        await super().shutdown(sockets)
        timer.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready:
            self._ready(self)


def open_page(server: Server) -> None:
    """Open the page in the browser of this machine, if it has one."""
    threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises ConfigError if the address cannot be used."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(
            "This machine has no such name or address",
            got=f"--host {host}",
            fix="Pass --host 127.0.0.1 for this machine alone, or --host 0.0.0.0 for all machines that can reach it",
        ) from None
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        raise _no_address(host, port, error) from None
    made.setblocking(False)
    return made


def _no_address(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            "The port is in use",
            got=f"--port {port}",
            cause="Another `slip serve`, or another program, listens there",
            fix="Pass another port with --port, or --port 0 for any free port",
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            "The port needs special rights", got=f"--port {port}", fix="Pass a port from 1024 on"
        )
    return ConfigError(
        "The server cannot listen at this address",
        got=f"--host {host} --port {port}",
        cause=os.strerror(error.errno) if error.errno else str(error),
        fix="Pass --host 127.0.0.1 for this machine alone, or --host 0.0.0.0 for all machines that can reach it",
    )


def _more_files() -> None:
    """Let this process have as many connections as the system allows, up to FILES."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
