"""A server that is told to end loses nothing that it has accepted."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from hypothesis import settings
from servers import Gate, Server, question, served, small_engine, until

from oracle_engine.serving import create_app
from oracle_engine.serving.models import Model

ENGINE = small_engine(torch.Generator().manual_seed(9))
X = torch.zeros(4, 2, 3)
CLIENTS = 24
# under HYPOTHESIS_PROFILE=search
ENDINGS = min(20, settings().max_examples // 12)


def asks_until_the_end(server: Server) -> int:
    """Return how many answers a client had that stays on its connection until it is told to leave."""
    answers = 0
    with server.client() as client:
        while True:
            try:
                response = client.post("/v2/models/oracle/infer", json=question(X))
            except httpx.ConnectError:
                # it came too late to be accepted
                return answers
            assert response.status_code == 200, response.text
            answers += 1
            if response.headers.get("connection") == "close":
                return answers


def end_under_load() -> None:
    with served(create_app(ENGINE), lame_duck=0.3) as server, ThreadPoolExecutor(CLIENTS) as pool:
        found = [pool.submit(asks_until_the_end, server) for _ in range(CLIENTS)]
        statistics = server.app.state.server.models["oracle"].statistics
        until(lambda: statistics.requests["success"] > CLIENTS)
        server.process.handle_exit(signal.SIGTERM, None)
        answers = sum(held.result(60) for held in found)
        assert answers == statistics.requests["success"]
        assert set(statistics.requests) == {"success"}


def test_no_accepted_request_is_lost() -> None:
    for _ in range(ENDINGS):
        end_under_load()


def test_it_says_that_it_is_not_ready_before_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(create_app(ENGINE), lame_duck=1e6) as server, server.client() as client:
        gate = Gate(monkeypatch, Model)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.post, question(X))
            assert gate.entered.wait(30)
            server.process.handle_exit(signal.SIGTERM, None)
            assert client.get("/v2/health/ready").status_code == 503
            assert client.get("/v2/models/oracle/ready").status_code == 503
            assert client.get("/v2/health/live").status_code == 200
            gate.opened.set()
            assert first.result().status_code == 200
            assert server.post(question(X)).status_code == 200
        server.process.handle_exit(signal.SIGTERM, None)
        assert server.process.should_exit
        assert server.process.force_exit


def test_an_interrupt_waits_for_what_was_accepted_and_not_for_balancers(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, Model)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(Model, "warm_up", lambda model: None)
        with served(create_app(ENGINE), lame_duck=1e6) as server:
            first = pool.submit(server.post, question(X))
            assert gate.entered.wait(30)
            server.process.handle_exit(signal.SIGINT, None)
            until(lambda: server.process.should_exit)
            gate.opened.set()
            assert first.result().status_code == 200


def test_its_worker_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, Model)
    monkeypatch.setattr(Model, "warm_up", lambda model: None)
    with ThreadPoolExecutor(1) as pool:
        with served(create_app(ENGINE)) as server:
            first = pool.submit(server.post, question(X))
            assert gate.entered.wait(30)
            # one that computes is not waited for
            assert not server.app.state.server.ended(60.0)
            gate.opened.set()
            assert first.result().status_code == 200
        assert server.app.state.server.ended(60.0)
