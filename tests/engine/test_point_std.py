"""Samples with a width are Gaussians: one in closed form, several as many samples around each."""

from __future__ import annotations

import pytest
import torch
from closed_form import gaussian_lattice, gaussian_log_density, normal
from engine_cases import column, predictions, weighted_data
from tolerances import assert_close

from oracle_engine import OracleDataset, OracleEngine, ValueMap
from oracle_engine.paths.paths import PATHS, coefficients


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp", "edm"])
def test_one_sample_with_a_width_is_a_gaussian(generator: torch.Generator, path: str) -> None:
    sample, width = normal(1, 6, generator), 0.4
    engine = OracleEngine(OracleDataset(sample), path, point_std=width)
    t = torch.linspace(0, 0.99, 5, dtype=torch.float64)
    at = coefficients(engine.path, t)
    x = at.alpha_t[:, None] * sample + normal(5, 6, generator)
    total = at.sigma_t.square() + (at.alpha_t * width).square()
    offset = x - at.alpha_t[:, None] * sample
    posterior = engine.posterior(x, t, top_k=1)
    assert_close(posterior.mean, sample + offset * (at.alpha_t * width**2 / total)[:, None], "float64")
    assert_close(engine.score(x, t), -offset / total[:, None], "float64")
    assert_close(posterior.log_density, gaussian_log_density(offset, total.sqrt()), "float64")
    assert_close(posterior.variance, 6 * width**2 * at.sigma_t.square() / total, "float64")


@pytest.mark.parametrize("value_map", [ValueMap(), ValueMap(0.25, -1.0)])
def test_samples_with_a_width_are_many_samples_around_each(generator: torch.Generator, value_map: ValueMap) -> None:
    points, width = normal(7, 1, generator), 0.3
    spread, shares = gaussian_lattice(width)
    weights = torch.rand(7, 1, generator=generator, dtype=torch.float64)
    values = points * value_map.scale + value_map.offset
    many = OracleDataset((values + spread.T).reshape(-1, 1), weights=(weights * shares).reshape(-1))
    t = torch.tensor([0.0, 0.2, 0.5, 0.8], dtype=torch.float64)
    x = normal(4, 1, generator)
    wide = OracleEngine(OracleDataset(points, weights=weights[:, 0], value_map=value_map), point_std=width)
    thin = OracleEngine(many)
    ours, theirs = wide.posterior(x, t, top_k=2), thin.posterior(x, t, top_k=2)
    assert_close(predictions(wide, x, t), predictions(thin, x, t), "quadrature")
    assert_close(ours.log_density, theirs.log_density, "quadrature")
    assert_close(ours.variance, theirs.variance, "quadrature")


@pytest.mark.parametrize("path", sorted(PATHS))
def test_samples_with_a_width_have_answers_at_the_data(generator: torch.Generator, path: str) -> None:
    engine = OracleEngine(weighted_data(generator), path, point_std=0.3)
    x = normal(4, 5, generator)
    just_before = column(1 - 2.0**-50)  # where sigma of linear_vp, a square root, is 4e-8
    assert_close(predictions(engine, x, column(1.0)), predictions(engine, x, just_before), "bar")
