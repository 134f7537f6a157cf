"""Checks of values in code that is compiled: an operator makes them when the code runs."""

from __future__ import annotations

from typing import Any

import torch

from .arrays import Bool, Shaped, Tensor
from .cuda_graphs import holds
from .errors import invalid
from .transforms import traced


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
    if not holds(condition):
        raise invalid(parameter, requirement, value[~condition].reshape(-1)[0].item(), remedy)


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
