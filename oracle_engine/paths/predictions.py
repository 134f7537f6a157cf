"""What a network may predict: velocity, denoiser, score and noise, from the mean of a posterior along a path."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..base.arrays import Float64, Tensor
from .paths import Coefficients


@dataclass(frozen=True)
class Prediction:
    """The prediction for a batch of queries in every parametrisation, all float64 [B, D].

    x: the queries, [B, D] float64. mean: m, the posterior mean of the samples, [B, D] float64 in value space.
    at: the coefficients at the times of the queries. point_std: p >= 0, the standard deviation of the Gaussian that
        stands for each sample, in value space; 0 for points.

    score = -(x - alpha m) / s^2, noise = -sigma score, denoiser = m - alpha p^2 score and velocity = d_alpha denoiser
    + d_sigma noise with s^2 = sigma^2 + alpha^2 p^2 (the conditional Gaussian identities, e.g. Lipman et al. 2024).
    None of these forms cancels near t = 1.
    """

    x: Float64[Tensor, "B D"]
    mean: Float64[Tensor, "B D"]
    at: Coefficients
    point_std: float

    @property
    def variance(self) -> Float64[Tensor, "B"]:
        """Variance of x around alpha X_j, s^2 = sigma^2 + alpha^2 p^2, [B]."""
        return marginal_variance(self.at, self.point_std)

    @property
    def score(self) -> Float64[Tensor, "B D"]:
        """Gradient of log p_t at x, (alpha m - x) / s^2, [B, D]."""
        return (self.at.alpha_t[:, None] * self.mean - self.x) / self.variance[:, None]

    @property
    def noise(self) -> Float64[Tensor, "B D"]:
        """Posterior mean of eps, -sigma score, [B, D]."""
        return -self.at.sigma_t[:, None] * self.score

    @property
    def denoiser(self) -> Float64[Tensor, "B D"]:
        """Posterior mean of the data, m - alpha p^2 score, [B, D]; m itself where p = 0."""
        if self.point_std == 0.0:
            return self.mean
        return self.mean - (self.at.alpha_t * self.point_std**2)[:, None] * self.score

    @property
    def velocity(self) -> Float64[Tensor, "B D"]:
        """Posterior mean of d_alpha X + d_sigma eps, [B, D]."""
        return self.at.d_alpha_t[:, None] * self.denoiser + self.at.d_sigma_t[:, None] * self.noise


def factors(
    name: str, at: Coefficients, variance: Float64[Tensor, "B"], point_std: float
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return f and g of the prediction f m + g (x - alpha m), see :class:`Prediction`, [B] each.

    name: velocity, denoiser, score or noise. at: the coefficients at the times of B queries. variance: s^2, [B].
    point_std: p, as in Prediction.
    """
    # what a sample that is a Gaussian adds to the denoiser
    own = at.alpha_t * point_std**2 / variance if point_std else None
    if name == "velocity":
        gap = at.d_sigma_t * at.sigma_t / variance
        return at.d_alpha_t, gap if own is None else gap + at.d_alpha_t * own
    if name == "denoiser":
        return torch.ones_like(variance), torch.zeros_like(variance) if own is None else own
    return torch.zeros_like(variance), -variance.reciprocal() if name == "score" else at.sigma_t / variance


def marginal_variance(at: Coefficients, point_std: float) -> Float64[Tensor, "B"]:
    """Return the variance of x_t around alpha X_j, s^2 = sigma^2 + alpha^2 point_std^2, [B] float64.

    at: the coefficients at B times. point_std: standard deviation of each sample, >= 0, in value space.
    """
    variance = at.sigma_t.square()
    return variance + (at.alpha_t * point_std).square() if point_std else variance
