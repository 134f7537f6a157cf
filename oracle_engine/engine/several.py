"""Several answers to the same queries, from one scan."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields

import torch

from ..base.arrays import Float, Numbers, Tensor
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..kernels import Wanted
from ..queries.answer import Answer
from ..queries.conditions import Conditions
from ..queries.posterior import Posterior
from ..queries.request import Request
from ..search.certificate import omitted_mass
from .engine import OracleEngine
from .responder import Responder, mixed

PREDICTIONS = ("velocity", "denoiser", "score", "noise")
# what a state without moments tells
PLAIN = (*PREDICTIONS, "log_density", "omitted_mass", "route")
STATISTICS = tuple(field.name for field in fields(Posterior) if field.name != "mean")

Value = Tensor | tuple[str, ...]


@torch.no_grad()
def several(
    engine: OracleEngine,
    names: Collection[str],
    x: Float[Tensor, "B ..."],
    t: Numbers,
    conditions: Conditions,
    *,
    top_k: int = 8,
) -> dict[str, Value]:
    """Return the answers called `names` to the same queries, without a graph.

    engine: what answers. names: velocity, denoiser, score and noise, [B, *sample_shape] like x, and fields of
    Posterior but its mean, as :meth:`OracleEngine.posterior` returns them: guidance acts on predictions only.
    x: [B, *sample_shape], any floating dtype, on the device of the data. t: a number, [], [B] or [B, 1, ...] in [0, 1].
    conditions: of the queries. top_k: how many of the heaviest samples to name, at least 0.
    Raises InputError for other names, and as :meth:`OracleEngine.velocity` does.
    Costs one pass over the rows in question, and what guidance adds to it.
    """
    known = (*PREDICTIONS, *STATISTICS)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise invalid("names", f"must be among {', '.join(known)}", unknown[0], "check its spelling")
    request = engine.request_builder.request(x, t, conditions)
    moments = not set(names) <= set(PLAIN)
    mean = moments or not set(names).isdisjoint(PREDICTIONS)
    wanted = Wanted(mean=mean, moments=moments, top_k=top_k if moments else 0)
    answer = engine.responder.router.answer(request, wanted)
    found = _predictions(engine.responder, request, answer, [name for name in PREDICTIONS if name in names], x)
    if moments:
        posterior = engine.responder.posterior_of(request, answer, x.shape, x.dtype)
        return found | {name: getattr(posterior, name) for name in STATISTICS if name in names}
    return found | _plain(engine.responder, request, answer, names)


def _predictions(
    responder: Responder, request: Request, answer: Answer, names: Collection[str], x: Tensor
) -> dict[str, Value]:
    """Return the predictions called `names`, all from one state."""
    if not names:
        return {}
    mean = mixed(responder.guided_terms(request, answer.state))
    values = {name: responder.combined(name, request, mean, x.dtype) for name in names}
    return {name: rounded_answer(value, name, x.dtype, x.shape) for name, value in values.items()}


def _plain(responder: Responder, request: Request, answer: Answer, names: Collection[str]) -> dict[str, Value]:
    """Return what a state without moments tells, of `names`."""
    found: dict[str, Value] = {}
    if "log_density" in names:
        found["log_density"] = responder.log_density(request, answer.state)
    if "omitted_mass" in names:
        found["omitted_mass"] = omitted_mass(answer.state, answer.log_omitted)
    if "route" in names:
        found["route"] = answer.routes
    return found
