"""Derivatives of an answer in its queries: from posterior covariances and scores, never through the kernels.

The derivative of a posterior mean is alpha / sigma^2 times the posterior covariance of the data, that of the
log-density is the score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.autograd import forward_ad

from ..base.arrays import Float, Float64, Int64, Tensor, check_floating
from ..base.errors import InputError, invalid
from ..data.dataset import OracleDataset
from ..kernels import Directions, PosteriorState, Query, Rows, Span
from ..paths.paths import Coefficients, Prediction
from ..queries.classes import batch_slices, scan_tasks
from ..queries.request import Request

# what multiplies vectors with the posterior covariance of a span
Product = Callable[[Rows, Directions, Span], Tensor]


@dataclass(frozen=True)
class Term:
    """A posterior mean that an answer is linear in, for some queries of its batch.

    index: the numbers of these queries, [b], or None for all of them. factor: what their mean is multiplied with, [b].
    request: these queries, with the labels of this mean. state: log-partition and mean of their posteriors.
    """

    index: Int64[Tensor, "b"] | None
    factor: Float64[Tensor, "b"]
    request: Request
    state: PosteriorState


def mixed(terms: Sequence[Term]) -> Float64[Tensor, "B D"]:
    """Return the sum of the means of `terms` times their factors, [B, D] in row units.

    The first term is of the whole batch, and alone it has the factor one.
    """
    whole, *others = terms
    if not others:
        return whole.state.mean
    mean = whole.factor[:, None] * whole.state.mean
    for term in others:
        mean = _added(mean, term.index, term.factor[:, None] * term.state.mean)
    return mean


@dataclass(frozen=True)
class Spread:
    """A posterior covariance over the classes of each query, times a factor: the derivative of a term in x.

    index: the numbers of its queries in the batch, [b], or None for all. factor: of the covariance, [b]. query, labels,
    state: whose posterior it is. Unlike a Term it shares no memory with what the caller passed, who may change it
    before the backward pass.
    """

    index: Int64[Tensor, "b"] | None
    factor: Float64[Tensor, "b"]
    query: Query
    labels: Int64[Tensor, "b U"] | None
    state: PosteriorState

    @classmethod
    def of(cls, term: Term, data: OracleDataset) -> Spread:
        """Return the derivative of `term`, a mean over `data`."""
        query = term.request.query(data)
        own = Query(query.point, query.alpha.clone(), query.inverse_variance, query.excluded)
        labels = None if term.request.labels is None else term.request.labels.clone()
        return cls(term.index, term.factor * own.gain, own, labels, term.state)

    def times(self, vector: Float64[Tensor, "b D"], data: OracleDataset, product: Product) -> Float64[Tensor, "b D"]:
        """Return the derivative times a vector for each of its queries, [b, D].

        data: the samples. product: what multiplies a vector with the covariance over a span of them. Costs a scan.
        """
        total = torch.zeros_like(vector)
        everyone = torch.arange(len(vector), device=vector.device)
        for part in batch_slices(len(vector), data.dim):
            labels = None if self.labels is None else self.labels[part]
            for task in scan_tasks(labels, data.segments, len(data), everyone[part]):
                which = task.query
                state = self.state.take(which)
                some = Directions(self.query.take(which), state.lse, state.mean, vector[which])
                total[which] += product(data.rows, some, task.span)
        return self.factor[:, None] * total


@dataclass(frozen=True)
class PredictionDerivative:
    """The derivative of the prediction called `name` in x: symmetric, so both directions are one.

    at: the path at the times of the batch. point_std: width of every sample. spreads: derivatives of the means that the
    prediction is linear in. product: what multiplies vectors with posterior covariances over `data`.
    """

    name: str
    data: OracleDataset
    at: Coefficients
    point_std: float
    spreads: Sequence[Spread]
    product: Product

    @classmethod
    def of(
        cls, name: str, terms: Sequence[Term], *, data: OracleDataset, point_std: float, product: Product
    ) -> PredictionDerivative:
        """Return the derivative of the answer called `name` that is linear in `terms`, the first of the whole batch.

        data: the samples. point_std: their width. product: what multiplies vectors with posterior covariances.
        """
        at = terms[0].request.at
        kept = Coefficients(*(getattr(at, field.name).clone() for field in fields(at)))
        return cls(name, data, kept, point_std, [Spread.of(term, data) for term in terms], product)

    def push(self, vector: Float[Tensor, "B ..."]) -> Float64[Tensor, "B D"]:
        """Return the derivative times a vector like x, [B, D] float64."""
        values = vector.double().reshape(len(vector), self.data.dim)
        # predictions are linear in x and in the mean, coordinate by coordinate
        zeros = torch.zeros_like(values)
        direct: Tensor = getattr(Prediction(values, zeros, self.at, self.point_std), self.name)
        through: Tensor = getattr(Prediction(zeros, values, self.at, self.point_std), self.name)
        for spread in self.spreads:
            some = through if spread.index is None else through[spread.index]
            direct = _added(direct, spread.index, spread.times(some, self.data, self.product))
        return direct

    pull = push


@dataclass(frozen=True)
class DensityDerivative:
    """The derivative of log p_t in x: `score`, [B, D] in value space."""

    score: Float64[Tensor, "B D"]

    def pull(self, vector: Float64[Tensor, "B"]) -> Float64[Tensor, "B D"]:
        """Return a vector, [B], times the scores, [B, D]."""
        return vector[:, None] * self.score

    def push(self, vector: Float[Tensor, "B ..."]) -> Float64[Tensor, "B"]:
        """Return the products of the scores with a vector like x, [B]."""
        return (self.score * vector.double().reshape(self.score.shape)).sum(1)


Derivative = PredictionDerivative | DensityDerivative


def detached(x: Tensor) -> tuple[Tensor, bool]:
    """Return x without its autograd graph, and whether a derivative of the answer in x is wanted.

    Raises InputError unless x is a floating tensor.
    """
    check_floating("x", x)
    primal, tangent = forward_ad.unpack_dual(x)
    return primal.detach(), tangent is not None or (x.requires_grad and torch.is_grad_enabled())


def attached(answer: Tensor, x: Tensor, derivative: Derivative | None) -> Tensor:
    """Return `answer` as a function of x for autograd, itself where there is no derivative.

    answer: like x, or [B] of a log density. x: what it was computed at. derivative: of the answer in x, or None.
    """
    if derivative is None:
        return answer
    result: Tensor = _Attached.apply(x, answer, derivative)  # type: ignore[no-untyped-call]
    return result


class _Attached(torch.autograd.Function):
    """Hands on an answer that is known already, and its derivative in x."""

    @staticmethod
    def forward(x: Tensor, answer: Tensor, derivative: Derivative) -> Tensor:
        return answer.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, derivative = inputs
        ctx.pull = _like(derivative.pull, x)
        ctx.push = _like(derivative.push, output)

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor, None, None]:
        return _product(vectors[0], ctx.pull), None, None

    @staticmethod
    def jvp(ctx: Any, *vectors: Tensor | None) -> Tensor:
        return _product(vectors[0], ctx.push)


class _Product(torch.autograd.Function):
    """A derivative times a vector, which cannot be differentiated again; under vmap one vector after the other."""

    @staticmethod
    def forward(vector: Tensor, times: Callable[[Tensor], Tensor]) -> Tensor:
        return times(vector)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing of `inputs` and `output` in `ctx`: there is no backward pass."""

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int, None], vectors: Tensor, times: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, int]:
        return torch.stack([_product(vector, times) for vector in vectors.unbind(dims[0])]), 0

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor) -> Any:
        raise second_derivative()


def _product(vector: Tensor | None, times: Callable[[Tensor], Tensor]) -> Tensor:
    result: Tensor = _Product.apply(vector, times)  # type: ignore[no-untyped-call]
    return result


def _like(times: Callable[[Tensor], Tensor], model: Tensor) -> Callable[[Tensor], Tensor]:
    dtype, shape = model.dtype, model.shape
    return lambda vector: times(vector).to(dtype).reshape(shape)


def _added(
    total: Float64[Tensor, "B D"], index: Int64[Tensor, "b"] | None, part: Float64[Tensor, "b D"]
) -> Float64[Tensor, "B D"]:
    return total + part if index is None else total.index_add(0, index, part)


def second_derivative() -> InputError:
    """Word what a second derivative is answered with: it would need third moments of the posterior."""
    remedy = "detach the first derivative, or take differences of it"
    return invalid("x", "can be differentiated once", "a second derivative of an answer", remedy)
