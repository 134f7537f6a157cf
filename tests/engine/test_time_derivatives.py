"""Answers can be differentiated in x, t and the guidance scale: against differences, closed forms and identities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from derivative_cases import ASKED, SCALES, TIMES, UNIONS, weighted
from engine_cases import PREDICTIONS
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import Guidance, InputError, OracleDataset, OracleEngine, Polynomial, total_derivative
from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.paths.paths import Coefficients, RectifiedFlow

# torch itself uses it where derivatives are taken forward
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

ANSWERS = (*PREDICTIONS, "log_density")


@pytest.fixture
def small(generator: torch.Generator) -> OracleDataset:
    return weighted(generator, 2.0)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return normal(5, 3, generator).requires_grad_()


def conditions(name: str, asked: str) -> dict[str, Any]:
    return {key: value for key, value in ASKED[asked].items() if name != "log_density" or key != "guidance"}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_derivatives_agree_with_differences(
    small: OracleDataset, x: Tensor, name: str, asked: str, backend: str
) -> None:
    engine = OracleEngine(small, backend=backend)
    answer = lambda x, t: getattr(engine, name)(x, t, **conditions(name, asked))  # noqa: E731
    t = TIMES.clone().requires_grad_()
    assert torch.autograd.gradcheck(answer, (x, t), check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp", "polynomial", "edm"])
@pytest.mark.parametrize("point_std", [0.0, 0.3])
@pytest.mark.parametrize("name", ANSWERS)
def test_derivatives_on_every_path_and_of_wide_samples(
    small: OracleDataset, x: Tensor, path: str, point_std: float, name: str
) -> None:
    answer = getattr(OracleEngine(small, path, point_std=point_std), name)
    inputs = (x.detach().clone().requires_grad_(), TIMES.clone().requires_grad_())
    assert torch.autograd.gradcheck(answer, inputs, check_forward_ad=True, fast_mode=True, rtol=1e-4)


@pytest.mark.parametrize("storage", [torch.uint8, torch.float16, torch.float32])
def test_a_value_map_takes_part(generator: torch.Generator, storage: torch.dtype, x: Tensor) -> None:
    engine = OracleEngine(OracleDataset(stored_as(normal(30, 3, generator), storage)), backend="reference")
    t = TIMES.clone().requires_grad_()
    assert torch.autograd.gradcheck(engine.velocity, (x, t), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradcheck(engine.log_density, (x, t), check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("point_std", [0.5, 2.0])
def test_one_gaussian_has_a_closed_form(generator: torch.Generator, point_std: float) -> None:
    sample = normal(1, 3, generator)
    engine = OracleEngine(OracleDataset(sample), point_std=point_std)
    x, t = normal(5, 3, generator), TIMES
    along = torch.func.jvp(lambda t: engine(x, t), (t,), (torch.ones_like(t),))[1]
    # v = X + b(t) (x - t X) with b = (t p^2 - (1 - t)) / s^2
    variance = (1 - t).square() + (t * point_std).square()
    slope = -2 * (1 - t) + 2 * t * point_std**2
    factor = (t * point_std**2 - (1 - t)) / variance
    factor_slope = (point_std**2 + 1) / variance - factor * slope / variance
    assert_rows_close(along, factor_slope[:, None] * (x - t[:, None] * sample) - factor[:, None] * sample, "float64")
    density = torch.func.jvp(lambda t: engine.log_density(x, t), (t,), (torch.ones_like(t),))[1]
    rest = x - t[:, None] * sample
    true = (rest * sample).sum(1) / variance + 0.5 * rest.square().sum(1) * slope / variance.square()
    assert_close(density, true - 1.5 * slope / variance, "float64")


@pytest.mark.parametrize("dim", [1, 40])
def test_two_samples_have_a_closed_form(generator: torch.Generator, dim: int) -> None:
    sample = normal(1, dim, generator)
    engine = OracleEngine(OracleDataset(torch.cat([sample, -sample])))
    t = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    gain = t / (1 - t).square()
    x = normal(3, 1, generator) / gain[:, None] * sample / sample.square().sum() + 0.01 * normal(3, dim, generator)
    logit, gain_slope = gain * (x @ sample[0]), (1 + t) / (1 - t) ** 3
    along = torch.func.jvp(lambda t: engine.denoiser(x, t), (t,), (torch.ones_like(t),))[1]
    true = ((x @ sample[0]) * gain_slope / logit.cosh().square())[:, None] * sample
    assert_rows_close(along, true, "float64")


@pytest.mark.parametrize("point_std", [0.0, 0.2])
@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "edm"])
def test_densities_keep_the_continuity_equation(
    small: OracleDataset, generator: torch.Generator, path: str, point_std: float
) -> None:
    engine = OracleEngine(small, path, point_std=point_std)
    x, t = normal(5, 3, generator), TIMES
    slope = torch.func.jvp(lambda t: engine.log_density(x, t), (t,), (torch.ones_like(t),))[1]
    jacobian = torch.func.jacrev(lambda x: engine(x, t).sum(0))(x)
    divergence = jacobian.diagonal(dim1=0, dim2=2).sum(1)
    flow = (engine(x, t) * engine.score(x, t)).sum(1)
    assert_close(slope, -divergence - flow, "float64", 1 + divergence.abs() + flow.abs())


@pytest.mark.parametrize("storage", STORAGE_DTYPES)
@given(generators(), st.sampled_from(sorted(FAMILIES)), st.sampled_from([3, 64, 200]), st.booleans())
def test_every_storage_agrees_with_float64(
    storage: torch.dtype, generator: torch.Generator, family: str, dim: int, labelled: bool
) -> None:
    labels = torch.arange(90) % 2
    data = OracleDataset(stored_as(FAMILIES[family](90, dim, generator), storage), labels)
    t = torch.tensor([0.02, 0.1, 0.3, 0.6, 0.9, 0.99], dtype=torch.float64)
    x = t[:, None] * data[torch.arange(6)].double() + (1 - t[:, None]) * normal(6, dim, generator)
    asked: dict[str, Any] = {"labels": labels[:6], "guidance": 1.5} if labelled else {}
    one = torch.ones_like(t)
    engines = (OracleEngine(data), OracleEngine(data, backend="reference"))
    found, true = (torch.func.jvp(lambda t, e=e: e(x, t, **asked), (t,), (one,))[1] for e in engines)
    # the terms of the velocity change at the rate of their sizes over what is left of the time
    mean = engines[1].denoiser(x, t, **asked)
    noise = (x - t[:, None] * mean) / (1 - t)[:, None]
    size = (mean.norm(dim=1) + noise.norm(dim=1)) / (1 - t)
    assert_within((found - true).norm(dim=1) / (size + true.norm(dim=1)), "derivative")


@pytest.mark.parametrize("asked", ASKED)
def test_the_total_derivative_is_that_of_meanflow(small: OracleDataset, x: Tensor, asked: str) -> None:
    engine, x = OracleEngine(small), x.detach()

    def answer(x: Tensor, t: Tensor) -> Tensor:
        return engine.velocity(x, t, **ASKED[asked])

    flow = answer(x, TIMES)
    expected = torch.func.jvp(answer, (x, TIMES), (flow, torch.ones_like(TIMES)))[1]
    found = total_derivative(engine, x, TIMES, **ASKED[asked])
    assert torch.equal(found[0], flow)
    # where a scale is differentiated too, other queries share a scan
    assert_rows_close(found[1], expected, "float64", 1 + flow.norm(dim=1))
    step = 1e-5
    ahead, back = (answer(x + h * flow, TIMES + h) for h in (step, -step))
    assert_rows_close((ahead - back) / (2 * step), expected, "finite difference", 1e2 + expected.norm(dim=1))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_total_derivative_along_a_given_tangent(
    small: OracleDataset, x: Tensor, generator: torch.Generator, prediction: str
) -> None:
    engine, x = OracleEngine(small, "gvp"), x.detach()
    dx, dt = normal(5, 3, generator), normal(5, 1, generator)[:, 0]
    answer = getattr(engine, prediction)
    value, along = total_derivative(engine, x, TIMES, dx, dt=dt, prediction=prediction)
    # a question of nothing but x and t takes a way of its own
    assert_rows_close(value, answer(x, TIMES), "float64")
    assert torch.equal(along, torch.func.jvp(answer, (x, TIMES), (dx, dt))[1])
    _, flowing = total_derivative(engine, x, TIMES, dt=dt, prediction=prediction)
    velocity = engine(x, TIMES) * dt[:, None]
    assert torch.equal(flowing, torch.func.jvp(answer, (x, TIMES), (velocity, dt))[1])


def test_meanflow_targets_integrate_the_field(generator: torch.Generator) -> None:
    """The mean velocity u(x, r, t) of one Gaussian solves u = v - (t - r) du/dt along the flow."""
    engine = OracleEngine(OracleDataset(torch.zeros(1, 3)), point_std=1.0)
    r, x = 0.2, normal(4, 3, generator)

    def size(t: Any) -> Any:
        # the flow scales x with this
        return ((1 - t) ** 2 + t**2) ** 0.5

    def mean_velocity(x: Tensor, t: Tensor) -> Tensor:
        scaled: Tensor = x * ((size(t) - size(r)) / size(t) / (t - r))[:, None]
        return scaled

    t = torch.full((4,), 0.9, dtype=torch.float64)
    velocity, _ = total_derivative(engine, x, t)
    value, along, *_ = torch.func.jvp(mean_velocity, (x, t), (velocity, torch.ones_like(t)))
    assert_rows_close(velocity - (t - r)[:, None] * along, value, "float64")
    # at r = t the derivative of u along the flow is half of that of v
    near = torch.full_like(t, r + 1e-4)
    half = torch.func.jvp(mean_velocity, (x, near), (engine(x, near), torch.ones_like(t)))[1]
    whole = total_derivative(engine, x, near)[1]
    assert_within((2 * half - whole).norm(dim=1) / whole.norm(dim=1) / 1e4, "finite difference")


def test_the_total_derivative_is_no_graph_to_differentiate(small: OracleDataset, x: Tensor) -> None:
    value, along = total_derivative(OracleEngine(small), x, TIMES)
    value.sum().backward()
    with pytest.raises(InputError, match="`x` can be differentiated once"):
        along.sum().backward()
    with torch.inference_mode():
        assert torch.equal(total_derivative(OracleEngine(small), x.detach(), TIMES)[1], along.detach())


@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_in_t_have_its_shape_and_dtype(
    small: OracleDataset, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    engine, vector = OracleEngine(small), normal(5, 3, torch.Generator().manual_seed(1))
    t = torch.full(shape, 0.4, dtype=dtype).requires_grad_()
    (found,) = torch.autograd.grad(engine(x.detach(), t), t, vector)
    along = torch.func.jvp(lambda t: engine(x.detach(), t), (t.detach(),), (torch.ones_like(t),))[1]
    each = (vector * along.reshape(vector.shape)).sum(1)
    assert found.shape == shape
    assert found.dtype == dtype
    shared = t.numel() == 1
    expected = each.sum()[None] if shared else each
    assert_close(found.double().reshape(-1), expected, "float32 sums", float(each.abs().sum()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_scale_of_guidance_can_be_differentiated(small: OracleDataset, x: Tensor, wrapped: bool) -> None:
    engine = OracleEngine(small)

    def answer(x: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        return engine.velocity(x, t, labels=UNIONS, guidance=Guidance(scale, 0.2, 0.9) if wrapped else scale)

    t = TIMES.clone().requires_grad_()
    for scale in (SCALES.clone(), torch.tensor(1.0, dtype=torch.float64)):
        inputs = (x, t, scale.requires_grad_())
        assert torch.autograd.gradcheck(answer, inputs, check_forward_ad=True, fast_mode=True)
    found = torch.func.jvp(lambda w: answer(x.detach(), TIMES, w), (SCALES,), (torch.ones(5).double(),))[1]
    expected = engine(x.detach(), TIMES, labels=UNIONS) - engine(x.detach(), TIMES)
    if wrapped:
        expected[[0, 4]] = 0.0
    assert_rows_close(found, expected, "float64", 1.0)


def test_times_beyond_the_clamp_have_no_derivative(small: OracleDataset, x: Tensor) -> None:
    engine = OracleEngine(small, t_max=0.7)
    t = TIMES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(engine(x, t).sum(), t)
    assert (gradient == 0).tolist() == [False, False, False, True, True]


class Detached(RectifiedFlow):
    """A path that autograd cannot see into."""

    def __call__(self, t: Tensor) -> Coefficients:
        return Polynomial(3.0)(t.detach())


class OnTheHost(RectifiedFlow):
    """A path that leaves torch."""

    def __call__(self, t: Tensor) -> Coefficients:
        values = torch.from_numpy(t.numpy() ** 2)
        return Coefficients(values, 1 - values, 2 * t, -2 * t)


@pytest.mark.parametrize("path", [Detached(), OnTheHost()])
def test_a_path_outside_of_torch_is_refused_where_it_matters(small: OracleDataset, x: Tensor, path: Any) -> None:
    engine, t = OracleEngine(small, path), TIMES.clone().requires_grad_()
    with pytest.raises(InputError, match="`path` must be differentiable for a derivative of the velocity in t"):
        torch.autograd.grad(engine(x, t).sum(), t)
    for single in (0.25, 0.5, 0.75):
        with pytest.raises(InputError, match="`path` must be differentiable"):
            total_derivative(engine, x, single)
    # others need only d_alpha and d_sigma
    known = Polynomial(3.0) if isinstance(path, Detached) else Polynomial(2.0)
    for name in ("denoiser", "score", "noise", "log_density"):
        found, expected = (
            torch.autograd.grad(getattr(side, name)(x, t).sum(), t)[0] for side in (engine, OracleEngine(small, known))
        )
        assert_close(found, expected, "float64")


def test_an_infinite_derivative_is_refused(small: OracleDataset, x: Tensor) -> None:
    engine, t = OracleEngine(small, Polynomial(1.5)), torch.tensor(0.0, requires_grad=True)
    with pytest.raises(InputError, match="`t` must have a finite derivative of the coefficients"):
        torch.autograd.grad(engine(x, t).sum(), t)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dx": torch.zeros(5, 2)}, "`dx` must have shape"),
        ({"dx": torch.zeros(5, 3, dtype=torch.int64)}, "`dx` must have a floating dtype"),
        ({"dt": torch.zeros(4)}, r"`dt` must be a number or \[5\]"),
        ({"prediction": "x1"}, "`prediction` must be one of velocity"),
        ({"engine": None}, "`engine` must be an OracleEngine"),
        ({"t": 2.0}, r"`t` must lie in \[0, 1\]"),
    ],
)
def test_unusable_arguments_are_named(
    unchecked: None, small: OracleDataset, x: Tensor, changes: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"engine": OracleEngine(small), "x": x.detach(), "t": 0.5} | changes
    with pytest.raises(InputError, match=message):
        total_derivative(**asked)


def test_late_derivatives_vanish_along_the_flow(generator: torch.Generator) -> None:
    """Near the end one sample is left, towards which the flow is straight."""
    data = OracleDataset(normal(40, 64, generator).float())
    t = torch.tensor([0.99, 0.999, 1 - 1e-4], dtype=torch.float64)
    x = t[:, None] * data[torch.arange(3)].double() + (1 - t[:, None]) * normal(3, 64, generator)
    velocity, along = total_derivative(OracleEngine(data), x, t)
    assert_within(along.norm(dim=1) * (1 - t) / velocity.norm(dim=1), "derivative")
    assert math.isfinite(float(along.sum()))
