"""Triton: samples to rescore, named by the tiles of logits that they are in, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Int64, Shaped, Tensor


@dataclass(frozen=True)
class ListedPairs:
    """Samples of each query that are to be rescored, in any order; beyond the end of a list they are only counted.

    count: [B] int32, how many there are. row: [B, L] int64. logit: [B, L] float32, coarse.
    """

    count: Shaped[Tensor, "B"]
    row: Int64[Tensor, "B L"]
    logit: Float[Tensor, "B L"]

    @classmethod
    def empty(cls, count: Shaped[Tensor, "B"], limit: int) -> ListedPairs:
        """Return empty lists with room for `limit` samples each; count: [B] int32, zero before the first is listed."""
        row = count.new_empty(len(count), limit, dtype=torch.int64)
        return cls(count, row, count.new_empty(len(count), limit, dtype=torch.float32))


@triton.jit
@no_type_check
def any_of(mask):
    """Return whether any of a tile is set."""
    return tl.max(tl.max(mask.to(tl.int32), axis=1), axis=0) > 0


@triton.jit
@no_type_check
def list_samples(b_logits, m_listed, row, o_b, p_count, p_row, p_logit, limit, AXIS: tl.constexpr):
    """Append the samples of a tile of logits in `m_listed` to the lists of their queries.

    row: [rows] int64, along AXIS of the logits. o_b: [queries]. p_count: [B]. p_row, p_logit: [B, limit]; beyond it
    samples are only counted.
    """
    b_listed = m_listed.to(tl.int32)
    count = tl.sum(b_listed, axis=AXIS)
    # integer counters: the order of the list varies, its content does not
    first = tl.atomic_add(p_count + o_b, count, mask=count > 0)
    slot = tl.expand_dims(first, AXIS) + tl.cumsum(b_listed, axis=AXIS) - 1
    m_slot = m_listed & (slot < limit)
    # lists of all queries of a batch together are far shorter than 2^31
    p_slot = tl.expand_dims(o_b, AXIS) * limit + slot
    tl.store(p_row + p_slot, tl.broadcast_to(tl.expand_dims(row, 1 - AXIS), b_logits.shape), mask=m_slot)
    tl.store(p_logit + p_slot, b_logits, mask=m_slot)
