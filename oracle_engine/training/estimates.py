"""What a training target is made of: the exact posterior mean, one over a few references, or a single draw.

All three have the same expectation given x_t; they differ in variance and cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..kernels import Span
from ..paths.paths import Coefficients, Path, coefficients, marginal_variance
from ..queries.request import Conditions
from .posterior_draws import draw_prior, draw_with_density, uniforms


@dataclass(frozen=True)
class Asked:
    """A batch of queries of one target: x float64 [B, *shape], t float64 [B], and [B] integers, -1 for none.

    labels: the class of each query, or None. exclude: the sample that does not count. source: the one that made x.
    """

    x: Float64[Tensor, "B ..."]
    t: Float64[Tensor, "B"]
    labels: Int64[Tensor, "B U"] | None
    exclude: Int64[Tensor, "B"] | None
    source: Int64[Tensor, "B"] | None

    def take(self, index: Int64[Tensor, "b"]) -> Asked:
        """Return the queries in `index`."""
        parts = (None if part is None else part[index] for part in (self.labels, self.exclude, self.source))
        return Asked(self.x[index], self.t[index], *parts)


@dataclass(frozen=True)
class Mean:
    """A posterior mean of the samples, [B, *shape], and the log density of the mixture it belongs to, [B]."""

    values: Float64[Tensor, "B ..."]
    log_density: Float64[Tensor, "B"]


@runtime_checkable
class Estimate(Protocol):
    """What stands for the posterior mean in a target."""

    # whether it has to know the sample that made x_t
    needs_source: ClassVar[bool]

    def mean(self, engine: OracleEngine, asked: Asked) -> Mean:
        """Return the mean of the samples; the engine's samples are points, their width is in its path."""
        ...

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return the mean over two sets of samples of which the second has this share of the posterior."""
        ...


@dataclass(frozen=True)
class Exact:
    """The posterior mean over every sample: no variance beyond that of x_t itself."""

    needs_source: ClassVar[bool] = False

    def mean(self, engine: OracleEngine, asked: Asked) -> Mean:
        """Return the mean and density of the whole data set: one pass over it."""
        found = engine.posterior(asked.x, asked.t, labels=asked.labels, exclude=asked.exclude, top_k=0)
        return Mean(found.mean, found.log_density)

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return the weighted mean of both."""
        return _blend(first.values, second.values, share)


@dataclass(frozen=True)
class References:
    """EFM, the explicit or stable target: the mean over `count` samples that include the one that made x_t.

    The other count - 1 are drawn from the data by weight, from the query's class where it has one, independently of x_t
    and with replacement, and shared by the batch. Given the set of all `count` and x_t, each of them is as likely to
    have made x_t as its softmax weight says, so the target is the conditional mean of the CFM target given both:
    averaged over source and references at a fixed x_t it is the oracle exactly, for every `count`, and its variance is
    never above that of CFM. It is not unbiased for a fixed source, nor without the own sample, where it becomes a ratio
    estimate that is far off as soon as none of the references is near x_t. count = 1 is CFM.
    Xu, Tong and Jaakkola (2023), "Stable target field". Costs O(B count D).
    """

    count: int = 128
    generator: torch.Generator | None = None
    needs_source: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise invalid("count", "must be at least 1, the sample that made x_t", self.count, "pass 128")

    def mean(self, engine: OracleEngine, asked: Asked) -> Mean:
        """Return the mean over the own samples and the references drawn here."""
        if asked.source is None:
            raise AssertionError("a target refuses such a query first")
        own = _own(engine, asked, asked.source)
        if self.count == 1:
            return own
        others = self._others(engine, asked)
        log_rest = others.log_density + math.log(self.count - 1)
        share = torch.sigmoid(log_rest - own.log_density)
        density = torch.logaddexp(own.log_density, log_rest) - math.log(self.count)
        return Mean(_blend(own.values, others.values, share), density)

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return the weighted mean of both."""
        return _blend(first.values, second.values, share)

    def _others(self, engine: OracleEngine, asked: Asked) -> Mean:
        """Return the mean over count - 1 references for every class in the batch, each asked about its own."""
        data = engine.data
        names, group = [-1], torch.zeros(len(asked.x), dtype=torch.int64, device=data.device)
        if asked.labels is not None:
            found, group = asked.labels[:, 0].unique(return_inverse=True)
            names = found.tolist()
        spans = [data.segments[name] if name >= 0 else Span(0, len(data)) for name in names]
        rows = torch.cat([draw_prior(data, span, self.count - 1, self.generator) for span in spans])
        labels = torch.arange(len(spans), device=data.device).repeat_interleave(self.count - 1)
        points = data.rows.stored[rows].reshape(len(rows), *data.sample_shape)
        references = OracleDataset(points, labels, value_map=data.value_map, name="references")
        return Exact().mean(_beside(engine, references), Asked(asked.x, asked.t, group[:, None], None, None))


@dataclass(frozen=True)
class PosteriorDraw:
    """One sample drawn from the posterior of x_t: unbiased for the oracle at every x_t, with the variance of CFM.

    Unlike the sample that made x_t it is independent of it given x_t, may be drawn again, and is there for queries that
    no sample made. Costs about as much as the exact mean.
    """

    generator: torch.Generator | None = None
    needs_source: ClassVar[bool] = False

    def mean(self, engine: OracleEngine, asked: Asked) -> Mean:
        """Return the samples drawn, and the density of all of them."""
        request = engine.request_builder.request(asked.x, asked.t, Conditions(asked.labels, exclude=asked.exclude))
        drawn, density = draw_with_density(engine, request, self.generator)
        return Mean(engine.data.sample_values(engine.data.row_of(drawn)).double(), density)

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return one of both, the second as often as its share says."""
        chosen = uniforms(len(share), self.generator, share.device) < share
        return torch.where(_column(chosen, second.values), second.values, first.values)


