"""A remote oracle says what the engine behind its server says, and takes its place in samplers, adapters and losses."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from engine_cases import PREDICTIONS
from servers import Server, served, small_engine
from tolerances import assert_close
from torch import Tensor

import oracle_engine as oe
from oracle_engine import Guidance, InputError, OracleEngine, adapters, samplers
from oracle_engine.serving import AsyncRemoteOracle, Limits, RemoteError, RemoteOracle, create_app

# one of them without a class
ROWS = np.eye(3)[[0, 1, 2, 1, 0]]
ROWS[3] = -1.0

GENERATOR = torch.Generator().manual_seed(6)
ENGINE = small_engine(GENERATOR)
VP = OracleEngine(ENGINE.data, oe.VP(beta_max=10.0), t_max=0.9)
X = torch.randn(5, 2, 3, generator=GENERATOR)
TIMES = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # requests of two rows: batches travel in parts
    with served(create_app({"oracle": ENGINE, "vp": VP}, Limits(rows=2, queue_rows=64), token="word")) as held:
        yield held


@pytest.fixture(scope="module")
def remote(server: Server) -> Iterator[RemoteOracle]:
    with RemoteOracle(server.url, token="word") as held:
        yield held


def test_it_knows_the_model(server: Server, remote: RemoteOracle) -> None:
    assert (len(remote.data), remote.data.sample_shape, list(remote.data.segments)) == (20, (2, 3), [0, 1, 2])
    assert repr(remote).endswith("20 x [2, 3], RectifiedFlow())")
    with RemoteOracle(server.url, "vp", token="word") as other:
        assert (other.path, other.t_max) == (oe.VP(beta_max=10.0), 0.9)
        assert_close(other.velocity(X, 0.95), VP.velocity(X, 0.95), "bar")


@pytest.mark.parametrize("name", [*PREDICTIONS, "log_density"])
@pytest.mark.parametrize("labels", [None, 1, [0, 1, 2, -1, 0], [[0, 2, -1]] * 5, np.eye(3)[[0, 1, 2, 1, 0]], ROWS])
def test_answers_are_those_of_the_engine(remote: RemoteOracle, name: str, labels: Any) -> None:
    options: dict[str, Any] = {"labels": labels, "exclude": torch.tensor([1, -1, 3, 4, 5])}
    for t in (TIMES, 0.4, TIMES[:, None, None]):
        found, wanted = (getattr(held, name)(X, t, **options) for held in (remote, ENGINE))
        assert found.dtype == wanted.dtype
        assert_close(found, wanted, "bar")


def test_guidance_keeps_to_its_interval(remote: RemoteOracle) -> None:
    options: dict[str, Any] = {"labels": [0, 1, 2, -1, 0], "guidance": Guidance([2.0, 3.0, 0.5, 2.0, 1.5], 0.2, 0.8)}
    assert_close(remote.velocity(X, TIMES, **options), ENGINE.velocity(X, TIMES, **options), "bar")


def test_a_posterior_has_all_of_its_fields(remote: RemoteOracle) -> None:
    found, wanted = (held.posterior(X, TIMES, top_k=4) for held in (remote, ENGINE))
    for name in ("mean", "log_density", "ess", "entropy", "variance", "top_weights", "omitted_mass", "confidence"):
        assert_close(getattr(found, name), getattr(wanted, name), "moment")
    assert found.top_indices.tolist() == wanted.top_indices.tolist()
    assert found.survivors.tolist() == wanted.survivors.tolist()
    assert found.route == wanted.route


def test_arrays_come_back_as_arrays(remote: RemoteOracle) -> None:
    found = remote(X.double().numpy(), TIMES.numpy(), labels=[0, 1, 2, 0, 1])
    assert isinstance(found, np.ndarray)
    assert_close(torch.from_numpy(found), ENGINE.velocity(X.double(), TIMES, labels=[0, 1, 2, 0, 1]), "moment")


def test_copies_and_pickles_ask_the_same_server(server: Server, remote: RemoteOracle) -> None:
    model = adapters.VelocityModel(remote, "sit")
    others: list[Any] = [copy.deepcopy(model).engine, pickle.loads(pickle.dumps(remote))]
    for other in others:
        assert other is not remote
        assert_close(other.velocity(X, TIMES), ENGINE.velocity(X, TIMES), "bar")
        other.close()
    with httpx.Client(headers={"Authorization": "Bearer word"}) as client:
        own = RemoteOracle(server.url, client=client)
        with pytest.raises(TypeError, match="leave client out"):
            copy.deepcopy(own)


def test_an_address_without_a_scheme_or_of_nothing_is_refused_in_words(server: Server) -> None:
    with pytest.raises(InputError, match="`url` must begin with http"):
        RemoteOracle("localhost:8000")
    with pytest.raises(RemoteError, match="there is nothing at /v1/v2/models/oracle/config"):
        RemoteOracle(f"{server.url}/v1", token="word")


def test_calls_on_an_event_loop_are_answered_at_the_same_time(server: Server) -> None:
    async def ask() -> list[Tensor]:
        async with await AsyncRemoteOracle.connect(server.url, token="word") as oracle:
            names: list[Callable[..., Any]] = [getattr(oracle, name) for name in (*PREDICTIONS, "log_density")]
            return list(await asyncio.gather(*(name(X, TIMES) for name in names)))

    for name, found in zip((*PREDICTIONS, "log_density"), asyncio.run(ask()), strict=True):
        assert_close(found, getattr(ENGINE, name)(X, TIMES), "bar")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": X.int()}, "`x` must have a floating dtype"),
        ({"x": X[:, :1]}, "`x` must have shape"),
        ({"x": X.clone().requires_grad_()}, "`x` must not want a gradient"),
        ({"x": X[:0], "t": 0.5}, "`x` must have at least one query"),
        ({"t": 1.5}, r"`t` must lie in \[0, 1\]"),
        ({"t": 1.0}, "`t`"),
        ({"labels": [0, 1, 2, 3, 0]}, "`labels` must be"),
        ({"labels": 0.5}, "`labels` must be integers"),
        ({"labels": np.eye(5)}, "`labels` must be integers, or one-hot rows of 3 columns"),
        ({"exclude": 20}, "`exclude` must be indices"),
        ({"exclude": 1.5}, "`exclude` must be integers"),
        ({"guidance": 2.0}, "`guidance` needs labels"),
        ({"guidance": [2.0], "labels": 0}, "`guidance` must be a finite number"),
        ({"x": torch.full_like(X, torch.nan)}, "`x` must be finite"),
    ],
)
def test_what_cannot_be_asked_is_refused_as_an_engine_does(
    remote: RemoteOracle, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        remote.velocity(**({"x": X, "t": TIMES} | change))


def test_a_server_that_does_not_know_the_client_says_so(server: Server) -> None:
    with pytest.raises(RemoteError, match="status 401: a token is needed") as caught:
        RemoteOracle(server.url)
    assert caught.value.status == 401
    with pytest.raises(RemoteError, match="status 404: there is no model 'none'"):
        RemoteOracle(server.url, "none", token="word")


def answering(*responses: httpx.Response | Exception) -> tuple[httpx.Client, list[httpx.Request]]:
    """Return a client whose server answers in this order, and the requests that it gets."""
    held, asked = list(responses), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = held.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return httpx.Client(transport=httpx.MockTransport(answer)), asked


def test_only_refusals_that_are_safe_to_repeat_are_repeated(remote: RemoteOracle, server: Server) -> None:
    with server.client(headers={"Authorization": "Bearer word"}) as client:
        config = client.get("/v2/models/oracle/config")
    known = httpx.Response(200, content=config.content)
    busy, broken = httpx.Response(503, headers={"Retry-After": "0"}), httpx.ReadError("gone")
    client, asked = answering(busy, known)
    RemoteOracle("http://here", client=client)
    assert len(asked) == 2
    client, asked = answering(known, busy, busy)
    with pytest.raises(RemoteError, match="status 503"):
        RemoteOracle("http://here", client=client, retries=1).velocity(X, 0.5)
    client, asked = answering(httpx.Response(500, json={"error": "broken"}))
    with pytest.raises(RemoteError, match="status 500: broken"):
        RemoteOracle("http://here", client=client)
    client, asked = answering(httpx.ReadTimeout("late"))
    with pytest.raises(RemoteError, match="in time"):
        RemoteOracle("http://here", client=client)
    client, asked = answering(broken)
    with pytest.raises(RemoteError, match="no response from http://here/v2/models/oracle: gone"):
        RemoteOracle("http://here", client=client, retries=0)
    client, asked = answering(httpx.Response(200, json={"name": "another server"}))
    with pytest.raises(RemoteError, match="is no oracle-engine server"):
        RemoteOracle("http://here", client=client)


def test_samplers_run_on_a_remote_oracle(remote: RemoteOracle) -> None:
    times = samplers.sampling_times(4)
    options: dict[str, Any] = {"labels": [0, 1, 2], "capture": samplers.Capture(top_k=2)}
    for method in ("euler", "heun", "ddim"):
        runs = []
        for engine in (remote, ENGINE):
            x = samplers.initial_noise(engine, 3, generator=torch.Generator().manual_seed(1))
            runs.append(samplers.sample(engine, x, times, method=method, **options))
        assert_close(runs[0].x, runs[1].x, "float32 steps")
    switched = samplers.Switch(remote, ENGINE, 0.5)
    assert_close(samplers.sample(switched, x, times).x, samplers.sample(ENGINE, x, times).x, "float32 steps")


def test_adapters_take_a_remote_oracle(remote: RemoteOracle) -> None:
    y = torch.tensor([0, 1, 2, 3, 0])
    for convention in ("repa", "sit", "torchcfm"):
        pair = [adapters.VelocityModel(held, convention, null_label=3) for held in (remote, ENGINE)]
        order = (TIMES, X) if convention == "torchcfm" else (X, TIMES, y)
        first, second = (model(*order) for model in pair)
        first, second = (out[0] if isinstance(out, tuple) else out for out in (first, second))
        assert isinstance(first, Tensor)
        assert isinstance(second, Tensor)
        assert_close(first, second, "bar")
    with pytest.raises(InputError, match="`null_label` must be no class"):
        adapters.VelocityModel(remote, "repa", null_label=2)
    pair = [adapters.ODEFunction(held, labels=1) for held in (remote, ENGINE)]  # type: ignore[misc]
    assert_close(pair[0](0.3, X), pair[1](0.3, X), "bar")


def test_tools_that_count_ddpm_steps_denoise_remotely(remote: RemoteOracle) -> None:
    kept = torch.linspace(0.99, 0.01, 10)
    first, second = (adapters.DDPMDenoiser(held, kept) for held in (remote, ENGINE))
    steps = torch.tensor([0, 2, 5, 7, 9])
    assert_close(first.denoise(X, steps), second.denoise(X, steps), "bar")


def test_losses_have_their_targets_from_a_server(remote: RemoteOracle) -> None:
    x1, source = ENGINE.data[torch.arange(5)], torch.arange(5)
    losses = []
    for held in (remote, ENGINE):
        draws = torch.Generator().manual_seed(2)
        target = oe.OracleTarget(held, leave_one_out=True)
        found = oe.oracle_loss(lambda x, t: -x, target, x1, source=source, generator=draws)
        losses.append(found.target)
    assert_close(losses[0], losses[1], "bar")


@pytest.mark.usefixtures("unchecked")
def test_what_needs_the_data_says_so(remote: RemoteOracle) -> None:
    words = (
        "must be an OracleEngine; received RemoteOracle. Remedy: make one with OracleEngine.data. where the data are"
    )
    with pytest.raises(InputError, match=words):
        oe.OracleTarget(remote, estimate=oe.References(4))
    with pytest.raises(InputError, match=words):
        oe.total_derivative(remote, X, 0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`engine` must be served on"):
        adapters.EDMDenoiser(remote)  # type: ignore[arg-type]
