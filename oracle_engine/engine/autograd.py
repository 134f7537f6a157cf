"""Answers as functions of x, t and the guidance scale for autograd, forward and backward, and for torch.func.

Torch hands plain tensors to the forward of an autograd function, whatever transforms surround it: all work on an answer
and on its derivatives is done there, and nothing that it caches belongs to a transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from ..base.arrays import Tensor, check_floating, check_shape, flat_size, on_device, reals
from ..base.calls.transforms import constant_when_compiled, transformed
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..paths.paths import one_per_query
from ..queries.classes import MAX_BATCH
from ..queries.conditions import Conditions
from .derivatives import AnswerFunction, QueryTensors, States, Tangent, scale_and_interval, second_derivative

# arguments of the functions below, in this order after what is no tensor
INPUTS, STATES = len(QueryTensors._fields), len(States._fields)


@constant_when_compiled
def forward_mode() -> bool:
    """Return whether forward differentiation surrounds the call; where code is compiled, the tracing of it."""
    return bool(forward_ad._current_level >= 0)


def has_tangent(*values: Any) -> bool:
    """Return whether one of `values`, those of them that are tensors, is differentiated forward."""
    if forward_ad._current_level < 0:
        return False
    for value in values:
        dual = isinstance(value, Tensor) and value.is_floating_point()
        if dual and forward_ad.unpack_dual(value).tangent is not None:
            return True
    return False


def differentiable(*values: Any) -> bool:
    """Return whether autograd wants the derivative of an answer in one of `values`, those of them that are tensors."""
    if torch.is_grad_enabled():
        for value in values:
            if isinstance(value, Tensor) and value.requires_grad:
                return True
    return has_tangent(*values)


def refuse_transforms(name: str, *values: Any) -> None:
    """Refuse what has no derivative where a transform surrounds the call or one of `values` carries a tangent.

    name: what is asked for, as the error calls it. Raises InputError.
    """
    if transformed() or has_tangent(*values):
        remedy = "ask for it outside of the transform, or use velocity, denoiser, score, noise or log_density"
        raise invalid(name, "has no derivative and no batching rule", "a call inside a transform of torch.func", remedy)


def inputs_of(x: Tensor, t: Any, conditions: Conditions) -> QueryTensors:
    """Return arguments of an answer as inputs, differentiable in x, t and the scale; no value is read.

    x: [B, *sample_shape]. t, conditions: as in OracleEngine.velocity. Raises InputError for shapes that do not fit.
    """
    batch, device = len(x), x.device
    scale, _ = scale_and_interval(conditions.guidance)
    if scale is not None:
        given = reals("guidance", scale, device)
        if given.shape not in ((), (batch,)):
            remedy = "pass one scale a query"
            raise invalid("guidance", f"must be a finite number or [{batch}]", list(given.shape), remedy)
        scale = given.expand(batch).clone()
    return QueryTensors(
        x=x.to(torch.float64, copy=True).reshape(batch, flat_size(x.shape[1:])),
        t=one_per_query(reals("t", t, device), batch).clone(),
        scale=scale,
        labels=_rows_of("labels", conditions.labels, batch, device),
        exclude=_rows_of("exclude", conditions.exclude, batch, device),
        source=_rows_of("source", conditions.source, batch, device),
    )


def attached(function: AnswerFunction, x: Tensor, t: Any, conditions: Conditions) -> Tensor:
    """Return an answer as a function of x, t and the guidance scale, like x, or [B] of a log density.

    function: the answer. x: [B, *sample_shape]. t, conditions: as in OracleEngine.velocity.
    Raises InputError as OracleEngine.velocity does.
    """
    check_floating("x", x)
    check_shape("x", x, function.data.sample_shape)
    values, *_ = evaluate(function, inputs_of(x, t, conditions))
    return values if function.is_density else rounded_answer(values, function.name, x.dtype, x.shape)


def evaluate(
    function: AnswerFunction, inputs: QueryTensors, states: Sequence[Tensor | None] = (None,) * STATES
) -> tuple[Tensor, ...]:
    """Return the answer to `inputs`, [B, D] or [B] float64, with a graph, and its States, without one.

    function: the answer. states: where another answer to the same inputs left them, which saves the scan.
    """
    result: tuple[Tensor, ...] = _Answer.apply(function, *inputs, *states)  # type: ignore[no-untyped-call]
    return result


def pushed(function: AnswerFunction, inputs: QueryTensors, states: Sequence[Tensor], tangent: Tangent) -> Tensor:
    """Return the derivative of the answer to `inputs` along `tangent`, [B, D] or [B], which has none itself.

    function, states: the answer, and what :func:`evaluate` returned beside it.
    """
    return _push(function, tangent, (*inputs, *states))


# the vmap within torch.autograd, under is_grads_batched=True, which has no rules for functions with a derivative
_LEGACY_BATCH: Any = torch._C._parse_dispatch_key("Batched")


class _Answer(torch.autograd.Function):
    """An answer and its states, which are computed here unless they are given."""

    @staticmethod
    def forward(function: AnswerFunction, *values: Any) -> tuple[Tensor, ...]:
        """Return the answers, and the states that they were made of."""
        inputs = QueryTensors(*values[:INPUTS])
        known = values[INPUTS] is not None
        states = States(*(part.clone() for part in values[INPUTS:])) if known else function.states(inputs)
        return function.values(inputs, states), *states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what derivatives need."""
        ctx.function = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        _save(ctx, *inputs[1 : 1 + INPUTS], *output[1:])

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return vector-Jacobian products with x, t and the guidance scale."""
        function, vector, saved = ctx.function, vectors[0], ctx.saved_tensors
        by_x, by_t, by_scale = ctx.needs_input_grad[1:4]
        found: tuple[Tensor | None, ...] = (None, None, None)
        if vector is not None and by_x and function.is_density:
            # the score is an answer itself, which has a derivative
            found = (vector[:, None] * _score(function, saved), None, None)
            by_x = False
        if vector is not None and (by_x or by_t or by_scale):
            pulled = _pull(function, (by_x, by_t, by_scale), vector, saved)
            found = tuple(one if other is None else other for one, other in zip(pulled, found, strict=True))
        return None, *found, *[None] * (INPUTS - 3 + STATES)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the Jacobian-vector product along x, t and the guidance scale."""
        function, saved = ctx.function, ctx.saved_tensors
        tangent = Tangent(*tangents[1:4])
        if function.is_density:
            along_x = None if tangent.x is None else (tangent.x * _score(function, saved)).sum(1)
            rest = tangent._replace(x=None)
            along = None if rest.t is None else _push(function, rest, saved)
            change = along_x if along is None else along if along_x is None else along + along_x
        else:
            change = _push(function, tangent, saved)
        return change, *[None] * STATES

    @staticmethod
    def vmap(info: Any, dims: Any, function: AnswerFunction, *values: Any) -> Any:
        """Answer a batch of batches as one batch."""
        return _folded(_Answer, info, dims, (function,), values)


