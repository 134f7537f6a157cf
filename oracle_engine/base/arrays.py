"""Shapes and dtypes: the vocabulary every signature uses, and the checks that word their errors."""

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

# what samples may be stored as; everything is computed from exactly these values
STORAGE_DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def flat_size(shape: Sequence[int]) -> int:
    """Return the number of values in one sample of `shape` (1 for a scalar sample)."""
    return math.prod(shape)


def exact(value: int | float | Tensor) -> Float64[Tensor, "..."]:
    """Return a number or a tensor in float64; through float32 a number would lose half of its digits."""
    return value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def on_device(value: Any, device: torch.device) -> Tensor:
    """Return a tensor, a number or a sequence of numbers as a tensor on `device`; a number keeps all digits.

    A number is filled in there instead of being copied, which a CUDA graph could not record.
    """
    if isinstance(value, bool | int | float):
        dtype = torch.float64 if isinstance(value, float) else torch.bool if isinstance(value, bool) else torch.int64
        return torch.full((), value, dtype=dtype, device=device)
    if isinstance(value, Tensor):
        return value.to(device)
    return torch.tensor(value, device=device)


def check_floating(name: str, value: Tensor) -> None:
    """Raise InputError unless `value` is a real floating tensor."""
    if not isinstance(value, Tensor):
        raise invalid(name, "must be a torch.Tensor", type(value).__name__, f"pass torch.as_tensor({name})")
    if not value.is_floating_point():
        raise invalid(name, "must have a floating dtype", value.dtype, f"pass {name}.float()")


def check_shape(name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Raise InputError unless `value` is a batch [B, *shape]."""
    if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != tuple(shape):
        wanted = ", ".join(["B", *map(str, shape)])
        raise invalid(
            name, f"must have shape [{wanted}]", list(value.shape), f"reshape {name} to the shape of the samples"
        )
