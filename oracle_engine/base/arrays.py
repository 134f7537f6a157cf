"""Shapes and dtypes: the names that signatures use, and checks that raise errors in one wording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from .errors import InputError, invalid

__all__ = [
    "STORAGE_DTYPES",
    "Bool",
    "Float",
    "Float64",
    "Int64",
    "Numbers",
    "Shaped",
    "Tensor",
    "check_dense",
    "check_floating",
    "check_shape",
    "exact",
    "flat_size",
    "integers",
    "is_number",
    "is_whole",
    "on_device",
    "reals",
]

# numbers as callers pass them: times, labels, scales, indices
Numbers = int | float | np.number[Any] | Sequence[Any] | np.ndarray | Tensor

# dtypes in which samples may be stored; every result is computed from exactly the stored values
STORAGE_DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def flat_size(shape: Sequence[int]) -> int:
    """Return the number of values in one sample, the product of `shape`; it is 1 for a scalar sample.

    shape: sizes of one sample without the batch, non-negative integers.
    """
    return math.prod(shape)


def exact(value: Any, name: str = "value") -> Float64[Tensor, "..."]:
    """Return numbers in float64; through float32 a Python number would lose half of its digits.

    value: a tensor of any shape and dtype, which keeps its shape and device and loses its gradient; or what
        :func:`on_device` takes beside tensors, which comes to the CPU. name: the parameter that an error names.
    Raises InputError for anything else.
    """
    return reals(name, value).detach()


def on_device(value: Any, device: torch.device, name: str = "value") -> Tensor:
    """Return a tensor, a number, a sequence of numbers or an array as a tensor on `device`, with all digits.

    value: a tensor, which keeps its shape and dtype; a bool, int or float, which becomes [] in bool, int64 or float64
        and is filled in on the device, because a CUDA graph cannot record a copy from the host; a sequence of these, in
        which a float makes all float64; or a NumPy array of any byte order, or what NumPy takes for one, which keeps
        its dtype. Sequences and arrays are copied.
    device: where the result is placed. name: the parameter that an error names.
    Raises InputError for what is none of these, for tensors without dense values, for sequences of different lengths
    and for integers beyond 64 bits.
    """
    if isinstance(value, Tensor):
        check_dense(name, value)
        if value.device.type == "meta" != device.type:
            raise invalid(name, "must have values", "a tensor on the device meta", f"make {name} on {device}")
        return value.to(device)
    try:
        if isinstance(value, (bool, int, float)):
            return torch.full((), value, dtype=_python_dtype([value]), device=device)
        if isinstance(value, (list, tuple, range)) and all(isinstance(item, (bool, int, float)) for item in value):
            return torch.tensor(list(value), dtype=_python_dtype(value), device=device)
        if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
            return torch.stack([on_device(item, device, name) for item in value])
        if np.ma.is_masked(value):
            raise TypeError("with masked entries")
        return _from_array(np.asarray(value)).to(device)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        found = f"{type(value).__name__} ({str(error).splitlines()[0]})"
        remedy = "pass one of these; rows of a list must have the same length"
        raise invalid(name, "must be a number, a tensor, an array or a list of numbers", found, remedy) from None


def reals(name: str, value: Any, device: torch.device | None = None) -> Float64[Tensor, "..."]:
    """Return real numbers as float64 on `device`, in their shape and with their gradient.

    name: the parameter that errors name. value: what :func:`on_device` takes. device: where the result is placed; by
        default where a tensor is, else on the CPU.
    Raises InputError for complex numbers, of which a cast would keep a part without a word.
    """
    if isinstance(value, Tensor):
        plain = value.dtype == torch.float64 and value.layout == torch.strided and not value.is_nested
        if plain and (device is None or value.device == device):
            return value
    here = value.device if isinstance(value, Tensor) else torch.device("cpu")
    given = on_device(value, here if device is None else device, name)
    if given.is_complex():
        raise invalid(name, "must be real", given.dtype, f"pass {name}.real")
    return given.double()


def integers(name: str, value: Any, device: torch.device, remedy: str) -> Int64[Tensor, "..."]:
    """Return whole numbers as int64 on `device`, in their shape.

    name: the parameter that errors name. value: what :func:`on_device` takes, of any integer dtype. device: where the
        result is placed. remedy: what a caller can do who passed another dtype.
    Raises InputError for other dtypes, bool among them, and for unsigned numbers beyond 2^63 - 1. The host reads values
    of unsigned 64-bit numbers only.
    """
    given = on_device(value, device, name)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise invalid(name, "must be integers", given.dtype, remedy)
    whole = given.long()
    if given.dtype == torch.uint64 and bool((whole < 0).any()):
        raise invalid(name, "must be integers below 2^63", "a larger one", "pass them as int64")
    return whole


def _python_dtype(numbers: Sequence[bool | int | float]) -> torch.dtype:
    if any(isinstance(number, float) for number in numbers):
        return torch.float64
    return torch.bool if numbers and all(isinstance(number, bool) for number in numbers) else torch.int64


def _from_array(array: np.ndarray) -> Tensor:
    """Return an array of numbers, in any byte order and layout, as a tensor."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"of dtype {array.dtype.name}")
    # torch knows the byte order of the machine, forward strides and no wider floats; an empty list counts nothing
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    dtype = np.dtype(np.float64) if wide else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


def is_number(value: Any) -> bool:
    """Return whether `value` is one real number of Python or NumPy."""
    return isinstance(value, Real)


def is_whole(value: Any) -> bool:
    """Return whether `value` is one integer of Python or NumPy."""
    return isinstance(value, Integral)


def check_dense(name: str, value: Tensor) -> None:
    """Check that the tensor `value` holds a number at each place.

    name: the parameter that the error names. Raises InputError for sparse and nested tensors.
    """
    if value.layout != torch.strided or value.is_nested:
        found = "a nested one" if value.is_nested else f"layout {value.layout}"
        raise invalid(name, "must be a dense tensor", found, f"pass {name}.to_dense(), or to_padded_tensor()")


def check_floating(name: str, value: Tensor) -> None:
    """Check that `value` is a dense tensor of float16, bfloat16, float32 or float64, of any shape.

    name: the parameter that the error names. Raises InputError where `value` is anything else.
    """
    if not isinstance(value, Tensor):
        raise invalid(name, "must be a torch.Tensor", type(value).__name__, f"pass torch.as_tensor({name})")
    if not value.is_floating_point():
        raise invalid(name, "must have a floating dtype", value.dtype, f"pass {name}.float()")
    if value.dtype.itemsize < 2:
        # torch stores these and computes nothing with them
        raise invalid(name, "must have a floating dtype of 16 bits or more", value.dtype, f"pass {name}.float()")
    check_dense(name, value)


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
