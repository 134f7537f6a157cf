"""The operators that stand for an answer under torch.compile: opaque, with fake tensors and derivatives.

Checks of the input and the choice of rows depend on values, so all of it happens when an operator runs; one of the two
is for answers that read no value on the host, which CUDA graphs may contain. They name their engine by a number,
because an operator takes tensors and plain values only.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import torch

from ..base.arrays import Tensor
from ..base.calls.transforms import constant_when_compiled, transformed
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..queries.conditions import Conditions, Guidance
from .autograd import forward_mode, has_tangent, inputs_of
from .derivatives import AnswerFunction, QueryTensors, States, Tangent, scale_and_interval, second_derivative


class OperatorCall(NamedTuple):
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


# why compiled code is cut around some answers
UNTRACED = (
    "operators have neither batching rules nor forward derivatives: torch.compile cannot contain torch.func.jvp, grad "
    "or vmap of an answer of an OracleEngine as one graph. Remedy: leave out fullgraph=True, or use total_derivative"
)

# the types of these values, and how many of them are tensors
SCHEMA = (
    "Tensor x, Tensor t, Tensor? labels, Tensor? exclude, Tensor? source, Tensor? scale, "
    "float t_min, float t_max, str name, int engine"
)
TENSORS = 6


@runtime_checkable
class Answerer(Protocol):
    """What a number stands for."""

    def answer(self, name: str, x: Tensor, t: float | Tensor, conditions: Conditions) -> Tensor:
        """Return the answer called `name` to x at t under `conditions`."""
        ...

    def function(self, name: str, dtype: torch.dtype, conditions: Conditions) -> AnswerFunction:
        """Return the answer called `name` to x of `dtype` under `conditions` as a function with derivatives."""
        ...


_live: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


def register(engine: Any) -> int:
    """Return a number for `engine`, an Answerer or an OracleTarget, good as long as it lives."""
    number = next(_numbers)
    _live[number] = engine
    return number


def live(number: int) -> Any:
    """Return the engine, or the target, with this number. Raises InputError where it is gone."""
    engine = _live.get(number)
    if engine is None:
        raise invalid(
            "engine", "must be alive where compiled code calls it", f"number {number}, which is gone", "compile again"
        )
    return engine


def untraced(engine: Any, name: str, x: Tensor, t: Any, conditions: Conditions) -> Tensor:
    """Return what `engine` answers, after :func:`cut_out` outside of compiled code.

    name, x, t, conditions: as in :meth:`Answerer.answer`.
    """
    answer: Tensor = engine.answered(name, x, t, conditions)
    return answer


@constant_when_compiled
def cut_out() -> bool:
    """Have compiled code cut around :func:`untraced`, and return True; it is called when code is traced.

    The decorator of torch that says so imports the compiler and triton, which code that compiles nothing does without.
    """
    global untraced  # noqa: PLW0603  the name that traced code reads
    if not hasattr(untraced, "_torchdynamo_disable"):
        untraced = torch.compiler.disable(untraced, reason=UNTRACED)
    return True


def inside_transform() -> bool:
    """Return whether code is compiled that has a transform of torch.func, or forward differentiation, around a call."""
    return torch.compiler.is_compiling() and (transformed() or forward_mode())


def respond(number: int, name: str, x: Tensor, t: Any, *, conditions: Conditions, recordable: bool = False) -> Tensor:
    """Return what the engine called `number` answers, as a call of an operator.

    name, x, t, conditions: as in :meth:`Answerer.answer`. recordable: CUDA graphs may contain the call.
    Raises InputError where make_fx traces a transform of torch.func: operators have neither batching rules nor forward
    derivatives.
    """
    scale, _ = scale_and_interval(conditions.guidance)
    if not torch.compiler.is_compiling() and (transformed() or has_tangent(x, t, scale)):
        remedy = "trace without the transform, or use total_derivative"
        raise invalid("transform", "must not be traced by make_fx or linearize", "an answer in one", remedy)
    call = call_of(number, name, x, t, conditions=conditions)
    result: Tensor = (recorded_answer if recordable else answer)(*call)
    return result


def call_of(number: int, name: str, x: Tensor, t: Any, *, conditions: Conditions) -> OperatorCall:
    """Return a call of the engine called `number` in tensors; name, x, t, conditions: as in :func:`respond`."""
    scale, bounds = scale_and_interval(conditions.guidance)
    return OperatorCall(
        x,
        tensor_like(t, x),
        tensor_like(conditions.labels, x),
        tensor_like(conditions.exclude, x),
        tensor_like(conditions.source, x),
        tensor_like(scale, x),
        float(bounds[0]),
        float(bounds[1]),
        name,
        number,
    )


def tensor_like(value: Any, x: Tensor) -> Any:
    """Return what a caller passed beside x as a tensor with all its digits, or None; torch can trace it.

    value: a tensor, a number, a list of numbers or an array, or None. x: whose device is that of what is made here.
    """
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int, float)):
        dtype = torch.bool if isinstance(value, bool) else torch.float64 if isinstance(value, float) else torch.int64
        return torch.full((), value, dtype=dtype, device=x.device)
    if isinstance(value, (list, tuple)) and any(isinstance(item, float) or _has_float(item) for item in value):
        return torch.tensor(value, dtype=torch.float64, device=x.device)
    return torch.as_tensor(value, device=x.device)


def _has_float(row: Any) -> bool:
    return isinstance(row, (list, tuple)) and any(isinstance(item, float) for item in row)


def regression_target(number: int, x: Tensor, t: Any, labels: Any, source: Any) -> Tensor:
    """Return what the OracleTarget called `number` returns, like x, as a call of an operator.

    x: [B, *sample_shape]. t, labels, source: as the target takes them.
    """
    asked = (tensor_like(t, x), tensor_like(labels, x), tensor_like(source, x))
    result: Tensor = target(x.detach(), *asked, number)
    return result


def derivative_along(call: OperatorCall, dx: Tensor | None, dt: Tensor) -> Tensor:
    """Return the derivative of an answer along the tangent (dx, dt), like the answer, as a call of an operator.

    call: of the engine. dx: like x, or None where x stands still. dt: [] or [B] float64.
    """
    result: Tensor = push(dx, dt, *call)
    return result


# reads values on the host: code that is compiled into CUDA graphs is cut around it
READS_VALUES = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("oracle_engine::answer", mutates_args=(), schema=f"({SCHEMA}) -> Tensor", tags=READS_VALUES)
def answer(*call: Any) -> Tensor:
    """Return the answer that `call`, the values of a :class:`OperatorCall`, asks for."""
    asked = OperatorCall(*call)
    result: Tensor = live(asked.engine).answer(asked.name, asked.x, asked.t, asked.conditions)
    return result


@torch.library.custom_op("oracle_engine::recorded_answer", mutates_args=(), schema=f"({SCHEMA}) -> Tensor")
def recorded_answer(*call: Any) -> Tensor:
    """Return what :func:`answer` does, where no step reads a value on the host."""
    asked = OperatorCall(*call)
    result: Tensor = live(asked.engine).answer(asked.name, asked.x, asked.t, asked.conditions)
    return result


@torch.library.custom_op(
    "oracle_engine::target",
    mutates_args=(),
    schema="(Tensor x, Tensor t, Tensor? labels, Tensor? source, int target) -> Tensor",
    tags=READS_VALUES,
)
def target(x: Tensor, t: Tensor, labels: Tensor | None, source: Tensor | None, number: int) -> Tensor:
    """Return the regression target at x and t, like x.

    x, t, labels, source: as an OracleTarget takes them. number: of the target. Raises InputError where it is gone.
    """
    result: Tensor = live(number)(x, t, labels, source)
    return result


@target.register_fake
def _(x: Tensor, t: Tensor, labels: Tensor | None, source: Tensor | None, number: int) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "oracle_engine::pull",
    mutates_args=(),
    schema=f"(Tensor vector, bool by_x, bool by_t, bool by_scale, {SCHEMA}) -> (Tensor, Tensor, Tensor)",
    tags=READS_VALUES,
)
def pull(vector: Tensor, by_x: bool, by_t: bool, by_scale: bool, *call: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the transposed derivative of an answer times `vector`, like x, t and the scale.

    vector: like the answer. by_x, by_t, by_scale: which of the three are wanted; others are empty. call: the values of
    a :class:`OperatorCall`. The answer is computed once more. Raises InputError where the engine is gone.
    """
    asked = OperatorCall(*call)
    function, inputs, states = _evaluated(asked, scaled=by_scale)
    found = function.pull(inputs, states, vector.double(), (by_x, by_t, by_scale))
    pairs = zip(found, (asked.x, asked.t, asked.scale), strict=True)
    of_x, of_t, of_scale = (asked.x.new_empty(0) if part is None else _gathered(part, model) for part, model in pairs)
    return of_x, of_t, of_scale


