"""Call shapes of ODE solvers: torchdiffeq's func(t, x) and flow_matching's velocity model(x, t, **extras)."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.arrays import Float, Tensor, exact
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..queries.request import Guidance
from .evidence import check_no_graph


@dataclass(frozen=True, eq=False)
class SolverModel:
    """The oracle as the velocity model of flow_matching's ODESolver.

    Extras of ODESolver.sample reach the engine: labels, guidance, exclude. Adaptive methods ask beyond the end of the
    grid; an engine made with t_max=0.999 answers with the velocity of its last time there.
    Raises InputError as OracleEngine.velocity does, and under compute_likelihood, which differentiates the model.
    """

    engine: OracleEngine

    def __call__(
        self,
        x: Float[Tensor, "B ..."],
        t: int | float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the velocity at `x` and `t`, like x."""
        check_no_graph(x)
        t = self._time(t)
        return self.engine.velocity(x, t, labels=labels, guidance=guidance, exclude=exclude)

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
    """The oracle as func(t, x) of torchdiffeq's odeint, given labels and guidance; otherwise as SolverModel."""

    engine: OracleEngine
    labels: int | Tensor | None = None
    guidance: float | Tensor | Guidance | None = None

    def __call__(self, t: int | float | Tensor, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return the velocity at `x` and `t`, like x."""
        model = SolverModel(self.engine)
        return model(x, t, labels=self.labels, guidance=self.guidance)
