"""From what a search left out to the mass and the velocity error it can have cost, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .arrays import Float64, Tensor
from .dataset import OracleDataset
from .kernels import PosteriorState
from .paths import Prediction

# a search aims this far below the tolerance: the velocity it aims with is not yet the final one
AIM = 0.25


@dataclass(frozen=True)
class Certificate:
    """What the answers can have missed, [B] each; zero for exact ones, NaN where nothing is known.

    omitted_mass: bound on the posterior mass of the samples that were not looked at, in [0, 1].
    velocity_error: bound on |velocity - exact velocity| / |velocity|.
    """

    omitted_mass: Float64[Tensor, "B"]
    velocity_error: Float64[Tensor, "B"]


def omitted_mass(state: PosteriorState, log_omitted: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the largest share of the posterior that may have been left out, [B]: omitted / (kept + omitted)."""
    return torch.sigmoid(log_omitted - state.lse)


def farthest(data: OracleDataset, state: PosteriorState) -> Float64[Tensor, "B"]:
    """Return a bound on the distance of any sample to the mean of `state`, in value space, [B]: R + |E|."""
    norm: Tensor = torch.linalg.vector_norm(state.mean, dim=1)
    return data.value_map.scale * (data.rows.radius + norm)


def mean_error(data: OracleDataset, state: PosteriorState, omitted: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return a bound on the error of the mean of `state` in value space, [B].

    The exact mean is (1 - e) E_S + e E_T with e at most the omitted mass: off by e |E_T - E_S|.
    """
    return omitted * farthest(data, state)


def allowance(
    prediction: Prediction, distance: Float64[Tensor, "B"], tolerance: Float64[Tensor, "B"]
) -> Float64[Tensor, "B"]:
    """Return the posterior mass that may be left out for a relative velocity error within `tolerance`, [B].

    prediction: at the mean known so far. distance: see :func:`farthest`.
    """
    share = _speed(prediction) / (prediction.velocity_gain * distance).clamp_min(1e-300)
    return AIM * tolerance * share.clamp_max(1.0)


def certify(prediction: Prediction, omitted: Float64[Tensor, "B"], error: Float64[Tensor, "B"]) -> Certificate:
    """Return the certificate of answers whose mean is off by at most `error` in value space: |dv| = |A| |dm|."""
    absolute = prediction.velocity_gain * error
    return Certificate(omitted, torch.where(absolute == 0.0, 0.0, absolute / _speed(prediction)))


def _speed(prediction: Prediction) -> Float64[Tensor, "B"]:
    speed: Tensor = torch.linalg.vector_norm(prediction.velocity, dim=1)
    return speed
