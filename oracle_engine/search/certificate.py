"""From what a search left out to the mass and the velocity error it can have cost, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..base.arrays import Float64, Tensor
from ..data.dataset import OracleDataset
from ..kernels import Combination, PosteriorState, combined_norms
from ..paths.predictions import factors
from ..queries.request import Request

# a search aims this far below the tolerance: the velocity it aims with is not yet the final one
AIM = 0.25


def omitted_mass(state: PosteriorState, log_omitted: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the largest share of the posterior that may have been left out: omitted / (kept + omitted), [B] float64.

    state: of the samples that were kept. log_omitted: log of a bound on the weight of all others, on the scale of
    `state.lse`, [B] float64.
    """
    return torch.sigmoid(log_omitted - state.lse)


def largest_allowance(tolerance: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return what no allowance exceeds for this `tolerance`, whatever the velocity, [B] float64."""
    return AIM * tolerance


@dataclass(frozen=True)
class Scale:
    """How large the velocities of a batch are, and how far they move with the means, all [B] float64.

    speed: |v|. gain: |A| of dv = A dm, m the mean in value space. distance: of any sample to the mean at most, R + |E|,
    in value space.
    """

    speed: Float64[Tensor, "B"]
    gain: Float64[Tensor, "B"]
    distance: Float64[Tensor, "B"]

    @classmethod
    def of(cls, data: OracleDataset, request: Request, state: PosteriorState, point_std: float) -> Scale:
        """Return the scale of the velocities that the means of `state` make of the queries of `request`.

        data: the samples. point_std: width of every sample in value space. Costs one pass over the means.
        """
        at, unit = request.at, data.value_map.scale
        direct, gap = factors("velocity", at, request.variance, point_std)
        combination = Combination(request.x, at.alpha_t, direct, gap, unit, data.base)
        speed, norm = combined_norms(combination, state.mean)
        return cls(speed, combination.change, unit * (data.rows.radius + norm))

    def relative_error(self, error: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """Return the relative velocity error |A| |dm| / |v| for an `error` of the mean in value space, [B] float64."""
        absolute = self.gain * error
        return torch.where(absolute == 0.0, 0.0, absolute / self.speed)

    def allowance(self, tolerance: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """Return the posterior mass that may be left out for a relative velocity error within `tolerance`, [B] float64.

        tolerance: in (0, 1), [B] float64.
        """
        share = self.speed / (self.gain * self.distance).clamp_min(1e-300)
        return largest_allowance(tolerance) * share.clamp_max(1.0)
