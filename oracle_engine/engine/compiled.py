"""The operators that stand for an answer under torch.compile: opaque, with fake tensors and a derivative in x.

Checks of the input and the choice of rows depend on values, so all of it happens when an operator runs; one of the two
is for answers that take no look at values, which CUDA graphs may contain. They name their engine by a number, because
an operator takes tensors and plain values only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import torch

from ..base.arrays import Tensor
from ..base.errors import invalid
from ..queries.request import Conditions, Guidance
from .autograd import Derivative, second_derivative


@runtime_checkable
class Answerer(Protocol):
    """What a number stands for."""

    def answer(
        self, name: str, x: Tensor, t: float | Tensor, given: Conditions, derivative: bool
    ) -> tuple[Tensor, Derivative | None]:
        """Return the answer called `name` without a graph and, where wanted, its derivative in x."""
        ...


_live: WeakValueDictionary[int, Answerer] = WeakValueDictionary()
_numbers = itertools.count()


def register(engine: Answerer) -> int:
    """Return a number for `engine`, good as long as it lives."""
    number = next(_numbers)
    _live[number] = engine
    return number


def live(number: int) -> Answerer:
    """Return the engine with this number. Raises InputError where it is gone."""
    engine = _live.get(number)
    if engine is None:
        raise invalid(
            "engine", "must be alive where compiled code calls it", f"number {number}, which is gone", "compile again"
        )
    return engine


def respond(
    number: int, name: str, x: Tensor, t: float | Tensor, given: Conditions, recordable: bool = False
) -> Tensor:
    """Return what the engine answers, as a call of an operator; recordable: CUDA graphs may contain it."""
    guidance = given.guidance
    scale, bounds = guidance, (0.0, 1.0)
    if isinstance(guidance, Guidance):
        scale, bounds = guidance.scale, (guidance.t_min, guidance.t_max)
    rows = (_tensor(given.labels, x), _tensor(given.exclude, x), _tensor(given.source, x))
    asked = (_tensor(t, x, torch.float64), *rows, _tensor(scale, x, torch.float64))
    operator = recorded_answer if recordable else answer
    result: Tensor = operator(x, *asked, *bounds, name, number)
    return result


def _tensor(value: Any, x: Tensor, dtype: torch.dtype = torch.int64) -> Any:
    return value if value is None or isinstance(value, Tensor) else torch.full((), value, dtype=dtype, device=x.device)


# what both operators take, the second one after the vector
ASKED = (
    "Tensor x, Tensor t, Tensor? labels, Tensor? exclude, Tensor? source, Tensor? scale, "
    "float t_min, float t_max, str name, int engine"
)


def _answer(asked: Sequence[Any], derivative: bool) -> tuple[Tensor, Derivative | None]:
    x, t, labels, exclude, source, scale, t_min, t_max, name, engine = asked
    guidance = None if scale is None else Guidance(scale, t_min, t_max)
    return live(engine).answer(name, x, t, Conditions(labels, guidance, exclude, source), derivative)


# looks at values: code that is compiled into CUDA graphs is cut around it
LOOKS = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("oracle_engine::answer", mutates_args=(), schema=f"({ASKED}) -> Tensor", tags=LOOKS)
def answer(*asked: Any) -> Tensor:
    """Return the answer called `name` of an engine to x at t."""
    return _answer(asked, derivative=False)[0]


@torch.library.custom_op("oracle_engine::recorded_answer", mutates_args=(), schema=f"({ASKED}) -> Tensor")
def recorded_answer(*asked: Any) -> Tensor:
    """Return the same where no step needs a look at a value."""
    return _answer(asked, derivative=False)[0]


@torch.library.custom_op(
    "oracle_engine::pull", mutates_args=(), schema=f"(Tensor vector, {ASKED}) -> Tensor", tags=LOOKS
)
def pull(vector: Tensor, *asked: Any) -> Tensor:
    """Return the transposed derivative of that answer in x times a vector; the answer is computed once more."""
    x: Tensor = asked[0]
    _, derivative = _answer(asked, derivative=True)
    if derivative is None:
        raise AssertionError("a derivative that is asked for is there")
    return derivative.pull(vector).to(x.dtype).reshape(x.shape)


def _fake_answer(*asked: Any) -> Tensor:
    x: Tensor = asked[0]
    return x.new_empty(x.shape[0], dtype=torch.float64) if asked[-2] == "log_density" else x.new_empty(x.shape)


@pull.register_fake
def _(vector: Tensor, *asked: Any) -> Tensor:
    x: Tensor = asked[0]
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.detached = inputs[6:]


def _pull_back(ctx: Any, vector: Tensor) -> tuple[Tensor | None, ...]:
    return pull(vector, *ctx.saved_tensors, *ctx.detached), *([None] * 9)


def _refuse(ctx: Any, vector: Tensor) -> Any:
    raise second_derivative()


for operator in (answer, recorded_answer):
    operator.register_fake(_fake_answer)
    operator.register_autograd(_pull_back, setup_context=_keep)
pull.register_autograd(_refuse)