@torch.library.custom_op(
    "oracle_engine::push", mutates_args=(), schema=f"(Tensor? dx, Tensor dt, {SCHEMA}) -> Tensor", tags=READS_VALUES
)
def push(dx: Tensor | None, dt: Tensor, *call: Any) -> Tensor:
    """Return the derivative of an answer along a tangent, like the answer, which is computed once more.

    dx: like x, or None. dt: [] or [B]. call: the values of a :class:`OperatorCall`.
    Raises InputError where the engine is gone.
    """
    asked = OperatorCall(*call)
    function, inputs, states = _evaluated(asked, scaled=False)
    along_x = None if dx is None else dx.double().reshape(inputs.x.shape)
    change = function.push(inputs, states, Tangent(along_x, dt.double().expand(len(inputs.t)), None))
    return change if function.is_density else rounded_answer(change, "derivative", asked.x.dtype, asked.x.shape)


def _evaluated(call: OperatorCall, *, scaled: bool) -> tuple[AnswerFunction, QueryTensors, States]:
    """Return the answer of a recorded call as a function, with what it was evaluated at."""
    function = live(call.engine).function(call.name, call.x.dtype, call.conditions)
    function = replace(function, scaled=scaled)
    with torch.no_grad():
        inputs = inputs_of(call.x, call.t, call.conditions)
        return function, inputs, function.states(inputs)


