"""Where the coefficients of a path diverge, targets and states are right or refused, in every precision alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from flow_matching.path.scheduler import LinearVPScheduler, VPScheduler
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from target_cases import PREDICTIONS
from torch import Tensor

from oracle_engine import (
    EDM,
    InputError,
    OracleDataset,
    OracleEngine,
    OracleTarget,
    PosteriorDraw,
    References,
    conditional_target,
    oracle_loss,
    path_sample,
    posterior_draw,
)
from oracle_engine.adapters import EDMDenoiser, SolverModel, VelocityModel
from oracle_engine.paths.paths import PATHS, Path
from oracle_engine.samplers.runs import initial_noise, noised, sample
from oracle_engine.training.conditional import PredictionName

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DIVERGING: tuple[Any, ...] = ("vp", "linear_vp", VPScheduler(), LinearVPScheduler())


def name_of(path: Any) -> str:
    return path if isinstance(path, str) else type(path).__name__


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", DIVERGING, ids=name_of)
def test_infinite_targets_at_the_end_are_refused_in_every_precision(path: Any, dtype: torch.dtype) -> None:
    x1, eps = torch.ones(2, 3, dtype=dtype), torch.full((2, 3), 0.5, dtype=dtype)
    for prediction in ("velocity", "score"):
        for t in (1.0, torch.tensor([0.3, 1.0], dtype=torch.float64)):
            with refused("`t` must leave a finite target"):
                conditional_target(path, x1, eps, t, prediction=prediction)
    # what is finite there is right there
    assert torch.equal(conditional_target(path, x1, eps, 1.0, prediction="denoiser"), x1)
    assert torch.equal(conditional_target(path, x1, eps, 1.0, prediction="noise"), eps)
    assert torch.equal(path_sample(path, x1, eps, 1.0), x1)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "polynomial", "edm"])
def test_finite_targets_at_the_end_are_answered(path: str) -> None:
    x1, eps = torch.ones(2, 3, dtype=torch.float64), torch.full((2, 3), 0.5, dtype=torch.float64)
    slopes = {"rectified_flow": (1, -1), "gvp": (0, -torch.pi / 2), "polynomial": (2, -2)}
    first, second = slopes.get(path, (0.0, float(EDM()(torch.ones(1).double()).d_sigma_t)))
    found = conditional_target(path, x1, eps, 1.0)
    assert torch.allclose(found, first * x1 + second * eps, rtol=1e-12)
    if path == "edm":
        assert torch.allclose(conditional_target(path, x1, eps, 1.0, prediction="score"), -eps / 0.002, rtol=1e-12)
    else:
        with refused("`t` must leave a finite target"):
            conditional_target(path, x1, eps, 1.0, prediction="score")


def test_targets_that_the_precision_cannot_hold_are_refused() -> None:
    x1, eps = torch.ones(1, 2, dtype=torch.float16), torch.ones(1, 2, dtype=torch.float16)
    with refused("`t` must leave a target that torch.float16 can hold"):
        conditional_target("rectified_flow", x1, eps, 1 - 1e-6, prediction="score")
    found = conditional_target("rectified_flow", x1.float(), eps.float(), 1 - 1e-6, prediction="score")
    assert found.tolist() == [[pytest.approx(-1e6)] * 2]
    for name, arguments in (("x1", (x1 * torch.inf, eps)), ("eps", (x1, eps * torch.nan))):
        with refused(f"`{name}` must be finite"):
            path_sample("rectified_flow", *arguments, 0.5)


@given(
    path=st.sampled_from(["vp", "linear_vp"]),
    late=st.floats(1e-15, 0.5),
    prediction=st.sampled_from(["velocity", "score"]),
)
def test_targets_shortly_before_the_end_are_those_of_wider_arithmetic(
    path: str, late: float, prediction: PredictionName
) -> None:
    t = 1.0 - late
    with mpmath.workdps(50):
        time = mpmath.mpf(t)
        log_alpha = (
            (lambda s: -mpmath.mpf("4.975") * (1 - s) ** 2 - mpmath.mpf("0.05") * (1 - s))
            if path == "vp"
            else mpmath.log
        )
        alpha = mpmath.exp(log_alpha(time))
        sigma, d_alpha = mpmath.sqrt(1 - alpha**2), alpha * mpmath.diff(log_alpha, time)
        d_sigma = -alpha * d_alpha / sigma
        expected = float(-mpmath.mpf("0.5") / sigma if prediction == "score" else 2 * d_alpha + d_sigma / 2)
    x1, eps = torch.full((1, 1), 2.0, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    found = float(conditional_target(path, x1, eps, t, prediction=prediction))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return OracleDataset(torch.randn(6, 3, generator=generator, dtype=torch.float64), torch.arange(6) % 2)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "polynomial", *DIVERGING], ids=name_of)
def test_nothing_else_is_answered_where_no_noise_is_left(path: Any, data: OracleDataset) -> None:
    engine, x = OracleEngine(data, path), data[:]
    index = torch.arange(6)
    calls: list[Callable[[], Any]] = [
        *(lambda name=name: OracleTarget(engine, name)(x, 1.0) for name in PREDICTIONS),
        lambda: OracleTarget(engine, estimate=References(3))(x, 1.0, source=index),
        lambda: OracleTarget(engine, estimate=PosteriorDraw())(x, 1.0),
        lambda: posterior_draw(engine, x, 1.0),
        lambda: oracle_loss(lambda x, t: x, OracleTarget(engine), x, t=1.0),
        lambda: SolverModel(engine)(x, 1.0),
        lambda: VelocityModel(engine, "sit")(x, 1.0),
        lambda: VelocityModel(engine, "repa")(x, 0.0),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"`t` must leave (some noise|a finite target)"):
            call()
    with refused(r"`start` must leave some noise: sigma\(start\) > 0"):
        initial_noise(engine, 2, start=1.0)
    assert torch.equal(noised(engine, x, 1.0), x)
    # no velocity is asked for at the end, and the last step is the denoiser
    start = initial_noise(engine, 4, start=0.5)
    ended = sample(engine, start, torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)).x
    assert bool(ended.isfinite().all())


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp", "polynomial"])
@pytest.mark.parametrize("estimate", [None, References(4), References(100), PosteriorDraw()], ids=repr)
def test_samples_of_some_width_have_finite_targets_at_the_end(path: str, estimate: Any, data: OracleDataset) -> None:
    engine = OracleEngine(data, path, point_std=0.2)
    x, index = data[:] + 0.1, torch.arange(6)
    late, end = ({name: OracleTarget(engine, name, estimate=estimate) for name in PREDICTIONS} for _ in range(2))
    for name in PREDICTIONS:
        found = end[name](x, 1.0, data.labels, index)
        assert bool(found.isfinite().all())
        if estimate is None:
            # the limit: nothing jumps at the end
            assert torch.allclose(found, late[name](x, 1 - 1e-13, data.labels, index), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("sigma", [1e-130, 1e-17, 1e-9, 1e9, 1e130])
def test_denoisers_of_a_noise_level_have_no_end(sigma: float, data: OracleDataset) -> None:
    x = data[:] + sigma * torch.ones(6, 3, dtype=torch.float64)
    found = EDMDenoiser(OracleEngine(data))(x, sigma)
    expected = data[:] if sigma < 1 else data[:].mean(0).expand(6, 3)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_paths_that_are_not_finite_are_refused_by_samplers(data: OracleDataset) -> None:
    class Broken:
        def __call__(self, t: Tensor) -> Any:
            at = PATHS["rectified_flow"]()(t)
            return type("At", (), {**vars(at), "alpha_t": at.alpha_t / (t - t)})

    broken: Path = Broken()
    engine = OracleEngine(data, broken)
    with refused("`path` must have finite alpha_t and sigma_t"):
        noised(engine, data[:], 0.5)
    with refused("`path` must have finite alpha_t and sigma_t"):
        initial_noise(engine, 2)
