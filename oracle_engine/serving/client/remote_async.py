"""An oracle behind a server, for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import httpx
import numpy as np
import torch

from ...base.arrays import Numbers, Tensor
from ...queries.conditions import Conditions, Guidance
from .asking import Ask, Facts, ask_of, joined_answers, read_answer
from .attempts import NO_RESPONSE, checked_response, client_settings, model_address, pause, pause_after
from .remote import like


class AsyncRemoteOracle:
    """Asks a server as :class:`RemoteOracle` does, without blocking an event loop; made by :meth:`connect`.

    Parts of a large batch travel at the same time, and so do calls that are gathered: the server answers them together.
    """

    facts: Facts

    def __init__(self, client: httpx.AsyncClient, address: str, retries: int) -> None:
        self._client, self._address, self._retries = client, address, retries

    @classmethod
    async def connect(
        cls,
        url: str,
        model: str = "oracle",
        *,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        client: httpx.AsyncClient | None = None,
    ) -> AsyncRemoteOracle:
        """Return the oracle of a server. Arguments and errors are those of :class:`RemoteOracle`."""
        held = httpx.AsyncClient(**client_settings(token, timeout)) if client is None else client
        oracle = cls(held, model_address(url, model), retries)
        try:
            oracle.facts = Facts.of((await oracle._send("GET", "/config")).json(), torch.device("cpu"))
        except BaseException:
            await held.aclose()
            raise
        return oracle

    async def __aenter__(self) -> AsyncRemoteOracle:
        """Return the oracle, whose connections are closed at the end of the context."""
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(
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
        """Return several answers to the same queries, by name; see :meth:`RemoteOracle.ask`."""
        asked = ask_of(self.facts, names, x, t, Conditions(labels, guidance, exclude, source), top_k=top_k)
        found = joined_answers(await asyncio.gather(*(self._answer(part) for part in asked.parts(self.facts))))
        return {name: like(x, value) for name, value in found.items()}

    async def velocity(self, x: Tensor | np.ndarray, t: Numbers, **conditions: Any) -> Any:
        """Return the velocity; arguments, answer and errors are those of :meth:`OracleEngine.velocity`."""
        return (await self.ask(("velocity",), x, t, **conditions))["velocity"]

    async def denoiser(self, x: Tensor | np.ndarray, t: Numbers, **conditions: Any) -> Any:
        """Return the denoiser; see :meth:`OracleEngine.denoiser`."""
        return (await self.ask(("denoiser",), x, t, **conditions))["denoiser"]

    async def score(self, x: Tensor | np.ndarray, t: Numbers, **conditions: Any) -> Any:
        """Return the score; see :meth:`OracleEngine.score`."""
        return (await self.ask(("score",), x, t, **conditions))["score"]

    async def noise(self, x: Tensor | np.ndarray, t: Numbers, **conditions: Any) -> Any:
        """Return the noise; see :meth:`OracleEngine.noise`."""
        return (await self.ask(("noise",), x, t, **conditions))["noise"]

    async def log_density(self, x: Tensor | np.ndarray, t: Numbers, **conditions: Any) -> Any:
        """Return the log density; see :meth:`OracleEngine.log_density`."""
        return (await self.ask(("log_density",), x, t, **conditions))["log_density"]

    async def _answer(self, ask: Ask) -> dict[str, Any]:
        body, headers = ask.encoded()
        response = await self._send("POST", "/infer", body, headers)
        return read_answer(response.content, response.headers.get("inference-header-content-length"))

    async def _send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Return the response, after as many attempts as are allowed."""
        for left in reversed(range(self._retries + 1)):
            try:
                response = await self._client.request(method, self._address + path, content=body, headers=headers)
            except NO_RESPONSE as error:
                wait = pause_after(error, self._address, left)
            else:
                again = pause(response) if left else None
                if again is None:
                    return checked_response(response)
                wait = again
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")
