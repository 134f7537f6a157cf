"""Queries at every time of a grid, and the statistics of their posteriors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields

import torch

from ...base.arrays import Float64, Int64, Tensor
from ...base.progress import Progress
from ...base.seeds import seeded
from ...data.values import is_picture
from ...engine.engine import OracleEngine
from ...paths.paths import Coefficients, coefficients
from ...paths.predictions import marginal_variance
from ...queries.posterior import Posterior
from .points import QUERY_STATISTICS, StagePoint, stage_point
from .scope import Scope, StageQueries

# values of a batch of queries at most, so that large samples are answered in smaller batches
BATCH_VALUES = 1 << 24


class StageRun:
    """Queries at every time, and the statistics of their posteriors, [T, Q] by the names of QUERY_STATISTICS."""

    def __init__(self, engine: OracleEngine, times: Sequence[float], queries: StageQueries, seed: int) -> None:
        """Prepare a run of `engine` over `times`; `seed` is that of the noise."""
        self.engine, self.times, self.queries = engine, list(times), queries
        self.noise = seeded(seed)
        self.at = coefficients(engine.path, torch.tensor(self.times, dtype=torch.float64, device=engine.data.device))
        self.statistics = {
            name: torch.full((len(self.times), len(queries)), math.nan, dtype=torch.float64)
            for name in QUERY_STATISTICS
        }

    def measure(self, size: int, progress: Progress | None = None) -> StageRun:
        """Fill the statistics in batches of `size` queries, fewer where samples are large, and return the run."""
        for done, total in self._steps(size):
            if progress is not None:
                progress(done, total)
        return self

    def _steps(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the numbers of steps done and of all steps, before the first step and after each."""
        size = min(size, self._most_at_once())
        starts = range(0, len(self.queries), size)
        yield 0, len(starts) * len(self.times)
        for batch, start in enumerate(starts):
            part = slice(start, start + size)
            batch_of = _Batch(self.engine, self.queries, part, self.noise)
            for index, t in enumerate(self.times):
                for name, values in batch_of.statistics(t, _at(self.at, index)).items():
                    self.statistics[name][index, part] = values.cpu()
                yield batch * len(self.times) + index + 1, len(starts) * len(self.times)

    def points(self) -> tuple[StagePoint, ...]:
        """Return the statistics of each time, over all queries."""
        at = self.at
        factors = (at.d_alpha_t - at.alpha_t * at.d_sigma_t / at.sigma_t).square() / self.engine.data.dim
        rows = enumerate(zip(self.times, factors.tolist(), strict=True))
        return tuple(
            stage_point(t, factor, {name: part[index] for name, part in self.statistics.items()})
            for index, (t, factor) in rows
        )

    def join(self, other: StageRun) -> StageRun:
        """Return this run with the queries of another one at the same times."""
        joined = StageRun(self.engine, self.times, self.queries.join(other.queries), 0)
        pairs = ((name, [self.statistics[name], other.statistics[name]]) for name in QUERY_STATISTICS)
        joined.statistics = {name: torch.cat(pair, 1) for name, pair in pairs}
        return joined

    def narrowed(self, scope: Scope) -> list[float]:
        """Return how far the posterior has narrowed at each time: top-1 weight less entropy / H, from -1 to 1."""
        entropy = max(scope.entropy(), 1e-300)
        middle = self.statistics["entropy"].median(1).values
        return (self.statistics["top"].mean(1) - middle / entropy).tolist()

    def by_lateness(self, count: int) -> Int64[Tensor, "K"]:
        """Return the numbers of `count` queries, from those whose posterior narrows early to those where it does late.

        The queries are divided into `count` parts by their mean entropy; each gives the picture with the most contrast,
        or its middle query where samples are no pictures.
        """
        parts = self.statistics["entropy"].mean(0).argsort(stable=True).tensor_split(count)
        chosen = [part[len(part) // 2] for part in parts]
        if is_picture(self.engine.data.sample_shape):
            contrast = self._contrast()
            chosen = [part[contrast[part].argmax()] for part in parts]
        return torch.stack(chosen)

    def _contrast(self) -> Float64[Tensor, "Q"]:
        size = self._most_at_once()
        starts = range(0, len(self.queries), size)
        parts = [self.queries.values(slice(start, start + size)) for start in starts]
        return torch.cat([_flat(part).var(1).cpu() for part in parts])

    def _most_at_once(self) -> int:
        return max(1, BATCH_VALUES // self.engine.data.dim)


class _Batch:
    """Some queries, with one draw of noise for all times."""

    def __init__(self, engine: OracleEngine, queries: StageQueries, part: slice, noise: torch.Generator) -> None:
        self.engine, self.labels = engine, queries.labels(part)
        self.rows = None if queries.rows is None else queries.rows[part]
        self.classes = None if queries.classes is None else queries.classes[part]
        values = queries.values(part)
        self.noise = torch.randn(values.shape, generator=noise, dtype=torch.float64).to(values.device)
        self.values = values
        if engine.point_std:
            extra = torch.randn(values.shape, generator=noise, dtype=torch.float64).to(values.device)
            self.values = values + engine.point_std * extra
        self.shares = None if self.rows is None else queries.scope.log_shares(self.rows)
        self.class_shares = None if self.classes is None else queries.scope.log_class_shares(self.classes)

    def statistics(self, t: float, at: Coefficients) -> dict[str, Float64[Tensor, "b"]]:
        """Return the statistics of the posteriors at the time `t`, where the path has the coefficients `at`."""
        x = at.alpha_t * self.values + at.sigma_t * self.noise
        posterior = self.engine.posterior(x, t, labels=self.labels, top_k=2)
        weights = torch.nn.functional.pad(posterior.top_weights, (0, 2 - posterior.top_weights.shape[1]))
        target = _flat(at.d_alpha_t * self.values + at.d_sigma_t * self.noise)
        oracle = at.d_alpha_t * posterior.mean + at.d_sigma_t * (x - at.alpha_t * posterior.mean) / at.sigma_t
        oracle = _flat(oracle)
        found = {"top": weights[:, 0], "second": weights[:, 1], "ess": posterior.ess, "entropy": posterior.entropy}
        found |= {"variance": posterior.variance, "gap": (target - oracle).square().mean(1)}
        found["cosine"] = torch.nn.functional.cosine_similarity(target, oracle, dim=1, eps=1e-300)
        return found | self._own(x, at, posterior) | self._class_mass(x, t, posterior)

    def _own(self, x: Tensor, at: Coefficients, posterior: Posterior) -> dict[str, Float64[Tensor, "b"]]:
        """Return whether the sample that made a query is the heaviest, and its weight, from the log density."""
        if self.rows is None or self.shares is None:
            return {}
        data, first = self.engine.data, posterior.top_indices[:, 0] == self.engine.data.index_of(self.rows)
        variance = marginal_variance(at, self.engine.point_std)
        distance = _flat(x - at.alpha_t * data.sample_values(self.rows).double()).square().sum(1)
        normal = 0.5 * data.dim * (2.0 * math.pi * variance).log()
        log_joint = self.shares - distance / (2.0 * variance) - normal
        return {"own_first": first.double(), "own_weight": (log_joint - posterior.log_density).exp().clamp_max(1.0)}

    def _class_mass(self, x: Tensor, t: float, posterior: Posterior) -> dict[str, Float64[Tensor, "b"]]:
        """Return the weight of the class of each query in the posterior over all samples; none in a narrower scope."""
        if self.classes is None or self.class_shares is None or self.labels is not None:
            return {}
        of_class = self.engine.log_density(x, t, labels=self.classes)
        mass = (of_class + self.class_shares - posterior.log_density).exp().clamp_max(1.0)
        return {"class_mass": torch.where(self.classes < 0, math.nan, mass)}


def _at(at: Coefficients, index: int) -> Coefficients:
    """Return the coefficients at one of the times, a number [1] each."""
    return Coefficients(*(getattr(at, part.name)[index : index + 1] for part in fields(Coefficients)))


def _flat(values: Float64[Tensor, "b ..."]) -> Float64[Tensor, "b D"]:
    return values.reshape(len(values), -1)
