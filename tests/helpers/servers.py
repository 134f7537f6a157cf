"""A server in a thread, engines that wait until they are told, and requests written by hand."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import torch
import uvicorn
from starlette.applications import Starlette
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.serving.process import Ending, Process

# nobody waits as long; a server that does not start fails the test
STARTED = 30.0


class Server:
    """An application that listens at `port`."""

    def __init__(self, app: Starlette, process: Process, port: int) -> None:
        self.app, self.process, self.port = app, process, port
        self.url = f"http://127.0.0.1:{port}"

    def client(self, **options: Any) -> httpx.Client:
        settings: dict[str, Any] = {"timeout": 60, "verify": False, "trust_env": False} | options
        return httpx.Client(base_url=self.url, **settings)

    def post(self, body: Mapping[str, Any], model: str = "oracle") -> httpx.Response:
        with self.client() as client:
            return client.post(f"/v2/models/{model}/infer", json=body)


@contextmanager
def served(app: Starlette, *, lame_duck: float = 0.0, **options: Any) -> Iterator[Server]:
    """Yield a server of `app` that is ready, in a thread of this process; `options` are those of uvicorn."""
    place = socket.create_server(("127.0.0.1", 0), backlog=1024)
    settings: dict[str, Any] = {
        "log_level": "error",
        "access_log": False,
        "lifespan": "on",
        "timeout_graceful_shutdown": 20,
    }
    process = Process(app, uvicorn.Config(app, **settings | options), Ending(lame_duck, 20.0))
    thread = threading.Thread(target=process.run, args=([place],), daemon=True)
    thread.start()
    try:
        until(lambda: app.state.server.ready)
        yield Server(app, process, place.getsockname()[1])
    finally:
        # one that has been told to end by a signal ends by itself
        process.should_exit = process.should_exit or app.state.server.ready
        thread.join(STARTED)
        place.close()
    assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; a test that waits for half a minute fails."""
    ends = time.monotonic() + STARTED
    while not condition():
        assert time.monotonic() < ends, "what the test waits for does not happen"
        time.sleep(0.002)


def small_engine(generator: torch.Generator) -> OracleEngine:
    """Return an engine over twenty float32 samples of 2 x 3 values in three classes."""
    points = torch.randn(20, 2, 3, generator=generator)
    return OracleEngine(OracleDataset(points, torch.arange(20) % 3))


def tensor(name: str, value: Any, datatype: str = "FP64", **more: Any) -> dict[str, Any]:
    """Return a tensor of a request in JSON."""
    held = torch.as_tensor(value)
    return {"name": name, "shape": list(held.shape), "datatype": datatype, "data": held.reshape(-1).tolist()} | more


def question(x: Tensor, t: Any = 0.5, outputs: Sequence[str] = ("velocity",), **inputs: Any) -> dict[str, Any]:
    """Return the JSON of a request; labels, source and exclude are INT64."""
    times = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
    kinds = {"guidance": "FP64"}
    more = [tensor(name, value, kinds.get(name, "INT64")) for name, value in inputs.items()]
    named = [{"name": name} for name in outputs]
    return {"inputs": [tensor("x", x, "FP32"), tensor("t", times), *more], "outputs": named}


def values(response: httpx.Response) -> dict[str, Tensor | list[str]]:
    """Return the outputs of an answer in JSON, floating ones in float64."""
    assert response.status_code == 200, response.text
    outputs = {}
    for item in json.loads(response.content)["outputs"]:
        text = item["datatype"] == "BYTES"
        kind = torch.int64 if item["datatype"] == "INT64" else torch.float64
        outputs[item["name"]] = item["data"] if text else torch.tensor(item["data"], dtype=kind).reshape(item["shape"])
    return outputs


class Gate:
    """Stops an engine: the worker waits in `answer` of a model until `open`; `entered` says that it does."""

    def __init__(self, monkeypatch: Any, model_class: Any) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.asked: list[int] = []
        answer = model_class.answer

        def stopped(model: Any, question: Any) -> Any:
            self.asked.append(len(question))
            self.entered.set()
            assert self.opened.wait(STARTED)
            return answer(model, question)

        monkeypatch.setattr(model_class, "answer", stopped)
