"""Schedulers of flow_matching are paths, its path samples get the oracle, and its solvers and torchdiffeq run it."""

from __future__ import annotations

import pytest
import torch
from adapter_cases import assert_is_projection, one_sample, small_images
from closed_form import nearest, normal
from flow_matching.path import AffineProbPath, CondOTProbPath, MixtureDiscreteProbPath
from flow_matching.path.scheduler import (
    CondOTScheduler,
    CosineScheduler,
    LinearVPScheduler,
    PolynomialConvexScheduler,
    VPScheduler,
)
from flow_matching.solver import ODESolver
from tolerances import assert_close, assert_rows_close
from torchdiffeq import odeint

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.adapters import ODEFunction, SolverModel, with_oracle
from oracle_engine.paths.time_grids import sampling_times
from oracle_engine.samplers.runs import initial_noise, sample

SCHEDULES = {
    "rectified_flow": CondOTScheduler(),
    "gvp": CosineScheduler(),
    "vp": VPScheduler(),
    "linear_vp": LinearVPScheduler(),
    "polynomial": PolynomialConvexScheduler(n=2),
}


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return small_images(generator)


@pytest.fixture
def single(generator: torch.Generator) -> OracleEngine:
    return one_sample(generator)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedulers_of_flow_matching_are_paths(name: str, data: OracleDataset, generator: torch.Generator) -> None:
    x, t = torch.randn(9, 2, 3, 4, generator=generator), torch.linspace(0.01, 0.99, 9)
    theirs, ours = OracleEngine(data, SCHEDULES[name]), OracleEngine(data, name)
    assert_rows_close(theirs.velocity(x, t), ours.velocity(x, t), "bar")


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_path_sample_gets_the_mean_of_its_targets(name: str, generator: torch.Generator) -> None:
    data = OracleDataset(1 + 2 * normal(12, 2, generator))
    path = AffineProbPath(SCHEDULES[name])
    x_1 = data[torch.randint(12, (4000,), generator=generator)]
    x_0 = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    drawn = path.sample(x_0=x_0, x_1=x_1, t=torch.rand(4000, generator=generator, dtype=torch.float64) * 0.95)
    replaced = with_oracle(drawn, OracleEngine(data, path.scheduler))
    assert type(replaced) is type(drawn)
    for unchanged in ("x_0", "x_1", "x_t", "t"):
        assert getattr(replaced, unchanged) is getattr(drawn, unchanged)
    assert_is_projection(replaced.dx_t, drawn.dx_t, drawn.x_t)


def test_a_path_sample_that_is_not_on_the_path_of_the_engine(data: OracleDataset) -> None:
    x_1 = data[torch.arange(20)].float()
    drawn = CondOTProbPath().sample(x_0=torch.randn_like(x_1), x_1=x_1, t=torch.rand(20))
    conditional = with_oracle(drawn, OracleEngine(data), labels=torch.arange(20) % 4)
    assert torch.equal(conditional.dx_t, OracleEngine(data).velocity(drawn.x_t, drawn.t, labels=torch.arange(20) % 4))
    with pytest.raises(InputError, match=r"must have x_t = alpha x_1 \+ sigma x_0.*path.scheduler"):
        with_oracle(drawn, OracleEngine(data, "vp"))
    drawn.t = 1 - drawn.t
    with pytest.raises(InputError, match=r"must have x_t = alpha x_1 \+ sigma x_0"):
        with_oracle(drawn, OracleEngine(data))
    uniform = CondOTProbPath().sample(x_0=torch.rand_like(x_1), x_1=x_1, t=torch.rand(20))
    with pytest.raises(InputError, match="`x0` must be standard normal noise"):
        with_oracle(uniform, OracleEngine(data))
    discrete = MixtureDiscreteProbPath(PolynomialConvexScheduler(1.0))
    tokens = torch.zeros(4, 3, dtype=torch.long)
    with pytest.raises(InputError, match=r"must be a PathSample of an affine path.*DiscretePathSample without dx_t"):
        with_oracle(discrete.sample(tokens, tokens, torch.rand(4)), OracleEngine(data))


def test_the_solver_of_flow_matching_takes_the_oracle(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x, labels = initial_noise(engine, 5, generator=generator), torch.arange(5) % 4
    solver = ODESolver(SolverModel(engine))
    grid = torch.linspace(0, 1, 13, dtype=torch.float64)
    solved = solver.sample(x_init=x, step_size=None, method="euler", time_grid=grid, labels=labels, guidance=2.0)
    expected = sample(engine, x, sampling_times(12), labels=labels, guidance=2.0).x
    assert_rows_close(solved, expected, "bar")
    assert_rows_close(solved, nearest(solved, data)[0], "landing")


def test_adaptive_methods_need_the_time_clamped(data: OracleDataset, generator: torch.Generator) -> None:
    x = initial_noise(OracleEngine(data), 3, generator=generator)
    with pytest.raises(InputError, match=r"OracleEngine\(t_max=0.999\): adaptive solvers step over the end"):
        ODESolver(SolverModel(OracleEngine(data))).sample(x_init=x, step_size=None, method="dopri5")
    engine = OracleEngine(data, t_max=0.999)
    solved = ODESolver(SolverModel(engine)).sample(
        x_init=x, step_size=None, method="dopri5", time_grid=torch.tensor([0.0, 0.999])
    )
    assert_rows_close(solved, nearest(solved, data)[0], "near a sample")


def test_torchdiffeq_takes_the_oracle(single: OracleEngine, data: OracleDataset, generator: torch.Generator) -> None:
    x = normal(3, 24, generator)
    grid = torch.linspace(0, 0.9, 4, dtype=torch.float64)
    # with one sample the lines are straight
    single = OracleEngine(single.data, t_max=0.999)
    lines = torch.stack([t * single.data[0] + (1 - t) * x for t in grid])
    for method in ("euler", "rk4", "dopri5"):
        assert_close(odeint(ODEFunction(single), x, grid, method=method), lines, "solver")
    labels = torch.tensor([1, 1, 1])
    ends = odeint(
        ODEFunction(OracleEngine(data), labels, 1.5), x.reshape(3, 2, 3, 4), sampling_times(12), method="euler"
    )
    for end in ends[-1]:
        index = int((data[torch.arange(40)] - end).flatten(1).norm(dim=1).argmin())
        assert index % 4 == 1
