"""Moved or rotated data move or rotate the answers; another path, prediction or way to count leaves them alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from closed_form import generators, normal, times
from engine_cases import assert_same_posterior, column, predictions, weighted_data
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import EDM, OracleDataset, OracleEngine, RectifiedFlow
from oracle_engine.paths.paths import PATHS, coefficients


@settings(max_examples=12)
@given(generators(), times(largest=0.99), st.sampled_from(sorted(PATHS)))
def test_moving_the_data_moves_the_answers(generator: torch.Generator, t: float, path: str) -> None:
    points, weights, move = normal(60, 5, generator), torch.rand(60, generator=generator), 3 * normal(1, 5, generator)
    data, moved = (OracleDataset(samples, weights=weights) for samples in (points, points + move))
    first, second = OracleEngine(data, path), OracleEngine(moved, path)
    at = coefficients(first.path, torch.full((4,), t, dtype=torch.float64))
    alpha, d_alpha = at.alpha_t[0], at.d_alpha_t[0]
    x = alpha * data[:4] + at.sigma_t[0] * normal(4, 5, generator)
    shift = torch.stack([d_alpha * move, move, 0 * move, 0 * move])
    size = 1 + predictions(first, x, column(t)).abs().amax((1, 2), keepdim=True)
    difference = predictions(second, x + alpha * move, column(t)) - predictions(first, x, column(t)) - shift
    assert_within(difference / size, "bar")
    ours, theirs = first.posterior(x, column(t)), second.posterior(x + alpha * move, column(t))
    assert_close(theirs.log_density, ours.log_density, "bar")
    assert_close(theirs.variance, ours.variance, "bar")


@settings(max_examples=8)
@given(generators(), times(largest=0.99))
def test_rotating_the_data_rotates_the_answers(generator: torch.Generator, t: float) -> None:
    data = OracleDataset(normal(60, 40, generator))
    rotation = torch.linalg.qr(normal(40, 40, generator)).Q
    first, second = OracleEngine(data), OracleEngine(OracleDataset(data[:] @ rotation))
    x = t * data[:4] + (1 - t) * normal(4, 40, generator)
    assert_rows_close(second.velocity(x @ rotation, column(t)), first.velocity(x, column(t)) @ rotation, "bar")
    assert_same_posterior(
        second.posterior(x @ rotation, column(t)),
        replace(first.posterior(x, column(t)), mean=first.denoiser(x, column(t)) @ rotation),
        "bar",
    )


@pytest.mark.parametrize("path", sorted(PATHS))
@pytest.mark.parametrize("point_std", [0.0, 0.2])
def test_the_four_predictions_say_the_same_on_every_path(
    generator: torch.Generator, path: str, point_std: float
) -> None:
    engine = OracleEngine(weighted_data(generator), path, point_std=point_std)
    t = torch.linspace(0, 0.98, 7, dtype=torch.float64)
    x = normal(7, 5, generator)
    velocity, denoiser, score, noise = predictions(engine, x, t)
    at = coefficients(engine.path, t)
    alpha, sigma, d_alpha, d_sigma = (v[:, None] for v in (at.alpha_t, at.sigma_t, at.d_alpha_t, at.d_sigma_t))
    assert_close(alpha * denoiser + sigma * noise, x, "float64")
    assert_close(score, -noise / sigma, "float64")
    assert_close(velocity, d_alpha * denoiser + d_sigma * noise, "float64")
    posterior = engine.posterior(x, t)
    assert_close(posterior.mean, denoiser, "float64")
    assert_close(posterior.log_density, engine.log_density(x, t), "float64")
    assert torch.equal(engine(x, t), velocity)


def test_paths_that_differ_by_scalars_agree(generator: torch.Generator) -> None:
    # x / alpha and sigma / alpha are all that matters: any path is the EDM path in other units
    data, t = weighted_data(generator), torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    levels = EDM(sigma_min=1e-3, sigma_max=100.0)
    edm, x = OracleEngine(data, levels), normal(5, 5, generator)
    for name in ("rectified_flow", "gvp", "vp", "linear_vp", "polynomial"):
        engine = OracleEngine(data, name)
        at = coefficients(engine.path, t)
        when = levels.time_of(at.sigma_t / at.alpha_t)
        assert_close(engine.denoiser(x, t), edm.denoiser(x / at.alpha_t[:, None], when), "float64")


class OtherScheduler:
    """A scheduler of another library: a callable that returns an object with four attributes."""

    def __call__(self, t: Tensor) -> Any:
        return SimpleNamespace(alpha_t=t, sigma_t=1 - t, d_alpha_t=torch.ones_like(t), d_sigma_t=-torch.ones_like(t))


def test_a_scheduler_of_another_library_is_a_path(generator: torch.Generator) -> None:
    data, x, t = weighted_data(generator), normal(6, 5, generator), torch.linspace(0, 0.9, 6, dtype=torch.float64)
    ours, theirs = OracleEngine(data, RectifiedFlow()), OracleEngine(data, OtherScheduler())
    assert torch.equal(predictions(ours, x, t), predictions(theirs, x, t))


@pytest.mark.parametrize("dim", [3, 50])
def test_a_weight_of_two_is_a_duplicate_and_a_weight_of_zero_is_no_sample(generator: torch.Generator, dim: int) -> None:
    points = normal(30, dim, generator).float()
    copies = torch.arange(30) % 3
    weighted = OracleEngine(OracleDataset(points, weights=copies))
    repeated = OracleEngine(OracleDataset(points.repeat_interleave(copies, 0)))
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)
    x = t[:, None] * points[1:6] + (1 - t[:, None]) * normal(5, dim, generator)
    assert_rows_close(weighted.velocity(x, t), repeated.velocity(x, t), "bar")
    ours, theirs = weighted.posterior(x, t), repeated.posterior(x, t)
    assert_close(ours.log_density, theirs.log_density, "moment")
    assert_close(ours.variance, theirs.variance, "moment")
    # the copies of a sample share its weight
    assert_close(ours.entropy, theirs.entropy - expected_log_copies(weighted, x, t, copies), "moment")


def expected_log_copies(engine: OracleEngine, x: Tensor, t: Tensor, copies: Tensor) -> Tensor:
    posterior = engine.posterior(x, t, top_k=len(copies))
    logs = copies.double().clamp_min(1).log()[posterior.top_indices.clamp_min(0)]
    return (posterior.top_weights * logs).sum(1)
