"""From a request to what a caller asked for: predictions, log densities and posteriors, with their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from ..base.arrays import Bool, Float, Float64, Int64, Tensor
from ..base.calls import checked
from ..base.calls.cuda_graphs import capturing
from ..base.outputs import rounded_answer
from ..data.dataset import OracleDataset
from ..kernels import Combination, Described, Description, PosteriorState, Wanted, combined, described, log_densities
from ..kernels.screens import BOUND_FAILURE, SharedProducts
from ..paths.predictions import Prediction, factors
from ..queries.answer import Answer
from ..queries.posterior import Posterior
from ..queries.request import Request
from ..scans.backends import Combine, Describe
from ..search.certificate import Scale, omitted_mass
from .router import Router
from .told_apart import check_told_apart

MEAN = Wanted()


@runtime_checkable
class Partition(Protocol):
    """What has the log-partitions of B posteriors, such as a PosteriorState; see there."""

    @property
    def lse(self) -> Float64[Tensor, "B"]:
        """Log-partitions, [B]."""
        ...

    @property
    def lse_rest(self) -> Float64[Tensor, "B"]:
        """What float64 cut off them, [B]."""
        ...


@dataclass(frozen=True)
class Term:
    """A posterior mean that an answer is linear in, for some queries of its batch.

    index: the numbers of these queries, [b], or None for all of them. scale: how many times the way from this mean to
    the one given the labels the answer is away from it, [b] or a number, or None for the latter mean itself.
    state: log-partition and mean of their posteriors.
    """

    index: Int64[Tensor, "b"] | None
    scale: Float64[Tensor, "b"] | float | None
    state: PosteriorState


def mixed(terms: Sequence[Term]) -> Float64[Tensor, "B D"]:
    """Return the mean, [B, D] in row units, that `terms` make: the one given the labels, and unconditional ones."""
    own, *free = terms
    mean = own.state.mean
    for term in free:
        scale: Any = term.scale[:, None] if isinstance(term.scale, Tensor) else term.scale
        if term.index is None:
            mean = torch.lerp(term.state.mean, mean, scale)
        else:
            # with the same bits wherever a query stands in its batch
            part = scale * mean[term.index] + (1.0 - scale) * term.state.mean
            mean = mean.index_copy(0, term.index, part)
    return mean


def _guided(request: Request, guided: Bool[Tensor, "B"] | None) -> Int64[Tensor, "b"] | slice | None:
    """Return the queries whose unconditional mean is needed, [b], or None where guidance is none; see `terms`.

    A slice of everyone where it is known that the scale of none, or only of those without a class, is one: on a device
    the host would wait to learn which these are.
    """
    if request.labels is None or capturing() or (guided is None and not request.guided):
        return None
    if guided is None and request.shared_scale not in (None, 1.0) and not checked.on_host(request.times):
        return slice(None)
    return (request.scale != 1.0 if guided is None else guided).nonzero()[:, 0]


def _is_empty(index: Int64[Tensor, "b"] | slice) -> bool:
    return not isinstance(index, slice) and len(index) == 0


def _free_term(index: Int64[Tensor, "b"] | slice, request: Request, free: PosteriorState) -> Term:
    """Return the term of the unconditional means, `free`, of the queries `index` of a request."""
    if isinstance(index, slice):
        return Term(None, request.scale if request.shared_scale is None else request.shared_scale, free)
    return Term(index, request.scale[index], free)


@dataclass(frozen=True)
class Responder:
    """Answers requests over one data set.

    point_std: width of every sample in value space. router: finds the posterior states. combine: computes answers
    from means. describe: says of posteriors what users read.
    """

    data: OracleDataset
    point_std: float
    router: Router
    combine: Combine = combined
    describe: Describe = described

    def values(self, name: str, request: Request, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the answer called `name` to `request`.

        name: velocity, denoiser, score or noise, [B, D] in `dtype`, or log_density, [B] float64.
        """
        if name == "log_density":
            return self.log_density(request, self.router.state(request, Wanted(mean=False)))
        terms = self.terms(request)
        if name == "denoiser":
            check_told_apart(request, self.data, terms[0].state.lse, self.router.exact)
        # every prediction is affine in the mean, so guiding the mean guides them all
        return self.combined(name, request, mixed(terms), dtype)

    def combined(
        self, name: str, request: Request, mean: Float64[Tensor, "B D"], dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "B D"]:
        """Return the prediction called `name` at the points of `request` from means in row units, in `dtype`.

        name: velocity, denoiser, score or noise. mean: [B, D].
        """
        direct, gap = factors(name, request.at, request.variance, self.point_std)
        scale, base = self.data.value_map.scale, self.data.base
        combination = Combination(request.x, request.at.alpha_t, direct, gap, scale, base)
        return self.combine(combination, mean, dtype)

    def terms(
        self,
        request: Request,
        shared_products: SharedProducts | None = None,
        *,
        guided: Bool[Tensor, "B"] | None = None,
        wanted: Wanted = MEAN,
    ) -> list[Term]:
        """Return the posterior means that the answers to `request` are made of: one, or two where queries are guided.

        shared_products: of the trajectory that all queries belong to, or None. guided: queries whose unconditional mean
        is needed, [B], or None for those whose scale is not one. wanted: of the states given the labels.
        """
        index = _guided(request, guided)
        both = None if index is None or _is_empty(index) else self.router.both(request, index, wanted)
        if both is None or index is None:
            return self._terms(request, self.router.state(request, wanted, shared_products), index, shared_products)
        own, free = both
        return [Term(None, None, own), _free_term(index, request, free)]

    def guided_terms(
        self,
        request: Request,
        state: PosteriorState,
        shared_products: SharedProducts | None = None,
        guided: Bool[Tensor, "B"] | None = None,
    ) -> list[Term]:
        """Return the terms of :meth:`terms` where the `state` given the labels is known, [B]."""
        return self._terms(request, state, _guided(request, guided), shared_products)

    def _terms(
        self,
        request: Request,
        state: PosteriorState,
        index: Int64[Tensor, "b"] | slice | None,
        shared_products: SharedProducts | None,
    ) -> list[Term]:
        """Return the conditional term, and the unconditional one of the guided queries in `index`."""
        terms = [Term(None, None, state)]
        if index is None:
            return terms
        if not self.router.exact.on_any_rank(not _is_empty(index)):
            return terms
        part, own, shared = request, state, shared_products
        if not isinstance(index, slice):
            part, own = request.take(index), state.take(index)
            shared = None if shared_products is None else shared_products.take(index)
        return [*terms, _free_term(index, request, self.router.unconditional(part, own, shared))]

    def prediction(self, request: Request, mean: Float64[Tensor, "B D"]) -> Prediction:
        """Return the predictions of a network at the points of `request`, from posterior means in row units, [B, D]."""
        values = torch.add(self.data.base, mean, alpha=self.data.value_map.scale)
        return Prediction(request.x, values, request.at, self.point_std)

    def posterior(self, request: Request, top_k: int, shape: Sequence[int], dtype: torch.dtype) -> Posterior:
        """Return the posteriors of `request` with their statistics.

        top_k: samples to name. shape, dtype: of the mean that is returned.
        """
        answer = self.router.answer(request, Wanted(moments=True, top_k=top_k))
        return self.posterior_of(request, answer, shape, dtype)

    def posterior_of(self, request: Request, answer: Answer, shape: Sequence[int], dtype: torch.dtype) -> Posterior:
        """Return the posteriors of `request` from their `answer`, which has moments and heaviest samples."""
        state = answer.state
        check_told_apart(request, self.data, state.lse, self.router.exact)
        prediction = self.prediction(request, state.mean)
        order, mass, scale = self.data.order, request.mass(self.data), self.data.value_map.scale
        facts = self.describe(Description(state, self.data.dim, mass, request.variance, order, scale))
        omitted, error, confidence, standard_error = self._missed(request, answer, facts)
        return Posterior(
            mean=rounded_answer(prediction.denoiser, "mean", dtype, shape),
            log_density=facts.log_density,
            ess=facts.ess,
            entropy=state.entropy,
            variance=self._variance(request, facts),
            top_weights=facts.top_weights,
            top_indices=facts.top_indices,
            omitted_mass=omitted,
            velocity_error=error,
            confidence=confidence,
            standard_error=standard_error,
            survivors=answer.survivors,
            route=answer.routes,
        )

    def _variance(self, request: Request, facts: Described) -> Float64[Tensor, "B"]:
        """Return the traces of the posterior covariances in squared values, [B]."""
        if self.point_std == 0.0:
            return facts.variance
        # a sample of width p keeps sigma^2 / s^2 of its distance to the others, and adds its own spread
        kept = request.at.sigma_t.square() / request.variance
        return kept.square() * facts.variance + self.data.dim * self.point_std**2 * kept

    def _missed(self, request: Request, answer: Answer, facts: Described) -> tuple[Float64[Tensor, "B"], ...]:
        """Return omitted mass, bound on the velocity error, confidence in both, and standard error, [B] each."""
        state = answer.state
        if answer.scanned:
            omitted, error, standard_error = facts.zeros.unbind(0)
            return omitted, error, facts.ones, standard_error
        omitted, scale = omitted_mass(state, answer.log_omitted), Scale.of(self.data, request, state, self.point_std)
        return (
            omitted,
            # the exact mean is (1 - e) E_S + e E_T: off by e |E_T - E_S|, e at most the omitted mass
            scale.relative_error(omitted * scale.distance),
            1.0 - BOUND_FAILURE * answer.likely.double(),
            scale.relative_error(self.data.value_map.scale * answer.standard_error),
        )

    def log_density(self, request: Request, state: Partition) -> Float64[Tensor, "B"]:
        """Return log p_t(x) in nats, [B], from the log-partitions of `state`."""
        return log_densities(state.lse, request.log_mass(self.data), request.variance, self.data.dim)
