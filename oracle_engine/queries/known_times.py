"""What the host knows of the times of queries that are on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..base.arrays import Float64, Numbers, Tensor
from ..base.calls import checked
from ..paths.paths import Path, coefficients, numbers_at
from ..paths.predictions import marginal_variance


@dataclass(frozen=True)
class KnownTimes:
    """Times of queries on a device that the host knows as well.

    path: of the queries. t: a number in [0, 1], or a time for each query on the CPU, of any shape. t_max: where times
    are clamped, or None. point_std: width of every sample in value space.
    """

    path: Path
    t: float | Tensor
    t_max: float | None
    point_std: float

    def largest_snr(self) -> float:
        """Return the largest alpha^2 / s^2 of the queries, s^2 the variance around a sample in value space."""
        if isinstance(self.t, Tensor):
            times: Float64[Tensor, "B"] = self.t.double().reshape(-1).clamp_max(self._latest)
            at = coefficients(self.path, times)
            return float((at.alpha_t.square() / marginal_variance(at, self.point_std)).max())
        alpha, sigma, _, _ = numbers_at(self.path, min(float(self.t), self._latest))
        variance = sigma**2 + (alpha * self.point_std) ** 2
        return alpha**2 / variance if variance > 0.0 else torch.inf

    @property
    def _latest(self) -> float:
        return 1.0 if self.t_max is None else self.t_max


def host_times(t: Numbers, times: Float64[Tensor, "B"]) -> float | Tensor | None:
    """Return `t`, as a caller passed it, where the host reads it without a wait, but not `times`, on the device.

    None where it does not, for what is refused, and where the host reads the times themselves.
    """
    if checked.on_host(times):
        return None
    if isinstance(t, Tensor):
        return t.detach() if t.numel() > 0 and checked.on_host(t) else None
    return float(t) if isinstance(t, (int, float)) and 0 <= t <= 1 else None
