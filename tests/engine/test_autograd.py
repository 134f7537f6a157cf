"""Answers can be differentiated in x: against closed forms and the identities of the theory."""

from __future__ import annotations

import pytest
import torch
from closed_form import direct_weights, normal, stored_as, values_of
from derivative_cases import ASKED, TIMES, UNIONS, weighted
from engine_cases import PREDICTIONS
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.queries import classes

# torch itself uses it where derivatives are taken forward
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@pytest.fixture
def small(generator: torch.Generator) -> OracleDataset:
    return weighted(generator)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return normal(5, 3, generator).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_the_gradient_of_the_log_density_is_the_score(generator: torch.Generator, dtype: torch.dtype) -> None:
    engine = OracleEngine(OracleDataset(stored_as(normal(120, 200, generator), dtype), torch.arange(120) % 3))
    x = normal(5, 200, generator).requires_grad_()
    for asked in (ASKED["plain"], ASKED["unions"]):
        (gradient,) = torch.autograd.grad(engine.log_density(x, TIMES, **asked).sum(), x)
        assert_rows_close(gradient, engine.score(x.detach(), TIMES, **asked), "bar")


@pytest.mark.parametrize("point_std", [0.0, 0.2])
def test_the_trace_of_the_jacobian_is_the_posterior_variance(generator: torch.Generator, point_std: float) -> None:
    data = OracleDataset(stored_as(normal(50, 4, generator), torch.uint8))
    engine = OracleEngine(data, point_std=point_std)
    x, t = normal(5, 4, generator), TIMES
    jacobian = torch.func.jacrev(lambda x: engine.denoiser(x, t).sum(0))(x)
    trace = jacobian.diagonal(dim1=0, dim2=2).sum(1)
    variance = (1 - t).square() + (t * point_std).square()
    # of the mean of samples with a width: alpha / s^2 times the covariance that the posterior of the data has
    assert_close(trace, t / (1 - t).square() * engine.posterior(x, t).variance, "moment")
    assert bool((variance > 0).all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [20, 200])
def test_gradients_agree_with_autograd_through_the_formula(
    generator: torch.Generator, dtype: torch.dtype, dim: int
) -> None:
    data = OracleDataset(stored_as(normal(80, dim, generator), dtype))
    x, vector = normal(5, dim, generator).requires_grad_(), normal(5, dim, generator)
    values = values_of(data)
    squares = (x[:, None] - TIMES[:, None, None] * values).square().sum(2)
    mean = (-0.5 * squares / (1 - TIMES).square()[:, None]).softmax(1) @ values
    (true,) = torch.autograd.grad(mean, x, vector)
    (found,) = torch.autograd.grad(OracleEngine(data).denoiser(x, TIMES), x, vector)
    assert_within((found - true).norm(dim=1) / (vector.norm(dim=1) + true.norm(dim=1)), "derivative")
    assert bool((direct_weights(values, x.detach(), TIMES, 1 - TIMES).amax(1) > 0).all())


def test_a_query_that_wants_no_gradient_gets_no_graph(small: OracleDataset, x: Tensor) -> None:
    engine = OracleEngine(small)
    assert engine(x.detach(), 0.5).grad_fn is None
    with torch.no_grad():
        assert not engine(x, 0.5).requires_grad
    assert engine(x, 0.5).requires_grad
    assert torch.equal(engine(x, 0.5), engine(x.detach(), 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_come_in_the_dtype_and_shape_of_x(generator: torch.Generator, dtype: torch.dtype) -> None:
    engine = OracleEngine(OracleDataset(normal(30, 12, generator).reshape(30, 3, 2, 2).float()))
    x = normal(5, 12, generator).reshape(5, 3, 2, 2).to(dtype).requires_grad_()
    (engine(x, TIMES).sum() + engine.log_density(x, TIMES).sum()).backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_second_derivative_is_refused(small: OracleDataset, x: Tensor, name: str) -> None:
    answer = getattr(OracleEngine(small), name)(x, TIMES)
    (gradient,) = torch.autograd.grad(answer.square().sum(), x, create_graph=True)
    with pytest.raises(InputError, match=r"`x` can be differentiated once; .*Remedy: detach"):
        gradient.sum().backward()


@pytest.mark.parametrize("asked", ["plain", "unions"])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_log_densities_have_second_derivatives(small: OracleDataset, x: Tensor, asked: str, backend: str) -> None:
    engine = OracleEngine(small, backend=backend)
    density = lambda x: engine.log_density(x, TIMES, **ASKED[asked])  # noqa: E731
    assert torch.autograd.gradgradcheck(density, (x,), gen_non_contig_grad_outputs=True)
    total = engine.log_density(x, TIMES, **ASKED[asked]).sum()
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    (product,) = torch.autograd.grad(gradient, x, x.detach(), create_graph=True)
    with pytest.raises(InputError, match="`x` can be differentiated once"):
        product.sum().backward()


def test_what_changes_after_the_answer_does_not_change_its_gradient(small: OracleDataset, x: Tensor) -> None:
    engine, t, labels = OracleEngine(small), TIMES.clone(), UNIONS.clone()
    point = x * 1.0
    (true,) = torch.autograd.grad(engine(point, t, labels=labels, guidance=2.0).sum(), x)
    point = x * 1.0
    answer = engine(point, t, labels=labels, guidance=2.0)
    with torch.no_grad():
        t.fill_(0.1)
        labels.fill_(0)
        point.detach().zero_()
    assert torch.equal(torch.autograd.grad(answer.sum(), x)[0], true)


@pytest.mark.parametrize("dim", [3, 100])
def test_forward_and_backward_agree(generator: torch.Generator, dim: int) -> None:
    engine = OracleEngine(OracleDataset(normal(30, dim, generator).float(), torch.arange(30) % 3))
    x, vector = (normal(5, dim, generator) for _ in range(2))
    answer = lambda x: engine(x, TIMES, **ASKED["guided"])  # noqa: E731
    pushed = torch.func.jvp(answer, (x,), (vector,))[1]
    pulled = torch.func.vjp(answer, x)[1](vector)[0]
    assert_rows_close(pushed, pulled, "float64")


def test_large_batches_are_differentiated_slice_by_slice(
    small: OracleDataset, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OracleEngine(small)
    (whole,) = torch.autograd.grad(engine(x, TIMES, **ASKED["left out"]).sum(), x)
    monkeypatch.setattr(classes, "MAX_BATCH", 2)
    (parts,) = torch.autograd.grad(engine(x, TIMES, **ASKED["left out"]).sum(), x)
    assert_rows_close(parts, whole, "float64")


def test_no_queries_have_no_gradient(small: OracleDataset) -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(OracleEngine(small)(x, 0.5).sum(), x)
    assert gradient.shape == (0, 3)


def test_gradients_reach_the_network_that_made_the_query(small: OracleDataset, generator: torch.Generator) -> None:
    engine, network = OracleEngine(small), torch.nn.Linear(3, 3).double()
    with torch.no_grad():
        network.weight.copy_(normal(3, 3, generator))
        network.bias.zero_()
    inputs = normal(5, 3, generator)
    assert torch.autograd.gradcheck(
        lambda weight: engine(torch.nn.functional.linear(inputs, weight), TIMES), (network.weight,)
    )
