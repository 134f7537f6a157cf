"""An oracle behind a server, in the call shape of an engine."""

from __future__ import annotations

import time
from collections.abc import Collection
from types import TracebackType
from typing import Any

import httpx
import numpy as np
import torch

from ...base.arrays import Float, Numbers, Tensor
from ...engine.oracle import Oracle
from ...engine.several import STATISTICS
from ...queries.conditions import Conditions, Guidance
from ...queries.posterior import Posterior
from .asking import Ask, Facts, ask_of, joined_answers, read_answer
from .attempts import NO_RESPONSE, checked_response, client_settings, model_address, pause, pause_after


class RemoteOracle(Oracle):
    """Asks a server that `oracle-engine serve` runs, or another with `create_app`, as if it were an OracleEngine.

    url: of the server, such as "http://127.0.0.1:8000". model: its name. token: of the server, or None. timeout:
    seconds until an answer. retries: how often a request is repeated that was refused because the server is busy, or
    that got no response; asking changes nothing, so that is safe. device: where runs begin; answers are where x is.
    client: an httpx.Client to use in place of an own one.
    Raises RemoteError where there is no such server or model, InputError for a URL that is none.

    Methods, arguments and errors are those of OracleEngine; x may be a NumPy array, and the answer is one then. Large
    batches travel in parts. Adapters, samplers and OracleTarget take it in place of an engine, where no gradient is
    wanted and no sample is drawn from the data. A copy of it, and one in another process, has connections of its own;
    pickled it holds the token.

    >>> import torch
    >>> from oracle_engine.serving import RemoteOracle
    >>> oracle = RemoteOracle("http://127.0.0.1:8000")  # doctest: +SKIP
    >>> oracle.velocity(torch.zeros(3, 1, 8, 8), 0.3).shape  # doctest: +SKIP
    torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        url: str,
        model: str = "oracle",
        *,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        device: torch.device | str = "cpu",
        client: httpx.Client | None = None,
    ) -> None:
        self._address, self._retries = model_address(url, model), retries
        self._settings = client_settings(token, timeout) if client is None else None
        self._client = httpx.Client(**client_settings(token, timeout)) if client is None else client
        try:
            self.facts = Facts.of(self._send("GET", "/config").json(), torch.device(device))
        except BaseException:
            self.close()
            raise
        self.data, self.path = self.facts.data, self.facts.path
        self.point_std, self.t_max = self.facts.point_std, self.facts.t_max

    def __call__(self, x: Tensor | np.ndarray, t: Numbers, **conditions: Any) -> Any:
        """Return :meth:`velocity` of x at t under `conditions`, its keywords."""
        return self.ask(("velocity",), x, t, **conditions)["velocity"]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file keeps. Raises TypeError for a client of one's own, which has no copy."""
        if self._settings is None:
            raise TypeError("a RemoteOracle with a client of its own cannot be copied. Remedy: leave client out.")
        return {name: part for name, part in self.__dict__.items() if name != "_client"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, with connections of its own."""
        self.__dict__.update(state)
        self._client = httpx.Client(**state["_settings"])

    def __enter__(self) -> RemoteOracle:
        """Return the oracle, whose connections are closed at the end of the context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def __repr__(self) -> str:
        return f"RemoteOracle({self._address!r}, {len(self.data):,} x {list(self.data.sample_shape)}, {self.path!r})"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def posterior(
        self,
        x: Float[Tensor, "B ..."],
        t: Numbers,
        *,
        labels: Numbers | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
        top_k: int = 8,
    ) -> Posterior:
        """Return the posterior over the samples with its statistics; see :meth:`OracleEngine.posterior`."""
        names = ("denoiser", *STATISTICS)
        found = self.ask(names, x, t, labels=labels, exclude=exclude, source=source, top_k=top_k)
        return Posterior(mean=found.pop("denoiser"), **found)

    def ask(
        self,
        names: Collection[str],
        x: Tensor | np.ndarray,
        t: Numbers,
        *,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
        top_k: int | None = None,
    ) -> dict[str, Any]:
        """Return several answers to the same queries, by name, from one scan.

        names: velocity, denoiser, score, noise, log_density, and fields of Posterior. x: [B, *sample_shape], a tensor
        or an array of any floating dtype. t, labels, guidance, exclude, source: as in :meth:`OracleEngine.velocity`.
        top_k: how many of the heaviest samples to name, None for 8.
        Raises InputError as an engine does, RemoteError where the server does not answer.
        """
        asked = ask_of(self.facts, names, x, t, Conditions(labels, guidance, exclude, source), top_k=top_k)
        found = joined_answers([self._answer(part) for part in asked.parts(self.facts)])
        return {name: like(x, value) for name, value in found.items()}

    def _respond(self, name: str, x: Tensor, t: Numbers, conditions: Conditions) -> Any:
        return self.ask((name,), x, t, **conditions._asdict())[name]

    def _answer(self, ask: Ask) -> dict[str, Any]:
        body, headers = ask.encoded()
        response = self._send("POST", "/infer", body, headers)
        return read_answer(response.content, response.headers.get("inference-header-content-length"))

    def _send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Return the response, after as many attempts as are allowed."""
        for left in reversed(range(self._retries + 1)):
            try:
                response = self._client.request(method, self._address + path, content=body, headers=headers)
            except NO_RESPONSE as error:
                wait = pause_after(error, self._address, left)
            else:
                again = pause(response) if left else None
                if again is None:
                    return checked_response(response)
                wait = again
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def like(x: Tensor | np.ndarray, value: Any) -> Any:
    """Return a value as an array where x is one, and else on the device of x; texts as they are."""
    if not isinstance(value, Tensor):
        return value
    return value.numpy() if isinstance(x, np.ndarray) else value.to(x.device)
