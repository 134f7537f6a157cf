"""The operators that stand for an answer under torch.compile: opaque, with fake tensors and a derivative in x.

Checks of the input and the choice of rows depend on values, so all of it happens when an operator runs; one of the two
is for answers that read no value on the host, which CUDA graphs may contain. They name their engine by a number,
because an operator takes tensors and plain values only.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import torch

from ..base.arrays import Tensor
from ..base.errors import invalid
from ..queries.conditions import Conditions, Guidance
from .autograd import Derivative, second_derivative


class Call(NamedTuple):
    """What the operators take: a call of an engine in tensors and plain values.

    x, t: the queries and their times. labels, exclude, source: as in Conditions. scale, t_min, t_max: of the guidance.
    name: of the answer. engine: the number of the engine.
    """

    x: Tensor
    t: Tensor
    labels: Tensor | None
    exclude: Tensor | None
    source: Tensor | None
    scale: Tensor | None
    t_min: float
    t_max: float
    name: str
    engine: int

    @property
    def conditions(self) -> Conditions:
        """The conditions as an engine takes them."""
        guidance = None if self.scale is None else Guidance(self.scale, self.t_min, self.t_max)
        return Conditions(self.labels, guidance, self.exclude, self.source)


# the types of these values, and how many of them are tensors
SCHEMA = (
    "Tensor x, Tensor t, Tensor? labels, Tensor? exclude, Tensor? source, Tensor? scale, "
    "float t_min, float t_max, str name, int engine"
)
TENSORS = 6


@runtime_checkable
class Answerer(Protocol):
    """What a number stands for."""

    def answer(
        self, name: str, x: Tensor, t: float | Tensor, conditions: Conditions, *, derivative: bool
    ) -> tuple[Tensor, Derivative | None]:
        """Return the answer called `name` to x at t under `conditions`, and its derivative in x where wanted."""
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
    number: int, name: str, x: Tensor, t: float | Tensor, *, conditions: Conditions, recordable: bool = False
) -> Tensor:
    """Return what the engine called `number` answers, as a call of an operator.

    name, x, t, conditions: as in :meth:`Answerer.answer`. recordable: CUDA graphs may contain the call.
    """
    guidance = conditions.guidance
    scale, bounds = guidance, (0.0, 1.0)
    if isinstance(guidance, Guidance):
        scale, bounds = guidance.scale, (guidance.t_min, guidance.t_max)
    call = Call(
        x,
        _tensor(t, x, torch.float64),
        _tensor(conditions.labels, x),
        _tensor(conditions.exclude, x),
        _tensor(conditions.source, x),
        _tensor(scale, x, torch.float64),
        *bounds,
        name,
        number,
    )
    result: Tensor = (recorded_answer if recordable else answer)(*call)
    return result


def _tensor(value: Any, x: Tensor, dtype: torch.dtype = torch.int64) -> Any:
    return value if value is None or isinstance(value, Tensor) else torch.full((), value, dtype=dtype, device=x.device)


def _answer(call: Call, *, derivative: bool) -> tuple[Tensor, Derivative | None]:
    return live(call.engine).answer(call.name, call.x, call.t, call.conditions, derivative=derivative)


# reads values on the host: code that is compiled into CUDA graphs is cut around it
READS_VALUES = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("oracle_engine::answer", mutates_args=(), schema=f"({SCHEMA}) -> Tensor", tags=READS_VALUES)
def answer(*call: Any) -> Tensor:
    """Return the answer that `call`, the values of a :class:`Call`, asks for."""
    return _answer(Call(*call), derivative=False)[0]


@torch.library.custom_op("oracle_engine::recorded_answer", mutates_args=(), schema=f"({SCHEMA}) -> Tensor")
def recorded_answer(*call: Any) -> Tensor:
    """Return what :func:`answer` does, where no step reads a value on the host."""
    return _answer(Call(*call), derivative=False)[0]


@torch.library.custom_op(
    "oracle_engine::pull", mutates_args=(), schema=f"(Tensor vector, {SCHEMA}) -> Tensor", tags=READS_VALUES
)
def pull(vector: Tensor, *call: Any) -> Tensor:
    """Return the transposed derivative of an answer in x times `vector`, like x; the answer is computed once more.

    call: the values of a :class:`Call`. Raises InputError where the engine is gone.
    """
    asked = Call(*call)
    _, derivative = _answer(asked, derivative=True)
    if derivative is None:
        raise AssertionError("a derivative that is asked for is there")
    return derivative.pull(vector).to(asked.x.dtype).reshape(asked.x.shape)


def _fake_answer(*call: Any) -> Tensor:
    asked = Call(*call)
    if asked.name == "log_density":
        return asked.x.new_empty(asked.x.shape[0], dtype=torch.float64)
    return asked.x.new_empty(asked.x.shape)


@pull.register_fake
def _(vector: Tensor, *call: Any) -> Tensor:
    asked = Call(*call)
    return asked.x.new_empty(asked.x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:TENSORS])
    ctx.plain = inputs[TENSORS:]


def _pull_back(ctx: Any, vector: Tensor) -> tuple[Tensor | None, ...]:
    call = Call(*ctx.saved_tensors, *ctx.plain)
    # x is the first value, and no other has a derivative
    return pull(vector, *call), *([None] * (len(call) - 1))


def _refuse(ctx: Any, vector: Tensor) -> Any:
    raise second_derivative()


for operator in (answer, recorded_answer):
    operator.register_fake(_fake_answer)
    operator.register_autograd(_pull_back, setup_context=_keep)
pull.register_autograd(_refuse)
