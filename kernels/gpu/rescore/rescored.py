"""Sums over the samples to rescore of every query, in twice the digits of float64 where their gaps ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ....base.arrays import Float64, Int64, Tensor
from ...common.rows import Rows
from ...common.work import Work
from ..jit.interpreter import INTERPRET
from ..operands.given import GivenOperand
from .compensate import COMPENSATED_TILE, compensated_slots_kernel
from .doubt import Doubt
from .kernel import rescore_kernel
from .lists import RescoreList, programs
from .steps import RESCORE_TILE, scored, slice_width

# bytes that the sums of the shares of a query may take together, where there is more than one
SHARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Rescored:
    """Sums over the samples to rescore, a part of them in each share; what no sample of a share reaches is unspecified.

    sums: [5, S, B] float64: the largest logit l of a share, less the base, -inf where it has no sample, the sums of w,
    w^2 and w (l - largest) with w = exp(l - largest), and, where moments and the mean are wanted, that of w |r - m|^2
    with m the mean of the share. means: [S, B, D] float64, of w times the rows less the centre,
    or [S, B, 0]. best: the largest logit of all shares in float64, [B]. base: the same where its gaps to others have
    digits that float64 lacks, zero elsewhere, [B]. rescore_list: whose samples these are. work: what they are rescored
    for.
    """

    sums: Float64[Tensor, "5 S B"]
    means: Float64[Tensor, "S B E"]
    best: Float64[Tensor, "B"]
    base: Float64[Tensor, "B"]
    rescore_list: RescoreList
    work: Work

    @classmethod
    def of(cls, work: Work, rescore_list: RescoreList, doubt: Doubt | None = None) -> Rescored:
        """Return the sums over the samples on a rescore list; no synchronisation.

        work: rows, queries, the span that the samples lie in, and what is wanted. rescore_list: for every query. doubt:
        what marks queries on it for which float32 sums do not do, where the mean is wanted.
        Costs a float64 pass over the rows of each query, twice with the mean. Memory is 8 D bytes for each program.
        """
        sums, means = list_sums(work, rescore_list)
        best = sums[0].amax(0) if doubt is None else doubt.best(rescore_list, sums, means)
        return cls.compensated(work, rescore_list, best, sums=sums, means=means)

    @classmethod
    def every(cls, work: Work, sums: Float64[Tensor, "5 S B"], means: Float64[Tensor, "S B E"]) -> Rescored:
        """Return sums over every row of the span of `work` as :meth:`compensated` does."""
        everything = RescoreList.everything(len(work.query), work.rows.device)
        return cls.compensated(work, everything, sums[0].amax(0), sums=sums, means=means)

    @classmethod
    def compensated(
        cls,
        work: Work,
        rescore_list: RescoreList,
        best: Float64[Tensor, "B"],
        *,
        sums: Float64[Tensor, "5 S B"],
        means: Float64[Tensor, "S B E"],
    ) -> Rescored:
        """Return sums in float64, those of some queries taken once more in twice the digits; no synchronisation.

        work, rescore_list: what was rescored. best: the largest logit of each query, [B]. sums, means: of what was
        rescored, relative to no base; they change in place.
        Costs nothing for queries whose logits float64 holds and that are not marked AGAIN, else another pass over their
        rows.
        """
        base, (_, shares, batch) = torch.empty_like(best), sums.shape
        before, after = _before(work, rescore_list, best), _after(work, rescore_list)
        rescore_kernel[(batch, shares)](*before, base, sums, means, *after, **_summed(work), **_twice(work))
        return cls(sums, means, best, base, rescore_list, work)

    def sharpen(self, logits: Float64[Tensor, "B room"], named: Int64[Tensor, "B room"]) -> None:
        """Take the logits of the rows in `named`, -1 for none, relative to the base; no synchronisation.

        logits: in float64, relative to no base; they change in place. Costs a pass over the rows of the queries whose
        gaps float64 does not hold.
        """
        rows, given, (batch, room) = self.work.rows, GivenOperand.of(self.work), named.shape
        constants = {name: value for name, value in _twice(self.work).items() if name != "TWICE"}
        compensated_slots_kernel[(batch, programs(batch, room, COMPENSATED_TILE.block_n))](
            *scored(self.work), named, given.x, self.best, logits, room, rows.dim, rows.stored.stride(0),
            *given.numbers, **constants,
        )  # fmt: skip


def list_sums(work: Work, rescore_list: RescoreList) -> tuple[Float64[Tensor, "5 S B"], Float64[Tensor, "S B E"]]:
    """Return the sums over the samples on a list in float64 alone, and of the rows, as :class:`Rescored` has them.

    work, rescore_list: as for :meth:`Rescored.of`. No synchronisation.
    """
    batch = len(work.query)
    shares = share_count(batch, rescore_list.width, work.rows.dim)
    sums = torch.empty(0, dtype=torch.float64, device=work.rows.device).new_empty(5, shares, batch)
    means = sums.new_empty(shares, batch, work.rows.dim if work.wanted.mean else 0)
    # what only twice the digits need is not read
    before, after, unread = _before(work, rescore_list, sums), _after(work, rescore_list), sums
    rescore_kernel[(batch, shares)](*before, unread, sums, means, *after, **_summed(work), **_once(work))
    return sums, means


def _before(work: Work, rescore_list: RescoreList, best: Tensor) -> tuple[Tensor, ...]:
    excluded, given = work.query.excluded.contiguous(), GivenOperand.of(work)
    return (*scored(work), rescore_list.first, rescore_list.count, excluded, given.x, best)


def _after(work: Work, rescore_list: RescoreList) -> tuple[int | float, ...]:
    span, rows, batch = work.span, work.rows, len(work.query)
    lists = (span.start, span.stop, rescore_list.first.shape[1], rescore_list.run)
    sizes = (rows.dim, rows.stored.stride(0), work.query.excluded.shape[1])
    return (batch, *lists, *sizes, *GivenOperand.of(work).numbers)


def _summed(work: Work) -> dict[str, bool]:
    return {"MEAN": work.wanted.mean, "SPREAD": work.wanted.variance}


def _once(work: Work) -> dict[str, Any]:
    return {
        "TWICE": False,
        "WEIGHTED": work.rows.log_weights is not None,
        "CENTRED": work.query.given is None,
        "BLOCK_N": RESCORE_TILE.block_n,
        "BLOCK_D": slice_width(work.rows.dim),
        "num_warps": RESCORE_TILE.warps,
        "enable_fp_fusion": True,
    }


def _twice(work: Work) -> dict[str, Any]:
    width, warps = _width(work.rows), COMPENSATED_TILE.warps
    return _once(work) | {"TWICE": True, "BLOCK_D": width, "num_warps": warps, "enable_fp_fusion": False}


def _width(rows: Rows) -> int:
    # the interpreter takes its time by the operation, whatever that is about
    return slice_width(rows.dim) if INTERPRET else min(COMPENSATED_TILE.block_d, slice_width(rows.dim))


def share_count(batch: int, listed: int, dim: int) -> int:
    """Return how many programs share the rows to rescore of each of `batch` queries.

    listed: room of a list. dim: D.
    """
    return min(programs(batch, listed, RESCORE_TILE.block_n), max(1, SHARE_BYTES // (8 * batch * dim)))


def rescore_memory(rows: Rows, batch: int, listed: int) -> int:
    """Return the most bytes that rescoring needs.

    rows: of the data set. batch: number of queries. listed: room of the list of a query.
    """
    shares = share_count(batch, listed, rows.dim)
    return 8 * batch * (listed + shares * (rows.dim + 5))
