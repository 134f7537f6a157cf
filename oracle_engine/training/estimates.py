"""Estimates of the posterior mean that a target is computed from: exact, or a single draw; and over mirrored samples.

These, and that over a few references, have the same expectation given x_t; they differ in variance and cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Int64, Shaped, Tensor
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..paths.paths import Coefficients, Path, coefficients
from ..paths.predictions import marginal_variance
from ..queries.conditions import Conditions
from .posterior_draws import draw_with_density
from .random_rows import uniforms


@dataclass(frozen=True)
class TargetQuery:
    """A batch of B queries of one target, checked, on the device of the data.

    x: [B, *sample_shape] float64. t: times, [B] float64 in [0, 1].
    labels: classes each query may use, [B, U] int64 with -1 for none, or None.
    exclude: index of the sample that does not count, [B] int64 with -1 for none, or None.
    source: index of the sample that made x, [B] int64 with -1 for none, or None.
    """

    x: Float64[Tensor, "B ..."]
    t: Float64[Tensor, "B"]
    labels: Int64[Tensor, "B U"] | None
    exclude: Int64[Tensor, "B"] | None
    source: Int64[Tensor, "B"] | None

    def take(self, index: Int64[Tensor, "b"]) -> TargetQuery:
        """Return the queries at the positions `index`, [b] int64."""
        parts = (None if part is None else part[index] for part in (self.labels, self.exclude, self.source))
        return TargetQuery(self.x[index], self.t[index], *parts)

    def beside(self, x: Float64[Tensor, "B ..."]) -> TargetQuery:
        """Return 2 B queries: these, and the same ones at the states `x`, [B, *sample_shape] float64."""
        every = torch.arange(len(x), device=x.device).repeat(2)
        return replace(self.take(every), x=torch.cat([self.x, x]))


@dataclass(frozen=True)
class Mean:
    """A posterior mean over a set of samples, and the density of their mixture.

    values: the mean of the samples in value space, [B, *sample_shape] float64.
    log_density: log p_t(x) of the mixture of these samples, in nats, [B] float64.
    """

    values: Float64[Tensor, "B ..."]
    log_density: Float64[Tensor, "B"]

    def take(self, index: Int64[Tensor, "b"] | slice) -> Mean:
        """Return the estimates at the positions `index`, [b] int64 or a slice."""
        return Mean(self.values[index], self.log_density[index])

    def set(self, index: Int64[Tensor, "b"], part: Mean) -> Mean:
        """Return the estimates with those at the positions `index`, [b] int64, replaced by `part`, a Mean of [b]."""
        values = self.values.index_copy(0, index, part.values)
        return Mean(values, self.log_density.index_copy(0, index, part.log_density))


@runtime_checkable
class Estimate(Protocol):
    """What an OracleTarget takes for the posterior mean of the samples."""

    # whether every query has to name the sample that made x_t
    needs_source: ClassVar[bool]

    def mean(self, engine: OracleEngine, query: TargetQuery) -> Mean:
        """Return the mean of the samples for each query, and their density.

        engine: over the samples as points; a `point_std` is already part of its path.
        query: B queries. Returns a Mean of [B, *sample_shape].
        """
        ...

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return the estimate over the union of two sets of samples from the estimates over each.

        first, second: the estimates, of the same B queries.
        share: the second set's share of the posterior, [B] float64 in [0, 1]. Returns [B, *sample_shape] float64.
        """
        ...


@dataclass(frozen=True)
class Exact:
    """The posterior mean over every sample: the target has no variance beyond that of x_t itself.

    Costs one pass over the data, 2 to 4 B N D operations.
    """

    needs_source: ClassVar[bool] = False

    def mean(self, engine: OracleEngine, query: TargetQuery) -> Mean:
        """Return the mean and density over the whole data set.

        engine: over the samples as points. query: B queries. Returns a Mean of [B, *sample_shape].
        """
        found = engine.posterior(query.x, query.t, labels=query.labels, exclude=query.exclude, top_k=0)
        return Mean(found.mean, found.log_density)

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return (1 - share) first + share second, [B, *sample_shape] float64.

        first, second: means of the same B queries over two sets of samples.
        share: the second set's share of the posterior, [B] float64 in [0, 1].
        """
        return blend(first.values, second.values, share)


@dataclass(frozen=True)
class PosteriorDraw:
    """One sample drawn from the posterior of x_t: unbiased for the oracle at every x_t, with the variance of CFM.

    generator: of the draws, on any device; the global one unless given.

    Given x_t, the draw is independent of the sample that made x_t; it may be repeated, and it exists for queries that
    no sample made. Costs about as much as the exact mean; see posterior_draw.
    """

    generator: torch.Generator | None = None
    needs_source: ClassVar[bool] = False

    def mean(self, engine: OracleEngine, query: TargetQuery) -> Mean:
        """Return the samples drawn, and the density of all samples.

        engine: over the samples as points. query: B queries. Returns a Mean of [B, *sample_shape].
        Raises InputError where no sample that a query may use has a positive weight.
        """
        request = engine.request_builder.request(query.x, query.t, Conditions(query.labels, exclude=query.exclude))
        drawn, density = draw_with_density(engine, request, self.generator)
        return Mean(engine.data.sample_values(engine.data.row_of(drawn)).double(), density)

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return one of two draws for each query, the second with probability `share`: [B, *sample_shape] float64.

        first, second: draws for the same B queries over two sets of samples.
        share: the second set's share of the posterior, [B] float64 in [0, 1].
        """
        chosen = uniforms(len(share), self.generator, share.device) < share
        return torch.where(column(chosen, second.values), second.values, first.values)


