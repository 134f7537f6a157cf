"""The derivative of an answer along a curve: what MeanFlow and consistency models are trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..base.arrays import Float, Numbers, Tensor, check_floating, check_shape, reals
from ..base.calls.transforms import traced
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..queries.conditions import Conditions, Guidance
from . import compiled
from .arguments import check_engine
from .autograd import evaluate, inputs_of, pushed
from .derivatives import Tangent
from .engine import OracleEngine
from .several import PREDICTIONS


def total_derivative(
    engine: OracleEngine,
    x: Float[Tensor, "B ..."],
    t: Numbers,
    dx: Float[Tensor, "B ..."] | None = None,
    *,
    dt: float | Tensor = 1.0,
    prediction: str = "velocity",
    labels: Numbers | None = None,
    guidance: Numbers | Guidance | None = None,
    exclude: Numbers | None = None,
    source: Numbers | None = None,
) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B ..."]]:
    """Return the oracle at (x, t) and its derivative along the tangent (dx, dt), both like x.

    engine: with the path and the samples. x, t, labels, guidance, exclude, source: as in OracleEngine.velocity.
    dx: how x moves, like x, in any floating dtype; None for along the field itself, velocity times dt.
    dt: how t moves, a number, [] or [B].
    prediction: "velocity", "denoiser", "score" or "noise".
    Returns v(x, t) and (d/dx v) dx + (d/dt v) dt, what torch.func.jvp(engine.velocity, (x, t), (dx, dt)) returns. With
    dx = None it is the derivative along the flow, dv/dt of the MeanFlow identity u = v - (t - r) du/dt at r = t (Geng
    et al. 2025, arXiv 2505.13447); that of the denoiser is what consistency models bring to zero (Song et al. 2023).
    The derivative carries no graph that could be differentiated once more.
    Raises InputError as OracleEngine.velocity does, for dx and dt of other shapes, and where the path has no finite
    second derivative at t. Costs one scan of the data beyond the answer, two for guided queries.

    >>> import torch, oracle_engine as oe
    >>> engine = oe.OracleEngine(oe.OracleDataset(torch.tensor([[1.0]])))
    >>> v, along = oe.total_derivative(engine, torch.tensor([[0.2]]), 0.5)
    >>> bool(along.abs() < 1e-6)  # paths to one sample are straight
    True
    """
    _check(engine, x, dx, prediction)
    conditions = Conditions(labels, guidance, exclude, source)
    if traced():
        return _traced(compiled.call_of(engine._handle, prediction, x, t, conditions=conditions), dx, dt)
    function = engine.function(prediction, x.dtype, conditions)
    inputs = inputs_of(x, t, conditions)
    step = _step(reals("dt", dt, x.device), len(x))
    answer, *states = evaluate(function, inputs)
    if dx is not None:
        along_x = dx.double().reshape(inputs.x.shape)
    else:
        of_flow = replace(function, name="velocity")
        flow = answer if prediction == "velocity" else evaluate(of_flow, inputs, states)[0]
        along_x = flow.detach() * step[:, None]
    change = pushed(function, inputs, states, Tangent(along_x, step, None))
    result = rounded_answer(answer, prediction, x.dtype, x.shape)
    return result, rounded_answer(change, "derivative", x.dtype, x.shape)


def _check(engine: OracleEngine, x: Tensor, dx: Tensor | None, prediction: str) -> None:
    """Raise InputError for what a derivative cannot be taken of."""
    check_engine(engine)
    for name, value in (("x", x), ("dx", dx)):
        if value is not None:
            check_floating(name, value)
            check_shape(name, value, engine.data.sample_shape)
    if prediction not in PREDICTIONS:
        wanted = f"must be one of {', '.join(PREDICTIONS)}"
        raise invalid("prediction", wanted, repr(prediction), "name what the network predicts")


def _step(dt: Tensor, batch: int) -> Tensor:
    """Return a step of t for each query. Raises InputError for another number of them."""
    if dt.shape not in ((), (batch,)):
        raise invalid("dt", f"must be a number or [{batch}]", list(dt.shape), "pass one step a query")
    return dt.expand(batch)


def _traced(call: compiled.OperatorCall, dx: Tensor | None, dt: Any) -> tuple[Tensor, Tensor]:
    """Return what :func:`total_derivative` does as operators that torch.compile and torch.export keep."""
    step = compiled.tensor_like(dt, call.x)
    _step(step, len(call.x))
    if dx is None:
        # late, rounding of the flow would be all that is left of the derivative
        flow = compiled.answer(*call._replace(name="velocity", x=call.x.double())).detach()
        dx = flow * step.double().reshape(-1, *[1] * (flow.ndim - 1))
    value: Tensor = compiled.answer(*call)
    return value, compiled.derivative_along(call, dx, step)
