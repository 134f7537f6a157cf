"""Triton: which queries have so little noise that a loss of float32 sums would show; those are left to float64.

On top of a sample, or midway between two, E[eps | x] is next to nothing, and so may the velocity be. The law is that of
`loss_shows` in :mod:`...common.rounding`, and counts what was left out of the mean too. The host never waits: a query
in doubt is marked on the device, where the next launch rescores every row for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float64, Tensor
from ...common.rounding import DROPPED_MASS, LITTLE_NOISE, MOVED, SUM_ROUNDINGS, UNIT_ROUNDOFF, WORST_CASE
from ...common.work import Work
from ..operands.queries import QueryMeasures
from ..sums.law import Law, logit_error
from ..sums.running_sums import MOST_PARTS, RunningSums
from ..sums.state_steps import SHARE_BLOCK, STATE_BLOCK, added_sums, log_mass, mean_slice, rescored_sums, shares_of_mass
from .lists import AGAIN, RescoreList
from .steps import RESCORE_TILE, listed_share

_LOST = tl.constexpr(SUM_ROUNDINGS * UNIT_ROUNDOFF[torch.float32])
_MOVED, _DROPPED = tl.constexpr(MOVED), tl.constexpr(DROPPED_MASS[torch.float32])
_LITTLE_NOISE, _WORST_CASE, _AGAIN = tl.constexpr(LITTLE_NOISE), tl.constexpr(WORST_CASE), tl.constexpr(AGAIN)


@triton.jit
@no_type_check
def doubtful_square(law, facts, alpha, precision, partition, lse, share, dim):
    """Return |x - alpha m|^2 below which a loss of a scan shows whose float32 sums hold a `share` of the posterior.

    law: as in `partition_kernel`, with what may show for the budget. facts: |q|^2 and the largest |q_d|. partition: of
    all samples, by coarse logits. lse: the same with what these lack.
    """
    radius, operand_radius, unit, cut, query, weight, noise, log_count, budget = law
    square, size = facts
    gain = tl.abs(alpha) * precision
    error = logit_error(
        gain * tl.abs(alpha), gain, tl.sqrt(square), size, partition, radius, operand_radius, unit, cut, query, weight,
        noise,
    )  # fmt: skip
    loss = share * (_LOST + _MOVED * error) * tl.abs(alpha) * radius
    # a sample that was left out is sqrt(2 depth) sigma away at least, and all of them hold no more than this mass
    depth = tl.maximum(log_count + error * _WORST_CASE * 2.0 - lse, 0.5)
    loss = (loss + _DROPPED * tl.sqrt(2.0 * depth / precision)) / budget
    return tl.minimum(loss * loss, _LITTLE_NOISE * _LITTLE_NOISE * dim / precision)


@triton.jit(do_not_specialize=["batch", "parts", "shares", "span"])
@no_type_check
def doubt_kernel(
    p_scalars,
    p_partials,
    p_total,
    p_facts,
    p_alpha,
    p_precision,
    p_centre,
    p_count,
    p_rescored,
    p_means,
    p_point,
    p_best,
    batch,
    parts,
    shares,
    run,
    span,
    dim,
    radius,
    operand_radius,
    unit,
    cut,
    query,
    weight,
    noise,
    log_count,
    budget,
    PARTS: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Mark a query in p_count [B] with AGAIN where a loss shows, and store its largest logit in p_best [B].

    p_point: [B, D]. The largest logit is that of the rescored samples; of a marked query, no less than nearly all.
    Other arguments are those of `state_kernel` and, from `radius` on, of `partition_kernel`.
    """
    i_b = tl.program_id(0).to(tl.int64)
    listed, _, width = listed_share(p_count, i_b, 0, shares, run, span, BLOCK_N)
    count = tl.load(p_count + i_b)
    used_shares = tl.cdiv(tl.where(listed, count * run, span), tl.maximum(width, 1))
    origin, mass, _, _ = rescored_sums(p_rescored, i_b, used_shares, shares, batch, BLOCK_S)
    coarse, _, added, _, _, _ = added_sums(
        p_scalars, p_partials, p_facts, p_alpha, p_precision, i_b, parts, batch, count, PARTS
    )
    own, other, lse, _ = shares_of_mass(coarse, log_mass(origin, mass), 0.0)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    law = (radius, operand_radius, unit, cut, query, weight, noise, log_count, budget)
    facts = (tl.load(p_facts + i_b), tl.load(p_facts + batch + i_b))
    doubtful = tl.cast(0.0, tl.float64)
    if listed & (lse > float("-inf")):
        doubtful = doubtful_square(law, facts, alpha, precision, tl.load(p_scalars + i_b), lse, own, dim)

    added_rows = (p_total + i_b * dim, p_centre, added, own)
    scale = tl.where(mass > 0.0, mass, 1.0)
    rescored_rows = (p_rescored + i_b, p_means + i_b * dim, origin, other, scale, used_shares)
    square = tl.cast(0.0, tl.float64)
    start = 0
    # nearly always the first values say that there is noise enough
    while (start < dim) & (square < doubtful):
        o_d = start + tl.arange(0, BLOCK_D)
        b_mean = mean_slice(added_rows, rescored_rows, o_d, dim, batch, CENTRED)
        b_gap = tl.load(p_point + i_b * dim + o_d, mask=o_d < dim, other=0.0) - alpha * b_mean
        square += tl.sum(tl.where(o_d < dim, b_gap * b_gap, 0.0))
        start += BLOCK_D
    best = tl.where(mass > 0.0, origin, float("-inf"))
    if square < doubtful:
        tl.store(p_count + i_b, _AGAIN)
        best = tl.maximum(best, coarse)
    tl.store(p_best + i_b, best)


@dataclass(frozen=True)
class Doubt:
    """What tells which queries of a scan have next to no noise.

    work: of the scan. measures: of its queries. sums: over what was added. law: of its rounding.
    """

    work: Work
    measures: QueryMeasures
    sums: RunningSums
    law: Law

    def best(
        self, rescore_list: RescoreList, rescored: Float64[Tensor, "5 S B"], means: Float64[Tensor, "S B D"]
    ) -> Float64[Tensor, "B"]:
        """Return the largest logit of each query, [B], and mark those in doubt on its list; no synchronisation.

        rescore_list: whose counts change in place. rescored, means: of its samples, as in Rescored.
        Costs a read of the first values of each query and its mean, of all of them near a doubt.
        """
        query, rows, (_, shares, batch) = self.work.query, self.work.rows, rescored.shape
        best = rescored.new_empty(batch)
        doubt_kernel[(batch,)](
            self.sums.scalars, self.sums.partials, self.sums.total, self.measures.facts, query.alpha.contiguous(),
            query.inverse_variance.contiguous(), rows.operand_centre, rescore_list.count, rescored, means,
            query.point.contiguous(), best, batch, self.sums.parts, shares, rescore_list.run, len(self.work.span),
            rows.dim, *self.law.of_loss,
            PARTS=MOST_PARTS, CENTRED=rows.raw_operand, BLOCK_N=RESCORE_TILE.block_n, BLOCK_S=SHARE_BLOCK,
            BLOCK_D=STATE_BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return best