class _Push(torch.autograd.Function):
    """The derivative of an answer along a tangent, linear in the tangent; it has no derivative in anything else."""

    @staticmethod
    def forward(function: AnswerFunction, *values: Any) -> tuple[Tensor]:
        """Return the change of the answers along a tangent."""
        tangent, inputs, states = values[:3], values[3 : 3 + INPUTS], values[3 + INPUTS :]
        return (function.push(QueryTensors(*inputs), States(*states), Tangent(*tangent)),)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the derivative by the tangent needs."""
        ctx.function = inputs[0]
        ctx.set_materialize_grads(False)
        _save(ctx, *inputs[4:])

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the derivative by the tangent: a product is linear in it."""
        found: tuple[Tensor | None, ...] = (None, None, None)
        if vectors[0] is not None:
            found = _pull(ctx.function, ctx.needs_input_grad[1:4], vectors[0], ctx.saved_tensors)
        return None, *found, *[None] * (INPUTS + STATES)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor]:
        """Return the change along a change of the tangent."""
        return (_push(ctx.function, tangents[1:4], ctx.saved_tensors),)

    @staticmethod
    def vmap(info: Any, dims: Any, function: AnswerFunction, *values: Any) -> Any:
        """Answer a batch of batches as one batch."""
        return _folded(_Push, info, dims, (function,), values)


