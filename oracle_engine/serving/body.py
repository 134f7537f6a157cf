"""Bodies of requests and of answers within limits, and the parting from those who send too much."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .limits import Limits, RefusedError

# for how long, and how many bytes of, a body is read that nobody wants, so that its sender reads the refusal
LINGER_SECONDS = 2.0
LINGER_BYTES = 2**22


class Bodies:
    """Reads the bodies of all requests of a server.

    limits: of each, and of all together. held: bytes of these, and of answers on their way. count: of requests.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held, self.count = limits, 0, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """Hold the body of a request, whose memory counts until the end of the context.

        Raises RefusedError with status 413 beyond the limit, 408 where it does not arrive in time, 503 where all
        requests together are too many or need too much memory, and 415 for a compression that is not known.
        """
        if self.count >= self.limits.requests:
            raise RefusedError(503, f"{self.count} requests are in work. Remedy: try again later.")
        body = bytearray()
        self.count += 1
        try:
            await self._fill(body, request)
            yield body
        finally:
            self.count -= 1
            self.held -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        """Read a body into `body` within the limits. Raises RefusedError beyond them."""
        told = request.headers.get("content-length", "")
        self._check(int(told) if told.isdigit() and len(told) < 19 else 0)
        unpack = _unpacking(request.headers.get("content-encoding", "identity").lower())
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                async for chunk in request.stream():
                    plain = chunk if unpack is None else unpack.decompress(chunk, self.limits.body + 1)
                    self._check(len(body) + len(plain))
                    if self.held + len(plain) > self.limits.memory:
                        raise RefusedError(503, "the requests in work hold all memory. Remedy: try again later.")
                    body += plain
                    self.held += len(plain)
        except TimeoutError:
            words = f"the body has to arrive within {self.limits.read_seconds:g} s. Remedy: send less at once."
            raise RefusedError(408, words) from None
        except zlib.error as error:
            raise RefusedError(400, f"the body is no {request.headers['content-encoding']}: {error}.") from None

    def _check(self, size: int) -> None:
        if size > self.limits.body:
            words = f"a request may have {self.limits.body} bytes; received {size}. Remedy: send fewer rows at once."
            raise RefusedError(413, words)


def _unpacking(encoding: str) -> zlib._Decompress | None:
    """Return what unpacks a body, or None. Raises RefusedError for an unknown encoding."""
    if encoding == "identity":
        return None
    if encoding not in ("gzip", "deflate"):
        raise RefusedError(415, f"there is no Content-Encoding {encoding[:40]!a}. Remedy: use gzip, deflate, or none.")
    return zlib.decompressobj(wbits=47)


class Reply(Response):
    """A response whose memory counts until it is sent. bodies: of the server. content: of the response."""

    def __init__(self, bodies: Bodies, content: bytes, **options: Any) -> None:
        super().__init__(content, **options)
        self._bodies, self._size = bodies, len(content)
        bodies.held += self._size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._bodies.held -= self._size


class Parting(Response):
    """A response to a body that is not wanted: its sender is heard out for a while, so that it reads the response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, which is complete by its length, then drop what comes before closing the connection."""
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER_SECONDS):
                await _drop(receive)
        await send({"type": "http.response.body", "body": b""})


async def _drop(receive: Receive) -> None:
    """Read a body that was refused, up to a limit, so that the client reads the answer."""
    dropped, more = 0, True
    while more and dropped < LINGER_BYTES:
        message: Message = await receive()
        dropped += len(message.get("body", b""))
        more = message.get("more_body", False)
