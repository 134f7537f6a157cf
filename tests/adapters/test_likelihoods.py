"""Likelihoods and gradients of other libraries run through the adapters, and agree with the density of the engine."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from closed_form import direct_weights, normal
from flow_matching.solver import ODESolver
from foreign_loops import k_log_likelihood
from tolerances import assert_close
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

from oracle_engine import EDM, OracleDataset, OracleEngine
from oracle_engine.adapters import (
    DDPMDenoiser,
    DiffusersTransformer,
    EDMDenoiser,
    ODEFunction,
    SmallDiffusionModel,
    SolverModel,
    VelocityModel,
)

# asked thousands of times: annotations are checked where the same is asked once
pytestmark = pytest.mark.usefixtures("unchecked")

WIDTH = 0.5


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return OracleDataset(normal(7, 2, generator), torch.arange(7) % 2)


def standard_normal(x: Tensor) -> Tensor:
    return (-0.5 * x.square() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


@pytest.mark.parametrize("labels", [None, 1])
@pytest.mark.parametrize("convention", [None, "flow_matching", "sit"])
def test_flow_matching_computes_the_likelihood_of_the_engine(
    convention: str | None, labels: int | None, data: OracleDataset, generator: torch.Generator
) -> None:
    # samples of some width have a velocity and a density at t = 1
    engine = OracleEngine(data, point_std=WIDTH)
    solver = ODESolver(SolverModel(engine) if convention is None else VelocityModel(engine, convention))
    x = normal(5, 2, generator)
    extras = {} if labels is None else {"labels" if convention is None else "y": torch.full((5,), labels)}
    _, found = solver.compute_likelihood(
        x_1=x,
        log_p0=standard_normal,
        step_size=0.04,
        method="rk4",
        exact_divergence=True,
        time_grid=torch.tensor([1.0, 0.0], dtype=torch.float64),
        **extras,
    )
    expected = engine.log_density(x, 1.0, labels=labels)
    assert float((found - expected).abs().max()) < 1e-4


def test_hutchinsons_estimate_runs_in_single_precision(generator: torch.Generator) -> None:
    # of one value a sample: the estimate is the divergence itself
    engine = OracleEngine(OracleDataset(normal(9, 1, generator)), point_std=WIDTH)
    x = normal(6, 1, generator).float()
    solver = ODESolver(SolverModel(engine))
    _, found = solver.compute_likelihood(x_1=x, log_p0=standard_normal, step_size=0.01, method="midpoint")
    assert float((found - engine.log_density(x, 1.0)).abs().max()) < 3e-3


def test_k_diffusion_computes_the_likelihood_of_the_engine(generator: torch.Generator) -> None:
    # of one value a sample: Hutchinson's estimate is the divergence itself
    data = OracleDataset(normal(9, 1, generator))
    low, high = 0.2, 2e4
    model = EDMDenoiser(OracleEngine(data))
    x = normal(6, 1, generator)
    found = k_log_likelihood(model, x, low, high, tolerance=1e-7)
    expected = OracleEngine(data, EDM(sigma_min=low)).log_density(x, 1.0)
    # the prior leaves out the spread of the data, of order 1e-4 at sigma = 2e4
    assert float((found - expected).abs().max()) < 1e-3


def test_the_adjoint_of_torchdiffeq_is_the_gradient_of_the_flow(
    data: OracleDataset, generator: torch.Generator
) -> None:
    func = ODEFunction(OracleEngine(data))
    grid = torch.linspace(0.0, 0.6, 31, dtype=torch.float64)
    gradients = []
    for solve in (odeint_adjoint, odeint):
        x = normal(3, 2, torch.Generator().manual_seed(5)).requires_grad_()
        end = solve(func, x, grid, method="rk4")[-1]
        gradients.append(torch.autograd.grad(end.square().sum(), x)[0])
    assert_close(gradients[0], gradients[1], "solver", 10.0)
    # and of differences, with the flow solved again from other starts
    start, step = normal(3, 2, torch.Generator().manual_seed(5)), 1e-4
    for place in range(2):
        ends = []
        for sign in (1, -1):
            moved = start.clone()
            moved[:, place] += sign * step
            ends.append(odeint(func, moved, grid, method="rk4")[-1].square().sum(1))
        assert_close((ends[0] - ends[1]) / (2 * step), gradients[1][:, place], "solver", 10.0)


def test_every_adapter_is_differentiable_in_its_states(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    ddpm = DDPMDenoiser(engine, torch.linspace(0.99, 0.01, 100, dtype=torch.float64))
    calls = [
        lambda x: VelocityModel(engine, "sit", check_time=True)(x, 0.4),
        lambda x: VelocityModel(engine, "repa")(x, 0.4, torch.tensor([0, 1, 0]))[0],
        lambda x: VelocityModel(engine, "torchcfm")(torch.full((3,), 0.4), x),
        lambda x: DiffusersTransformer(engine)(x, 400).sample,
        lambda x: SolverModel(engine)(x, 0.4, labels=torch.tensor([0, 1, 0]), guidance=2.0),
        lambda x: ODEFunction(engine)(0.4, x),
        lambda x: EDMDenoiser(engine)(x, 0.7),
        lambda x: SmallDiffusionModel(engine).predict_eps_cfg(x, 0.7, torch.tensor([0, 1, 0]), 1.5),
        lambda x: ddpm.denoise(x, 50),
        lambda x: ddpm.noise(x, 50),
    ]
    for call in calls:
        x = normal(3, 2, generator).requires_grad_()
        assert torch.autograd.gradcheck(call, (x,), eps=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1.0, 1e9])
def test_noise_levels_keep_their_digits_at_every_scale(scale: float, generator: torch.Generator) -> None:
    points = scale * normal(9, 3, generator)
    sigma = scale * torch.logspace(-3, 3, 13, dtype=torch.float64)
    x = points[torch.arange(13) % 9] + sigma[:, None] * normal(13, 3, generator)
    expected = direct_weights(points / scale, x / scale, torch.ones_like(sigma), sigma / scale) @ points
    found = EDMDenoiser(OracleEngine(OracleDataset(points)))(x, sigma)
    assert float((found - expected).norm(dim=1).max()) < 1e-9 * scale


def test_gradients_in_the_noise_level_are_those_of_differences(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x = normal(4, 2, generator)
    calls = [
        lambda level: EDMDenoiser(engine)(x, level),
        lambda level: SmallDiffusionModel(engine)(x, level),
        lambda level: VelocityModel(engine, "sit", check_time=False)(x, level),
        lambda level: VelocityModel(engine, "repa", check_time=False)(x, level)[0],
        lambda level: DiffusersTransformer(engine, check_time=False)(x, 1000 * level).sample,
        lambda level: SolverModel(engine)(x, level),
        lambda level: ODEFunction(engine)(level[0], x),
    ]
    for call in calls:
        level = torch.full((4,), 0.45, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(call, (level,), eps=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_of_functions_go_through_the_adapters(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x, along = normal(3, 2, generator), normal(3, 2, generator)
    ddpm = DDPMDenoiser(engine, torch.linspace(0.99, 0.01, 100, dtype=torch.float64))
    calls: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]] = [
        (lambda x: VelocityModel(engine, "sit")(x, 0.4), lambda x: engine.velocity(x, 0.4)),
        (lambda x: VelocityModel(engine, "repa")(x, 0.4)[0], lambda x: -engine.velocity(x, 1 - 0.4)),
        (lambda x: SolverModel(engine)(x, 0.4), lambda x: engine.velocity(x, 0.4)),
        (lambda x: EDMDenoiser(engine)(x, 0.7), None),
        (lambda x: SmallDiffusionModel(engine)(x, 0.7), None),
        (lambda x: ddpm.denoise(x, 50), None),
    ]
    for call, same in calls:
        value, slope = tuple(torch.func.jvp(call, (x,), (along,)))
        differences = (call(x + 1e-6 * along) - call(x - 1e-6 * along)) / 2e-6
        assert float((slope - differences).abs().max()) < 1e-6
        assert same is None or torch.equal(value, same(x))
        batched = torch.func.vmap(call)(torch.stack([x, x + along]))
        assert torch.allclose(batched, torch.stack([call(x), call(x + along)]), atol=1e-12)
        gradient = torch.func.vjp(call, x)[1](along)[0]
        assert abs(float((gradient * along).sum() - (slope * along).sum())) < 1e-9