@dataclass(frozen=True)
class Flip:
    """The loop mirrors each sample along `dims` of [B, *shape], counted from the end, with this probability.

    The oracle of such a loop is that of the data and their mirror images. It needs none of them stored:
    <x, flip(X)> = <flip(x), X>, so that the mirrored half is asked about flip(x) and its mean flipped back, and the two
    halves are weighed by their densities at x and flip(x). Exact, also for classes; twice the cost.
    Leave-one-out leaves out both copies of a sample: with its mirror image in the set it would not be left out.
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
        """Return x mirrored; twice is x."""
        return x.flip(self.dims)

    def mean(self, estimate: Estimate, engine: OracleEngine, asked: Asked) -> Float64[Tensor, "B ..."]:
        """Return the mean over the samples and their mirror images."""
        mirrored = Asked(self.apply(asked.x), asked.t, asked.labels, asked.exclude, asked.source)
        first, other = estimate.mean(engine, asked), estimate.mean(engine, mirrored)
        odds = math.log(self.probability / (1.0 - self.probability))
        share = torch.sigmoid(other.log_density - first.log_density + odds)
        return estimate.mixed(first, Mean(self.apply(other.values), other.log_density), share)


@dataclass(frozen=True)
class _Widened:
    """A path whose noise has the width of the samples in it: the same posterior over them as points."""

    path: Path
    width: float

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        at = coefficients(self.path, t)
        deviation = marginal_variance(at, self.width).sqrt()
        slope = (at.sigma_t * at.d_sigma_t + self.width**2 * at.alpha_t * at.d_alpha_t) / deviation
        return Coefficients(at.alpha_t, deviation, at.d_alpha_t, slope)


def over_points(engine: OracleEngine) -> OracleEngine:
    """Return an engine whose posterior mean is that of the samples themselves, without their width."""
    if engine.point_std == 0.0:
        return engine
    path = _Widened(engine.path, engine.point_std)
    points = OracleEngine(
        engine.data, path, backend=engine.backend, mode=engine.mode, tolerance=engine.tolerance, t_max=engine.t_max
    )
    points.index = engine.index
    return points


def _beside(engine: OracleEngine, data: OracleDataset) -> OracleEngine:
    return OracleEngine(data, engine.path, backend=engine.backend, mode="exact", t_max=engine.t_max)


def _own(engine: OracleEngine, asked: Asked, source: Int64[Tensor, "B"]) -> Mean:
    values = engine.data.sample_values(engine.data.row_of(source)).double()
    at = coefficients(engine.path, asked.t)
    gap = (asked.x - _column(at.alpha_t, values) * values).reshape(len(values), -1)
    square, dim = at.sigma_t.square(), engine.data.dim
    return Mean(values, -0.5 * gap.square().sum(1) / square - 0.5 * dim * (2 * math.pi * square).log())


def _blend(
    first: Float64[Tensor, "B ..."], second: Float64[Tensor, "B ..."], share: Float64[Tensor, "B"]
) -> Float64[Tensor, "B ..."]:
    part = _column(share, first)
    # not first + part (second - first): that would leave a rounding of `first` where its share is zero
    return (1 - part) * first + part * second


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
