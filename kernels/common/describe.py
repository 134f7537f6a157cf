"""What is said of a posterior beside its mean, from its state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...base.arrays import Float64, Int64, Tensor
from .state import PosteriorState


@dataclass(frozen=True)
class Description:
    """Posterior states of B queries, and what is needed to say of them what users read.

    state: with moments and heaviest samples. dim: D. mass: the weight of the samples that a query may use, [B] float64
    or int64, or a number. variance: of x around alpha X_j, [B] float64. order: the index of every row, [N] int64, or
    None where that is its place. scale: of values, in those of rows.
    """

    state: PosteriorState
    dim: int
    mass: Float64[Tensor, "B"] | Int64[Tensor, "B"] | float
    variance: Float64[Tensor, "B"]
    order: Int64[Tensor, "N"] | None
    scale: float


@dataclass(frozen=True)
class Described:
    """Facts of B posteriors, as :class:`~oracle_engine.Posterior` has them.

    log_density, ess: [B]. variance: of samples that are points, in squared values, [B]. top_weights, top_indices: [B,
    K], weight 0 and index -1 for none. zeros, ones: [B] each, what exact answers have missed and how sure that is. All
    float64 but the indices.
    """

    log_density: Float64[Tensor, "B"]
    ess: Float64[Tensor, "B"]
    variance: Float64[Tensor, "B"]
    top_weights: Float64[Tensor, "B K"]
    top_indices: Int64[Tensor, "B K"]
    zeros: Float64[Tensor, "3 B"]
    ones: Float64[Tensor, "B"]


def described(description: Description) -> Described:
    """Return the facts of the posteriors of `description`."""
    state, order = description.state, description.order
    rows, exact = state.top_rows, state.lse.new_zeros(4, len(state.lse))
    return Described(
        log_density=log_densities(state.lse, log_of(description.mass), description.variance, description.dim),
        ess=state.concentration.reciprocal(),
        variance=state.variance if description.scale == 1.0 else description.scale**2 * state.variance,
        top_weights=((state.top_logits - state.lse[:, None]) + (state.top_rest - state.lse_rest[:, None])).exp(),
        # -1 names the last row until it is put back
        top_indices=rows if order is None else order[rows].masked_fill_(rows < 0, -1),
        zeros=exact[:3],
        ones=exact[3].fill_(1.0),
    )


def log_of(mass: Float64[Tensor, "B"] | Int64[Tensor, "B"] | float) -> Float64[Tensor, "B"] | float:
    """Return the log of a mass, [B] float64, or a number where it is one."""
    return mass.double().log() if isinstance(mass, torch.Tensor) else math.log(mass)


def log_densities(
    lse: Float64[Tensor, "B"], log_mass: Float64[Tensor, "B"] | float, variance: Float64[Tensor, "B"], dim: int
) -> Float64[Tensor, "B"]:
    """Return log p_t(x) in nats, [B] float64.

    lse: log-partitions, [B]. log_mass: log of the mass. mass, variance, dim: as in :class:`Description`.
    """
    half = 0.5 * dim
    return torch.sub(lse - (log_mass + half * math.log(2 * math.pi)), variance.log(), alpha=half)
