"""A run of a deterministic sampler: what its steps share is computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..base.arrays import Numbers, Tensor
from ..base.errors import invalid
from ..base.foreign import Queries, answered_alike, is_foreign
from ..data.dataset import OracleDataset
from ..kernels.screens import SharedProducts
from ..queries.conditions import Conditions
from ..queries.request import Request

# answers of an engine: the name of the answer, x, t, the conditions, and what the steps of a run share
Respond = Callable[[str, Tensor, Numbers, Conditions, SharedProducts | None], Tensor]


@dataclass(frozen=True)
class Trajectory:
    """Oracle answers along the path of a deterministic sampler from one batch of starting points.

    Made by `OracleEngine.trajectory`. The states of Euler, Heun and other deterministic steps are a multiple of the
    starting point plus a mixture of posterior means; the inner products of the starting point with all samples are
    kept, 4 B N bytes, so that the late route bounds only the mixture, and is certified much earlier in time.
    Answers are those of the engine.
    respond: answers for the engine. shared_products: of the starting points with all samples, or None where they would
    not help. given: the conditions of every answer. device: of the data.
    """

    respond: Respond
    shared_products: SharedProducts | None
    given: Conditions
    device: torch.device

    def velocity(self, x: Queries, t: Numbers) -> Queries:
        """Return the oracle velocity at states of the run, like x.

        x: [B, *sample_shape], any floating dtype, in the order of the starting points; an array of NumPy or one that
        speaks DLPack too, whatever the starting points were. t: a number, [] or [B], in [0, 1].
        Raises InputError where x cannot be reached by deterministic steps, as after adding fresh noise.
        """
        return self._asked("velocity", x, t)

    def denoiser(self, x: Queries, t: Numbers) -> Queries:
        """Return the posterior mean at the states `x` at `t`, like x; errors as in :meth:`velocity`."""
        return self._asked("denoiser", x, t)

    def __call__(self, x: Queries, t: Numbers) -> Queries:
        """Return :meth:`velocity`."""
        return self.velocity(x, t)

    def _asked(self, name: str, x: Queries, t: Numbers) -> Queries:
        """Return the answer called `name` as an array like x."""

        def answer(points: Tensor) -> Tensor:
            return self.respond(name, points, t, self.given, self.shared_products)

        asked: Any = x
        return cast(Queries, answered_alike(x, self.device, answer) if is_foreign(x) else answer(asked))


def check_deterministic(data: OracleDataset, request: Request, shared_products: SharedProducts) -> None:
    """Check that states hold nothing but a multiple of their starting points and posterior means.

    data: what the engine answers from. request: the states. shared_products: of their starting points, one each.
    Raises InputError for other states, and for another number of them.
    """
    if len(request) != len(shared_products.point):
        raise invalid(
            "x",
            f"must be the states of all {len(shared_products.point)} starting points",
            len(request),
            "keep the batch",
        )
    query = request.query(data)
    reachable = shared_products.explains(data.rows, query, request.scale.abs() + (1.0 - request.scale).abs())
    if not bool(reachable.all()):
        first = int((~reachable).nonzero()[0])
        raise invalid(
            "x",
            "must come from deterministic steps of the starting points: a multiple of them plus posterior means",
            f"state {first}, which holds something else, or long steps took beyond all samples",
            "take shorter steps, ask the engine itself for stochastic samplers, or begin another trajectory",
        )
