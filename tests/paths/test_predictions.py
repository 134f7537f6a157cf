"""Velocity, denoiser, score and noise fit together on every path, and stay finite at the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from path_cases import CASES
from tolerances import assert_close

from oracle_engine.paths.paths import coefficients
from oracle_engine.paths.predictions import Prediction


@pytest.mark.parametrize(("name", "path"), CASES)
@pytest.mark.parametrize("point_std", [0.0, 0.3])
def test_predictions_fit_together_on_every_path(
    generator: torch.Generator, name: str, path: Any, point_std: float
) -> None:
    x, mean = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    c = coefficients(path, torch.linspace(0, 0.99, 9, dtype=torch.float64))
    p = Prediction(x, mean, c, point_std)
    alpha, sigma, d_alpha, d_sigma = (v[:, None] for v in (c.alpha_t, c.sigma_t, c.d_alpha_t, c.d_sigma_t))
    assert_close(alpha * p.denoiser + sigma * p.noise, x, "float64")
    assert_close(d_alpha * p.denoiser + d_sigma * p.noise, p.velocity, "float64")
    assert_close(p.noise, -sigma * p.score, "float64")


@pytest.mark.parametrize(("name", "path"), CASES)
def test_samples_with_a_width_have_a_velocity_at_the_data(name: str, path: Any) -> None:
    x, mean = torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    # the limit is reached smoothly, so the velocity just before the end is that of the end
    ends = coefficients(path, torch.tensor([1 - 2.0**-40, 1.0], dtype=torch.float64))
    velocity = Prediction(x, mean, ends, 0.5).velocity
    assert_close(velocity[1], velocity[0], "bar")
