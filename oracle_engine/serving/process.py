"""A server as a process: uvicorn, which ends without losing a request."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

# a connection has this long for the head of its first request
HEAD_SECONDS = 10.0
# and a client may read nothing of its answer for so long
STUCK_SECONDS = 30.0
# the header by which a client learns that its connection ends
CLOSE = (b"connection", b"close")
# seconds between two looks at whether connections have ended
TICK = 0.05
# a worker that computes nothing has ended after so long
LAST_SECONDS = 5.0


@dataclass(frozen=True)
class Ending:
    """How a server ends after SIGTERM.

    lame_duck: seconds in which it is not ready but still accepts, so that balancers send requests elsewhere. deadline:
    seconds from there on in which what was accepted is answered.
    """

    lame_duck: float = 5.0
    deadline: float = 30.0


class Process(uvicorn.Server):
    """A uvicorn server that is not ready, then accepts nothing, then drains, on SIGTERM.

    app: what `create_app` returned. config: of uvicorn, for this app. ending: how it ends. started: called when it
    listens.

    SIGINT leaves out the lame duck. A second signal ends at once.
    """

    def __init__(
        self,
        app: Starlette,
        config: uvicorn.Config,
        ending: Ending | None = None,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self.app, self.ending, self._tell_started = app, ending or Ending(), started
        self._ends_at: float | None = None
        self._gentle = False
        self._seen: dict[Any, tuple[int, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen at `sockets`, and say so."""
        await super().startup(sockets)
        self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at the first signal; at the second, end."""
        self.end(0.0 if sig == signal.SIGINT else self.ending.lame_duck)

    def end(self, lame_duck: float) -> None:
        """Be not ready from now on, and accept nothing after `lame_duck` seconds; called again, end at once."""
        if self._ends_at is not None:
            self.should_exit = self.force_exit = True
            return
        self.app.state.server.draining = True
        self._gentle = lame_duck > 0.0
        self._ends_at = time.monotonic() + lame_duck

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end, ten times a second."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.should_exit = True
        self._drop_silent()
        ends = await super().on_tick(counter)
        if self._ends_at is not None and CLOSE not in self.server_state.default_headers:
            # clients that keep connections make another one, elsewhere
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        return ends

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, answer what is accepted, and close.

        After a lame duck those who are connected have not been told to leave before their next answer: they have it, or
        are silent for as long as connections are kept, before uvicorn closes what it has not read.
        """
        for server in self.servers:
            server.close()
        ends = time.monotonic() + self.ending.deadline
        while self._gentle and self.server_state.connections and not self.force_exit and time.monotonic() < ends:
            await asyncio.sleep(TICK)
        await super().shutdown(sockets)

    def _drop_silent(self) -> None:
        """Close connections that have not begun to ask, or do not read their answer: uvicorn waits for ever."""
        now, seen = time.monotonic(), {}
        for held in list(self.server_state.connections):
            unread = held.transport.get_write_buffer_size()
            if unread == 0 and getattr(held, "cycle", None) is not None:
                continue
            # since when nothing has changed
            size, since = self._seen.get(held, (unread, now))
            seen[held] = (unread, since if size == unread else now)
            if now - seen[held][1] > (STUCK_SECONDS if unread else HEAD_SECONDS):
                # closing would wait until everything is read
                held.transport.abort()
        self._seen = seen


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to a host and a port, 0 for any; raises OSError where it cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def run(
    app: Starlette,
    place: socket.socket,
    *,
    ending: Ending,
    started: Callable[[], None] = lambda: None,
    log_level: str = "info",
    connections: int = 1024,
) -> None:
    """Serve `app` until a signal, after which the process ends where the worker does not.

    place: where to listen. ending: how it ends. started: called when it listens. log_level: of uvicorn and of this
    package, as uvicorn names it. connections: how many there may be.
    """
    logging = deepcopy(uvicorn.config.LOGGING_CONFIG)
    logging["loggers"]["oracle_engine"] = {"handlers": ["default"], "level": log_level.upper()}
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_level=log_level,
        log_config=logging,
        access_log=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=max(1, round(ending.deadline)),
    )
    process = Process(app, config, ending, started)
    process.run([place])
    if not app.state.server.ended(LAST_SECONDS):
        # a scan cannot be interrupted, and Python would end in the midst of it
        os._exit(1)
