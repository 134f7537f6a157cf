"""What arrives while the worker computes is answered together, and nobody pays for a neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from servers import Gate, Server, question, served, small_engine, until, values
from tolerances import assert_close
from torch import Tensor

from oracle_engine.serving import Limits, create_app
from oracle_engine.serving.models import Model

GENERATOR = torch.Generator().manual_seed(5)
ENGINE = small_engine(GENERATOR)
X = torch.randn(16, 2, 3, generator=GENERATOR)
TIMES = torch.linspace(0.1, 0.9, 16, dtype=torch.float64)


@pytest.fixture
def server() -> Iterator[Server]:
    with served(create_app(ENGINE, Limits(rows=16, queue_rows=64, batch_rows=32))) as held:
        yield held


@pytest.fixture
def gate(server: Server, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The worker of the server waits at its next batch, which a request of one row makes."""
    return Gate(monkeypatch, Model)


def waiting(server: Server, count: int) -> None:
    """Wait until so many requests are in the queue."""
    statistics = server.app.state.server.models["oracle"].statistics
    until(lambda: statistics.waiting == count)


def asked_together(server: Server, gate: Gate, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    """Return the responses to requests that are in the queue at once, behind one that keeps the worker busy."""
    with ThreadPoolExecutor(len(bodies) + 1) as pool:
        first = pool.submit(server.post, question(X[:1]))
        assert gate.entered.wait(30)
        responses = [pool.submit(server.post, body) for body in bodies]
        waiting(server, len(bodies))
        gate.opened.set()
        assert first.result().status_code == 200
        return [response.result() for response in responses]


def velocity(response: httpx.Response) -> Tensor:
    found = values(response)["velocity"]
    assert isinstance(found, Tensor)
    return found


def test_requests_of_one_kind_are_one_scan(server: Server, gate: Gate) -> None:
    bodies = [question(X[place : place + 1], TIMES[place]) for place in range(12)]
    responses = asked_together(server, gate, bodies)
    assert gate.asked == [1, 12]
    for place, response in enumerate(responses):
        row = slice(place, place + 1)
        assert_close(velocity(response), ENGINE.velocity(X[row], TIMES[row]), "bar")


def test_labels_indices_and_their_lack_share_a_batch(server: Server, gate: Gate) -> None:
    bodies = [question(X[:2], 0.5, labels=[0, 2]), question(X[2:4], 0.5, exclude=[3, -1]), question(X[4:5], 0.5)]
    labelled, excluding, plain = asked_together(server, gate, bodies)
    assert gate.asked == [1, 5]
    assert_close(velocity(labelled), ENGINE.velocity(X[:2], 0.5, labels=[0, 2]), "bar")
    assert_close(velocity(excluding), ENGINE.velocity(X[2:4], 0.5, exclude=[3, -1]), "bar")
    assert_close(velocity(plain), ENGINE.velocity(X[4:5], 0.5), "bar")


def test_unions_and_one_hot_rows_are_read_by_themselves(server: Server, gate: Gate) -> None:
    held: Any
    union, one_hot = [[0, 2, -1], [1, -1, -1]], [[0, 0, 1], [1, 0, 0]]
    bodies = [question(X[:2], 0.5, labels=held) for held in (union, one_hot, [0, 1])]
    responses = asked_together(server, gate, bodies)
    assert gate.asked == [1, 2, 2, 2]
    for response, held in zip(responses, (union, one_hot, [0, 1]), strict=True):
        assert_close(velocity(response), ENGINE.velocity(X[:2], 0.5, labels=held), "bar")


def test_a_batch_has_as_many_rows_as_it_may(server: Server, gate: Gate) -> None:
    asked_together(server, gate, [question(X[:15])] * 4)
    assert gate.asked == [1, 30, 30]


def test_outputs_and_dtypes_that_differ_are_scans_of_their_own(server: Server, gate: Gate) -> None:
    wide = question(X[:1])
    wide["inputs"][0]["datatype"] = "FP64"
    asked_together(server, gate, [question(X[:1]), question(X[:1], outputs=("score",)), wide, question(X[:1])])
    assert sorted(gate.asked) == [1, 1, 1, 2]


def test_only_the_guilty_fail(server: Server, gate: Gate) -> None:
    bodies = [question(X[place : place + 1], 1.5 if place % 4 == 1 else TIMES[place]) for place in range(16)]
    responses = asked_together(server, gate, bodies)
    for place, response in enumerate(responses):
        if place % 4 == 1:
            assert response.status_code == 400
            assert "`t` must lie in [0, 1]" in response.json()["error"]
        else:
            row = slice(place, place + 1)
            assert_close(velocity(response), ENGINE.velocity(X[row], TIMES[row]), "bar")


def test_what_is_too_late_is_refused_and_never_computed(server: Server, gate: Gate) -> None:
    body = question(X[:3]) | {"parameters": {"timeout": 1000}}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, question(X[:1]))
        assert gate.entered.wait(30)
        late = server.post(body)
        assert late.status_code == 504
        assert "no answer within 0.001 s" in late.json()["error"]
        gate.opened.set()
        assert first.result().status_code == 200
        assert server.post(question(X[:2])).status_code == 200
    assert gate.asked == [1, 2]


