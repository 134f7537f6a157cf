"""Triton: the state of a scan from its running sums and from what was rescored, in one launch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import no_type_check

import triton
import triton.language as tl

from ....base.arrays import Float64, Int64, Tensor
from ...common.state import PosteriorState
from ...common.work import Work
from ..operands.queries import QueryMeasures
from ..rescore.rescored import Rescored
from ..rescore.steps import RESCORE_TILE, listed_share
from ..sums.running_sums import MOST_PARTS, RunningSums
from ..sums.state_steps import (
    SHARE_BLOCK,
    STATE_BLOCK,
    added_sums,
    far_slice,
    log_mass,
    mean_slice,
    rescored_spread,
    rescored_sums,
    shares_of_mass,
)


@triton.jit
@no_type_check
def share_entropy(share):
    """Return -share log(share), 0 for a share of 0."""
    return -share * tl.log(tl.where(share > 0.0, share, 1.0))


@triton.jit(do_not_specialize=["batch", "parts", "shares", "span"])
@no_type_check
def state_kernel(
    p_scalars, p_partials, p_total, p_facts, p_alpha, p_precision, p_centre, p_count, p_rescored, p_base, p_means,
    p_output, p_stats, p_mean, batch, parts, shares, run, span, dim,
    PARTS: tl.constexpr, CENTRED: tl.constexpr, MOVED: tl.constexpr, VARIANCE: tl.constexpr, OVERFLOWED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The state of a query over what was added and what was rescored, for slices of D, all of them where VARIANCE.

    p_scalars: [6, B], p_partials: [parts, 4, B] and p_total: [B, D] as in RunningSums, which count for nothing where
    the list in p_count [B] overflowed. p_facts: [3, B]. p_rescored: [5, shares, B], p_base: [B] and p_means: [shares,
    B, D] as in Rescored, whose lists have runs of `run` rows in a span of `span`. p_centre: [D], what is left in the
    total. p_stats: [5, B], log-partition, what float64 cut off it, concentration, entropy, and variance, or zero.
    p_output: [B], where the state of each query is written, if MOVED. OVERFLOWED: only those whose lists did are.
    """
    i_b = tl.program_id(0).to(tl.int64)
    listed, _, width = listed_share(p_count, i_b, 0, shares, run, span, BLOCK_N)
    count = tl.load(p_count + i_b)
    asked = (count < 0) | (not OVERFLOWED)
    # all shares but the last are as long as the first
    used_shares = tl.cdiv(tl.where(listed, count * run, span), tl.maximum(width, 1))
    origin, mass, squares, first_logit = rescored_sums(p_rescored, i_b, used_shares, shares, batch, BLOCK_S)
    # relative to the base of the query, as the logits of its list are
    fine = log_mass(origin, mass)
    scale = tl.where(mass > 0.0, mass, 1.0)

    coarse, some, added, own_squares, own_first, half_norm = added_sums(
        p_scalars, p_partials, p_facts, p_alpha, p_precision, i_b, parts, batch, count, PARTS
    )
    list_base = tl.load(p_base + i_b)
    coarse -= list_base

    own, other, lse, rest = shares_of_mass(coarse, fine, list_base)
    i_out = i_b
    if MOVED:
        i_out = tl.load(p_output + i_b)
    p_stat = p_stats + i_out
    m_stat = asked & (tl.program_id(1) == 0)
    entropy = own * (tl.log(added) - own_first / added) + other * (tl.log(scale) - first_logit / scale)
    concentration = own * own * own_squares / added / added + other * other * squares / scale / scale
    tl.store(p_stat, lse, mask=m_stat)
    tl.store(p_stat + batch, rest, mask=m_stat)
    tl.store(p_stat + 2 * batch, concentration, mask=m_stat)
    tl.store(p_stat + 3 * batch, entropy + share_entropy(own) + share_entropy(other), mask=m_stat)

    added_rows = (p_total + i_b * dim, p_centre, added, own)
    rescored_rows = (p_rescored + i_b, p_means + i_b * dim, origin, other, scale, used_shares)
    # [BLOCK_D]
    b_own = tl.zeros([BLOCK_D], dtype=tl.float64)
    b_far = tl.zeros([BLOCK_D], dtype=tl.float64)
    for start in range(tl.program_id(1) * BLOCK_D, tl.where(asked, dim, 0), tl.num_programs(1) * BLOCK_D):
        o_d = start + tl.arange(0, BLOCK_D)
        b_mean = mean_slice(added_rows, rescored_rows, o_d, dim, batch, CENTRED)
        tl.store(p_mean + i_out * dim + o_d, b_mean, mask=o_d < dim)
        if VARIANCE:
            stride = shares.to(tl.int64) * batch
            b_square, b_gap = far_slice(added_rows, rescored_rows, stride, b_mean, o_d, dim, batch, CENTRED)
            b_own += b_square
            b_far += b_gap
    variance = tl.cast(0.0, tl.float64)
    if VARIANCE:
        within = own * tl.maximum(2.0 * half_norm / added - tl.sum(b_own, axis=0), 0.0)
        variance = tl.where(some, within, 0.0) + tl.sum(b_far, axis=0)
        variance += other / scale * rescored_spread(p_rescored, i_b, used_shares, shares, batch, origin, BLOCK_S)
    tl.store(p_stat + 4 * batch, variance, mask=m_stat)


