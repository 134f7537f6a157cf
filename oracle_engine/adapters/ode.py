"""The oracle in the call shapes of ODE solvers: torchdiffeq's func(t, x) and flow_matching's model(x, t, **extras)."""

from __future__ import annotations

from typing import Any

import torch

from ..base.arrays import Float, Float64, Numbers, Tensor, reals
from ..base.calls.checked import required
from ..engine.arguments import check_oracle
from ..engine.oracle import Oracle
from ..queries.conditions import Guidance


class SolverModel(torch.nn.Module):
    """The oracle as the velocity model of flow_matching's ODESolver, for `sample` and `compute_likelihood`.

    engine: with the path and the samples. Adaptive methods evaluate beyond the end of the grid; an engine made with
        t_max=0.999 answers with the velocity of its last time there. Likelihoods at t = 1 need samples of some width,
        point_std, or such a t_max.
    Raises InputError for an engine that is none.
    """

    def __init__(self, engine: Oracle) -> None:
        super().__init__()
        check_oracle(engine)
        self.engine = engine

    def forward(
        self,
        x: Float[Tensor, "B ..."],
        t: Numbers,
        *,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
        exclude: Numbers | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the velocity at `x` and `t`.

        x: states, [B, *sample_shape], any floating dtype, on the device of the data.
        t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data; later times only where the engine has t_max.
        labels, guidance, exclude: as in OracleEngine.velocity; extras of ODESolver.sample arrive here.
        Returns [B, *sample_shape] in the dtype of x, differentiable as answers of the engine are.
        Raises InputError as OracleEngine.velocity does. Costs one velocity.
        """
        return self.engine.velocity(x, self._time(t), labels=labels, guidance=guidance, exclude=exclude)

    def _time(self, t: Any) -> Float64[Tensor, "..."]:
        """Return times of a solver, which may step over the end of its grid."""
        times = reals("t", t)
        if self.engine.t_max is not None:
            return times.clamp_max(self.engine.t_max)
        remedy = "make the engine with OracleEngine(t_max=0.999): adaptive solvers step over the end of their grid"
        return required(times, ~(times > 1.0), "t", "must lie in [0, 1]", remedy)


class ODEFunction(torch.nn.Module):
    """The oracle as func(t, x) of torchdiffeq's odeint and odeint_adjoint.

    engine: with the path and the samples; adaptive methods need t_max, as with SolverModel.
    labels, guidance: of every state, as in OracleEngine.velocity.
    Raises InputError for an engine that is none.
    """

    def __init__(
        self,
        engine: Oracle,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
    ) -> None:
        super().__init__()
        self.model = SolverModel(engine)
        self.labels, self.guidance = labels, guidance

    @property
    def engine(self) -> Oracle:
        """The engine that answers."""
        return self.model.engine

    def forward(self, t: Numbers, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return the velocity at `x` and `t`; t comes first.

        t: a number or [] in [0, 1], 0 noise and 1 data. x: states, [B, *sample_shape], any floating dtype.
        Returns [B, *sample_shape] in the dtype of x, differentiable as answers of the engine are. Raises InputError as
        SolverModel does. Costs one velocity.
        """
        answer: Tensor = self.model(x, t, labels=self.labels, guidance=self.guidance)
        return answer
