"""Triton: which samples of each query are to be rescored, as lists whose lengths only the device knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Bool, Float, Int64, Shaped, Tensor
from .listed_pairs import ListedPairs

# the count of a query whose list overflowed: every row of the span is rescored; and of one whose samples on the list
# were rescored, but for which every row is after all
EVERY, AGAIN = -1, -2

# programs that fill a GPU, and blocks of slots that each of them gets at least
RESCORE_PROGRAMS, LEAST_BLOCKS = 1024, 4

# entries of a list that a program compares at once
ORDER_BLOCK = 64


@dataclass(frozen=True)
class RescoreList:
    """Samples of each query to be rescored: runs of neighbouring rows, in rising order.

    first: [B, L] int64, the row that each run begins with. count: [B] int32, runs of each query, or EVERY, or
    AGAIN. run: rows of a run. may_overflow: whether any count may be one of these.
    """

    first: Int64[Tensor, "B L"]
    count: Shaped[Tensor, "B"]
    run: int
    may_overflow: bool = True

    @property
    def overflowed(self) -> Bool[Tensor, "B"]:
        """Of which queries every row of the span is rescored, [B]."""
        return self.count < 0

    @property
    def width(self) -> int:
        """How many rows a full list names."""
        return self.first.shape[1] * self.run

    @classmethod
    def everything(cls, batch: int, device: torch.device) -> RescoreList:
        """Return lists on `device` that name every row of a span for each of `batch` queries."""
        count = torch.full((batch,), EVERY, dtype=torch.int32, device=device)
        return cls(count.new_empty(batch, 1, dtype=torch.int64), count, 1)

    @classmethod
    def of_list(cls, listed: ListedPairs, floor: Float[Tensor, "B"], count: Shaped[Tensor, "B"]) -> RescoreList:
        """Return the listed samples whose coarse logits reach `floor`; no synchronisation.

        listed: samples of each query. floor: [B] float32. count: [B] int32, zeros, which are counted in.
        Programs append to `listed` in any order: samples are sorted by row, so that equal calls give equal bits. Costs
        the square of the number of listed samples, in comparisons.
        """
        batch, limit = listed.row.shape
        first = listed.row.new_empty(batch, limit)
        order_kernel[(batch, programs(batch, limit, ORDER_BLOCK))](
            listed.row, listed.logit, listed.count, floor, first, count, limit, EVERY=EVERY, BLOCK=ORDER_BLOCK,
            enable_fp_fusion=True,
        )  # fmt: skip
        return cls(first, count, 1)


def programs(batch: int, slots: int, block: int) -> int:
    """Return how many programs share the slots of each query.

    batch: number of queries. slots: of a query. block: slots that a program reads at once.
    """
    return max(1, min(RESCORE_PROGRAMS // batch, -(-slots // (LEAST_BLOCKS * block))))


@triton.jit(do_not_specialize=["limit"])
@no_type_check
def order_kernel(
    p_row,
    p_logit,
    p_listed,
    p_floor,
    p_first,
    p_count,
    limit,
    EVERY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sort the listed rows of a query whose logits reach its floor, and count them.

    p_row, p_logit: [B, limit]. p_listed: [B]. p_floor: [B]. p_first: [B, limit], sorted. p_count: [B], zero before.
    """
    i_b = tl.program_id(0).to(tl.int64)
    listed = tl.load(p_listed + i_b)
    floor = tl.load(p_floor + i_b)
    overflow = listed > limit
    if overflow & (tl.program_id(1) == 0):
        tl.store(p_count + i_b, EVERY)
    stop = tl.where(overflow, 0, listed)
    p_row += i_b * limit
    p_logit += i_b * limit
    for start in range(tl.program_id(1) * BLOCK, stop, tl.num_programs(1) * BLOCK):
        o_s = start + tl.arange(0, BLOCK)
        row = tl.load(p_row + o_s, mask=o_s < stop, other=0)
        keep = tl.load(p_logit + o_s, mask=o_s < stop, other=float("-inf")) >= floor
        keep = keep & (o_s < stop)
        # [BLOCK], how many kept rows come before
        rank = tl.zeros([BLOCK], dtype=tl.int32)
        for other in range(0, stop, BLOCK):
            o_r = other + tl.arange(0, BLOCK)
            rival = tl.load(p_row + o_r, mask=o_r < stop, other=0)
            kept = tl.load(p_logit + o_r, mask=o_r < stop, other=float("-inf")) >= floor
            before = (rival[None, :] < row[:, None]) & (kept & (o_r < stop))[None, :]
            rank += tl.sum(before.to(tl.int32), axis=1)
        tl.store(p_first + i_b * limit + rank, row, mask=keep)
        # integers: the order of the sums does not matter
        tl.atomic_add(p_count + i_b, tl.sum(keep.to(tl.int32), axis=0))
