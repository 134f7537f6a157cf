"""Estimates of the posterior mean that a target is computed from: exact, over a few references, or a single draw.

All three have the same expectation given x_t; they differ in variance and cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..data.sharded import ShardedDataset, stored_rows
from ..engine.engine import OracleEngine
from ..kernels import Span
from ..paths.paths import Coefficients, Path, coefficients
from ..paths.predictions import marginal_variance
from ..queries.conditions import Conditions
from .posterior_draws import draw_references, draw_with_density, equally_weighted, uniforms

# what draws `count` rows of a span, [count] int64, as draw_references does: called with (data, span, count, generator)
RowDraw = Callable[[OracleDataset, Span, int, torch.Generator | None], Tensor]


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
        return _blend(first.values, second.values, share)


@dataclass(frozen=True)
class References:
    """EFM, the stable target: the posterior mean over `count` samples that include the one that made x_t.

    count: how many samples M, at least 1; count = 1 is CFM.
    generator: of the references, on any device; the global one unless given.
    draw_rows: draws the rows of the references as draw_references does, called with (data, span, count, generator); it
        returns [count] int64 rows of the span, different ones where the samples of the span count alike.
    Raises InputError for a `count` below 1.

    The target's mean is sum_i w_i X_i with w = softmax_i(-|x_t - alpha X_i|^2 / (2 sigma^2)) over the references. They
    are drawn from the query's class where it has one, else from all samples, independently of x_t, and are shared by
    the batch:

    - a class (or a data set) of at most M samples is taken as a whole, with its weights: the exact target;
    - samples that count alike are drawn without replacement: M different ones, or M - 1 and the own sample where it is
      not among them. Every set of M samples that holds the own one is equally likely;
    - samples with different weights are drawn by weight with replacement, M - 1 beside the own one, which count alike.

    Given the set of all M and x_t, each of them is as likely to have made x_t as w says, so the target is the
    conditional mean of the CFM target given both: averaged over source and references at a fixed x_t it is the oracle
    exactly, for every M, and its variance is never above that of CFM. It is biased for a fixed source, and without the
    own sample, where it is a ratio estimate that is far off as soon as none of the references is near x_t. Xu, Tong and
    Jaakkola (2023), "Stable target field for reduced variance score estimation in diffusion models". Costs O(B M D).

    >>> import torch, oracle_engine as oe
    >>> data = oe.load_dataset("digits")
    >>> source = torch.arange(16)
    >>> engine = oe.OracleEngine(data)
    >>> x_t = oe.path_sample(engine.path, data[source], torch.randn(16, 1, 8, 8), 0.5)
    >>> oe.OracleTarget(engine, estimate=oe.References(128))(x_t, 0.5, source=source).shape
    torch.Size([16, 1, 8, 8])
    """

    count: int = 128
    generator: torch.Generator | None = None
    draw_rows: RowDraw = field(default=draw_references, kw_only=True, repr=False)
    needs_source: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise invalid("count", "must be at least 1, the sample that made x_t", self.count, "pass 128")

    def mean(self, engine: OracleEngine, query: TargetQuery) -> Mean:
        """Return the mean over the own sample of each query and the references drawn here.

        engine: over the samples as points. query: B queries with `source`. Returns a Mean of [B, *sample_shape].
        Raises InputError for queries without `source`.
        """
        if query.source is None:
            raise invalid("source", "is needed for References", None, "pass the indices of the samples that made x_t")
        _check_shared(engine.data)
        spans, group = _spans(engine.data, query)
        small = torch.tensor([len(span) <= self.count for span in spans], device=group.device)[group]
        whole, drawn = small.nonzero()[:, 0], (~small).nonzero()[:, 0]
        if len(drawn) == 0:
            return Exact().mean(engine, query)
        own = _own(engine, query, query.source)
        found = (
            own if self.count == 1 else own.set(drawn, self._with_others(engine, query.take(drawn), own.take(drawn)))
        )
        return found if len(whole) == 0 else found.set(whole, Exact().mean(engine, query.take(whole)))

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return (1 - share) first + share second, [B, *sample_shape] float64.

        first, second: means of the same B queries over two sets of samples.
        share: the second set's share of the posterior, [B] float64 in [0, 1].
        """
        return _blend(first.values, second.values, share)

    def _with_others(self, engine: OracleEngine, query: TargetQuery, own: Mean) -> Mean:
        """Return the means over the own samples, of which `own` is what each says, and references drawn here."""
        others = self._others(engine, query)
        log_rest = others.log_density + math.log(self.count - 1)
        share = torch.sigmoid(log_rest - own.log_density)
        density = torch.logaddexp(own.log_density, log_rest) - math.log(self.count)
        return Mean(_blend(own.values, others.values, share), density)

    def _others(self, engine: OracleEngine, query: TargetQuery) -> Mean:
        """Return the means over count - 1 references for each query, drawn once for every class in the batch."""
        data = engine.data
        spans, group = _spans(data, query)
        drawn = [
            self.draw_rows(data, span, self.count - (not equally_weighted(data, span)), self.generator)
            for span in spans
        ]
        sizes = torch.tensor([len(rows) for rows in drawn], device=data.device)
        rows, first = torch.cat(drawn), sizes.cumsum(0) - sizes
        labels = torch.arange(len(spans), device=data.device).repeat_interleave(sizes)
        points = stored_rows(data, rows).reshape(len(rows), *data.sample_shape)
        references = OracleDataset(points, labels, value_map=data.value_map, name="references")
        left_out = torch.full_like(group, -1)
        for number, chosen in enumerate(drawn):
            if len(chosen) == self.count:
                members = (group == number).nonzero()[:, 0]
                left_out[members] = first[number] + self._left_out(data, query.take(members), chosen)
        some = TargetQuery(query.x, query.t, group[:, None], left_out, None)
        return Exact().mean(_beside(engine, references), some)

    def _left_out(self, data: OracleDataset, query: TargetQuery, chosen: Int64[Tensor, "M"]) -> Int64[Tensor, "b"]:
        """Return which of the `chosen` rows is no reference: the own sample, or the last one where it is not there."""
        assert query.source is not None
        own = data.row_of(query.source)
        ordered, place = chosen.sort()
        at = torch.searchsorted(ordered, own).clamp_max(self.count - 1)
        return torch.where(ordered[at] == own, place[at], self.count - 1)


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
        return torch.where(_column(chosen, second.values), second.values, first.values)


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