def _gathered(part: Tensor, model: Tensor | None) -> Tensor:
    """Return a gradient like `model`: summed where it is shared by the batch, and never the same memory."""
    if model is None:
        raise AssertionError("a derivative is asked for in what was given")
    whole = part if part.numel() == model.numel() else part.sum()
    return whole.to(model.dtype, copy=True).reshape(model.shape)


def _fake_answer(*call: Any) -> Tensor:
    asked = OperatorCall(*call)
    if asked.name == "log_density":
        return asked.x.new_empty(asked.x.shape[0], dtype=torch.float64)
    return asked.x.new_empty(asked.x.shape)


@pull.register_fake
def _(vector: Tensor, by_x: bool, by_t: bool, by_scale: bool, *call: Any) -> tuple[Tensor, Tensor, Tensor]:
    asked = OperatorCall(*call)
    pairs = zip((by_x, by_t, by_scale), (asked.x, asked.t, asked.scale), strict=True)
    of_x, of_t, of_scale = (
        model.new_empty(model.shape) if wanted and model is not None else asked.x.new_empty(0)
        for wanted, model in pairs
    )
    return of_x, of_t, of_scale


@push.register_fake
def _(dx: Tensor | None, dt: Tensor, *call: Any) -> Tensor:
    return _fake_answer(*call)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:TENSORS])
    ctx.plain = inputs[TENSORS:]


def _pull_back(ctx: Any, vector: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of a recorded call: by x, t and the guidance scale."""
    call = OperatorCall(*ctx.saved_tensors, *ctx.plain)
    place = OperatorCall._fields.index("scale")
    wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[place])
    found = pull(vector, *wanted, *call)
    gradients: list[Tensor | None] = [None] * len(call)
    for index, asked, part in zip((0, 1, place), wanted, found, strict=True):
        gradients[index] = part if asked else None
    return tuple(gradients)


def _refuse(ctx: Any, *vectors: Tensor) -> Any:
    raise second_derivative()


for operator in (answer, recorded_answer):
    operator.register_fake(_fake_answer)
    operator.register_autograd(_pull_back, setup_context=_keep)
pull.register_autograd(_refuse)
push.register_autograd(_refuse)
