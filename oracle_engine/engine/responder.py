"""From a request to what a caller asked for: predictions, log densities and posteriors, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..base.arrays import Float64, Tensor
from ..base.cuda_graphs import capturing
from ..data.dataset import OracleDataset
from ..kernels import PosteriorState, Wanted
from ..kernels.screens import BOUND_FAILURE, SharedProducts
from ..paths.paths import Prediction
from ..queries.answer import Route
from ..queries.posterior import Posterior
from ..queries.request import Request
from ..search.certificate import farthest, omitted_mass, relative_error
from .autograd import DensityDerivative, Derivative, PredictionDerivative, Product, Term, mixed
from .router import Router

MEAN = Wanted()


@dataclass(frozen=True)
class Responder:
    """Answers requests over one data set.

    point_std: width of every sample in value space. router: finds the posterior states. product: multiplies vectors
    with posterior covariances, for derivatives.
    """

    data: OracleDataset
    point_std: float
    router: Router
    product: Product

    def values(self, name: str, request: Request, derivative: bool) -> tuple[Tensor, Derivative | None]:
        """Return the answer called `name` to `request` and, where wanted, its derivative in x.

        name: velocity, denoiser, score or noise, [B, D] float64 in value space, or log_density, [B] in nats.
        derivative: whether it is wanted; costs another scan when it is used.
        """
        if name == "log_density":
            return self._density(request, derivative)
        terms = self.terms(request)
        # every prediction is affine in the mean, so guiding the mean guides them all
        values: Tensor = getattr(self.prediction(request, mixed(terms)), name)
        return values, self._derivative(name, terms) if derivative else None

    def terms(self, request: Request, shared_products: SharedProducts | None = None) -> list[Term]:
        """Return the posterior means that the answers to `request` are made of: one, or two where queries are guided.

        shared_products: of the trajectory that all queries belong to, or None.
        """
        state = self.router.state(request, MEAN, shared_products)
        if request.labels is None or capturing():
            return [Term(None, request.scale, request, state)]
        guided = (request.scale != 1.0).nonzero()[:, 0]
        terms = [Term(None, request.scale, request, state)]
        if len(guided):
            part = request.take(guided)
            shared = None if shared_products is None else shared_products.take(guided)
            unconditional = self.router.unconditional(part, state.take(guided), shared)
            terms.append(Term(guided, 1.0 - part.scale, part.unconditional, unconditional))
        return terms

    def prediction(self, request: Request, mean: Float64[Tensor, "B D"]) -> Prediction:
        """Return the predictions of a network at the points of `request`, from posterior means in row units, [B, D]."""
        values = self.data.value_map.scale * mean + self.data.base
        return Prediction(request.x, values, request.at, self.point_std)

    def posterior(self, request: Request, top_k: int, shape: Sequence[int], dtype: torch.dtype) -> Posterior:
        """Return the posteriors of `request` with their statistics.

        top_k: samples to name. shape, dtype: of the mean that is returned.
        """
        answer = self.router.answer(request, Wanted(moments=True, top_k=top_k))
        state = answer.state
        # a sample of width p keeps sigma^2 / s^2 of its distance to the others, and adds its own spread
        kept = request.at.sigma_t.square() / request.variance
        own = self.data.dim * self.point_std**2 * kept
        prediction = self.prediction(request, state.mean)
        omitted = omitted_mass(state, answer.log_omitted)
        return Posterior(
            mean=prediction.denoiser.to(dtype).reshape(shape),
            log_density=self.log_density(request, state),
            ess=1.0 / state.concentration,
            entropy=state.entropy,
            variance=(self.data.value_map.scale * kept).square() * state.variance + own,
            top_weights=(state.top_logits - state.lse[:, None]).exp(),
            top_indices=self.data.index_of(state.top_rows),
            omitted_mass=omitted,
            # the exact mean is (1 - e) E_S + e E_T: off by e |E_T - E_S|, e at most the omitted mass
            velocity_error=relative_error(prediction, omitted * farthest(self.data, state)),
            confidence=1.0 - BOUND_FAILURE * answer.likely.double(),
            standard_error=relative_error(prediction, self.data.value_map.scale * answer.standard_error),
            survivors=answer.survivors,
            route=tuple(Route(code).label for code in answer.route.tolist()),
        )

    def log_density(self, request: Request, state: PosteriorState) -> Float64[Tensor, "B"]:
        """Return log p_t(x) in nats, [B], from the log-partitions of `state`."""
        normal = 0.5 * self.data.dim * (2 * math.pi * request.variance).log()
        return state.lse - request.log_mass(self.data) - normal

    def _density(self, request: Request, derivative: bool) -> tuple[Tensor, Derivative | None]:
        state = self.router.state(request, Wanted(mean=derivative))
        density = self.log_density(request, state)
        if not derivative:
            return density, None
        return density, DensityDerivative(self.prediction(request, state.mean).score)

    def _derivative(self, name: str, terms: Sequence[Term]) -> Derivative:
        return PredictionDerivative.of(name, terms, data=self.data, point_std=self.point_std, product=self.product)
