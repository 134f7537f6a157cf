"""What cannot be answered is refused in words, with the status that says whose fault it is."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from servers import Server, question, served, small_engine, tensor

from oracle_engine import InputError, OracleEngine
from oracle_engine.serving import Limits, create_app
from oracle_engine.serving.client.asking import Ask

GENERATOR = torch.Generator().manual_seed(4)
ENGINE = small_engine(GENERATOR)
X = torch.randn(2, 2, 3, generator=GENERATOR)
LENGTH = "inference-header-content-length"
LIMITS = Limits(body=2**16, json=2**14, rows=8, queue_rows=64, top_k=5)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(create_app(ENGINE, LIMITS)) as held:
        yield held


def changed(**changes: Any) -> dict[str, Any]:
    """Return a good request with other fields."""
    return question(X) | changes


def with_inputs(*inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a good request whose inputs of these names are replaced, or added."""
    held = {item["name"]: item for item in question(X)["inputs"]} | {item["name"]: item for item in inputs}
    return changed(inputs=list(held.values()))


HUGE = 10**400
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"outputs": []}, "`inputs` must be a list of objects"),
    "inputs of another kind": (changed(inputs={"x": 1}), "`inputs` must be a list of objects"),
    "an input without a name": (changed(inputs=[{"shape": [1]}]), "`inputs` must each have a name"),
    "x is missing": (changed(inputs=question(X)["inputs"][1:]), "`x` must be among the inputs; received t"),
    "an input twice": (changed(inputs=question(X)["inputs"] * 2), "`inputs` must have different names"),
    "an unknown input": (with_inputs(tensor("y", [1.0])), "`inputs` must be among x, t, labels"),
    "an unknown output": (changed(outputs=[{"name": "speed"}]), "`outputs` must be among velocity, denoiser"),
    "an output twice": (changed(outputs=[{"name": "ess"}] * 2), "`outputs` must have different names"),
    "no rows": (with_inputs({"name": "x", "shape": [0, 2, 3], "datatype": "FP32", "data": []}), "at least one number"),
    "another shape": (with_inputs(tensor("x", X.reshape(2, 6), "FP32")), "`x` must have shape [B, 2, 3]"),
    "a product beyond 64 bits": (
        with_inputs({"name": "x", "shape": [2**40] * 9, "datatype": "FP32", "data": [1.0]}),
        f"`x` must have {2**360} numbers",
    ),
    "a negative size": (with_inputs(tensor("x", X, "FP32") | {"shape": [-1, 2, 3]}), "at least one number"),
    "a size that is true": (with_inputs(tensor("t", [0.5]) | {"shape": [True]}), "must have a shape"),
    "sizes as text": (with_inputs(tensor("t", [0.5]) | {"shape": "2"}), "must have a shape"),
    "INT32 for x": (with_inputs(tensor("x", X.int(), "INT32")), "`x` must have a datatype among FP16"),
    "FP32 for labels": (with_inputs(tensor("labels", [0.0, 1.0], "FP32")), "`labels` must have an integer datatype"),
    "BYTES for x": (with_inputs(tensor("x", X, "BYTES")), "`x` must have a datatype among"),
    "a datatype that is a list": (with_inputs(tensor("x", X) | {"datatype": ["FP32"]}), "must have a datatype among"),
    "too few numbers": (with_inputs(tensor("t", [0.5]) | {"shape": [2]}), "`t` must have 2 numbers; received 1"),
    "numbers as text": (with_inputs(tensor("t", [0.5]) | {"data": ["0.5"]}), "must hold numbers of FP64; received str"),
    "true among numbers": (with_inputs(tensor("t", [0.5]) | {"data": [True]}), "received bool"),
    "null among numbers": (with_inputs(tensor("t", [0.5]) | {"data": [None]}), "received NoneType"),
    "ragged rows": (with_inputs(tensor("t", [0.5, 0.5]) | {"data": [[0.5], 0.5]}), "rows of one depth"),
    "a number beyond floats": (with_inputs(tensor("t", [0.5]) | {"data": [HUGE]}), "one that is too large"),
    "a number beyond FP32": (with_inputs(tensor("x", X, "FP32") | {"data": [1e300] * 12}), "`x` must be finite"),
    "a label beyond 64 bits": (with_inputs(tensor("labels", [1, 1], "INT64") | {"data": [2**70, 1]}), "too large"),
    "a label beyond INT8": (with_inputs(tensor("labels", [1, 1], "INT8") | {"data": [300, 1]}), "INT8, -128 .. 127"),
    "a label that is none": (with_inputs(tensor("labels", [7, 1], "INT64")), "`labels` must be"),
    "labels of another batch": (with_inputs(tensor("labels", [1, 1, 1], "INT64")), "must have shape [2] or [2, 1]"),
    "a time after the end": (with_inputs(tensor("t", [0.5, 1.5])), "`t` must lie in [0, 1]"),
    "no noise": (with_inputs(tensor("t", [1.0])), "`t`"),
    "an index beyond the data": (with_inputs(tensor("exclude", [20, 0], "INT64")), "`exclude` must be indices"),
    "another source": (with_inputs(tensor("x", 100 * X, "FP32"), tensor("source", [1], "INT64")), "`source` must be"),
    "guidance without labels": (with_inputs(tensor("guidance", [2.0])), "`guidance` needs labels"),
    "shared memory": (
        with_inputs(tensor("t", [0.5], parameters={"shared_memory_region": "a"})),
        "must not name shared memory",
    ),
    "a classification": (changed(outputs=[{"name": "ess", "parameters": {"classification": 2}}]), "no classification"),
    "an unknown parameter": (changed(parameters={"topk": 3}), "`parameters` must be among binary_data_output"),
    "too many to name": (changed(parameters={"top_k": 6}), "`top_k` must be a whole number from 0 to 5"),
    "a time limit below zero": (changed(parameters={"timeout": -1}), "`timeout` must be whole microseconds"),
    "an id that is no text": (changed(id=7), "`id` must be a text"),
    "data in two forms": (
        with_inputs(tensor("t", [0.5], parameters={"binary_data_size": 8})),
        "must have data in one form",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_with_the_reason(server: Server, name: str) -> None:
    body, words = BAD[name]
    response = server.post(body)
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]
    assert "Remedy: " in response.json()["error"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[1, 2]", "must be a JSON object"),
        (b"[" * 10_000, "must be JSON of a few levels"),
        (b'{"inputs": NaN}', "must hold finite numbers; received NaN"),
        (b'{"inputs": [], "inputs": []}', "each key of an object once"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "must be JSON"),
        (json.dumps(question(X)).encode() + b"tail", "must be JSON"),
    ],
)
def test_bodies_that_are_no_json_are_refused(server: Server, text: bytes, words: str) -> None:
    with server.client() as client:
        response = client.post("/v2/models/oracle/infer", content=text)
    assert response.status_code == 400
    assert words in response.json()["error"]