@dataclass(frozen=True)
class Finish:
    """What the state of a scan is made of.

    work: of the scan. measures: of its queries. sums: over what was added. rescored: over what was rescored. output:
    the place of each query in the states, [B], where it is not its own.
    """

    work: Work
    measures: QueryMeasures
    sums: RunningSums
    rescored: Rescored
    output: Int64[Tensor, "B"] | None = None

    def state(self) -> PosteriorState:
        """Return the state of every query without its heaviest samples, [B]; no synchronisation.

        Costs one read of the sums.
        """
        wanted, (batch, dim) = self.work.wanted, self.sums.total.shape
        stats, mean = self.sums.total.new_empty(5, batch), self.sums.total.new_empty(batch, dim)
        self.write(stats, mean)
        # what was not wanted is zero
        zeros, none = stats[4], stats.new_empty(batch, 0)
        mean = mean if wanted.mean else zeros[:, None].expand(batch, self.work.rows.dim)
        state = PosteriorState(stats[0], mean, zeros, zeros, zeros, none, none.long(), stats[1], none)
        if wanted.moments:
            state = replace(state, concentration=stats[2], entropy=stats[3])
        return state

    def write(self, stats: Float64[Tensor, "5 B"], mean: Float64[Tensor, "B E"], *, overflowed: bool = False) -> None:
        """Write what :meth:`state` returns, or that of queries whose rescore lists `overflowed` alone.

        stats: log-partition, what float64 cut off it, concentration, entropy, and variance, zero where not wanted.
        """
        query, rows, rescored = self.work.query, self.work.rows, self.rescored
        (batch, dim), variance = mean.shape, self.work.wanted.variance
        state_kernel[(batch, 1 if variance else max(1, triton.cdiv(dim, STATE_BLOCK)))](
            self.sums.scalars, self.sums.partials, self.sums.total, self.measures.facts, query.alpha.contiguous(),
            query.inverse_variance.contiguous(), rows.operand_centre, rescored.rescore_list.count, rescored.sums,
            rescored.base, rescored.means, rescored.rescore_list.count if self.output is None else self.output, stats,
            mean, batch, self.sums.parts, rescored.sums.shape[1], rescored.rescore_list.run, len(self.work.span), dim,
            PARTS=MOST_PARTS, CENTRED=rows.raw_operand, MOVED=self.output is not None, VARIANCE=variance,
            OVERFLOWED=overflowed, BLOCK_N=RESCORE_TILE.block_n, BLOCK_S=SHARE_BLOCK, BLOCK_D=STATE_BLOCK, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
