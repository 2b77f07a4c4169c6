"""Errors with an HTTP status, and slip's errors as answers to clients."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response

from openslip.errors import SlipError

BAD, UNKNOWN, TOO_LARGE, UNREADABLE, SLOW, BUSY = 400, 404, 413, 415, 408, 503
AGAIN = 2
"""Seconds after which a client that was sent away should ask again."""


class Refusal(SlipError):
    """The error of a request that is refused, with the HTTP status of the answer."""

    def __init__(
        self, http: int, what: str, *, got: object = None, cause: str = "", fix: str = "", close: bool = False
    ) -> None:
        super().__init__(what, got=got, cause=cause, fix=fix)
        self.http, self.close = http, close


class ClientGone(Exception):
    """The client has gone, and nobody waits for the answer."""


def busy(what: str) -> Refusal:
    """Return the refusal for a client that came while too many others wait."""
    return Refusal(BUSY, what, fix=f"Ask again in {AGAIN} seconds")


class Json(Response):
    """A value as JSON, which no cache keeps. NaN and infinite numbers are null."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(value, status, {"cache-control": "no-store", **(headers or {})})

    def render(self, content: Any) -> bytes:
        return encoded(content)


def encoded(value: Any) -> bytes:
    """Return a value as JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except ValueError:  # of NaN and infinite numbers, which are rare
        return json.dumps(_finite(value), ensure_ascii=False).encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def refused(error: SlipError) -> Response:
    """Return the answer to a request that ended in one of slip's errors."""
    http = error.http if isinstance(error, Refusal) else BAD
    headers = {"retry-after": str(AGAIN)} if http == BUSY else {}
    if isinstance(error, Refusal) and error.close:
        headers["connection"] = "close"
    return Json({"error": str(error), "what": error.what, "fix": error.fix}, http, headers)
