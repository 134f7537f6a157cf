"""Tensor descriptors, made by the host: tiles that the copy engine of a GPU fetches without an address a value."""

from __future__ import annotations

from typing import Any

from triton.tools.tensor_descriptor import TensorDescriptor

from ....base.arrays import Tensor
from ..core.devices import device_of

# what addresses of rows, and distances between them, must be multiples of
ALIGNED_BYTES = 16


def reads_descriptors(*tensors: Tensor) -> bool:
    """Return whether kernels read `tensors`, on one device, through descriptors: it has them, and all are aligned."""
    return device_of(tensors[0].device).has_descriptors and all(map(_aligned, tensors))


def _aligned(tensor: Tensor) -> bool:
    # a tensor that repeats itself has a stride of zero, which descriptors have not
    strides = [stride * tensor.itemsize for stride in tensor.stride()[:-1]]
    whole = all(stride > 0 and stride % ALIGNED_BYTES == 0 for stride in strides)
    return whole and tensor.stride(-1) == 1 and tensor.data_ptr() % ALIGNED_BYTES == 0


def tile_of_rows(rows: Tensor, block_n: int, block_d: int, uses: bool) -> Any:
    """Return what a kernel reads tiles [block_n, block_d] of `rows` [n, D] through: a descriptor, or the rows.

    uses: whether it is a descriptor, as :func:`reads_descriptors` says.
    """
    return TensorDescriptor.from_tensor(rows, [block_n, block_d]) if uses else rows


def tile_of_parts(parts: Tensor, held: int, block_b: int, block_d: int, uses: bool) -> Any:
    """Return what a kernel reads tiles [held, block_b, block_d] of `parts` [P, B, D] through, as :func:`tile_of_rows`.

    uses: whether it is a descriptor.
    """
    return TensorDescriptor.from_tensor(parts, [held, block_b, block_d]) if uses else parts
