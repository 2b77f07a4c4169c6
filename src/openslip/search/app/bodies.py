"""The bodies of requests as they come: how large and how slow they may be, and clients that have gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

from starlette.requests import Request

from openslip.search.app.refusals import SLOW, TOO_LARGE, ClientGone, Refusal, busy

SILENCE, WHOLE = 15.0, 300.0
"""Seconds that a client may be silent while its body comes, and that all of the body may take."""
AWAY = 5.0
"""Seconds in which a body that is refused is still taken, and dropped: a client that sends reads no answer."""
HELD = 256 << 20
"""Bytes of bodies in memory, of all clients together."""

T = TypeVar("T")


class Room:
    """Room for so much at a time, of all clients together. `what` says in the error that there is none left."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.what, self.taken = most, what, 0
        self._lock = threading.Lock()

    def take(self, much: int) -> None:
        """Take room. Raises Refusal where there is too little."""
        with self._lock:
            if self.taken + much > self.most:
                raise busy(self.what)
            self.taken += much

    def leave(self, much: int) -> None:
        with self._lock:
            self.taken -= much

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take room for one within the block."""
        self.take(1)
        try:
            yield
        finally:
            self.leave(1)


@asynccontextmanager
async def body_of(request: Request, most: int, room: Room) -> AsyncIterator[bytes]:
    """Give the body of a request within the block, in which it takes room.

    Raises Refusal for more than `most` bytes, as soon as these have come or are announced, for a client that is too
    slow, and where all bodies together are too many; ClientGone where the client goes.
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
            raise Refusal(SLOW, "The request did not come to an end in time", close=True) from None
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
    """Take what is still to come of a body, and forget it."""
    with suppress(TimeoutError, ClientGone):
        async with asyncio.timeout(AWAY):
            async for _ in coming:
                pass


def _too_large(most: int) -> Refusal:
    return Refusal(
        TOO_LARGE,
        f"More was sent than the {most / 1e6:,.0f} MB that a request may have",
        fix="Send a smaller picture, or start `slip serve` with a larger --max-upload",
        close=True,
    )


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return what the work gives. Raises ClientGone, and cancels the work, where the client goes before."""
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
