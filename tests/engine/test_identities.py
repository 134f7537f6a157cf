"""What the theory says of the oracle holds of the engine: known answers, derivatives, averages, ends of runs."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from closed_form import Problem, gaussian_log_density, generators, normal, problems, stored_as, times
from engine_cases import column, weighted_data
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, ValueMap
from oracle_engine.kernels import Query, Span, reference_logits
from oracle_engine.paths.paths import coefficients


@given(problems(), st.sampled_from([torch.float32, torch.float64]))
def test_problems_with_known_answers(problem: Problem, storage: torch.dtype) -> None:
    engine = OracleEngine(OracleDataset(problem.points, weights=problem.weights, storage=storage))
    velocity = engine.velocity(problem.x, problem.t)
    noise = (problem.x - problem.t[:, None] * problem.denoiser) / (1 - problem.t)[:, None]
    assert_rows_close(velocity, problem.velocity, "bar", problem.denoiser.norm(dim=1) + noise.norm(dim=1))
    posterior = engine.posterior(problem.x, problem.t, top_k=1)
    # the mean counts in units of what competes at this time
    reach = ((1 - problem.t) / problem.t).clamp_max(1) * problem.points.norm(dim=1).max() + 1e-3
    assert_rows_close(posterior.mean, problem.denoiser, "bar", reach)
    assert_close(posterior.log_density, problem.log_density, "moment")
    assert_close(posterior.ess, problem.ess, "moment")
    assert_close(posterior.entropy, problem.entropy, "moment")
    assert_close(posterior.variance, problem.variance, "moment", problem.points.square().sum(1).max())


@given(generators(), times(smallest=0.0, largest=0.9))
def test_two_opposite_samples_give_a_tanh(generator: torch.Generator, t: float) -> None:
    atom, x = normal(1, 3, generator), normal(5, 3, generator)
    engine = OracleEngine(OracleDataset(torch.cat([atom, -atom])))
    expected = torch.tanh(t / (1 - t) ** 2 * (x @ atom.T)) * atom
    assert_close(engine.denoiser(x, column(t)), expected, "float64")


@pytest.mark.parametrize("weights", [None, torch.arange(60.0)])
def test_at_the_noise_the_denoiser_is_the_mean(generator: torch.Generator, weights: Tensor | None) -> None:
    data = weighted_data(generator, weights=weights)
    engine, x = OracleEngine(data), normal(3, 5, generator)
    share = torch.full((60,), 1 / 60, dtype=torch.float64) if weights is None else weights.double() / weights.sum()
    mean = (share @ data[:]).expand(3, 5)
    assert_close(engine.denoiser(x, 0.0), mean, "float64")
    assert_close(engine.velocity(x, 0.0), mean - x, "float64")
    posterior = engine.posterior(x, 0.0)
    assert_close(posterior.ess, (1 / share.square().sum()).expand(3), "float64")
    assert_close(posterior.log_density, gaussian_log_density(x, torch.ones(3, dtype=torch.float64)), "float64")


@pytest.mark.parametrize("scale", [1.0, 0.02])
@pytest.mark.parametrize("path", ["rectified_flow", "vp", "edm"])
def test_the_score_is_the_gradient_of_the_log_density(generator: torch.Generator, scale: float, path: str) -> None:
    data = weighted_data(generator, value_map=ValueMap(scale, -0.5))
    rows, engine = data.rows, OracleEngine(data, path)
    t = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    at = coefficients(engine.path, t)
    alpha, sigma = at.alpha_t, at.sigma_t
    x = (alpha[:, None] * data[:6] + scale * sigma[:, None] * normal(6, 5, generator)).requires_grad_()
    query = Query(
        (x - alpha[:, None] * data.base) / scale, alpha, scale**2 / sigma.square(), torch.empty(6, 0, 2).long()
    )
    constant = 0.5 * data.dim * (2 * math.pi * sigma.square()).log()
    log_density = reference_logits(rows, query, Span(0, len(rows))).logsumexp(1) - constant
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    assert_close(engine.log_density(x, t), log_density.detach(), "float64")
    assert_close(engine.score(x, t), gradient, "float64")


def test_the_divergence_of_the_denoiser_is_the_trace_of_the_covariance(generator: torch.Generator) -> None:
    engine = OracleEngine(weighted_data(generator))
    t = torch.linspace(0.1, 0.8, 8, dtype=torch.float64)
    x, step = t[:, None] * engine.data[:8] + (1 - t[:, None]) * normal(8, 5, generator), 1e-4
    trace = torch.zeros(8, dtype=torch.float64)
    for axis in torch.eye(5, dtype=torch.float64):
        rise = engine.denoiser(x + step * axis, t) - engine.denoiser(x - step * axis, t)
        trace += rise @ axis / (2 * step)
    assert_close(engine.posterior(x, t).variance * t / (1 - t).square(), trace, "finite difference")


def path_draws(data: OracleDataset, count: int, t: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices of equally likely samples, the noise, and the queries they make."""
    index = torch.randint(len(data), (count,), generator=generator)
    noise = normal(count, data.dim, generator)
    return index, noise, t * data[index] + (1 - t) * noise


