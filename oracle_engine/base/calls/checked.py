"""Checks of values: at once, together at the end of a call, or, in code that is compiled, when the code runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from ..arrays import Bool, Float, Shaped, Tensor
from ..errors import InputError, invalid
from .cuda_graphs import capturing, holds
from .transforms import batched, traced, unreadable

# numbers that are read one by one, at most
READ_SINGLY = 16

# a condition, and what finds the error where it does not hold, or None where there is none after all
Check = tuple[Bool[Tensor, "..."], Callable[[], InputError | None]]

_PENDING: ContextVar[list[Check] | None] = ContextVar("pending", default=None)


def check(condition: Callable[[], Bool[Tensor, "..."] | bool], error: Callable[[], InputError | None]) -> None:
    """Check that all of what `condition` returns is true, at once or at the end of :func:`checked_together`.

    condition: returns bool, any shape and device, or one that the host has read; it is not called while a CUDA graph is
    captured or code traced, where nothing can be read. error: returns what to raise where one is false; it may find
    that nothing is wrong.
    Raises that. The host reads what it gets as :func:`.cuda_graphs.holds` does.
    """
    if traced() or capturing():
        return
    asked = condition()
    if isinstance(asked, bool):
        if not asked:
            _raise(error)
        return
    pending = _PENDING.get()
    if pending is not None and not unreadable(asked):
        pending.append((asked, error))
    elif not holds(asked):
        _raise(error)


def holds_beside(condition: Bool[Tensor, "..."]) -> bool:
    """Return whether all of `condition`, any shape, is true, read at once with what :func:`checked_together` waits for.

    False where it cannot be read. The host waits once where it and all checks so far hold, which are done then.
    """
    if unreadable(condition):
        return False
    pending = _PENDING.get()
    if not pending:
        return holds(condition)
    if holds(torch.cat([part.reshape(-1) for part in (condition, *(one for one, _ in pending))])):
        pending.clear()
        return True
    return holds(condition)


def on_host(values: Shaped[Tensor, "..."]) -> bool:
    """Return whether the host reads `values`, any shape, without a wait for a device."""
    return values.is_cpu and not batched(values)


def finite(values: Float[Tensor, "..."]) -> Bool[Tensor, ""] | bool:
    """Return whether `values`, any shape, hold neither a NaN nor an infinity, as :func:`check` takes it.

    It is read here on the CPU: an infinity or a NaN stays in a sum. Numbers so large that their sum is no number of
    their dtype are taken for infinite: what finds the error has to look again.
    """
    if on_host(values):
        return math.isfinite(values.sum().item())
    if values.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=values.device)
    # a NaN among them makes this norm one
    largest: Tensor = torch.linalg.vector_norm(values, torch.inf)
    return largest < torch.inf


def above(values: Float[Tensor, "B"], floor: float) -> Bool[Tensor, "B"] | bool:
    """Return whether all of `values`, [B], are above `floor`, as :func:`check` takes it; it is read here on the CPU."""
    if on_host(values):
        # a handful of numbers is read sooner than reduced; what is no number is not above
        few = values.shape[0] <= READ_SINGLY
        return all(map(floor.__lt__, values.tolist())) if few else values.min().item() > floor
    return values > floor


@contextmanager
def checked_together() -> Iterator[None]:
    """Read the conditions of every :func:`check` in this context at its end, so that the host waits once.

    What comes after a check must be harmless for values that fail it; an error
    there gives way to that of the check. Raises the first of the errors.
    """
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
    """Raise the error of the first condition that does not hold, after one look at all of them."""
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
