"""Under torch.compile, whole graphs give the answers, gradients and errors of eager code."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from closed_form import normal
from derivative_cases import INTERVAL, SCALES, TIMES, UNIONS
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine, total_derivative
from oracle_engine.engine.compiled import answer, pull, push

pytestmark = pytest.mark.usefixtures("recompiled")

ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "class": {"labels": 1},
    "guided": {"labels": UNIONS, "guidance": SCALES.float()},
    "interval": {"labels": UNIONS, "guidance": INTERVAL, "exclude": 7},
    "left out": {"exclude": torch.tensor([3, -1, 0, 29, 7])},
}


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    weights = torch.rand(30, generator=generator) + 0.1
    return OracleEngine(OracleDataset(normal(30, 3, generator).float(), torch.arange(30) % 3, weights))


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return normal(5, 3, generator).requires_grad_()


def whole(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile without graph breaks; code generation is not what these tests are about."""
    return torch.compile(call, fullgraph=True, backend="aot_eager", **options)


def assert_alike(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare answers and gradients of compiled and eager code."""
    eager, compiled = call(x), whole(call)(x)
    assert torch.equal(compiled, eager)
    vector = torch.ones_like(eager)
    expected, found = (torch.autograd.grad(side, x, vector)[0] for side in (eager, compiled))
    assert_rows_close(found, expected, "float64")


@pytest.mark.parametrize("asked", ASKED)
def test_answers_and_gradients_are_those_of_eager_code(engine: OracleEngine, x: Tensor, asked: str) -> None:
    assert_alike(lambda x: engine(x, TIMES, **ASKED[asked]), x)


@pytest.mark.parametrize("name", ["denoiser", "score", "noise", "log_density"])
def test_every_answer_compiles(engine: OracleEngine, x: Tensor, name: str) -> None:
    assert_alike(lambda x: getattr(engine, name)(x, 0.4, labels=1), x)


def test_a_module_compiles_and_grows_with_the_batch(engine: OracleEngine, generator: torch.Generator) -> None:
    compiled = whole(engine, dynamic=True)
    for batch in (1, 2, 7, 64):
        x, t = normal(batch, 3, generator).float(), torch.rand(batch, generator=generator)
        assert torch.equal(compiled(x, t), engine(x, t))


# torch itself uses it
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_training_step_compiles_with_generated_code(engine: OracleEngine, generator: torch.Generator) -> None:
    network = torch.nn.Linear(3, 3).double()
    noise = normal(5, 3, generator)

    def loss(weight: Tensor) -> Tensor:
        made = torch.nn.functional.linear(noise, weight)
        result: Tensor = (engine(made, TIMES, labels=1, guidance=2.0) - made).square().mean()
        return result

    (expected,) = torch.autograd.grad(loss(network.weight), network.weight)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(network.weight), network.weight)
    assert_rows_close(found, expected, "float64")


@pytest.mark.parametrize(
    "asked",
    [
        {"t": [0.1, 0.3, 0.5, 0.7, 0.999999]},
        {"t": np.linspace(0.1, 0.9, 5)},
        {"t": 0.999999, "labels": [0, 1, 2, -1, 1], "guidance": [1.0, 2.0, 0.5, 1.0, 3.0]},
        {"t": 0, "labels": np.array([0, 1, 2, -1, 1]), "exclude": [3, -1, 0, 29, 7]},
        {"t": (0.1, 0.3, 0.5, 0.7, 0.9), "labels": [[0, 1], [2, -1], [-1, -1], [1, 2], [0, -1]]},
    ],
)
def test_whatever_eager_code_takes_compiles(engine: OracleEngine, x: Tensor, asked: dict[str, Any]) -> None:
    assert_alike(lambda x: engine(x, **asked), x)


@pytest.mark.parametrize("options", [{"labels": True}, {"labels": 1.5}, {"exclude": 0.5}])
def test_numbers_keep_their_kind(engine: OracleEngine, x: Tensor, options: dict[str, Any]) -> None:
    for call in (engine, whole(engine)):
        with pytest.raises(InputError, match="must be integers"):
            call(x.detach(), 0.5, **options)


@pytest.mark.parametrize("shape", [(), (5,), (5, 1)])
def test_gradients_reach_times_and_scales(engine: OracleEngine, x: Tensor, shape: tuple[int, ...]) -> None:
    t = torch.full(shape, 0.4, requires_grad=True)
    scale = torch.full(shape[:1], 2.0, requires_grad=True)

    def call(x: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        return engine.velocity(x, t, labels=UNIONS, guidance=scale) * x.detach()

    expected, found = (torch.autograd.grad(side(x, t, scale).sum(), (x, t, scale)) for side in (call, whole(call)))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("prediction", ["velocity", "denoiser"])
def test_total_derivatives_compile(engine: OracleEngine, x: Tensor, given: bool, prediction: str) -> None:
    dx = torch.ones(5, 3) if given else None
    call = lambda x: total_derivative(engine, x, TIMES, dx, dt=0.5, prediction=prediction, labels=1)  # noqa: E731
    value, along = whole(call)(x.detach())
    expected = total_derivative(engine, x.detach(), TIMES, dx, dt=0.5, prediction=prediction, labels=1)
    assert torch.equal(value, expected[0])
    assert_rows_close(along, expected[1], "float64", 1 + value.norm(dim=1))


# torch itself uses it where derivatives are taken forward, and reads .grad where it takes up a frame again
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    "call",
    [
        lambda e, x: torch.func.jvp(lambda x: e(x, TIMES), (x,), (x,))[1],
        pytest.param(
            lambda e, x: torch.func.grad(lambda x: e(x, TIMES).sum())(x),
            marks=pytest.mark.skipif(torch.__version__.startswith("2.9."), reason="torch 2.9 fails by itself"),
        ),
        lambda e, x: torch.func.vmap(lambda x: e(x[None], 0.5)[0])(x),
    ],
)
def test_transforms_inside_are_refused_in_words_or_left_out(
    engine: OracleEngine, x: Tensor, call: Callable[[OracleEngine, Tensor], Tensor]
) -> None:
    inner = lambda x: call(engine, x)  # noqa: E731
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match=r"torch\.compile cannot contain .* Remedy: leave out fullgraph"
    ):
        whole(inner)(x.detach())
    torch._dynamo.reset()
    # what torch traces itself it combines by its own operations, which round otherwise
    assert_rows_close(torch.compile(inner, backend="eager")(x.detach()), call(engine, x.detach()), "float64")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("name", ["velocity", "log_density"])
@pytest.mark.parametrize("batch", [5, 0])
def test_the_operator_keeps_the_rules_of_the_library(engine: OracleEngine, x: Tensor, name: str, batch: int) -> None:
    labels, times = torch.zeros(batch, dtype=torch.int64), TIMES[:batch]
    rest = (times, labels, None, None, None, 0.0, 1.0, name, engine._handle)
    torch.library.opcheck(answer, (x.detach()[:batch].clone().requires_grad_(), *rest))
    vector = torch.ones(batch, dtype=torch.float64) if name == "log_density" else torch.ones(batch, 3).double()
    torch.library.opcheck(pull, (vector, True, True, False, x.detach()[:batch].clone(), *rest))
    torch.library.opcheck(push, (None, torch.ones((), dtype=torch.float64), x.detach()[:batch].clone(), *rest))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 2.0}, r"`t` must lie in \[0, 1\].*received 2.0"),
        ({"t": 0.5, "labels": 9}, "`labels` must be classes of the data.*received 9"),
        ({"t": 0.5, "exclude": 30}, "`exclude` must be indices of samples.*received 30"),
        ({"t": 0.5, "guidance": 2.0}, "`guidance` needs labels"),
        ({"t": 1.0}, "`t` must leave some noise"),
    ],
)
def test_what_eager_code_refuses_is_refused_alike(
    engine: OracleEngine, x: Tensor, options: dict[str, Any], message: str
) -> None:
    compiled = whole(lambda x: engine(x, **options))
    with pytest.raises(InputError, match=message):
        compiled(x)


def test_a_second_derivative_of_compiled_code_is_refused(engine: OracleEngine, x: Tensor) -> None:
    result = answer(x, TIMES, None, None, None, None, 0.0, 1.0, "velocity", engine._handle)
    (gradient,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    with pytest.raises(InputError, match=r"`x` can be differentiated once"):
        gradient.sum().backward()


def test_an_engine_that_is_gone_is_named(x: Tensor, generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(4, 3, generator)))
    handle = engine._handle
    del engine
    gc.collect()
    with pytest.raises(InputError, match=r"`engine` must be alive .*; received number \d+, which is gone. Remedy"):
        answer(x, TIMES, None, None, None, None, 0.0, 1.0, "velocity", handle)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_a_copy_answers_for_itself(
    engine: OracleEngine, x: Tensor, generator: torch.Generator, copied: Callable[[OracleEngine], OracleEngine]
) -> None:
    other = copied(engine)
    other.data = OracleDataset(normal(4, 3, generator))
    call = whole(lambda side: side(x.detach(), TIMES))
    for side in (engine, other):
        assert torch.equal(call(side), side(x.detach(), TIMES))
    assert not torch.equal(call(engine), call(other))


def test_compiled_code_follows_the_engine(engine: OracleEngine, x: Tensor, generator: torch.Generator) -> None:
    call = whole(lambda x: engine(x, TIMES))
    before = call(x)
    engine.data = OracleDataset(normal(4, 3, generator))
    assert torch.equal(call(x), engine(x, TIMES))
    assert not torch.equal(call(x), before)


@pytest.mark.parametrize(
    ("options", "asked", "recorded"),
    [
        ({"backend": "triton"}, {}, True),
        ({"backend": "triton"}, {"labels": 1, "exclude": 3}, True),
        ({"backend": "triton"}, {"labels": 1, "guidance": 2.0}, False),
        ({"backend": "triton", "mode": "top_k"}, {}, False),
        ({"backend": "torch"}, {}, False),
    ],
)
def test_graphs_are_cut_around_answers_that_look_at_values(
    engine: OracleEngine, options: dict[str, Any], asked: dict[str, Any], recorded: bool
) -> None:
    found: list[bool] = []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        operators = [node.target for node in module.graph.nodes if "oracle_engine" in str(node.target)]
        found.extend(torch.Tag.cudagraph_unsafe not in operator.tags for operator in operators)
        return lambda *values: (torch.zeros(5, 3),)

    asking = OracleEngine(engine.data, **options)
    torch.compile(lambda x: asking(x, 0.5, **asked), fullgraph=True, backend=backend)(torch.zeros(5, 3))
    assert found == [recorded]
