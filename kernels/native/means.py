"""One pass over posterior means: answers made of them, and how long both are."""

from __future__ import annotations

from ctypes import c_double, c_int64, c_void_p

import torch

from ...base.arrays import Float, Float64, Tensor
from ...base.transforms import unreadable
from ..common import combine
from ..common.combine import Combination
from .library import native_library
from .views import View, called

# what answers are rounded to on the way
ROUNDED = (torch.float32, torch.float64)


class CombinationView(View):
    """Queries and posterior means, and what their answers are made of."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "mean", "alpha", "direct", "gap")),
        ("scale", c_double),
        ("base", c_void_p),
        ("batch", c_int64),
        ("dim", c_int64),
    )

    def __init__(self, of: Combination, mean: Float64[Tensor, "B D"]) -> None:
        """Look at `of` and `mean`."""
        self.held = []
        before = (self.hold(part.contiguous()) for part in (of.x, mean, of.alpha, of.direct, of.gap))
        super().__init__(*before, of.scale, self.hold(of.base.contiguous()), *of.x.shape)


def native_combined(combination: Combination, mean: Float64[Tensor, "B D"], dtype: torch.dtype) -> Float[Tensor, "B D"]:
    """Return the answer of `combination` for posterior means, [B, D] in `dtype`, rounded once from float64.

    mean: [B, D] float64, in the units that `scale` takes to those of x. In torch where the library cannot read it.
    Costs one pass over [B, D].
    """
    if dtype not in ROUNDED or not _applies(combination, mean):
        return combine.combined(combination, mean, dtype)
    out = torch.empty(combination.x.shape, dtype=dtype)
    threads = c_int64(torch.get_num_threads())
    single = c_int64(dtype == torch.float32)
    called("oracle_combine", CombinationView(combination, mean), single, threads, c_void_p(out.data_ptr()))
    return out


def combined_norms(
    combination: Combination, mean: Float64[Tensor, "B D"]
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return the norms of the answers of `combination` for posterior means, [B, D] float64, and of the means, [B] each.

    In torch where the library cannot read them. Costs one pass over [B, D], of which nothing is kept.
    """
    if not _applies(combination, mean):
        return combine.combined_norms(combination, mean)
    norms = torch.empty(2, len(mean), dtype=torch.float64)
    threads, addresses = c_int64(torch.get_num_threads()), [c_void_p(part.data_ptr()) for part in norms]
    called("oracle_combined_norms", CombinationView(combination, mean), threads, *addresses)
    return norms[0], norms[1]


def _applies(combination: Combination, mean: Float64[Tensor, "B D"]) -> bool:
    parts = combination.x, mean, combination.alpha, combination.direct, combination.gap, combination.base
    return native_library().library is not None and all(_readable(part) for part in parts)


def _readable(part: Tensor) -> bool:
    differentiable = torch.is_grad_enabled() and part.requires_grad
    plain = part.device.type == "cpu" and part.dtype == torch.float64
    return plain and not differentiable and not unreadable(part)
