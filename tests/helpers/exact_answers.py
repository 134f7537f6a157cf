"""Answers at single points in 60 digits, and queries whose noise is next to nothing compared with them."""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import torch
from tolerances import assert_within
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.paths.paths import Coefficients, coefficients


@dataclass(frozen=True)
class Exact:
    """Velocity, its two terms, log density and posterior weights, [N], at one point, in 60 digits."""

    velocity: list[mpmath.mpf]
    terms: mpmath.mpf
    log_density: mpmath.mpf
    weights: list[mpmath.mpf]

    def error(self, velocity: Tensor) -> mpmath.mpf:
        """How far a velocity is off."""
        pairs = zip(velocity.tolist(), self.velocity, strict=True)
        return mpmath.sqrt(sum((mpmath.mpf(a) - b) ** 2 for a, b in pairs))


@dataclass(frozen=True)
class Still:
    """A signal that stays and noise that shrinks: E[eps | x] alone is the velocity, as it nearly is where paths end."""

    alpha: float
    sigma: float

    def __call__(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(self.alpha * one, self.sigma * (1.5 - t), 0.0 * one, -self.sigma * one)


def exact_answer(data: OracleDataset, x: Tensor, at: Coefficients) -> Exact:
    """What is true of one point, from the stored numbers, at the one time of `at`."""
    scale, offset = mpmath.mpf(data.value_map.scale), mpmath.mpf(data.value_map.offset)
    samples = [[scale * mpmath.mpf(value) + offset for value in row] for row in data.rows.stored.double().tolist()]
    point = [mpmath.mpf(value) for value in x.tolist()]
    alpha, sigma, d_alpha, d_sigma = (
        mpmath.mpf(float(one)) for one in (at.alpha_t, at.sigma_t, at.d_alpha_t, at.d_sigma_t)
    )
    squares = [sum(((a - alpha * b) ** 2 for a, b in zip(point, row, strict=True)), mpmath.mpf(0)) for row in samples]
    logits = [-square / (2 * sigma**2) for square in squares]
    largest = max(logits)
    weights = [mpmath.e ** (logit - largest) for logit in logits]
    mass = sum(weights)
    mean = [sum(w * row[i] for w, row in zip(weights, samples, strict=True)) / mass for i in range(len(point))]
    kept, noise = (
        [d_alpha * m for m in mean],
        [d_sigma * (a - alpha * m) / sigma for m, a in zip(mean, point, strict=True)],
    )
    density = largest + mpmath.log(mass) - mpmath.log(len(samples))
    return Exact(
        [a + b for a, b in zip(kept, noise, strict=True)],
        sum(mpmath.sqrt(sum(one * one for one in term)) for term in (kept, noise)),
        density - mpmath.mpf(len(point)) / 2 * mpmath.log(2 * mpmath.pi * sigma**2),
        [weight / mass for weight in weights],
    )


def assert_within_terms(engine: OracleEngine, x: Tensor) -> None:
    """Compare velocities at some points, whose noise may be next to nothing, with the truth: the bar of the terms."""
    found, at = engine.velocity(x, 0.5), coefficients(engine.path, torch.tensor([0.5], dtype=torch.float64))
    with mpmath.workdps(60):
        truths = [exact_answer(engine.data, one, at) for one in x]
        errors = [float(true.error(one) / true.terms) for true, one in zip(truths, found, strict=True)]
    assert_within(torch.tensor(errors), "bar of the terms")
