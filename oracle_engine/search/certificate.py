"""From what a search left out to the mass and the velocity error it can have cost, and back."""

from __future__ import annotations

import torch

from ..base.arrays import Float64, Tensor
from ..data.dataset import OracleDataset
from ..kernels import PosteriorState
from ..paths.paths import Prediction

# a search aims this far below the tolerance: the velocity it aims with is not yet the final one
AIM = 0.25


def omitted_mass(state: PosteriorState, log_omitted: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the largest share of the posterior that may have been left out: omitted / (kept + omitted), [B] float64.

    state: of the samples that were kept. log_omitted: log of a bound on the weight of all others, on the scale of
    `state.lse`, [B] float64.
    """
    return torch.sigmoid(log_omitted - state.lse)


def farthest(data: OracleDataset, state: PosteriorState) -> Float64[Tensor, "B"]:
    """Return a bound on the distance of any sample of `data` to the mean of `state`: R + |E|, value space, [B]."""
    norm: Tensor = torch.linalg.vector_norm(state.mean, dim=1)
    return data.value_map.scale * (data.rows.radius + norm)


def relative_error(prediction: Prediction, error: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the relative velocity error of `prediction` for an `error` of its mean: |A| |dm| / |v|, [B] float64.

    prediction: whose velocity is meant. error: norm of the error of the mean in value space, [B] float64.
    """
    absolute = prediction.velocity_gain * error
    return torch.where(absolute == 0.0, 0.0, absolute / _speed(prediction))


def allowance(
    prediction: Prediction, distance: Float64[Tensor, "B"], tolerance: Float64[Tensor, "B"]
) -> Float64[Tensor, "B"]:
    """Return the posterior mass that may be left out for a relative velocity error within a tolerance, [B] float64.

    prediction: at the mean known so far. distance: see :func:`farthest`, [B] float64.
    tolerance: in (0, 1), [B] float64.
    """
    share = _speed(prediction) / (prediction.velocity_gain * distance).clamp_min(1e-300)
    return largest_allowance(tolerance) * share.clamp_max(1.0)


def largest_allowance(tolerance: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return what :func:`allowance` cannot exceed for this `tolerance`, whatever the prediction, [B] float64."""
    return AIM * tolerance


def _speed(prediction: Prediction) -> Float64[Tensor, "B"]:
    speed: Tensor = torch.linalg.vector_norm(prediction.velocity, dim=1)
    return speed
