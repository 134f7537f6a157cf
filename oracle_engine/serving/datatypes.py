"""The datatypes of the Open Inference Protocol, and tensors as bytes and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..base.arrays import Tensor
from ..base.errors import invalid

FLOAT_DATATYPES = {"FP16": torch.float16, "BF16": torch.bfloat16, "FP32": torch.float32, "FP64": torch.float64}
INTEGER_DATATYPES = {
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
}
DATATYPES = FLOAT_DATATYPES | INTEGER_DATATYPES
DATATYPE_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Tensor:
    """Return the tensor `name` of little-endian bytes in row-major order.

    datatype: a key of DATATYPES. shape: positive sizes. data: the bytes, which are copied.
    Raises InputError where their number is another.
    """
    dtype = DATATYPES[datatype]
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        found = f"{len(data)} bytes for {datatype} {list(shape)}"
        raise invalid(name, f"must have {size} bytes of data", found, "check shape, datatype and binary_data_size")
    # a copy is aligned, wherever the tensor begins in the body
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(list(shape))


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    """Return the tensor `name` of a list of numbers, flat or nested, in row-major order.

    datatype: a key of DATATYPES. shape: positive sizes. data: what the JSON has.
    Raises InputError for anything but numbers of this datatype, and where their number is another.
    """
    values = _flat(name, data)
    if len(values) != math.prod(shape):
        found = f"{len(values)} for shape {list(shape)}"
        raise invalid(name, f"must have {math.prod(shape)} numbers", found, "check shape and data")
    dtype = DATATYPES[datatype]
    kinds = (int, float) if dtype.is_floating_point else (int,)
    wrong = set(map(type, values)).difference(kinds)
    if wrong:
        found = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise invalid(name, f"must hold numbers of {datatype}", found, "send numbers that are no texts or booleans")
    try:
        held = np.array(values, dtype=np.float64 if dtype.is_floating_point else np.int64)
    except OverflowError:
        raise invalid(name, f"must hold numbers of {datatype}", "one that is too large", "check the data") from None
    if not dtype.is_floating_point:
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        if not low <= int(held.min()) <= int(held.max()) <= high:
            raise invalid(name, f"must hold numbers of {datatype}, {low} .. {high}", "another one", "check the data")
    return torch.from_numpy(held).to(dtype).reshape(list(shape))


def to_json(value: Tensor | Sequence[str]) -> list[Any]:
    """Return a tensor or texts as a flat list that JSON can hold, with None for NaN and infinities."""
    if not isinstance(value, Tensor):
        return list(value)
    flat: list[Any] = value.reshape(-1).tolist()
    if not value.is_floating_point() or bool(value.isfinite().all()):
        return flat
    return [number if math.isfinite(number) else None for number in flat]


def to_bytes(value: Tensor | Sequence[str]) -> bytes:
    """Return a tensor, little-endian in row-major order, or texts, each after its length in four bytes, as bytes."""
    if not isinstance(value, Tensor):
        texts = [text.encode() for text in value]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    # NumPy lacks bfloat16
    held = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
    return held.numpy().tobytes()


def named(value: Tensor | Sequence[str]) -> str:
    """Return the name of the datatype of a tensor, or BYTES for texts."""
    return DATATYPE_NAMES[value.dtype] if isinstance(value, Tensor) else "BYTES"


def _flat(name: str, data: Any) -> list[Any]:
    """Return nested lists as one list."""
    if not isinstance(data, list):
        raise invalid(name, "must have `data`, a list of numbers", type(data).__name__, "send a list, or binary data")
    flat: list[Any] = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(row, list) for row in flat):
            raise invalid(name, "must have rows of one depth", "numbers beside lists", "send a flat list")
        flat = list(chain.from_iterable(flat))
    return flat