@pytest.mark.parametrize("length", ["abc", "-1", "99999999", "1_0", "+5", "7 x", "9" * 40, "1.5", ""])
def test_header_lengths_that_are_none_are_refused(server: Server, length: str) -> None:
    with server.client() as client:
        response = client.post(
            "/v2/models/oracle/infer", json=question(X), headers={"inference-header-content-length": length}
        )
    assert response.status_code == 400
    assert "Inference-Header-Content-Length" in response.json()["error"]


def binary(size: Any, tail: bytes) -> tuple[bytes, dict[str, str]]:
    entry = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [entry, tensor("t", [0.5])]}).encode()
    return head + tail, {LENGTH: str(len(head))}


@pytest.mark.parametrize(
    ("size", "tail", "words"),
    [
        (24, b"", "must have a binary_data_size up to the 0 bytes"),
        (24, bytes(20), "must have a binary_data_size up to the 20 bytes"),
        (20, bytes(20), "must have 24 bytes of data"),
        (24, bytes(28), "must end with the last tensor; received 4 bytes more"),
        (-24, bytes(24), "must have a binary_data_size"),
        ("24", bytes(24), "must have a binary_data_size"),
        (24, b"\x00\x00\xc0\x7f" + bytes(20), "`x` must be finite; received a NaN or an infinity in row 0"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(server: Server, size: Any, tail: bytes, words: str) -> None:
    content, headers = binary(size, tail)
    with server.client() as client:
        response = client.post("/v2/models/oracle/infer", content=content, headers=headers)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_unknown_addresses_and_methods_are_refused_in_json(server: Server) -> None:
    with server.client() as client:
        for path, status in {"/": 404, "/v2/models/nothing": 404, "/v2/models/oracle/versions/2": 404}.items():
            response = client.get(path)
            assert response.status_code == status
            assert response.json()["error"]
        assert client.get("/v2/models/oracle/infer").status_code == 405
        assert "there is no model 'nothing'" in client.post("/v2/models/nothing/infer", json={}).json()["error"]


def test_what_is_too_large_is_refused_before_it_is_read(server: Server) -> None:
    head = b"POST /v2/models/oracle/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 20000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as held:
        held.sendall(head + bytes(1000))
        answer = held.recv(2**16)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()
        held.shutdown(socket.SHUT_WR)
        while held.recv(2**16):
            pass


def test_what_grows_too_large_is_refused_while_it_streams(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(2**12)

    with server.client() as client:
        response = client.post("/v2/models/oracle/infer", content=chunks())
    assert response.status_code == 413
    assert "may have 65536 bytes" in response.json()["error"]


def test_large_json_and_many_rows_are_refused_with_what_to_do(server: Server) -> None:
    response = server.post(question(torch.zeros(9, 2, 3)))
    assert response.status_code == 413
    assert "may have 8 rows; received 9. Remedy: send several requests." in response.json()["error"]
    response = server.post(changed(outputs=[]) | {"parameters": {"top_k": 5}})
    assert response.status_code == 200
    response = server.post(changed(id="a" * 2**14))
    assert response.status_code == 413
    assert "send tensors as binary data" in response.json()["error"]


def test_large_answers_in_json_are_refused_and_binary_ones_are_not() -> None:
    with served(create_app(ENGINE, Limits(json=400, rows=8, queue_rows=8))) as server, server.client() as client:
        held = Ask(["velocity"], {"x": torch.zeros(9, 2, 3)[:8], "t": torch.full((1,), 0.5)})
        body, headers = held.encoded()
        assert client.post("/v2/models/oracle/infer", content=body, headers=headers).status_code == 200
        text = body.replace(b'"binary_data_output": true', b'"binary_data_output":false')
        response = client.post("/v2/models/oracle/infer", content=text, headers=headers)
        assert response.status_code == 200
        text = text.replace(b'"outputs": [{"name": "velocity"}]', b'"outputs": [                    ]')
        response = client.post("/v2/models/oracle/infer", content=text, headers=headers)
        assert response.status_code == 413
        assert "JSON may have 50 numbers" in response.json()["error"]


def test_a_compressed_body_counts_as_what_it_becomes(server: Server) -> None:
    import gzip

    with server.client() as client:
        packed = gzip.compress(bytes(10 * 2**20))
        response = client.post("/v2/models/oracle/infer", content=packed, headers={"content-encoding": "gzip"})
        assert response.status_code == 413
        response = client.post("/v2/models/oracle/infer", content=b"abc", headers={"content-encoding": "gzip"})
        assert response.status_code == 400
        response = client.post("/v2/models/oracle/infer", content=b"abc", headers={"content-encoding": "br"})
        assert response.status_code == 415


def test_texts_of_a_client_come_back_whatever_they_hold(server: Server) -> None:
    body = json.dumps(question(X) | {"id": "\ud800 \u00e4 \u0000"})
    with server.client() as client:
        response = client.post("/v2/models/oracle/infer", content=body)
        assert json.loads(response.content)["id"] == "\ud800 \u00e4 \u0000"
        response = client.post("/v2/models/oracle/infer", content=json.dumps(changed(outputs=[{"name": "\ud800"}])))
        assert response.status_code == 400


def test_a_token_is_asked_for_everywhere_but_health() -> None:
    with served(create_app(ENGINE, token="secret")) as server, server.client() as client:
        assert client.get("/v2/health/ready").status_code == client.get("/v2/models/oracle/ready").status_code == 200
        for path in ("/v2", "/v2/models/oracle", "/metrics", "/v2/models/oracle/config"):
            assert client.get(path).status_code == 401
        assert server.post(question(X)).status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert client.post("/v2/models/oracle/infer", json=question(X), headers=right).status_code == 200
        for wrong in ("secret", "Bearer secre", "Basic secret", "bearer s\u00e9cret"):
            answer = client.get("/v2", headers=httpx.Headers({"Authorization": wrong}, encoding="latin-1"))
            assert answer.status_code == 401


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("engines", "words"),
    [
        ({}, "`engines` must hold an engine"),
        ({"a/b": ENGINE}, "`name` must be letters"),
        ({"oracle": ENGINE.data}, "`engines` must be OracleEngines; received OracleDataset"),
    ],
)
def test_what_cannot_be_served_is_refused(engines: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        create_app(engines)


@pytest.mark.usefixtures("unchecked")
def test_limits_are_positive_and_fit_together() -> None:
    with pytest.raises(InputError, match=r"`limits\.body` must be a positive number"):
        Limits(body=0)
    with pytest.raises(InputError, match=r"`limits\.queue_rows` must hold a request of 4096 rows"):
        Limits(queue_rows=10)
    assert isinstance(ENGINE, OracleEngine)
