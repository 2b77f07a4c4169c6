"""Request bodies: how large and how slow they may be, and clients that have gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

from starlette.requests import Request

from openslip.search.app.refusals import SLOW, TOO_LARGE, ClientGone, Refusal, busy

SILENCE, WHOLE = 15.0, 300.0
"""Seconds that a client may be silent while it sends a body, and that the whole body may take."""
AWAY = 5.0
"""Seconds in which a refused body is still read and dropped, because a client that is sending reads no answer."""
HELD = 256 << 20
"""Bytes of bodies in memory, of all clients together."""

T = TypeVar("T")


class Room:
    """Room for `most` at a time, for all clients together. `what` is the error's text when there is no room left."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.what, self.taken = most, what, 0
        self._lock = threading.Lock()

    def take(self, much: int) -> None:
        """Take room. Raises Refusal if there is too little."""
        with self._lock:
            if self.taken + much > self.most:
                raise busy(self.what)
            self.taken += much

    def leave(self, much: int) -> None:
        with self._lock:
            self.taken -= much

    @contextmanager
    def place(self, much: int = 1) -> Iterator[None]:
        """Take room for `much` as long as the block runs."""
        self.take(much)
        try:
            yield
        finally:
            self.leave(much)


@asynccontextmanager
async def body_of(request: Request, most: int, room: Room) -> AsyncIterator[bytes]:
    """Yield the body of a request, which takes room as long as the block runs.

    Raises Refusal for more than `most` bytes, as soon as they have come or are announced, for a client that is too
    slow, and if all bodies together are too large; ClientGone if the client goes.
    """
    taken, parts, coming = 0, list[bytes](), _parts(request)
    try:
        try:
            announced = request.headers.get("content-length", "")
            if announced.isdecimal() and int(announced) > most:
                raise _too_large(most)
            async with asyncio.timeout(WHOLE):
                async for part in coming:
                    if taken + len(part) > most:
                        raise _too_large(most)
                    room.take(len(part))
                    taken += len(part)
                    parts.append(part)
        except TimeoutError:
            raise Refusal(SLOW, "The request did not arrive in time", close=True) from None
        except Refusal:
            parts.clear()
            room.leave(taken)
            taken = 0
            if request.headers.get("expect", "").lower() != "100-continue":
                await _drop(coming)
            raise
        body = b"".join(parts)
        parts.clear()
        yield body
    finally:
        room.leave(taken)


async def _parts(request: Request) -> AsyncIterator[bytes]:
    more = True
    while more:
        async with asyncio.timeout(SILENCE):
            message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _drop(coming: AsyncIterator[bytes]) -> None:
    """Read the rest of a body, and drop it."""
    with suppress(TimeoutError, ClientGone):
        async with asyncio.timeout(AWAY):
            async for _ in coming:
                pass


def _too_large(most: int) -> Refusal:
    return Refusal(
        TOO_LARGE,
        f"The request is larger than the {most / 1e6:,.0f} MB that a request may have",
        fix="Send a smaller picture, or start `slip serve` with a larger --max-upload",
        close=True,
    )


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return the result of the work. If the client goes first, cancels the work and raises ClientGone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
