"""Clients that vanish, that dawdle and that never begin do no harm to the others."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from servers import Server, question, served, small_engine, until

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.serving import Limits, create_app, process
from oracle_engine.serving.client.asking import Ask

ENGINE = small_engine(torch.Generator().manual_seed(8))
BODY = json.dumps(question(torch.zeros(2, 2, 3))).encode()
HEAD = b"POST /v2/models/oracle/infer HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(BODY)


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def vanish(server: Server) -> None:
    """Leave in the middle of the body."""
    with connected(server) as held:
        held.sendall(HEAD + BODY[: len(BODY) // 2])
        # reset instead of a farewell
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def dribble(server: Server) -> bytes:
    """Send the last bytes one by one."""
    with connected(server) as held:
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held.sendall(HEAD + BODY[:-20])
        for place in range(20):
            held.sendall(BODY[len(BODY) - 20 + place :][:1])
        return held.recv(2**16)


def ask(server: Server) -> bytes:
    with connected(server) as held:
        held.sendall(HEAD + BODY)
        return held.recv(2**16)


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_two_hundred_clients_of_every_kind(http: str) -> None:
    with served(create_app(ENGINE), http=http) as server, ThreadPoolExecutor(32) as pool:
        tasks = [vanish, dribble, ask, ask] * 50
        found = [held.result() for held in [pool.submit(task, server) for task in tasks]]
        answers = [answer for answer in found if answer is not None]
        assert len(answers) == 150
        assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
        state = server.app.state.server
        until(lambda: not state._bodies.count)
        assert state._bodies.held == 0


def test_a_body_that_does_not_arrive_is_refused() -> None:
    with served(create_app(ENGINE, Limits(read_seconds=0.05))) as server, connected(server) as held:
        held.sendall(HEAD + BODY[:10])
        assert held.recv(2**16).startswith(b"HTTP/1.1 408")


def test_a_connection_that_asks_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HEAD_SECONDS", 0.05)
    with served(create_app(ENGINE)) as server, connected(server) as held:
        held.sendall(HEAD[:20])
        assert held.recv(2**16) == b""


def test_bodies_beyond_the_memory_are_refused() -> None:
    with served(create_app(ENGINE, Limits(memory=len(BODY)))) as server, connected(server) as first:
        first.sendall(HEAD + BODY[:-10])
        until(lambda: server.app.state.server._bodies.held)
        refused = server.post(question(torch.zeros(2, 2, 3)))
        assert refused.status_code == 503
        assert "hold all memory" in refused.json()["error"]


def test_an_answer_that_is_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(9, 4000, dtype=torch.float64)))
    asked = Ask(["velocity", "score", "noise"], {"x": torch.zeros(200, 4000), "t": torch.full((1,), 0.5)})
    body, headers = asked.encoded()
    lines = [f"{name}: {value}" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
    head = "\r\n".join(["POST /v2/models/oracle/infer HTTP/1.1", "Host: here", *lines, "", ""])
    with served(create_app(engine)) as server, socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        held.settimeout(60)
        held.connect(("127.0.0.1", server.port))
        held.sendall(head.encode() + body)
        statistics, bodies = server.app.state.server.models["oracle"].statistics, server.app.state.server._bodies
        until(lambda: statistics.requests["success"])
        # on its way, and counted
        assert bodies.held > 0
        monkeypatch.setattr(process, "STUCK_SECONDS", 0.2)
        until(lambda: bodies.held == 0)
        until(lambda: not server.process.server_state.connections)


def test_requests_beyond_the_limit_are_refused() -> None:
    with served(create_app(ENGINE, Limits(requests=1))) as server, connected(server) as first:
        first.sendall(HEAD + BODY[:10])
        until(lambda: server.app.state.server._bodies.count)
        refused = server.post(question(torch.zeros(1, 2, 3)))
        assert refused.status_code == 503
        assert "1 requests are in work" in refused.json()["error"]
