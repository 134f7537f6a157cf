"""Derivatives of answers in x, t and the guidance scale: from posterior covariances, never through the kernels.

Along a tangent the logit l_j = (alpha / s^2) <q, r_j> - (alpha^2 / s^2) |r_j|^2 / 2 + log w_j of row r_j changes by
s_j, and the posterior mean by the covariance of r_j and s_j. The log-partition changes by the mean of the s_j.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ..base.arrays import Bool, Float64, Int64, Tensor
from ..base.errors import InputError, invalid
from ..data.dataset import OracleDataset
from ..kernels import Directions, Query, Wanted
from ..paths.predictions import Prediction
from ..paths.slopes import factor_slopes, finite_change
from ..queries.builder import RequestBuilder
from ..queries.conditions import Conditions, Guidance
from ..queries.request import Request
from .responder import Responder


class QueryTensors(NamedTuple):
    """What an answer depends on, in plain tensors that share no memory with what the caller passed.

    x: queries, [B, D] float64. t: their times, [B] float64, before they are clamped. scale: of the guidance, [B]
    float64, or None without guidance. labels, exclude, source: as in Conditions, with B first, or None.
    """

    x: Float64[Tensor, "B D"]
    t: Float64[Tensor, "B"]
    scale: Float64[Tensor, "B"] | None
    labels: Tensor | None
    exclude: Tensor | None
    source: Tensor | None


class States(NamedTuple):
    """What derivatives need of the posteriors of an answer, all float64.

    lse, lse_rest, mean: log-partitions [B], what float64 cut off them, and means [B, D] in row units, given the labels.
    variance: trace of the covariance, [B], for a log density. free_lse, free_rest, free_mean: of the unconditional
    posteriors where queries are guided, else as the others; free_mean is [B, 0] without guidance.
    """

    lse: Float64[Tensor, "B"]
    lse_rest: Float64[Tensor, "B"]
    mean: Float64[Tensor, "B D"]
    variance: Float64[Tensor, "B"]
    free_lse: Float64[Tensor, "B"]
    free_rest: Float64[Tensor, "B"]
    free_mean: Float64[Tensor, "B D"]


class Tangent(NamedTuple):
    """A direction in which an answer is differentiated; None where an argument stands still.

    x: [B, D] float64 in value space. t, scale: [B] float64.
    """

    x: Float64[Tensor, "B D"] | None
    t: Float64[Tensor, "B"] | None
    scale: Float64[Tensor, "B"] | None


@dataclass(frozen=True)
class Motion:
    """How the queries of a batch change along a tangent: the derivatives of Query.point and of the coefficients.

    point: [B, D] in row units. alpha, inverse_variance: [B], or None where time stands still.
    """

    point: Float64[Tensor, "B D"]
    alpha: Float64[Tensor, "B"] | None
    inverse_variance: Float64[Tensor, "B"] | None

    @classmethod
    def of(cls, request: Request, data: OracleDataset, point_std: float, tangent: Tangent) -> Motion:
        """Return how `request` moves along `tangent`, whose x or t is given; point_std: width of the samples."""
        scale, at, step = data.value_map.scale, request.at, tangent.t
        point = torch.zeros_like(request.x) if tangent.x is None else tangent.x / scale
        if step is None:
            return cls(point, None, None)
        alpha = at.d_alpha_t * step
        variance = 2.0 * (at.sigma_t * at.d_sigma_t + point_std**2 * at.alpha_t * at.d_alpha_t) * step
        inverse = -(scale**2) * variance / request.variance.square()
        return cls(point - alpha[:, None] * (data.base / scale), alpha, inverse)

    def take(self, index: Int64[Tensor, "b"]) -> Motion:
        """Return the motion of the queries at `index`, [b]."""
        rest = (None if part is None else part[index] for part in (self.alpha, self.inverse_variance))
        return Motion(self.point[index], *rest)

    def changes(
        self, query: Query, mean: Float64[Tensor, "B D"]
    ) -> tuple[Float64[Tensor, "B D"], Float64[Tensor, "B"] | None]:
        """Return g and c of the changes s_j = <g, r_j - m> - c |r_j - m|^2 / 2 of logits, up to what all rows share.

        query: B queries. mean: m, of their posteriors, in row units.
        """
        vector = query.gain[:, None] * self.point
        if self.alpha is None or self.inverse_variance is None:
            return vector, None
        drift = query.alpha[:, None] * mean
        vector = vector + (self.alpha * query.inverse_variance)[:, None] * (query.point - 2.0 * drift)
        vector = vector + (self.inverse_variance * query.alpha)[:, None] * (query.point - drift)
        slope = 2.0 * query.gain * self.alpha + query.alpha.square() * self.inverse_variance
        return vector, slope

    def of_log_partition(
        self, query: Query, mean: Float64[Tensor, "B D"], variance: Float64[Tensor, "B"]
    ) -> Float64[Tensor, "B"]:
        """Return the derivative of lse_j(log w_j - |q - alpha r_j|^2 / 2 s^2), [B].

        query: B queries. mean, variance: of their posteriors, in row units.
        """
        rest = query.point - query.alpha[:, None] * mean
        change = -query.inverse_variance * (rest * self.point).sum(1)
        if self.alpha is None or self.inverse_variance is None:
            return change
        spread = query.alpha * variance
        change = change + self.alpha * query.inverse_variance * ((rest * mean).sum(1) - spread)
        return change - 0.5 * self.inverse_variance * (rest.square().sum(1) + query.alpha * spread)


@dataclass(frozen=True)
class AnswerFunction:
    """An answer of an engine as a function of :class:`QueryTensors`, with its derivatives, without autograd.

    name: velocity, denoiser, score, noise or log_density. responder, builder: of the engine. dtype: of x as the caller
    passed it. interval: times in which queries are guided.
    scaled: whether a derivative in the guidance scale may be asked for.
    """

    name: str
    responder: Responder
    builder: RequestBuilder
    dtype: torch.dtype
    interval: tuple[float, float] = (0.0, 1.0)
    scaled: bool = False

    @property
    def data(self) -> OracleDataset:
        """The samples."""
        return self.builder.data

    @property
    def is_density(self) -> bool:
        """Whether the answer is a number a query."""
        return self.name == "log_density"

    @property
    def score(self) -> AnswerFunction:
        """The score under the same conditions, the derivative of a log density in x."""
        return replace(self, name="score")

    def request(self, inputs: QueryTensors) -> Request:
        """Return `inputs` as a request. Raises InputError for values that cannot be used."""
        guidance = None if inputs.scale is None else Guidance(inputs.scale, *self.interval)
        conditions = Conditions(inputs.labels, guidance, inputs.exclude, inputs.source)
        # in the dtype of the caller, whose rounding tells how exact a query is; it holds these values
        x = inputs.x.to(self.dtype).reshape(len(inputs.x), *self.data.sample_shape)
        return self.builder.request(x, inputs.t, conditions)

    def states(self, inputs: QueryTensors) -> States:
        """Return the posteriors that the answer to `inputs` is made of. Raises InputError as :meth:`request` does."""
        request = self.request(inputs)
        wanted = Wanted(moments=True) if self.is_density else Wanted()
        guided = self._guided(request) if self.scaled and inputs.scale is not None else None
        own, *free = self.responder.terms(request, guided=guided, wanted=wanted)
        state = own.state
        other = state
        for term in free:
            other = term.state if term.index is None else state.put(term.index, term.state)
        free_mean = other.mean if inputs.scale is not None else state.mean[:, :0]
        return States(
            state.lse, state.lse_rest, state.mean, state.variance, other.lse, other.lse_rest, free_mean.clone()
        )

    def values(self, inputs: QueryTensors, states: States) -> Tensor:
        """Return the answer to `inputs`, [B, D] or of a log density [B] float64, from its `states`."""
        request = self.request(inputs)
        if self.is_density:
            return self.responder.log_density(request, states)
        mean = states.mean
        if inputs.scale is not None:
            mean = _guided_mean(request.scale, states)
        return self.responder.combined(self.name, request, mean)

    def push(self, inputs: QueryTensors, states: States, tangent: Tangent) -> Tensor:
        """Return the derivative of the answer to `inputs` along `tangent`, like the answer.

        states: of the answer. Costs a scan where x or t moves, two for guided queries; none for a log density.
        Raises InputError where the derivative in t is not finite or the path cannot be differentiated.
        """
        request = self.request(inputs)
        tangent = self._clamped(inputs, tangent)
        moves = tangent.x is not None or tangent.t is not None
        motion = Motion.of(request, self.data, self.builder.point_std, tangent) if moves else None
        if self.is_density:
            return self._push_density(request, states, motion, tangent)
        mean, change = states.mean, torch.zeros_like(states.mean)
        if motion is not None:
            change = self._mean_change(request, states, motion)
        if inputs.scale is not None:
            mean = _guided_mean(request.scale, states)
            if tangent.scale is not None:
                step = torch.where(self._guided(request), tangent.scale, 0.0)
                change = change + step[:, None] * (states.mean - states.free_mean)
        return self._push_prediction(request, mean, change, tangent)

    def pull(
        self, inputs: QueryTensors, states: States, vector: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the transposed derivative of the answer times `vector` in x, t and the scale, those that are `wanted`.

        states: of the answer. vector: like the answer. Costs what :meth:`push` does, for x and for t each.
        Raises InputError as :meth:`push` does.
        """
        by_x, by_t, by_scale = wanted
        ones = torch.ones_like(inputs.t)
        column = vector if self.is_density else vector.reshape(inputs.x.shape)
        found_x = found_t = found_scale = None
        if by_x and self.is_density:
            found_x = column[:, None] * self.responder.prediction(self.request(inputs), states.mean).score
        elif by_x:
            # the derivative in x is symmetric
            found_x = self.push(inputs, states, Tangent(column, None, None))
        if by_t:
            found_t = _inner(column, self.push(inputs, states, Tangent(None, ones, None)))
        if by_scale:
            found_scale = _inner(column, self.push(inputs, states, Tangent(None, None, ones)))
        return found_x, found_t, found_scale

    def _guided(self, request: Request) -> Bool[Tensor, "B"]:
        if request.labels is None:
            return torch.zeros_like(request.times, dtype=torch.bool)
        inside = (request.times >= self.interval[0]) & (request.times <= self.interval[1])
        return inside & (request.labels >= 0).any(1)

    def _clamped(self, inputs: QueryTensors, tangent: Tangent) -> Tangent:
        limit = self.builder.t_max
        if tangent.t is None or limit is None:
            return tangent
        return tangent._replace(t=torch.where(inputs.t > limit, 0.0, tangent.t))

    def _mean_change(self, request: Request, states: States, motion: Motion) -> Float64[Tensor, "B D"]:
        """Return the derivative of the guided mean, [B, D] in row units."""
        query = request.query(self.data)
        own = (states.lse, states.lse_rest, states.mean)
        change = self._covariance(query, request.labels, own, motion)
        guided = (request.scale != 1.0).nonzero()[:, 0]
        exact = self.responder.router.exact
        if states.free_mean.shape[1] == 0 or not exact.on_any_rank(len(guided) > 0):
            return change
        free = (states.free_lse[guided], states.free_rest[guided], states.free_mean[guided])
        other = self._covariance(query.take(guided), None, free, motion.take(guided))
        change = request.scale[:, None] * change
        return change.index_add(0, guided, (1.0 - request.scale[guided])[:, None] * other)

    def _covariance(
        self, query: Query, labels: Int64[Tensor, "B U"] | None, state: tuple[Tensor, Tensor, Tensor], motion: Motion
    ) -> Float64[Tensor, "B D"]:
        """Return products of posterior covariances with vectors."""
        lse, rest, mean = state
        vector, curvature = motion.changes(query, mean)
        whole = Directions(query, lse, mean, vector, curvature, rest)
        return self.responder.router.exact.covariance(whole, labels)

    def _push_prediction(
        self, request: Request, mean: Float64[Tensor, "B D"], change: Float64[Tensor, "B D"], tangent: Tangent
    ) -> Float64[Tensor, "B D"]:
        """Return the change of a prediction whose posterior mean changes by `change`."""
        point_std = self.builder.point_std
        through = self.data.value_map.scale * change
        direct = torch.zeros_like(through) if tangent.x is None else tangent.x
        # predictions are linear in x and in the mean, with factors that depend on time alone
        result: Tensor = getattr(Prediction(direct, through, request.at, point_std), self.name)
        if tangent.t is None:
            return result
        of_x, of_mean = factor_slopes(self.name, self.builder.path, request.at, request.times, point_std)
        values = self.responder.prediction(request, mean)
        return result + tangent.t[:, None] * (of_x[:, None] * values.x + of_mean[:, None] * values.mean)

    def _push_density(
        self, request: Request, states: States, motion: Motion | None, tangent: Tangent
    ) -> Float64[Tensor, "B"]:
        """Return the change of the log-density along the motion of the logits."""
        if motion is None:
            return torch.zeros_like(request.times)
        change = motion.of_log_partition(request.query(self.data), states.mean, states.variance)
        if motion.inverse_variance is None:
            return change
        # of -(D / 2) log s^2
        relative = motion.inverse_variance * request.variance / self.data.value_map.scale**2
        return finite_change(change + 0.5 * self.data.dim * relative)


def second_derivative() -> InputError:
    """Word what a second derivative is answered with: it would need third moments of the posterior."""
    remedy = "detach the first derivative, or take differences of it; log_density has second derivatives, in x"
    return invalid("x", "can be differentiated once", "a second derivative of an answer", remedy)


def _inner(vector: Tensor, change: Tensor) -> Float64[Tensor, "B"]:
    product = vector * change
    return product if product.ndim == 1 else product.sum(1)


def _guided_mean(scale: Float64[Tensor, "B"], states: States) -> Float64[Tensor, "B D"]:
    """Return m_0 + w (m_y - m_0), and m_y itself where w = 1."""
    mixed = scale[:, None] * states.mean + (1.0 - scale)[:, None] * states.free_mean
    return torch.where((scale == 1.0)[:, None], states.mean, mixed)


def scale_and_interval(guidance: Any) -> tuple[Any, tuple[float, float]]:
    """Return the scale of `guidance`, a number, a tensor, a Guidance or None, and the interval of its times."""
    if isinstance(guidance, Guidance):
        return guidance.scale, (guidance.t_min, guidance.t_max)
    return guidance, (0.0, 1.0)
