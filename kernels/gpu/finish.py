"""Triton: the state of a scan from its running sums and from what was rescored, in one launch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import no_type_check

import triton
import triton.language as tl

from ...base.arrays import Float64, Int64, Tensor
from ..common.state import PosteriorState
from ..common.work import Work
from .query_operand import QueryMeasures
from .rescore import RESCORE_TILE, listed_share
from .rescored import Rescored
from .running_sums import MOST_PARTS, RunningSums
from .state_steps import SHARE_BLOCK, STATE_BLOCK, added_sums, log_mass, mean_slice, rescored_sums, shares_of_mass
from .variance import variance_of


@triton.jit
@no_type_check
def share_entropy(share):
    """Return -share log(share), 0 for a share of 0."""
    return -share * tl.log(tl.where(share > 0.0, share, 1.0))


@triton.jit(do_not_specialize=["batch", "parts", "shares", "span"])
@no_type_check
def state_kernel(
    p_scalars,
    p_partials,
    p_total,
    p_facts,
    p_alpha,
    p_precision,
    p_centre,
    p_count,
    p_rescored,
    p_base,
    p_means,
    p_output,
    p_stats,
    p_mean,
    batch,
    parts,
    shares,
    run,
    span,
    dim,
    PARTS: tl.constexpr,
    CENTRED: tl.constexpr,
    MOVED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The state of a query over what was added and what was rescored, for a slice of D.

    p_scalars: [6, B], p_partials: [parts, 4, B] and p_total: [B, D] as in RunningSums, which count for nothing where
    the list in p_count [B] overflowed. p_facts: [3, B]. p_rescored: [4, shares, B], p_base: [B] and p_means: [shares,
    B, D] as in Rescored, whose lists have runs of `run` rows in a span of `span`. p_centre: [D], what is left in the
    total. p_stats: [8, B], log-partition, concentration, entropy, of what was added share, mean |r|^2 and mass, and
    what float64 cut off the log-partition, and zero. p_output: [B], where the state of each query is written, if MOVED.
    """
    i_b = tl.program_id(0).to(tl.int64)
    listed, _, width = listed_share(p_count, i_b, 0, shares, run, span, BLOCK_N)
    count = tl.load(p_count + i_b)
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
    if tl.program_id(1) == 0:
        p_stat = p_stats + i_out
        entropy = own * (tl.log(added) - own_first / added) + other * (tl.log(scale) - first_logit / scale)
        concentration = own * own * own_squares / added / added + other * other * squares / scale / scale
        tl.store(p_stat, lse)
        tl.store(p_stat + batch, concentration)
        tl.store(p_stat + 2 * batch, entropy + share_entropy(own) + share_entropy(other))
        tl.store(p_stat + 3 * batch, own)
        tl.store(p_stat + 4 * batch, tl.where(some, 2.0 * half_norm / added, 0.0))
        tl.store(p_stat + 5 * batch, added)
        tl.store(p_stat + 6 * batch, rest)
        tl.store(p_stat + 7 * batch, 0.0)

    o_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    added_rows = (p_total + i_b * dim, p_centre, added, own)
    rescored_rows = (p_rescored + i_b, p_means + i_b * dim, origin, other, scale, used_shares)
    b_mean = mean_slice(added_rows, rescored_rows, o_d, dim, batch, CENTRED)
    tl.store(p_mean + i_out * dim + o_d, b_mean, mask=o_d < dim)


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

        Costs one read of the sums and, with moments and the mean, another pass over what was rescored.
        """
        wanted, rows, batch = self.work.wanted, self.work.rows, len(self.work.query)
        stats, mean = self._added(None if self._varies else self.output)
        if self._varies:
            spread, centred = self.rescored.spread(stats[0], stats[6], mean), rows.raw_operand
            variance_of(stats, self.sums.total, rows.operand_centre, mean, spread, centred=centred)
        if self._varies and self.output is not None:
            stats = stats.new_empty(stats.shape).index_copy_(1, self.output, stats)
            mean = mean.new_empty(mean.shape).index_copy_(0, self.output, mean)
        # what was not wanted is zero
        zeros, none = stats[7], stats.new_empty(batch, 0)
        mean = mean if wanted.mean else zeros[:, None].expand(batch, rows.dim)
        state = PosteriorState(stats[0], mean, zeros, zeros, zeros, none, none.long(), stats[6], none)
        if wanted.moments:
            state = replace(state, concentration=stats[1], entropy=stats[2])
        return state

    @property
    def _varies(self) -> bool:
        # the variance about the mean takes another pass, in the order of what was scanned
        return self.work.wanted.moments and self.work.wanted.mean

    def _added(self, output: Int64[Tensor, "B"] | None) -> tuple[Float64[Tensor, "8 B"], Float64[Tensor, "B D"]]:
        """Return statistics and means as the kernel leaves them; output: the place of each query in them."""
        query, rows, rescored = self.work.query, self.work.rows, self.rescored
        batch, dim = self.sums.total.shape
        stats, mean = self.sums.total.new_empty(8, batch), self.sums.total.new_empty(batch, dim)
        state_kernel[(batch, max(1, triton.cdiv(dim, STATE_BLOCK)))](
            self.sums.scalars, self.sums.partials, self.sums.total, self.measures.facts, query.alpha.contiguous(),
            query.inverse_variance.contiguous(), rows.operand_centre, rescored.rescore_list.count, rescored.sums,
            rescored.base, rescored.means, rescored.rescore_list.count if output is None else output, stats,
            mean, batch, self.sums.parts, rescored.sums.shape[1], rescored.rescore_list.run, len(self.work.span), dim,
            PARTS=MOST_PARTS, CENTRED=rows.raw_operand, MOVED=output is not None, BLOCK_N=RESCORE_TILE.block_n,
            BLOCK_S=SHARE_BLOCK, BLOCK_D=STATE_BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return stats, mean