def assert_zero_mean(values: Tensor) -> None:
    """Fail where the mean of independent draws is too many standard errors away from zero."""
    assert_within(values.mean() / (values.std() / math.sqrt(len(values))), "standard errors")


@pytest.mark.parametrize("t", [0.1, 0.25, 0.4])
def test_the_sample_that_made_a_query_weighs_what_one_over_ess_says(generator: torch.Generator, t: float) -> None:
    data = OracleDataset(normal(100, 12, generator).float().double())
    index, _, x = path_draws(data, 3000, t, generator)
    posterior = OracleEngine(data).posterior(x, t, top_k=100)
    own = (posterior.top_weights * (posterior.top_indices == index[:, None])).sum(1)
    assert float((own - 1 / posterior.ess).abs().max()) > 0.01
    assert_zero_mean(own - 1 / posterior.ess)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "edm"])
def test_the_loss_is_the_distance_to_the_oracle_and_its_own(generator: torch.Generator, path: str) -> None:
    data, t = OracleDataset(normal(100, 12, generator)), column(0.3)
    engine = OracleEngine(data, path)
    at = coefficients(engine.path, t.reshape(1))
    index = torch.randint(100, (3000,), generator=generator)
    eps = normal(3000, 12, generator)
    target = at.d_alpha_t * data[index] + at.d_sigma_t * eps
    x = at.alpha_t * data[index] + at.sigma_t * eps
    velocity = engine.velocity(x, t)
    floor = (at.d_alpha_t - at.alpha_t * at.d_sigma_t / at.sigma_t).square() * engine.posterior(x, t).variance
    assert_zero_mean((target - velocity).square().sum(1) - floor)
    # any other field loses its distance to the oracle on top
    other = torch.tanh(x) + velocity
    excess = (target - other).square().sum(1) - (target - velocity).square().sum(1)
    assert_zero_mean(excess - (other - velocity).square().sum(1))


@pytest.mark.parametrize(
    "options", [{}, {"labels": 1}, {"labels": torch.tensor([[0, 2]])}, {"exclude": 5}, {"labels": 2, "exclude": 9}]
)
@pytest.mark.parametrize(("path", "point_std"), [("rectified_flow", 0.0), ("edm", 0.0), ("vp", 0.3)])
def test_densities_integrate_to_one(
    generator: torch.Generator, options: dict[str, Any], path: str, point_std: float
) -> None:
    data = weighted_data(generator, 60, 1, value_map=ValueMap(0.5, 1.0))
    engine = OracleEngine(data, path, point_std=point_std)
    for t in (0.1, 0.4, 0.6):
        at = coefficients(engine.path, torch.tensor([t], dtype=torch.float64))
        width = float((at.sigma_t.square() + (at.alpha_t * point_std).square()).sqrt())
        reach = 12 * width + 4
        grid = torch.arange(-reach, reach, width / 4, dtype=torch.float64)[:, None]
        given = {k: v.expand(len(grid), -1) if isinstance(v, Tensor) else v for k, v in options.items()}
        total = engine.log_density(grid, t, **given).exp().sum() * width / 4
        assert_within(total - 1, "quadrature")


@pytest.mark.parametrize("path", ["rectified_flow", "polynomial"])
def test_following_the_oracle_ends_on_a_training_sample(generator: torch.Generator, path: str) -> None:
    data = OracleDataset(normal(50, 16, generator).float())
    engine, x = OracleEngine(data, path), normal(10, 16, generator)
    steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    for t, following in pairwise(steps):
        # the path's own step: from x = alpha xhat + sigma eps to the same pair at the next time
        at = coefficients(engine.path, torch.stack([t, following]))
        x = at.alpha_t[1] * engine.denoiser(x, t) + at.sigma_t[1] * engine.noise(x, t)
    distance, nearest = torch.cdist(x, data[:].double()).min(1)
    assert_within(distance, "landing")
    assert len(nearest.unique()) > 1


def test_euler_steps_of_the_velocity_end_on_a_training_sample(generator: torch.Generator) -> None:
    data = OracleDataset(stored_as(normal(50, 16, generator), torch.uint8))
    engine, x = OracleEngine(data), normal(10, 16, generator)
    for step in range(100):
        x = x + engine.velocity(x, column(step / 100)) / 100
    values = data.rows.stored.double() * 2 / 255 - 1
    assert_within(torch.cdist(x, values).min(1).values, "landing")
