"""Queries as a caller passes them, in float64, and whether they are finite: one pass."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

import torch

from ...base.arrays import STORAGE_DTYPES, Float, Float64, Tensor
from ...base.calls.transforms import unreadable
from .library import native_library

STORAGE = {dtype: c_int64(place) for place, dtype in enumerate(STORAGE_DTYPES)}


def float64_values(x: Float[Tensor, "B ..."], dim: int) -> tuple[Float64[Tensor, "B D"], bool | None]:
    """Return x, [B, *shape] of any floating dtype, as [B, D] without a graph, and whether all of it is finite.

    dim: D, values of a query. None stands for an answer that was not read, because that takes the host more than a pass
    over values on the CPU. Costs that pass.
    """
    # nothing else can be asked of what is traced
    plain = not unreadable(x) and x.is_cpu and x.dtype in STORAGE
    library = native_library().library if plain else None
    if library is None:
        return x.detach().double().reshape(x.shape[0], dim), None
    # of a view that stands for other signs the memory has the wrong ones
    given = x.resolve_neg().contiguous()
    out = torch.empty(x.shape[0], dim, dtype=torch.float64)
    addresses = c_void_p(given.data_ptr()), c_void_p(out.data_ptr())
    return out, not library.oracle_widen(addresses[0], STORAGE[x.dtype], c_int64(out.numel()), addresses[1])
