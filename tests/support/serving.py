"""Web servers of this process, for tests that fetch."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers requests on connections that stay open, and logs none."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(handler: type[Handler]) -> tuple[ThreadingHTTPServer, str]:
    """Start a server on a free port of this machine; return the server and its address."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return http, f"http://127.0.0.1:{http.server_port}"