class _Pull(torch.autograd.Function):
    """The transposed derivative of an answer times a vector, linear in it; no derivative in anything else."""

    @staticmethod
    def forward(function: AnswerFunction, wanted: tuple[bool, bool, bool], *values: Any) -> tuple[Tensor, ...]:
        """Return vector-Jacobian products; those that nobody wants are empty."""
        inputs = QueryTensors(*values[1 : 1 + INPUTS])
        found = function.pull(inputs, States(*values[1 + INPUTS :]), values[0], wanted)
        return tuple(inputs.t[:0] if part is None else part for part in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the derivative by the vector needs."""
        ctx.function, ctx.wanted = inputs[:2]
        ctx.set_materialize_grads(False)
        _save(ctx, *inputs[3:])

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the derivative by the vector: a product is linear in it."""
        tangent = [part if wanted else None for part, wanted in zip(vectors, ctx.wanted, strict=True)]
        along = None
        if any(part is not None for part in tangent):
            along = _push(ctx.function, tangent, ctx.saved_tensors)
        return None, None, along, *[None] * (INPUTS + STATES)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        """Return the change along a change of the vector."""
        return _pull(ctx.function, ctx.wanted, tangents[2], ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, dims: Any, function: AnswerFunction, wanted: tuple[bool, bool, bool], *values: Any) -> Any:
        """Answer a batch of batches as one batch."""
        # `wanted` is a tuple, whose three values have a dimension each
        return _folded(_Pull, info, (None, *dims[-len(values) :]), (function, wanted), values)


class _Once(torch.autograd.Function):
    """An argument of a first derivative, whose own derivative would be a second one."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        """Return the value as it is."""
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing."""
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> Any:
        """Raise the error about a second derivative."""
        raise second_derivative()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        """Raise the error about a second derivative."""
        raise second_derivative()

    @staticmethod
    def vmap(info: Any, dims: Any, value: Tensor) -> Any:
        """Pass a batch of values on."""
        return _Once.apply(value), dims[0]  # type: ignore[no-untyped-call]


def _once(values: Sequence[Any]) -> list[Any]:
    """Return inputs and states of a first derivative, of which x, t and the scale are not differentiated again."""
    kept = list(values)
    kept[:3] = [None if part is None else _Once.apply(part) for part in kept[:3]]  # type: ignore[no-untyped-call]
    return kept


def _push(function: AnswerFunction, tangent: Sequence[Tensor | None], values: Sequence[Any]) -> Tensor:
    result: Tensor = _Push.apply(function, *tangent, *_once(values))[0]  # type: ignore[no-untyped-call]
    return result


def _pull(
    function: AnswerFunction, wanted: tuple[bool, bool, bool], vector: Tensor, values: Sequence[Any]
) -> tuple[Tensor | None, ...]:
    """Return the gradients that are `wanted`. Raises InputError for a vector that torch.autograd has batched."""
    if torch._C._dispatch_keys(vector).has(_LEGACY_BATCH):
        remedy = "use torch.func.vmap or torch.func.jacrev, or one vector after the other"
        raise invalid("is_grads_batched", "must be False for answers of an engine", True, remedy)
    found = _Pull.apply(function, wanted, vector, *_once(values))  # type: ignore[no-untyped-call]
    return tuple(part if asked else None for part, asked in zip(found, wanted, strict=True))


def _score(function: AnswerFunction, saved: Sequence[Any]) -> Tensor:
    result: Tensor = _Answer.apply(function.score, *saved)[0]  # type: ignore[no-untyped-call]
    return result


def _save(ctx: Any, *values: Tensor | None) -> None:
    ctx.save_for_backward(*values)
    ctx.save_for_forward(*values)


def _folded(
    kind: Any, info: Any, dims: Any, plain: tuple[Any, ...], values: Sequence[Any]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Return what `kind` gives for a batch of batches: these are queries as well, as many at once as a scan takes."""
    many = info.batch_size
    lifted = [_lifted(value, dim, many) for value, dim in zip(values, dims[len(dims) - len(values) :], strict=True)]
    batch = next(part.shape[1] for part in lifted if part is not None)
    size = max(1, MAX_BATCH // max(1, batch))
    parts = []
    for start in range(0, many, size):
        some = [None if part is None else part[start : start + size].flatten(0, 1) for part in lifted]
        found = kind.apply(*plain, *some)
        # what was not wanted is empty
        rows = [batch if len(part) else 0 for part in found]
        count = min(size, many - start)
        parts.append([part.reshape(count, row, *part.shape[1:]) for part, row in zip(found, rows, strict=True)])
    joined = tuple(torch.cat(same) for same in zip(*parts, strict=True))
    return joined, (0,) * len(joined)


def _lifted(value: Tensor | None, dim: int | None, many: int) -> Tensor | None:
    """Return a tensor with the dimension of a vmap of `many` first."""
    if value is None:
        return None
    return value.expand(many, *value.shape) if dim is None else value.movedim(dim, 0)


def _rows_of(name: str, value: Any, batch: int, device: torch.device) -> Tensor | None:
    """Return a condition as one row a query, which torch.func can take apart."""
    if value is None:
        return None
    given = on_device(value, device, name)
    if given.ndim and len(given) != batch:
        wanted = f"must be one number or have {batch} rows, one for each query"
        raise invalid(name, wanted, list(given.shape), "pass one row a query")
    return given.expand(batch).clone() if given.ndim == 0 else given.clone()