def test_who_has_left_is_not_computed(server: Server, gate: Gate) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, question(X[:1]))
        assert gate.entered.wait(30)
        with pytest.raises(httpx.ReadTimeout), server.client() as client:
            client.post("/v2/models/oracle/infer", json=question(X[:3]), timeout=0.05)
        statistics = server.app.state.server.models["oracle"].statistics
        until(lambda: statistics.requests["499"])
        gate.opened.set()
        assert first.result().status_code == 200
        assert server.post(question(X[:2])).status_code == 200
    assert gate.asked == [1, 2]


def test_a_full_queue_says_so(server: Server, gate: Gate) -> None:
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(server.post, question(X[:1]))
        assert gate.entered.wait(30)
        others = [pool.submit(server.post, question(X)) for _ in range(4)]
        waiting(server, 4)
        refused = server.post(question(X[:1]))
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "64 rows wait" in refused.json()["error"]
        gate.opened.set()
        assert [held.result().status_code for held in (first, *others)] == [200] * 5


def test_a_small_queue_against_many_clients_answers_or_refuses() -> None:
    with served(create_app(ENGINE, Limits(rows=2, queue_rows=8))) as server, ThreadPoolExecutor(64) as pool:
        found = [response.status_code for response in pool.map(server.post, [question(X[:1])] * 192)]
    assert set(found) <= {200, 503}
    assert found.count(200) > 0


def test_an_engine_that_breaks_is_a_fault_of_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Model, question: Any) -> Any:
        raise RuntimeError("inner secret")

    monkeypatch.setattr(Model, "answer", broken)
    response = server.post(question(X[:1]))
    assert response.status_code == 500
    assert "inner secret" not in response.text
    monkeypatch.undo()
    assert server.post(question(X[:1])).status_code == 200


def test_metrics_have_the_names_of_triton(server: Server) -> None:
    server.post(question(X[:3]))
    server.post(question(X[:1], 1.5))
    with server.client() as client:
        text = client.get("/metrics").text
    assert 'nv_inference_request_success{model="oracle",version="1"} 1.0' in text
    assert 'nv_inference_count{model="oracle",version="1"} 3.0' in text
    assert 'nv_inference_request_failure{model="oracle",reason="400",version="1"} 1.0' in text
    assert 'oracle_route_count{model="oracle",route="exact",version="1"} 3.0' in text
    assert "nv_inference_compute_infer_duration_us{" in text


def test_a_request_is_one_line_of_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="oracle_engine.serving"):
        server.post(question(X[:3]))
        server.post(question(X[:1], 1.5))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("model=oracle status=200 rows=3 request_us=")
    assert second.startswith("model=oracle status=400 error=")
