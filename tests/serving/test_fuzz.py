"""Whatever bytes and headers arrive: an answer, or a refusal in words, and a server that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from servers import Server, question, served, small_engine

from oracle_engine.serving import Limits, create_app

# 200 in CI, 10,000 under HYPOTHESIS_PROFILE=search
MANY = 8 if settings().max_examples < 100 else 10
X = torch.zeros(2, 2, 3)
LENGTH = "inference-header-content-length"

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 1e308, -1e-320, 0.5]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["FP32", "FP64", "INT64", "UINT64", "BYTES", "BF16", "x", "t", "labels", "velocity", "route"]),
)
values = st.recursive(
    scalars,
    lambda held: st.one_of(
        st.lists(held, max_size=4), st.dictionaries(st.sampled_from(["name", "data", "shape", "a"]), held, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def client() -> Iterator[tuple[Server, httpx.Client]]:
    engine = small_engine(torch.Generator().manual_seed(7))
    with served(create_app(engine, Limits(body=2**16, rows=64, queue_rows=64))) as server, server.client() as held:
        yield server, held


@st.composite
def bodies(draw: DrawFn) -> tuple[bytes, dict[str, str]]:
    """Return requests of which some part is another than it should be."""
    headers = draw(st.dictionaries(st.sampled_from(["content-type", "accept", "x-a"]), st.just("a/b"), max_size=2))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=64)), headers | draw(lengths(64))
    names = draw(st.sets(st.sampled_from(["labels", "source", "exclude", "guidance"]), max_size=3))
    inputs: dict[str, Any] = {name: [0, 1] for name in names}
    held: Any = question(X, 0.5, **inputs)
    for _ in range(draw(st.integers(0, 3))):
        held = _changed(draw, held)
    text = json.dumps(held).encode()
    if draw(st.booleans()):
        return text + draw(st.sampled_from([b"", b"", b"\0", b"}"])), headers
    tail = draw(st.sampled_from([b"", bytes(48), b"\xff" * 48, bytes(7)]))
    return text + tail, headers | (draw(lengths(len(text))) if draw(st.booleans()) else {LENGTH: str(len(text))})


def lengths(right: int) -> st.SearchStrategy[dict[str, str]]:
    near = st.integers(-2, 2).map(lambda step: str(right + step))
    text = st.one_of(near, st.integers().map(str), st.text("0123456789abc+-_.", max_size=30))
    return text.map(lambda value: {LENGTH: value})


def _changed(draw: DrawFn, held: Any) -> Any:
    """Return plain values with another one somewhere, with something missing, or with something twice."""
    if isinstance(held, dict) and held and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(held)))
        return held | {key: _changed(draw, held[key])}
    if isinstance(held, list) and held and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(held) - 1))
        middle = draw(st.sampled_from([[], [held[place]] * 2, [_changed(draw, held[place])]]))
        return [*held[:place], *middle, *held[place + 1 :]]
    return {"parameters": {"binary_data_size": 48}} if draw(st.integers(0, 9)) == 0 else draw(values)


@settings(max_examples=MANY * settings().max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=bodies())
def test_whatever_is_sent_is_answered_or_refused(
    client: tuple[Server, httpx.Client], asked: tuple[bytes, dict[str, str]]
) -> None:
    server, held = client
    content, headers = asked
    response = held.post("/v2/models/oracle/infer", content=content, headers=headers)
    assert response.status_code in (200, 400, 413), response.text
    if response.status_code != 200:
        assert json.loads(response.content)["error"]
    # nothing is left behind
    bodies_held = server.app.state.server._bodies
    assert (bodies_held.held, bodies_held.count) == (0, 0)
    assert server.app.state.server.ready
