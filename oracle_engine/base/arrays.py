"""Shapes and dtypes: the names that signatures use, and checks that raise errors in one wording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from .errors import invalid

__all__ = [
    "STORAGE_DTYPES",
    "Bool",
    "Float",
    "Float64",
    "Int64",
    "Shaped",
    "Tensor",
    "check_floating",
    "check_shape",
    "exact",
    "flat_size",
]

# dtypes in which samples may be stored; every result is computed from exactly the stored values
STORAGE_DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def flat_size(shape: Sequence[int]) -> int:
    """Return the number of values in one sample, the product of `shape`; it is 1 for a scalar sample.

    shape: sizes of one sample without the batch, non-negative integers.
    """
    return math.prod(shape)


def exact(value: int | float | Tensor) -> Float64[Tensor, "..."]:
    """Return a number or a tensor in float64; through float32 a number would lose half of its digits.

    value: a Python number, which becomes a tensor [] on the CPU, or a tensor of any shape and dtype, which keeps its
        shape and device and loses its gradient.
    """
    return value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def on_device(value: Any, device: torch.device) -> Tensor:
    """Return a tensor, a number or a sequence of numbers as a tensor on `device`; a number keeps all digits.

    value: a tensor, which keeps its shape and dtype; a bool, int or float, which becomes [] in bool, int64 or float64
        and is filled in on the device, because a CUDA graph cannot record a copy from the host; or a sequence, which
        is converted as torch.tensor does.
    device: where the result is placed.
    """
    if isinstance(value, bool | int | float):
        dtype = torch.float64 if isinstance(value, float) else torch.bool if isinstance(value, bool) else torch.int64
        return torch.full((), value, dtype=dtype, device=device)
    if isinstance(value, Tensor):
        return value.to(device)
    return torch.tensor(value, device=device)


def check_floating(name: str, value: Tensor) -> None:
    """Check that `value` is a tensor of a real floating dtype, of any shape.

    name: the parameter that the error names. Raises InputError where `value` is no tensor or has another dtype.
    """
    if not isinstance(value, Tensor):
        raise invalid(name, "must be a torch.Tensor", type(value).__name__, f"pass torch.as_tensor({name})")
    if not value.is_floating_point():
        raise invalid(name, "must have a floating dtype", value.dtype, f"pass {name}.float()")


def check_shape(name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Check that `value` is a batch [B, *shape].

    name: the parameter that the error names. shape: sizes of one sample, without the batch.
    Raises InputError where the number of dimensions or any size but the first differs.
    """
    if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != tuple(shape):
        wanted = ", ".join(["B", *map(str, shape)])
        raise invalid(
            name, f"must have shape [{wanted}]", list(value.shape), f"reshape {name} to the shape of the samples"
        )
