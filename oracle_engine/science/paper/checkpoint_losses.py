"""What figures 7 and 8 share: CFM loss and oracle loss of models, over the same queries for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Float64, Tensor
from ...base.seeds import seeded
from ...engine.engine import OracleEngine
from ...paths.paths import coefficients
from ...samplers.fields import Field, Velocity
from ..transition import draw_rows
from .boundary import LATEST
from .result import check_count

# the first of the times that are chosen, and how many
EARLIEST, TIMES = 0.005, 10
# queries that a model is asked at once
MODEL_BATCH = 256


@dataclass(frozen=True)
class Losses:
    """Losses |v_model - target|^2 / D of Q queries at T times, [T, Q] float64, for either target."""

    conditional: Float64[Tensor, "T Q"]
    oracle: Float64[Tensor, "T Q"]


class LossQueries:
    """The same queries for every model, with conditional and oracle velocities and the variance V(t) between them."""

    def __init__(self, engine: OracleEngine, times: Sequence[float], count: int, seed: int) -> None:
        """Ask the oracle. times: of the queries. count: of them at each time. seed: of their samples and noise."""
        check_count("queries", count, 1)
        data, self.times, self.engine = engine.data, times, engine
        samples = data.sample_values(draw_rows(data, count, seed)).double()
        noise = torch.randn(samples.shape, generator=seeded(seed), dtype=torch.float64).to(data.device)
        at = coefficients(engine.path, torch.tensor(times, dtype=torch.float64, device=data.device))
        self.x, self.target, self.oracle, self.variance = [], [], [], []
        for place, t in enumerate(times):
            x = at.alpha_t[place] * samples + at.sigma_t[place] * noise
            posterior = engine.posterior(x, t, top_k=1)
            factor = at.d_alpha_t[place] - at.alpha_t[place] * at.d_sigma_t[place] / at.sigma_t[place]
            self.x.append(x)
            self.target.append(at.d_alpha_t[place] * samples + at.d_sigma_t[place] * noise)
            # u - v = A (X - E[X | x])
            self.oracle.append(self.target[-1] - factor * (samples - posterior.mean))
            self.variance.append(float(factor.square() * posterior.variance.mean() / data.dim))

    def losses(self, model: Velocity) -> Losses:
        """Return the losses of a model."""
        pairs = [self._losses(model, place) for place in range(len(self.times))]
        return Losses(torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs]))

    @torch.no_grad()
    def _losses(self, model: Velocity, place: int) -> tuple[Tensor, Tensor]:
        """Return the losses of a model at one time, [Q] for either target."""
        field, x = Field(model, self.engine.path), self.x[place].to(self.engine.data.value_dtype)
        answer = torch.cat([field.velocity(part, self.times[place]) for part in x.split(MODEL_BATCH)]).double()
        gaps = (answer - target for target in (self.target[place], self.oracle[place]))
        conditional, oracle = (gap.reshape(len(gap), -1).square().mean(1).cpu() for gap in gaps)
        return conditional, oracle


def default_times() -> tuple[float, ...]:
    """Return ten times in [0.005, 0.95], denser early."""
    return tuple(round(EARLIEST + (LATEST - EARLIEST) * (place / (TIMES - 1)) ** 1.5, 4) for place in range(TIMES))


def mean_and_error(values: Float64[Tensor, "Q"]) -> tuple[float, float | None]:
    """Return the mean of some numbers and its standard error, or None for a single one."""
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error