def _check_shared(data: OracleDataset) -> None:
    if isinstance(data, ShardedDataset) and data.own_queries:
        found, remedy = "an engine whose ranks have queries of their own", "use Exact(), or queries='same'"
        raise invalid("estimate", "must be drawn for the queries of all ranks at once", found, remedy)


def _beside(engine: OracleEngine, data: OracleDataset) -> OracleEngine:
    return OracleEngine(data, engine.path, backend=engine.backend, mode="exact", t_max=engine.t_max)


def _spans(data: OracleDataset, query: TargetQuery) -> tuple[list[Span], Int64[Tensor, "B"]]:
    """Return the rows that the references of each class in the batch come from, and the class of each query, [B]."""
    everything = Span(0, len(data))
    if query.labels is None:
        return [everything], torch.zeros(len(query.x), dtype=torch.int64, device=data.device)
    names, group = query.labels[:, 0].unique(return_inverse=True)
    return [data.segments[name] if name >= 0 else everything for name in names.tolist()], group


def _own(engine: OracleEngine, query: TargetQuery, source: Int64[Tensor, "B"]) -> Mean:
    """Return the samples that queries were made from, with the log-density of the queries given them."""
    values = engine.data.sample_values(engine.data.row_of(source)).double()
    at = coefficients(engine.path, query.t)
    gap = (query.x - _column(at.alpha_t, values) * values).reshape(len(values), -1)
    square, dim = at.sigma_t.square(), engine.data.dim
    return Mean(values, -0.5 * gap.square().sum(1) / square - 0.5 * dim * (2 * math.pi * square).log())


def _blend(
    first: Float64[Tensor, "B ..."], second: Float64[Tensor, "B ..."], share: Float64[Tensor, "B"]
) -> Float64[Tensor, "B ..."]:
    """Return the mean of two values with the share of the second."""
    part = _column(share, first)
    # not first + part (second - first): that would leave a rounding of `first` where its share is zero
    return (1 - part) * first + part * second


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
