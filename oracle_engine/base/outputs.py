"""From float64 results to what a caller asked for: rounded once, or refused where the dtype has no such number."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .arrays import Float, Tensor
from .calls import checked
from .errors import InputError, invalid


def rounded_answer(values: Float[Tensor, "B ..."], name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Return `values` in the dtype and the shape of the queries they answer.

    values: [B, D] or [B, *sample_shape], float64, or in `dtype` already. name: of the answer, for the error.
    dtype: of the result. shape: [B, *sample_shape].
    Raises InputError where a value is too large for the dtype. The host reads one number; for a device only in float16,
    which ends at 65504, since reading makes it wait for the device.
    """
    result = values if values.dtype == dtype else values.to(dtype)
    if dtype == torch.float16 or checked.on_host(result):
        read = result.detach() if result.requires_grad else result
        # the sum of many numbers of 16 bits may be none
        checked.check(lambda: checked.finite(read.float() if dtype.itemsize < 4 else read), lambda: _beyond(read, name))
    return result.reshape(shape)


def _beyond(result: Tensor, name: str) -> InputError | None:
    """Return the error about an answer that its dtype cannot hold, or None where it can."""
    bad = (~result.isfinite()).reshape(len(result), -1).any(1).nonzero()[:, 0]
    if len(bad) == 0:
        return None
    largest = torch.finfo(result.dtype).max
    found = f"{result.dtype}, which ends at {largest:.3g}, for a larger {name} in query {int(bad[0])}"
    remedy = "pass x.float() or x.double(), or times with more noise"
    return invalid("x", "must have a dtype that holds the answer", found, remedy)
