"""A few queries followed along t, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ...engine.engine import OracleEngine
from ...paths.paths import Coefficients, coefficients
from ...paths.predictions import marginal_variance
from ..transition import crossing, draw_rows
from .scope import StageQueries

# samples of the context of a strip at most, and their values
CONTEXT_SAMPLES = 512
CONTEXT_VALUES = 1 << 22


@dataclass(frozen=True)
class Strip:
    """A few queries followed along t, for pictures; all tensors are float32 on the CPU.

    times: T increasing times. sources: the samples that made the K queries, from early to late refinement, -1 for
    samples that are held out.
    noisy, denoised: x_t and E[X | x_t], [K, T, *shape]. samples: [K, *shape].
    context: up to 512 samples drawn over the whole data set, [M, *shape].
    """

    times: tuple[float, ...]
    sources: tuple[int, ...]
    noisy: Float[Tensor, "K T ..."]
    denoised: Float[Tensor, "K T ..."]
    samples: Float[Tensor, "K ..."]
    context: Float[Tensor, "M ..."]


@dataclass(frozen=True)
class Follower:
    """Follows the queries with the numbers `chosen` along t, with noise of this seed."""

    engine: OracleEngine
    queries: StageQueries
    chosen: Int64[Tensor, "K"]
    seed: int

    def strip(self, times: tuple[float, ...]) -> Strip:
        """Return the queries at these times, with their denoisers, for pictures."""
        chosen = self.chosen.to(self.engine.data.device)
        values, count = self.queries.values(chosen), len(times)
        labels = self.queries.labels(chosen)
        repeated = None if labels is None else labels.repeat_interleave(count, 0)
        t = torch.tensor(times, dtype=torch.float64, device=values.device).repeat(len(values))
        noisy = self._noisy(values, t)
        pair = (noisy, self.engine.denoiser(noisy, t, labels=repeated))
        noisy, denoised = (part.float().cpu().unflatten(0, (len(values), count)) for part in pair)
        return Strip(
            times=times,
            sources=self._sources(chosen),
            noisy=noisy,
            denoised=denoised,
            samples=values.float().cpu(),
            context=self._context(),
        )

    def _sources(self, chosen: Int64[Tensor, "K"]) -> tuple[int, ...]:
        if self.queries.rows is None:
            return (-1,) * len(chosen)
        return tuple(self.engine.data.index_of(self.queries.rows[chosen]).tolist())

    def _noisy(self, values: Float64[Tensor, "K ..."], t: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return the noised samples at some times."""
        count, axes = len(t) // len(values), [1] * (values.ndim - 1)
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        at = coefficients(self.engine.path, t)
        alpha, width = (part.reshape(-1, *axes) for part in (at.alpha_t, self._width(at)))
        noisy = alpha * values.repeat_interleave(count, 0)
        return noisy + width * noise.to(values.device).repeat_interleave(count, 0)

    def _width(self, at: Coefficients) -> Float64[Tensor, "B"]:
        return marginal_variance(at, self.engine.point_std).sqrt()

    def _context(self) -> Tensor:
        data = self.engine.data
        count = min(len(data), CONTEXT_SAMPLES, max(16, CONTEXT_VALUES // data.dim))
        return data.sample_values(draw_rows(data, count, self.seed)).float().cpu()


def narrowing_times(times: Sequence[float], narrowed: Sequence[float], count: int) -> tuple[float, ...]:
    """Return about `count` times by how far the posterior has narrowed, with closer steps at first.

    times: increasing. narrowed: how far at each of them, as `StageRun.narrowed` returns it.
    """
    steps = torch.linspace(0.0, 1.0, count)[1:].pow(1.5)
    # the last step is taken at 99 %: the end is approached on a plateau
    levels = narrowed[0] + (max(narrowed) - narrowed[0]) * steps.clamp_max(0.99)
    found = (crossing(times, narrowed, level) for level in levels.tolist())
    return tuple(sorted({times[0], *(round(t, 3) for t in found if t is not None)}))