@dataclass(frozen=True)
class Flip:
    """The augmentation of a loop that mirrors each sample along `dims` at random.

    dims: dimensions of [B, *sample_shape] to mirror, counted from the end: different negative integers.
    probability: of mirroring a sample, in (0, 1).
    Raises InputError for other `dims` and for a `probability` outside (0, 1).

    The oracle of such a loop is that of the data and their mirror images. None of these is stored: since
    <x, flip(X)> = <flip(x), X>, the mean over the mirror images is the mirrored mean of the query flip(x), and the two
    means are weighed by the densities at x and flip(x). Exact, also for classes; twice the cost.
    Leave-one-out leaves out both copies of a sample: with its mirror image in the set it would not be left out.

    >>> import torch, oracle_engine as oe
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> x_t = torch.randn(4, 1, 8, 8)
    >>> target = oe.OracleTarget(engine, augmentation=oe.Flip())
    >>> torch.allclose(target(x_t.flip(-1), 0.3), target(x_t, 0.3).flip(-1), atol=1e-4)
    True
    """

    dims: tuple[int, ...] = (-1,)
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not self.dims or any(dim >= 0 for dim in self.dims) or len(set(self.dims)) < len(self.dims):
            raise invalid("dims", "must be different and count from the end", self.dims, "pass (-1,) for left-right")
        if not 0.0 < self.probability < 1.0:
            raise invalid(
                "probability", "must lie between 0 and 1", self.probability, "pass 0.5, or leave the flip out"
            )

    def apply(self, x: Tensor) -> Tensor:
        """Return `x` [B, *sample_shape] mirrored, of the same shape and dtype; applied twice, it returns `x`."""
        return x.flip(self.dims)

    def mean(self, estimate: Estimate, engine: OracleEngine, query: TargetQuery) -> Float64[Tensor, "B ..."]:
        """Return the mean over the samples and their mirror images.

        estimate: of the mean over the samples; it is evaluated once, for 2 B queries.
        engine: over the samples as points. query: B queries. Returns [B, *sample_shape] float64.
        """
        # in one call: references are drawn once, for both orientations of the same samples
        both, batch = estimate.mean(engine, query.beside(self.apply(query.x))), len(query.x)
        first, other = both.take(slice(batch)), both.take(slice(batch, None))
        odds = math.log(self.probability / (1.0 - self.probability))
        share = torch.sigmoid(other.log_density - first.log_density + odds)
        return estimate.mixed(first, Mean(self.apply(other.values), other.log_density), share)


@dataclass(frozen=True)
class _Widened:
    """A path whose noise includes the width of the samples: points have the same posterior on it."""

    path: Path
    width: float

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        at = coefficients(self.path, t)
        deviation = marginal_variance(at, self.width).sqrt()
        slope = (at.sigma_t * at.d_sigma_t + self.width**2 * at.alpha_t * at.d_alpha_t) / deviation
        return Coefficients(at.alpha_t, deviation, at.d_alpha_t, slope)


def over_points(engine: OracleEngine) -> OracleEngine:
    """Return an engine whose posterior mean is that of the samples themselves, without their width.

    engine: with any `point_std`; where that is 0 it is returned as it is. The data and the index are shared.
    """
    if engine.point_std == 0.0:
        return engine
    path = _Widened(engine.path, engine.point_std)
    points = OracleEngine(
        engine.data,
        path,
        backend=engine.backend,
        precision=engine.precision,
        mode=engine.mode,
        tolerance=engine.tolerance,
        t_max=engine.t_max,
    )
    points.index = engine.index
    return points


def blend(
    first: Float64[Tensor, "B ..."], second: Float64[Tensor, "B ..."], share: Float64[Tensor, "B"]
) -> Float64[Tensor, "B ..."]:
    """Return (1 - share) first + share second.

    first, second: values of the same B queries, [B, *sample_shape] float64. share: of the second, [B] float64.
    """
    part = column(share, first)
    # not first + part (second - first): that would leave a rounding of `first` where its share is zero
    return (1 - part) * first + part * second


def column(values: Shaped[Tensor, "B"], like: Tensor) -> Shaped[Tensor, "B ..."]:
    """Return `values`, one a query, [B], as [B, 1, ...] with as many dimensions as `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
