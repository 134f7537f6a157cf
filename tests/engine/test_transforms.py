"""Every transform of torch.func gives an answer or the library's words, as the first call and ever after."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import normal
from derivative_cases import SCALES, TIMES
from tolerances import assert_rows_close
from torch import Tensor, func
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from oracle_engine import InputError, OracleDataset, OracleEngine, total_derivative

# torch itself uses it where derivatives are taken forward
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)

LABELS = torch.tensor([0, 1, 2, -1, 1])
X = normal(5, 3, torch.Generator().manual_seed(1))
ONES, STEPS = torch.ones_like(X), torch.ones_like(TIMES)

Question = Callable[[OracleEngine], Tensor]


def fresh() -> OracleEngine:
    """Return an engine that has answered nothing yet."""
    generator = torch.Generator().manual_seed(0)
    return OracleEngine(OracleDataset(normal(30, 3, generator) + 1.0, (7 * torch.arange(30)) % 3))


def density(engine: OracleEngine) -> Callable[[Tensor], Tensor]:
    return lambda x: engine.log_density(x, TIMES).sum()


def one_by_one(engine: OracleEngine) -> Callable[..., Tensor]:
    return lambda x, t, label, scale: engine(x[None], t, labels=label, guidance=scale)[0]


def jacobian(engine: OracleEngine, name: str = "velocity") -> Tensor:
    found: Tensor = func.jacrev(lambda x: getattr(engine, name)(x, TIMES))(X)
    return found


def with_dual_numbers(engine: OracleEngine) -> Tensor:
    with forward_ad.dual_level():
        answer = engine(forward_ad.make_dual(X, ONES), forward_ad.make_dual(TIMES, STEPS))
        tangent: Tensor = forward_ad.unpack_dual(answer).tangent
        return tangent


def checkpointed(engine: OracleEngine) -> Tensor:
    x = X.clone().requires_grad_()
    answer = torch.utils.checkpoint.checkpoint(lambda x: engine(x, TIMES), x, use_reentrant=False)
    return torch.autograd.grad(answer, x, ONES)[0]


def held(engine: OracleEngine) -> Tensor:
    labels = engine.data.labels
    assert labels is not None
    return engine.data[torch.arange(3)].sum() + labels.sum()


# what is called first, and the same by another way
FIRST: dict[str, tuple[Question, Question]] = {
    "vmap over batches": (
        lambda e: func.vmap(lambda x: e(x, TIMES))(torch.stack([X, 2 * X])),
        lambda e: torch.stack([e(X, TIMES), e(2 * X, TIMES)]),
    ),
    "vmap over queries": (
        lambda e: func.vmap(one_by_one(e))(X, TIMES, LABELS, SCALES),
        lambda e: e(X, TIMES, labels=LABELS, guidance=SCALES),
    ),
    "vmap over times": (
        lambda e: func.vmap(lambda t: e.log_density(X, t))(TIMES),
        lambda e: torch.stack([e.log_density(X, t) for t in TIMES]),
    ),
    "nested vmap": (
        lambda e: func.vmap(func.vmap(lambda x, t: e(x[None], t)[0], (0, None)), (None, 0))(X, TIMES),
        lambda e: torch.stack([e(X, t) for t in TIMES]),
    ),
    "vmap of exclusion": (
        lambda e: func.vmap(lambda x, i: e(x[None], 0.4, exclude=i)[0])(X, torch.arange(5)),
        lambda e: e(X, 0.4, exclude=torch.arange(5)),
    ),
    "grad": (lambda e: func.grad(density(e))(X), lambda e: e.score(X, TIMES)),
    "vmap of grad": (
        lambda e: func.vmap(func.grad(lambda x, t: e.log_density(x[None], t)[0]))(X, TIMES),
        lambda e: e.score(X, TIMES),
    ),
    "jacfwd": (lambda e: func.jacfwd(lambda x: e(x, TIMES))(X), jacobian),
    "jvp": (
        lambda e: func.jvp(e, (X, TIMES), (ONES, STEPS))[1],
        lambda e: total_derivative(e, X, TIMES, ONES)[1],
    ),
    "jacfwd in t": (
        lambda e: func.jacfwd(lambda t: e(X, t))(TIMES).sum(2),
        lambda e: func.jvp(lambda t: e(X, t), (TIMES,), (STEPS,))[1],
    ),
    "jacrev in t": (
        lambda e: func.jacrev(lambda t: e(X, t))(TIMES).sum(2),
        lambda e: func.jvp(lambda t: e(X, t), (TIMES,), (STEPS,))[1],
    ),
    "jacrev in the scale": (
        lambda e: func.jacrev(lambda w: e(X, TIMES, labels=LABELS, guidance=w))(SCALES).sum(2),
        lambda e: e(X, TIMES, labels=LABELS) - e(X, TIMES),
    ),
    "hessian": (lambda e: func.hessian(density(e))(X), lambda e: jacobian(e, "score")),
    "jacrev of jacfwd": (lambda e: func.jacrev(func.jacfwd(density(e)))(X), lambda e: jacobian(e, "score")),
    "jvp of grad": (
        lambda e: func.jvp(func.grad(density(e)), (X,), (ONES,))[1],
        lambda e: func.jvp(lambda x: e.score(x, TIMES), (X,), (ONES,))[1],
    ),
    "grad of jvp": (
        lambda e: func.grad(lambda x: func.jvp(density(e), (x,), (ONES,))[1])(X),
        lambda e: func.jvp(lambda x: e.score(x, TIMES), (X,), (ONES,))[1],
    ),
    "vmap of hessian": (
        lambda e: func.vmap(func.hessian(lambda x, t: e.log_density(x[None], t)[0]))(X, TIMES),
        lambda e: torch.stack([jacobian(e, "score")[i, :, i] for i in range(5)]),
    ),
    "vjp": (
        lambda e: func.vjp(lambda x: e(x, TIMES), X)[1](ONES)[0],
        lambda e: func.jvp(lambda x: e(x, TIMES), (X,), (ONES,))[1],
    ),
    "total_derivative": (
        lambda e: total_derivative(e, X, TIMES)[1],
        lambda e: func.jvp(e, (X, TIMES), (e(X, TIMES), STEPS))[1],
    ),
    "vmap of total_derivative": (
        lambda e: func.vmap(lambda x, t: total_derivative(e, x[None], t)[1][0])(X, TIMES),
        lambda e: total_derivative(e, X, TIMES)[1],
    ),
    "dual numbers": (with_dual_numbers, lambda e: total_derivative(e, X, TIMES, ONES)[1]),
    "double backward in the vector": (
        lambda e: torch.autograd.functional.jvp(lambda x: e(x, TIMES), X, ONES)[1],
        lambda e: func.jvp(lambda x: e(x, TIMES), (X,), (ONES,))[1],
    ),
    "autograd.functional.hessian": (
        lambda e: torch.autograd.functional.hessian(density(e), X),
        lambda e: jacobian(e, "score"),
    ),
    "autograd.functional.vhp": (
        lambda e: torch.autograd.functional.vhp(density(e), X, ONES)[1],
        lambda e: func.jvp(lambda x: e.score(x, TIMES), (X,), (ONES,))[1],
    ),
    "checkpoint": (checkpointed, lambda e: func.jvp(lambda x: e(x, TIMES), (X,), (ONES,))[1]),
    "a traced graph": (lambda e: make_fx(lambda x: e(x, TIMES))(X)(X), lambda e: e(X, TIMES)),
    "samples inside": (lambda e: func.vmap(lambda x: x + held(e))(X), lambda e: X + held(e)),
    "inference mode": (lambda e: torch.inference_mode()(lambda: e(X, TIMES).clone())(), lambda e: e(X, TIMES)),
}


def forward_over_backward(engine: OracleEngine) -> Any:
    def total(x: Tensor) -> Tensor:
        return engine.velocity(x, TIMES).sum()

    return func.jvp(func.grad(total), (X,), (ONES,))


# what has no answer
REFUSED: dict[str, tuple[Callable[[OracleEngine], Any], str]] = {
    "hessian of a velocity": (
        lambda e: func.hessian(lambda x: e.score(x, TIMES).sum())(X),
        "`x` can be differentiated once",
    ),
    "jvp of grad": (
        forward_over_backward,
        "`x` can be differentiated once",
    ),
    "jvp of jvp": (
        lambda e: func.jvp(lambda x: func.jvp(lambda x: e(x, TIMES), (x,), (ONES,))[1], (X,), (ONES,)),
        "`x` can be differentiated once",
    ),
    "grad of jvp": (
        lambda e: func.grad(lambda x: func.jvp(lambda x: e(x, TIMES), (x,), (ONES,))[1].sum())(X),
        "`x` can be differentiated once",
    ),
    "jacfwd of jacrev": (
        lambda e: func.jacfwd(func.jacrev(lambda x: e.score(x, TIMES)))(X),
        "`x` can be differentiated once",
    ),
    "third derivatives": (lambda e: func.jacfwd(func.hessian(density(e)))(X), "`x` can be differentiated once"),
    "twice in t": (
        lambda e: func.hessian(lambda t: e.log_density(X, t).sum())(TIMES),
        "`x` can be differentiated once",
    ),
    "scale and x": (
        lambda e: func.hessian(lambda w: e.velocity(X, TIMES, labels=LABELS, guidance=w).sum())(SCALES),
        "`x` can be differentiated once",
    ),
    "a posterior": (
        lambda e: func.vmap(lambda x: e.posterior(x[None], 0.5).mean)(X),
        "`posterior` has no derivative and no batching rule",
    ),
    "the derivative of a posterior": (
        lambda e: func.jvp(lambda x: e.posterior(x, 0.5).mean, (X,), (ONES,)),
        "`posterior` has no derivative",
    ),
    "a trajectory": (
        lambda e: func.vmap(lambda x: e.trajectory(x[None]).velocity(x[None], 0.5))(X),
        "`trajectory` has no derivative",
    ),
    "batched vectors": (
        lambda e: torch.autograd.functional.jacobian(lambda x: e(x, TIMES), X, vectorize=True),
        "`is_grads_batched` must be False",
    ),
    "linearize": (
        lambda e: func.linearize(lambda x: e(x, TIMES), X),
        "`transform` must not be traced by make_fx or linearize",
    ),
    "values": (lambda e: func.vmap(lambda t: e(X, t))(2 * TIMES), r"`t` must lie in \[0, 1\]"),
    "infinities": (lambda e: func.vmap(lambda x: e(x[None], 0.5))(X * torch.inf), "`x` must be finite"),
    "shapes": (lambda e: func.vmap(lambda t: e(X, t))(torch.zeros(2, 3)), r"`t` must be a number, \[5\]"),
    "labels": (
        lambda e: func.vmap(lambda label: e(X, 0.5, labels=label))(torch.zeros(2, 4, dtype=torch.int64)),
        "`labels` must be one number or",
    ),
    "scales": (
        lambda e: func.vmap(lambda scale: e(X, 0.5, labels=LABELS, guidance=scale))(torch.ones(2, 4)),
        r"`guidance` must be a finite number or \[5\]",
    ),
}


def assert_whole(engine: OracleEngine) -> None:
    """Check that nothing that the engine keeps belongs to a transform."""
    copy.deepcopy(engine)
    torch.save(engine, io.BytesIO())
    along = func.jvp(engine, (X, TIMES), (ONES, STEPS))[1]
    other = fresh()
    assert torch.equal(along, func.jvp(other, (X, TIMES), (ONES, STEPS))[1])
    func.vmap(lambda x: engine(x, TIMES, labels=LABELS, exclude=3))(torch.stack([X, X]))
    x = X.clone().requires_grad_()
    engine(x, TIMES).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", FIRST)
def test_a_first_call_inside_a_transform_is_right_and_leaves_nothing_behind(name: str) -> None:
    call, other = FIRST[name]
    engine = fresh()
    found, expected = call(engine), other(fresh())
    flat = found.detach().reshape(1, -1), expected.detach().reshape(1, -1)
    assert found.shape == expected.shape
    assert_rows_close(*flat, "float64")
    assert_whole(engine)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_answer_is_refused_in_words_and_leaves_nothing_behind(name: str) -> None:
    call, message = REFUSED[name]
    engine = fresh()
    with pytest.raises(InputError, match=message):
        call(engine)
    assert_whole(engine)


def test_large_batches_of_batches_are_scanned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fresh()
    whole = jacobian(engine)
    monkeypatch.setattr("oracle_engine.engine.autograd.MAX_BATCH", 12)
    assert_rows_close(jacobian(engine).reshape(1, -1), whole.reshape(1, -1), "float64")


def test_trajectories_are_differentiated_like_the_engine() -> None:
    engine = fresh()
    follow = engine.trajectory(X, 0.1)
    along = func.jvp(lambda x: follow.velocity(x, 0.5), (X,), (ONES,))[1]
    assert torch.equal(along, func.jvp(lambda x: engine(x, 0.5), (X,), (ONES,))[1])
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(follow.denoiser(x, 0.5).sum(), x)
    assert torch.equal(found, torch.autograd.grad(engine.denoiser(x, 0.5).sum(), x)[0])


def test_empty_batches_have_derivatives() -> None:
    engine, nothing = fresh(), torch.zeros(0, 3)
    assert func.jvp(lambda x: engine(x, 0.5), (nothing,), (nothing,))[1].shape == (0, 3)
    assert func.grad(lambda t: engine(nothing, t).sum())(torch.tensor(0.5)) == 0.0
    assert func.vmap(lambda x: engine(x, 0.5))(torch.zeros(2, 0, 3)).shape == (2, 0, 3)
