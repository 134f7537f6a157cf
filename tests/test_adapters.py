"""Each adapter gives what the other library would, in its own direction of time, sign and call shape."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import other_libraries
import pytest
import torch
from closed_form import direct_weights, normal, values_of
from flow_matching.path import AffineProbPath, CondOTProbPath, MixtureDiscreteProbPath
from flow_matching.path.scheduler import (
    CondOTScheduler,
    CosineScheduler,
    LinearVPScheduler,
    PolynomialConvexScheduler,
    VPScheduler,
)
from flow_matching.solver import ODESolver
from other_libraries import MATCHERS, SCHEDULERS, SMALL_SAMPLERS
from scipy.optimize import linear_sum_assignment
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor
from torchdiffeq import odeint

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.adapters import (
    CONVENTIONS,
    Convention,
    DDPMDenoiser,
    DiffusersTransformer,
    EDMDenoiser,
    ODEFunction,
    OracleMatcher,
    SmallDiffusionModel,
    SolverModel,
    TransformerOutput,
    VelocityModel,
    matcher_path,
    scheduler_times,
    with_oracle,
)
from oracle_engine.samplers import initial_noise, noised, sample, sampling_times, shifted

KINDS = ["ConditionalFlowMatcher", "TargetConditionalFlowMatcher", "VariancePreservingConditionalFlowMatcher"]
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return OracleDataset(normal(40, 24, generator).reshape(40, 2, 3, 4), torch.arange(40) % 4)


@pytest.fixture
def single(generator: torch.Generator) -> OracleEngine:
    """One sample: the oracle is the conditional velocity of the pair that made x."""
    return OracleEngine(OracleDataset(normal(1, 24, generator)))


def nearest(x: Tensor, data: OracleDataset) -> Tensor:
    """Return the nearest samples, like x."""
    points = data[torch.arange(len(data))].to(x.dtype)
    return points[torch.cdist(x.flatten(1), points.flatten(1)).argmin(1)]


def assert_is_projection(target: Tensor, conditional: Tensor, x: Tensor) -> None:
    """Check E[(u - v) f(x)] = 0, which says that v is E[u | x], for f = 1, x and v."""
    rest = (conditional - target).double()
    for weight in (torch.ones_like(rest), x.double(), target.double()):
        terms = (rest * weight).sum(1)
        assert_within(terms.mean() / (terms.std() / len(terms) ** 0.5), "standard errors")


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", MATCHERS, ids=lambda library: library.__name__.split(".")[0])
def test_the_target_of_a_matcher_is_the_mean_of_its_conditional_targets(
    library: Any, kind: str, sigma: float, generator: torch.Generator
) -> None:
    matcher = getattr(library, kind)(sigma=sigma)
    data = OracleDataset(1 + 2 * normal(12, 2, generator))
    oracle = OracleMatcher(matcher, OracleEngine(data, matcher_path(matcher)))
    x1 = data[torch.randint(12, (4000,), generator=generator)]
    x0, t = (
        torch.randn(4000, 2, generator=generator, dtype=torch.float64),
        torch.rand(4000, generator=generator).double(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        times, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1, t)
        torch.manual_seed(0)
        again, same, target = oracle.sample_location_and_conditional_flow(x0, x1, t)
    assert torch.equal(times, again)
    assert torch.equal(xt, same)
    assert not torch.equal(ut, target)
    assert_is_projection(target, ut, xt)


def test_a_matcher_is_replaced_in_one_line(data: OracleDataset) -> None:
    matcher = other_libraries.ConditionalFlowMatcher(sigma=0.0)
    oracle = OracleMatcher(matcher, OracleEngine(data))
    assert oracle.sigma == 0.0
    x1, labels = data[torch.arange(20)].float(), torch.arange(20) % 4
    t, xt, ut, eps = oracle.sample_location_and_conditional_flow(torch.randn_like(x1), x1, None, True, labels)
    assert torch.equal(ut, OracleEngine(data).velocity(xt, t, labels=labels))
    assert ut.dtype == torch.float32
    assert eps.shape == x1.shape


@pytest.mark.parametrize(
    "kind", ["ExactOptimalTransportConditionalFlowMatcher", "SchrodingerBridgeConditionalFlowMatcher"]
)
@pytest.mark.parametrize("library", MATCHERS, ids=lambda library: library.__name__.split(".")[0])
def test_couplings_without_a_closed_form_are_refused(library: Any, kind: str, data: OracleDataset) -> None:
    matcher = getattr(library, kind)(sigma=1.0)
    with pytest.raises(InputError, match=f"must pair noise and data independently.*batch size.*received {kind}"):
        OracleMatcher(matcher, OracleEngine(data))


def test_pairs_made_by_optimal_transport_are_found_out(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x_1 = data[torch.randint(40, (32,), generator=generator)]
    x_0, t = torch.randn(x_1.shape, generator=generator, dtype=torch.float64), torch.rand(32, generator=generator)
    order = linear_sum_assignment(torch.cdist(x_1.flatten(1), x_0.flatten(1)).square().numpy())[1]
    paired = CondOTProbPath().sample(x_0=x_0[order], x_1=x_1, t=t.double())
    matcher = OracleMatcher(other_libraries.ConditionalFlowMatcher(), engine)
    with pytest.raises(InputError, match=r"`x0` must pair noise and data independently.*correlated by \d+ standard"):
        with_oracle(paired, engine)
    with pytest.raises(InputError, match="`x0` must pair noise and data independently"):
        matcher.sample_location_and_conditional_flow(x_0[order], x_1)
    with_oracle(CondOTProbPath().sample(x_0=x_0, x_1=x_1, t=t.double()), engine)
    matcher.sample_location_and_conditional_flow(x_0, x_1)


def test_matchers_that_do_not_fit_are_refused(data: OracleDataset) -> None:
    class Own(other_libraries.ConditionalFlowMatcher):
        pass

    engine, x1 = OracleEngine(data), data[torch.arange(20)]
    with pytest.raises(InputError, match=r"`matcher` must be one of ConditionalFlowMatcher.*received Own"):
        OracleMatcher(Own(), engine)
    with pytest.raises(InputError, match=r"`engine` must be on the path of the matcher.*matcher_path\(matcher\)"):
        OracleMatcher(other_libraries.ConditionalFlowMatcher(0.5), engine)
    oracle = OracleMatcher(other_libraries.ConditionalFlowMatcher(), engine)
    with pytest.raises(InputError, match=r"`x0` must be standard normal noise; received a mean square of 0\.3"):
        oracle.sample_location_and_conditional_flow(torch.rand_like(x1), x1)


SCHEDULES = {
    "rectified_flow": CondOTScheduler(),
    "gvp": CosineScheduler(),
    "vp": VPScheduler(),
    "linear_vp": LinearVPScheduler(),
    "polynomial": PolynomialConvexScheduler(n=2),
}


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
    assert_rows_close(solved, nearest(solved, data), "landing")


def test_adaptive_methods_need_the_time_clamped(data: OracleDataset, generator: torch.Generator) -> None:
    x = initial_noise(OracleEngine(data), 3, generator=generator)
    with pytest.raises(InputError, match=r"OracleEngine\(t_max=0.999\): adaptive solvers step over the end"):
        ODESolver(SolverModel(OracleEngine(data))).sample(x_init=x, step_size=None, method="dopri5")
    engine = OracleEngine(data, t_max=0.999)
    solved = ODESolver(SolverModel(engine)).sample(
        x_init=x, step_size=None, method="dopri5", time_grid=torch.tensor([0.0, 0.999])
    )
    assert_rows_close(solved, nearest(solved, data), "near a sample")


def test_a_gradient_through_the_oracle_is_refused(data: OracleDataset) -> None:
    solver = ODESolver(SolverModel(OracleEngine(data, t_max=0.9)))
    with pytest.raises(InputError, match=r"`x` must not require a gradient.*engine.log_density for likelihoods"):
        solver.compute_likelihood(data[torch.arange(2)].float(), lambda x: x.sum(), step_size=0.5)


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


@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions_follow_the_time_and_sign_of_the_project(
    name: str, single: OracleEngine, generator: torch.Generator
) -> None:
    point, eps = single.data[0], normal(6, 24, generator)
    share = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)[:, None]
    model = VelocityModel(single, name)
    if name in ("repa", "diffusers"):
        # their time is the share of noise, and the network learns noise - data
        x, expected = share * eps + (1 - share) * point, eps - point
        t = 1000 * share[:, 0] if name == "diffusers" else share[:, 0]
    else:
        x, expected, t = (1 - share) * eps + share * point, point - eps, share[:, 0]
    assert_close(model(x, t), expected, "float64", 10.0)
    assert_close(model(x[:1], float(t[0])), expected[:1], "float64", 10.0)


def test_the_null_label_of_a_network_means_no_class(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x, y = torch.randn(4, 2, 3, 4, generator=generator), torch.tensor([0, 4, 2, 4])
    expected = engine.velocity(x, 0.3, labels=torch.tensor([0, -1, 2, -1]))
    assert torch.equal(VelocityModel(engine, "sit", null_label=4)(x, 0.3, y), expected)
    guided = VelocityModel(engine, Convention(), null_label=4)(x, 0.3, y, guidance=3.0)
    assert torch.equal(guided, engine.velocity(x, 0.3, labels=torch.tensor([0, -1, 2, -1]), guidance=3.0))
    with pytest.raises(InputError, match="`labels` must be classes of the data"):
        VelocityModel(engine, "sit")(x, 0.3, y)
    with pytest.raises(InputError, match=r"`convention` must be one of flow_matching.*received 'sd3'"):
        VelocityModel(engine, "sd3")


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp"])
@pytest.mark.parametrize("dim", [2, 300])
def test_times_are_accepted_in_their_direction_and_refused_in_the_other(
    path: str, dim: int, generator: torch.Generator
) -> None:
    # unit variance in every direction: the norm of x alone says nothing
    engine = OracleEngine(OracleDataset(normal(500, dim, generator)), path)
    t = torch.linspace(0.01, 0.99, 64, dtype=torch.float64)
    x = torch.cat([noised(engine, engine.data[i : i + 1], float(t[i]), generator=generator) for i in range(64)])
    right, wrong = VelocityModel(engine, "sit"), VelocityModel(engine, "repa")
    right(x, t)
    for one in range(0, 64, 4):
        right(x[one : one + 1], t[one])
    assert wrong(x, 1 - t).shape == x.shape
    if dim > 2:
        with pytest.raises(InputError, match=r"`t` seems to run the other way.*check_time=False accepts"):
            right(x, 1 - t)
        with pytest.raises(InputError, match=r"`t` seems to run the other way"):
            wrong(x, t)
    VelocityModel(engine, "sit", check_time=False)(x, 1 - t)


def test_coarse_runs_of_a_poor_model_are_not_taken_for_reversed(
    data: OracleDataset, generator: torch.Generator
) -> None:
    engine = OracleEngine(data)
    judged = VelocityModel(engine, "sit")

    def model(x: Tensor, t: Tensor) -> Tensor:
        return 0.8 * judged(x, t) + 0.1

    x = initial_noise(engine, 16, generator=generator)
    assert bool(sample(model, x, sampling_times(12)).x.isfinite().all())


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("library", SCHEDULERS, ids=lambda library: library.__module__.split(".")[0])
def test_diffusers_steps_the_oracle(
    library: Any, shift: float, data: OracleDataset, generator: torch.Generator
) -> None:
    engine, scheduler = OracleEngine(data), library(shift=shift)
    transformer = DiffusersTransformer(engine)
    scheduler.set_timesteps(12)
    labels, x = torch.arange(4), initial_noise(engine, 4, generator=generator).float()
    start = x
    for t in scheduler.timesteps:
        output = transformer(x, timestep=t.expand(4), class_labels=labels, return_dict=False)
        named = transformer(x, t, labels)
        assert isinstance(output, tuple)
        assert isinstance(named, TransformerOutput)
        assert torch.equal(named.sample, output[0])
        x = scheduler.step(output[0], t, x).prev_sample
    assert_rows_close(x, nearest(x, data), "float32 steps")
    times = scheduler_times(scheduler)
    assert_rows_close(x, sample(engine, start, times, labels=labels).x, "float32 steps")
    plain = library()
    plain.set_timesteps(12)
    if shift == 1.0:
        assert torch.equal(times, scheduler_times(plain))
    elif library is other_libraries.FlowMatchScheduler:
        assert_close(times, shifted(scheduler_times(plain), 1 / shift), "float32 steps")


def test_schedules_of_another_path_are_refused() -> None:
    with pytest.raises(InputError, match=r"`scheduler` must have sigmas in \[0, 1\]; received sigmas up to 14.6"):
        scheduler_times(type("Euler", (), {"sigmas": torch.tensor([14.6, 0.03, 0.0])}))


def test_edm_denoiser_is_the_posterior_mean_at_every_noise(data: OracleDataset, generator: torch.Generator) -> None:
    sigma = torch.logspace(-3, 3, 13, dtype=torch.float64)
    x = values_of(data)[:13] + sigma[:, None] * normal(13, 24, generator)
    expected = direct_weights(values_of(data), x, torch.ones_like(sigma), sigma) @ values_of(data)
    # the path of the engine does not matter
    for path in ("rectified_flow", "edm", "vp"):
        model = EDMDenoiser(OracleEngine(data, path))
        for shape in ((13,), (13, 1, 1, 1)):
            assert_rows_close(model(x.reshape(13, 2, 3, 4), sigma.reshape(shape)).flatten(1), expected, "bar")
    one = model(x[:1].reshape(1, 2, 3, 4), float(sigma[0]))
    assert_rows_close(one.flatten(1), expected[:1], "bar")


def test_a_denoiser_goes_where_its_engine_goes(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data, "vp", t_max=0.5)
    model = EDMDenoiser(engine)
    x = torch.randn(2, 2, 3, 4, generator=generator)
    before = model(x, 0.3)
    # what is prepared afterwards counts, and the engine keeps its own path
    engine.prepare()
    assert_rows_close(model(x, 0.3), before, "prepared")
    assert (repr(engine.path), engine.t_max) == (repr(OracleEngine(data, "vp").path), 0.5)
    assert torch.equal(EDMDenoiser(OracleEngine(data))(x, 0.3), before)


def test_edm_samplers_find_what_they_ask_for(data: OracleDataset, generator: torch.Generator) -> None:
    model = EDMDenoiser(OracleEngine(data), sigma_min=0.002, sigma_max=80.0)
    assert (model.img_channels, model.img_resolution, model.label_dim) == (2, 4, 4)
    assert model.sigma_data == pytest.approx(float(values_of(data).var(0, correction=0).mean().sqrt()))
    # the deterministic sampler of Karras et al. (2022), algorithm 1
    root = torch.linspace(model.sigma_max ** (1 / 7), model.sigma_min ** (1 / 7), 18, dtype=torch.float64)
    sigmas = torch.cat([model.round_sigma(root**7), torch.zeros(1, dtype=torch.float64)])
    onehot = torch.eye(4)[torch.tensor([0, 1, 2, 3, 3])]
    x = sigmas[0] * torch.randn(5, 2, 3, 4, generator=generator, dtype=torch.float64)
    for sigma, after in pairwise(sigmas):
        slope = (x - model(x, sigma, onehot)) / sigma
        end = x + (after - sigma) * slope
        if after > 0:
            slope = 0.5 * (slope + (end - model(end, after, onehot)) / after)
            end = x + (after - sigma) * slope
        x = end
    assert_rows_close(x, nearest(x, data), "landing")
    labels = data.labels
    assert labels is not None
    index = torch.cdist(x.flatten(1), values_of(data)).argmin(1)
    assert torch.equal(labels[data.index_of(index)], torch.tensor([0, 1, 2, 3, 3]))
    none = torch.zeros(5, 4)
    assert torch.equal(model(x, 1.0, none), model(x, 1.0))
    assert torch.equal(model(x, 1.0, onehot, guidance=2.0), model(x, 1.0, torch.tensor([0, 1, 2, 3, 3]), guidance=2.0))


@pytest.mark.parametrize("samples", SMALL_SAMPLERS, ids=lambda samples: samples.__module__)
def test_smalldiffusion_samples_the_oracle(samples: Any, data: OracleDataset) -> None:
    engine = OracleEngine(data)
    model = SmallDiffusionModel(engine)
    assert model.input_dims == (2, 3, 4)
    sigmas = torch.logspace(1.5, -2, 25)
    cond = torch.tensor([0, 1, 2])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        *_, x = samples(model, sigmas, batchsize=3, cond=cond, cfg_scale=0.5)
    index = torch.cdist(x.flatten(1).double(), values_of(data)).argmin(1)
    labels = data.labels
    assert labels is not None
    assert torch.equal(labels[data.index_of(index)], cond)


def test_smalldiffusion_model_predicts_the_noise(data: OracleDataset, generator: torch.Generator) -> None:
    model, edm = SmallDiffusionModel(OracleEngine(data)), EDMDenoiser(OracleEngine(data))
    x, cond = 2 * torch.randn(3, 2, 3, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2])
    for sigma in (torch.tensor(0.7), torch.tensor([0.5, 1.0, 2.0])[:, None, None, None]):
        assert_close(model(x, sigma), (x - edm(x, sigma)) / sigma, "float64", 10.0)
    conditional, free = model(x, 1.5, cond), model(x, 1.5)
    guided = model.predict_eps_cfg(x, torch.tensor(1.5), cond, 4.0)
    assert_close(guided, conditional + 4.0 * (conditional - free), "float64", 10.0)
    assert torch.equal(model.predict_eps_cfg(x, 1.5, cond, 0.0), conditional)


def test_ddpm_steps_denoise(data: OracleDataset, generator: torch.Generator) -> None:
    model = DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD)
    t = torch.tensor([0, 3, 50, 200, 500, 999])
    alpha, sigma = ALPHAS_CUMPROD[t].sqrt(), (1 - ALPHAS_CUMPROD[t]).sqrt()
    x = alpha[:, None] * values_of(data)[:6] + sigma[:, None] * normal(6, 24, generator)
    expected = direct_weights(values_of(data), x, alpha, sigma) @ values_of(data)
    images = x.reshape(6, 2, 3, 4)
    assert_rows_close(model.denoise(images, t).flatten(1), expected, "bar")
    assert_close(model.noise(images, t).flatten(1), (x - alpha[:, None] * expected) / sigma[:, None], "bar", 10.0)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert model.denoise(images.float(), 500, labels, guidance=2.0).dtype == torch.float32


def test_ddim_over_ddpm_steps_lands_on_samples(data: OracleDataset, generator: torch.Generator) -> None:
    model = DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD)
    x = torch.randn(4, 2, 3, 4, generator=generator, dtype=torch.float64)
    for t in range(999, -1, -37):
        mean, noise = model.denoise(x, t), model.noise(x, t)
        kept = ALPHAS_CUMPROD[t - 37] if t >= 37 else torch.ones(())
        x = kept.sqrt() * mean + (1 - kept).sqrt() * noise
    assert_rows_close(x, nearest(x, data), "landing")


def test_ddpm_times_that_run_the_other_way(data: OracleDataset, generator: torch.Generator) -> None:
    model = DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD)
    x = torch.randn(4, 2, 3, 4, generator=generator)
    model.denoise(x, 999)
    with pytest.raises(InputError, match=r"`t` seems to run the other way"):
        model.denoise(x, 0)
    DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD, check_time=False).denoise(x, 0)
    with pytest.raises(InputError, match=r"`alphas_cumprod` must fall.*alphas_cumprod.flip\(0\)"):
        DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD.flip(0))
    for t in (1000, -1, torch.tensor(0.5)):
        with pytest.raises(InputError, match=r"`t` must be whole steps in \[0, 1000\).*VelocityModel takes times"):
            model.denoise(x, t)


def test_noise_that_cannot_be_is_refused(data: OracleDataset) -> None:
    x = torch.zeros(2, 2, 3, 4)
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=r"`sigma` must be positive and finite.*stop a sampler before its last"):
            EDMDenoiser(OracleEngine(data))(x, sigma)
    with pytest.raises(InputError, match=r"`sigma` must be a number, \[2\] or"):
        EDMDenoiser(OracleEngine(data))(x, torch.ones(3))
    with pytest.raises(InputError, match="`alphas_cumprod` must be one-dimensional"):
        DDPMDenoiser(OracleEngine(data), torch.ones(3, 3))
