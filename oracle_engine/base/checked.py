"""Checks of values: at once, together at the end of a call, or, in code that is compiled, when the code runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from .arrays import Bool, Shaped, Tensor
from .cuda_graphs import capturing, holds
from .errors import InputError, invalid
from .transforms import traced, unreadable

# a condition, and what finds the error where it does not hold, or None where there is none after all
Check = tuple[Bool[Tensor, "..."], Callable[[], InputError | None]]

_PENDING: ContextVar[list[Check] | None] = ContextVar("pending", default=None)


def check(condition: Callable[[], Bool[Tensor, "..."]], error: Callable[[], InputError | None]) -> None:
    """Check that all of what `condition` returns is true, at once or at the end of :func:`checked_together`.

    condition: returns bool, any shape and device; it is not called while a CUDA graph is captured or code traced, where
    nothing can be read. error: returns what to raise where one is false; it may find that nothing is wrong.
    Raises that. The host reads what it gets as :func:`.cuda_graphs.holds` does.
    """
    if traced() or capturing():
        return
    pending, asked = _PENDING.get(), condition()
    if pending is not None and not unreadable(asked):
        pending.append((asked, error))
    elif not holds(asked):
        _raise(error)


@contextmanager
def checked_together(together: bool = True) -> Iterator[None]:
    """Read the conditions of every :func:`check` in this context at its end, so that the host waits once.

    together: False leaves each where it is. What comes after a check must be harmless for values that fail it; an error
    there gives way to that of the check. Raises the first of the errors.
    """
    if not together:
        yield
        return
    pending: list[Check] = []
    token = _PENDING.set(pending)
    try:
        try:
            yield
        finally:
            _PENDING.reset(token)
    except Exception:
        _read(pending)
        raise
    _read(pending)


def _read(pending: list[Check]) -> None:
    if not pending or holds(torch.cat([condition.reshape(-1) for condition, _ in pending])):
        return
    for condition, error in pending:
        if not holds(condition):
            _raise(error)


def _raise(error: Callable[[], InputError | None]) -> None:
    found = error()
    if found is not None:
        raise found


def required(
    value: Shaped[Tensor, "..."], condition: Bool[Tensor, "..."], parameter: str, requirement: str, remedy: str
) -> Shaped[Tensor, "..."]:
    """Return `value` where all of `condition` is true, with a check that torch can trace and that works at once else.

    value: the argument, any shape. condition: bool, of the shape of `value`. parameter, requirement, remedy: as in
    :func:`~oracle_engine.base.errors.invalid`; what was received is the first of `value` for which it is false.
    Raises InputError where one is false. The host reads the condition, except while a CUDA graph is captured and inside
    of vmap.
    """
    if traced():
        result: Tensor = _required(value, condition, parameter, requirement, remedy)
        return result
    _check(value, condition, parameter, requirement, remedy)
    return value


def _check(value: Tensor, condition: Tensor, parameter: str, requirement: str, remedy: str) -> None:
    check(lambda: condition, lambda: invalid(parameter, requirement, value[~condition].reshape(-1)[0].item(), remedy))


@torch.library.custom_op(
    "oracle_engine::required",
    mutates_args=(),
    schema="(Tensor value, Tensor condition, str parameter, str requirement, str remedy) -> Tensor",
    tags=(torch.Tag.cudagraph_unsafe,),
)
def _required(value: Tensor, condition: Tensor, parameter: str, requirement: str, remedy: str) -> Tensor:
    # not by `required`: torch runs the operator on constants while it traces
    _check(value, condition, parameter, requirement, remedy)
    return value.clone()


@_required.register_fake
def _(value: Tensor, condition: Tensor, parameter: str, requirement: str, remedy: str) -> Tensor:
    return torch.empty_like(value, memory_format=torch.preserve_format)


def _pass_on(ctx: Any, vector: Tensor) -> tuple[Tensor | None, ...]:
    return vector, None, None, None, None


_required.register_autograd(_pass_on)
