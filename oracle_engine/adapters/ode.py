"""The oracle in the call shapes of ODE solvers: torchdiffeq's func(t, x) and flow_matching's model(x, t, **extras)."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.arrays import Float, Tensor, exact
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..queries.conditions import Guidance
from .evidence import check_no_graph


@dataclass(frozen=True, eq=False)
class SolverModel:
    """The oracle as the velocity model of flow_matching's ODESolver.

    engine: with the path and the samples. Adaptive methods evaluate beyond the end of the grid; an engine made with
        t_max=0.999 answers with the velocity of its last time there.
    """

    engine: OracleEngine

    def __call__(
        self,
        x: Float[Tensor, "B ..."],
        t: int | float | Tensor,
        *,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the velocity at `x` and `t`.

        x: states, [B, *sample_shape], any floating dtype, on the device of the data.
        t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data; later times only where the engine has t_max.
        labels, guidance, exclude: as in OracleEngine.velocity; extras of ODESolver.sample arrive here.
        Returns [B, *sample_shape] in the dtype of x.
        Raises InputError as OracleEngine.velocity does, and for x that requires a gradient, as under
        compute_likelihood. Costs one velocity.
        """
        check_no_graph(x)
        return self.engine.velocity(x, self._time(t), labels=labels, guidance=guidance, exclude=exclude)

    def _time(self, t: int | float | Tensor) -> Tensor:
        times = exact(t)
        if self.engine.t_max is not None:
            return times.clamp_max(self.engine.t_max)
        if bool((times > 1.0).any()):
            remedy = "make the engine with OracleEngine(t_max=0.999): adaptive solvers step over the end of their grid"
            raise invalid("t", "must lie in [0, 1]", float(times.max()), remedy)
        return times


@dataclass(frozen=True, eq=False)
class ODEFunction:
    """The oracle as func(t, x) of torchdiffeq's odeint.

    engine: with the path and the samples; adaptive methods need t_max, as with SolverModel.
    labels, guidance: of every state, as in OracleEngine.velocity.
    """

    engine: OracleEngine
    labels: int | Tensor | None = None
    guidance: float | Tensor | Guidance | None = None

    def __call__(self, t: int | float | Tensor, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return the velocity at `x` and `t`; t comes first.

        t: a number or [] in [0, 1], 0 noise and 1 data. x: states, [B, *sample_shape], any floating dtype.
        Returns [B, *sample_shape] in the dtype of x. Raises InputError as SolverModel does. Costs one velocity.
        """
        return SolverModel(self.engine)(x, t, labels=self.labels, guidance=self.guidance)
