"""The application: addresses of the Open Inference Protocol over engines, for any ASGI server."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ..base.errors import DistributedError, InputError, OracleError, invalid
from ..base.machine.settings import __version__
from ..engine.engine import OracleEngine
from .batcher import Batcher, Ticket, Values
from .body import Bodies, Parting, Reply
from .limits import Limits, RefusedError
from .metrics import metrics
from .models import Model, check_name
from .protocol import HEADER_LENGTH, Inference, answer_body, json_length, parse, text_of
from .questions import Question

log = logging.getLogger("oracle_engine.serving")

# JSON beyond this many bytes, or numbers, is read and written by a thread, so that others are served meanwhile
LARGE = 2**16
# about what a number has in JSON, at least
NUMBER_BYTES = 8

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    engines: OracleEngine | Mapping[str, OracleEngine | Model],
    limits: Limits | None = None,
    token: str | None = None,
) -> Starlette:
    """Return an ASGI application that answers for engines by the Open Inference Protocol v2.

    engines: an engine, which becomes the model `oracle`, or several by name. limits: what is taken at most; None for
    Limits(). token: what clients send as `Authorization: Bearer TOKEN`, except for health; None where none is needed.
    Raises InputError for names that cannot stand in an address, and for what is no engine.

    `app.state.server.draining = True` makes it say that it is not ready, before it ends.
    """
    chosen = limits or Limits()
    server = InferenceServer(models_of(engines, chosen), chosen)
    addresses = _addresses(server, token).items()
    app = Starlette(
        routes=[Route(path, handler, methods=[method]) for path, (method, handler) in addresses],
        lifespan=server.lifespan,
        exception_handlers=dict.fromkeys((OracleError, RefusedError, HTTPException, Exception), _refusal),
    )
    app.state.server = server
    return app


def _addresses(server: InferenceServer, token: str | None) -> dict[str, tuple[str, Handler]]:
    """Return the method and the handler of every address; all but those of health ask for the token."""
    model = "/v2/models/{name}"
    guarded: dict[str, tuple[str, Handler]] = {
        "/v2": ("GET", server.about),
        "/v2/models/stats": ("GET", server.stats),
        "/v2/repository/index": ("POST", server.index),
        "/metrics": ("GET", server.metrics),
        model: ("GET", server.metadata),
        f"{model}/config": ("GET", server.config),
        f"{model}/stats": ("GET", server.stats),
        f"{model}/infer": ("POST", server.infer),
    }
    addresses = {path: (method, _guarded(handler, token)) for path, (method, handler) in guarded.items()}
    addresses |= {
        "/v2/health/live": ("GET", server.live),
        "/v2/health/ready": ("GET", server.health),
        f"{model}/ready": ("GET", server.health),
    }
    return addresses | {
        path.replace(model, f"{model}/versions/{{version}}"): found for path, found in addresses.items()
    }


def models_of(engines: Any, limits: Limits) -> dict[str, Model]:
    """Return the models by name that `engines` of :func:`create_app` stand for; raises as that does."""
    named = engines if isinstance(engines, Mapping) else {"oracle": engines}
    if not named:
        raise invalid("engines", "must hold an engine", "none", "pass an OracleEngine")
    found: dict[str, Model] = {}
    for name, engine in named.items():
        check_name(name)
        if not isinstance(engine, (OracleEngine, Model)):
            raise invalid("engines", "must be OracleEngines", type(engine).__name__, "make one with OracleEngine(data)")
        found[name] = engine if isinstance(engine, Model) else Model(name, engine, limits)
    return found


class InferenceServer:
    """The handlers of the application, and what they share.

    models: by name. limits: of requests. draining: whether the end is near, so that it is not ready.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits) -> None:
        self.models, self.limits, self.draining = models, limits, False
        self._bodies = Bodies(limits)
        self._batcher: Batcher | None = None

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Run the worker for as long as the application."""
        self._batcher = Batcher(list(self.models.values()), self.limits)
        yield
        self._batcher.close()

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._batcher is not None and self._batcher.ready and not self.draining

    def ended(self, seconds: float) -> bool:
        """Return whether the worker has ended; it is waited for so many seconds where it computes nothing."""
        return self._batcher is None or self._batcher.ended(seconds)

    async def about(self, request: Request) -> Response:
        """Return the name, version and extensions of the server."""
        extensions = ["binary_tensor_data", "statistics", "model_configuration", "model_repository"]
        return _json({"name": "oracle-velocity-engine", "version": __version__, "extensions": extensions})

    async def live(self, request: Request) -> Response:
        """Say that the server runs."""
        return Response()

    async def health(self, request: Request) -> Response:
        """Say whether requests should be sent here, for a model or at all."""
        if "name" in request.path_params:
            self._model(request)
        return Response(status_code=200 if self.ready else 503)

    async def index(self, request: Request) -> Response:
        """Return the models that there are."""
        return _json([{"name": name, "version": "1", "state": "READY", "reason": ""} for name in self.models])

    async def stats(self, request: Request) -> Response:
        """Return the statistics of a model, or of all."""
        chosen = [self._model(request)] if "name" in request.path_params else self.models.values()
        return _json({"model_stats": [model.statistics.report(model.name) for model in chosen]})

    async def metrics(self, request: Request) -> Response:
        """Return the metrics of all models for Prometheus."""
        held = {name: model.statistics for name, model in self.models.items()}
        return Response(metrics(held), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def metadata(self, request: Request) -> Response:
        """Return the inputs and outputs of a model."""
        return _json(self._model(request).metadata())

    async def config(self, request: Request) -> Response:
        """Return what a model computes, and the limits on requests."""
        return _json(self._model(request).config())

    async def infer(self, request: Request) -> Response:
        """Answer the queries of a request."""
        model, began = self._model(request), time.perf_counter_ns()
        try:
            async with self._bodies.read(request) as body:
                return await self._infer(request, model, body, began)
        except (OracleError, RefusedError) as error:
            model.statistics.failed(status_of(error), time.perf_counter_ns() - began)
            log.debug("model=%s status=%d error=%a", model.name, status_of(error), str(error))
            raise
        except ClientDisconnect:
            model.statistics.failed(499, time.perf_counter_ns() - began)
            return Response(status_code=499)

    async def _infer(self, request: Request, model: Model, body: bytearray, began: int) -> Response:
        """Answer a body that has arrived."""
        length = json_length(request.headers.get(HEADER_LENGTH), len(body), self.limits.json)
        read = partial(parse, body, length)
        inference = await asyncio.to_thread(read) if (length or len(body)) > LARGE else read()
        question, names = model.question(inference), model.outputs(inference)
        if self._batcher is None:
            raise RefusedError(503, "the server has not started. Remedy: run the lifespan of the application.")
        numbers = self._json_numbers(inference, question, names)
        ticket = self._batcher.submit(model, question, self._seconds(inference))
        values = await _answer_unless_gone(request, ticket)
        write = partial(answer_body, model.name, inference, {name: values[name] for name in names})
        parts, header = await asyncio.to_thread(write) if numbers > LARGE else write()
        times = ticket.times(began, time.perf_counter_ns())
        model.statistics.succeeded(times, values["route"], values["omitted_mass"])
        log.debug("model=%s status=200 rows=%d %s", model.name, len(question), _in_microseconds(times))
        return self._reply(parts, header)

    def _json_numbers(self, inference: Inference, question: Question, names: Sequence[str]) -> int:
        """Return how many numbers an answer has in JSON. Raises RefusedError for more than are written."""
        texts = [name for name in names if not inference.outputs.get(name, inference.binary)]
        numbers, most = sum(question.numbers(name) for name in texts), self.limits.json // NUMBER_BYTES
        if numbers > most:
            words = f"JSON may have {most} numbers; this answer has {numbers}"
            raise RefusedError(413, f"{words}. Remedy: ask for binary outputs, by binary_data_output.")
        return numbers

    def _reply(self, parts: Sequence[bytes], header: int | None) -> Reply:
        """Return the response of these parts; `header`: length of their JSON where tensors follow it."""
        kind = "application/json" if header is None else "application/octet-stream"
        headers = {} if header is None else {HEADER_LENGTH: str(header)}
        return Reply(self._bodies, b"".join(parts), headers=headers, media_type=kind)

    def _seconds(self, inference: Inference) -> float:
        """Return how long a request may take."""
        given = inference.parameters.get("timeout", 0)
        if type(given) is not int or given < 0:
            raise invalid("timeout", "must be whole microseconds", str(given)[:40], "leave it out for the default")
        # as for Triton, 0 is none
        return min(given / 1e6, self.limits.answer_seconds) if given else self.limits.answer_seconds

    def _model(self, request: Request) -> Model:
        """Return the model that an address names. Raises RefusedError for others."""
        name, version = request.path_params["name"], request.path_params.get("version", "1")
        if name not in self.models or version != "1":
            words = f"there is no model {name!a} of version {version!a}. Remedy: ask for {', '.join(self.models)}."
            raise RefusedError(404, words)
        return self.models[name]


async def _answer_unless_gone(request: Request, ticket: Ticket) -> Values:
    """Return the answer of a ticket, given up where the client leaves; raises its refusal or ClientDisconnect."""
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((ticket.answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not ticket.answer.done():
            raise ClientDisconnect
        return ticket.answer.result()
    finally:
        ticket.answer.cancel()
        gone.cancel()


def _guarded(handler: Handler, token: str | None) -> Handler:
    """Return the handler for those who know the token."""
    if token is None:
        return handler
    wanted = f"Bearer {token}".encode()

    @wraps(handler)
    async def admit(request: Request) -> Response:
        """Answer a request with the right token. Raises RefusedError for another one."""
        if not hmac.compare_digest(request.headers.get("authorization", "").encode("latin-1"), wanted):
            raise RefusedError(401, "a token is needed. Remedy: send the header `Authorization: Bearer TOKEN`.")
        return await handler(request)

    return admit


def status_of(error: Exception) -> int:
    """Return the status of HTTP that says what `error` does."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, HTTPException):
        return error.status_code
    # an actor that was lost may be there again
    return 400 if isinstance(error, InputError) else 503 if isinstance(error, DistributedError) else 500


async def _refusal(request: Request, error: Exception) -> Response:
    """Return the response that tells an error."""
    status = status_of(error)
    words = "the server failed. Remedy: see its log." if status == 500 else str(error)
    words = error.detail if isinstance(error, HTTPException) else words
    if isinstance(error, HTTPException) and status == 404:
        words = f"there is nothing at {request.url.path}. Remedy: GET /v2, /v2/models/NAME; POST /v2/models/NAME/infer."
    headers = {"Retry-After": "1"} if status == 503 else {}
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    # a body that was refused unread is still on its way
    kind = Parting if status in (408, 413, 415) else Response
    return _json({"error": words}, status, headers, kind=kind)


def _in_microseconds(times: Mapping[str, int]) -> str:
    return " ".join(f"{stage}_us={taken // 1000}" for stage, taken in times.items())


def _json(
    held: Any, status: int = 200, headers: Mapping[str, str] | None = None, kind: type[Response] = Response
) -> Response:
    return kind(text_of(held), status, headers, media_type="application/json")
