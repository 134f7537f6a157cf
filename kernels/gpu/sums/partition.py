"""Triton: from the statistics of tiles to the log-partition so far, and to the windows of the law of rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Float64, Shaped, Tensor
from ...common.rounding import WORST_CASE
from ...common.work import Work
from ..jit.masks import finite, where_positive
from ..operands.queries import QueryMeasures
from .law import Law, logit_error, rescore_window
from .running_sums import MOST_PARTS, RunningSums, added_partials

# tiles and queries that a program looks at together
TILE_BLOCK, PARTITION_QUERIES = 1024, 4

_WORST_CASE = tl.constexpr(WORST_CASE)


@triton.jit
@no_type_check
def log_added(first, second):
    """Return log(exp(first) + exp(second)), -inf where both are."""
    top = tl.maximum(first, second)
    origin = finite(top)
    return top + tl.log(tl.where(top == float("-inf"), 1.0, tl.exp(first - origin) + tl.exp(second - origin)))


@triton.jit
@no_type_check
def tile_partition(p_stat, tiles, tile_stride, m_b, BLOCK_T: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return the log-partition over all tiles from their maxima and sums of exponentials, [BLOCK_B] float64."""
    top = tl.full([BLOCK_B], float("-inf"), dtype=tl.float64)
    mass = tl.zeros([BLOCK_B], dtype=tl.float64)
    for start in range(0, tiles, BLOCK_T):
        o_t = start + tl.arange(0, BLOCK_T)
        mask = (o_t < tiles)[:, None] & m_b[None, :]
        # [BLOCK_T, BLOCK_B]
        p_tile = p_stat + o_t.to(tl.int64)[:, None] * (2 * tile_stride)
        b_top = tl.load(p_tile, mask=mask, other=float("-inf")).to(tl.float64)
        b_mass = tl.load(p_tile + tile_stride, mask=mask, other=0.0).to(tl.float64)
        raised = tl.maximum(top, tl.max(b_top, axis=0))
        origin = finite(raised)
        mass = mass * tl.exp(top - origin) + tl.sum(b_mass * tl.exp(b_top - origin[None, :]), axis=0)
        top = raised
    return tl.where(mass > 0.0, finite(top) + tl.log(tl.where(mass > 0.0, mass, 1.0)), float("-inf"))


@triton.jit(do_not_specialize=["tiles", "batch", "parts", "begun"])
@no_type_check
def partition_kernel(
    p_stats,
    p_facts,
    p_alpha,
    p_precision,
    p_scalars,
    p_partials,
    p_factor,
    p_reference,
    p_counts,
    tiles,
    batch,
    tile_stride,
    row_stride,
    parts,
    begun,
    radius,
    operand_radius,
    unit,
    cut,
    query,
    weight,
    noise,
    log_count,
    spread,
    budget,
    limit,
    log_copies,
    PARTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Count a block as met, move the origin of the running sums to the log-partition so far, and set the floors.

    p_stats: [tiles, 2, P]. p_facts: [3, B]. p_scalars: [6, B], see RunningSums; not read before one has `begun`.
    p_partials: [parts, 4, B], what the last block left to add. p_factor: [B], what its total is rescaled by.
    p_reference: [3, row_stride] float32, the origin and both floors. p_counts: [2, row_stride] int32, set to zero where
    none has begun.
    """
    o_b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    m_b = o_b < batch
    m_old = where_positive(m_b, begun)
    partition = tile_partition(p_stats + o_b[None, :], tiles, tile_stride, m_b, BLOCK_T, BLOCK_B)
    p_scalar = p_scalars + o_b
    partition = log_added(partition, tl.load(p_scalar, mask=m_old, other=float("-inf")))
    # what is subtracted from float32 logits is a float32
    origin = finite(partition).to(tl.float32)

    # sums so far, from the old origin to the new one
    mass, squares, first_logit, half_norm = added_partials(p_scalar, p_partials + o_b, parts, batch, m_old, PARTS)
    step = tl.load(p_scalar + batch, mask=m_old, other=0.0) - origin.to(tl.float64)
    step = tl.where(mass > 0.0, step, 0.0)
    factor = tl.exp(step)
    tl.store(p_scalar, partition, mask=m_b)
    tl.store(p_scalar + batch, origin.to(tl.float64), mask=m_b)
    tl.store(p_scalar + 2 * batch, factor * mass, mask=m_b)
    tl.store(p_scalar + 3 * batch, factor * factor * squares, mask=m_b)
    tl.store(p_scalar + 4 * batch, factor * (first_logit + step * mass), mask=m_b)
    tl.store(p_scalar + 5 * batch, factor * half_norm, mask=m_b)
    tl.store(p_factor + o_b, factor, mask=m_b)

    alpha = tl.load(p_alpha + o_b, mask=m_b, other=0.0)
    gain = tl.abs(alpha * tl.load(p_precision + o_b, mask=m_b, other=0.0))
    length = tl.sqrt(tl.load(p_facts + o_b, mask=m_b, other=0.0))
    size = tl.load(p_facts + batch + o_b, mask=m_b, other=0.0)
    error = logit_error(
        gain * tl.abs(alpha), gain, length, size, partition, radius, operand_radius, unit, cut, query, weight, noise
    )  # fmt: skip
    window = log_count + error * _WORST_CASE * 2.0
    rescore = rescore_window(alpha, error, window, spread, budget, limit, log_copies)
    none = rescore == float("-inf")
    rescore_floor = tl.where(none, float("inf"), partition - tl.where(none, 0.0, rescore))
    tl.store(p_reference + o_b, origin, mask=m_b)
    tl.store(p_reference + row_stride + o_b, (partition - window).to(tl.float32), mask=m_b)
    tl.store(p_reference + 2 * row_stride + o_b, rescore_floor.to(tl.float32), mask=m_b)
    if begun == 0:
        tl.store(p_counts + o_b, tl.zeros([BLOCK_B], dtype=tl.int32), mask=m_b)
        tl.store(p_counts + row_stride + o_b, tl.zeros([BLOCK_B], dtype=tl.int32), mask=m_b)


@dataclass(frozen=True)
class Meeting:
    """What meets the blocks of a scan one after the other: its law, what was measured of its queries, and its room.

    work: of the scan. law: of rounding. measures: of the queries. reference: [3, B] float32, the origin of the weights
    and the floors of weights and of rescoring. counts: [2, B] int32, samples listed for rescoring, in any order and in
    that of the rows.
    """

    work: Work
    law: Law
    measures: QueryMeasures
    reference: Float[Tensor, "3 B"]
    counts: Shaped[Tensor, "2 B"]

    @classmethod
    def of(cls, work: Work, law: Law, measures: QueryMeasures) -> Meeting:
        """Return what meets the first block next.

        work: of the scan. law: of rounding. measures: of its queries.
        """
        batch, gain = len(work.query), measures.gain
        # rows that begin at multiples of 64 bytes, as every tensor does: a kernel is compiled anew for others
        padded = 16 * triton.cdiv(batch, 16)
        reference, counts = gain.new_empty(3, padded), gain.new_empty(2, padded, dtype=torch.int32)
        return cls(work, law, measures, reference[:, :batch], counts[:, :batch])

    def meet(self, stats: Float[Tensor, "T 2 P"], sums: RunningSums) -> None:
        """Count a block as met: move the origin of `sums` to the log-partition so far, and set reference and counts.

        stats: of the tiles of the block, [T, 2, P] float32, the maximum of each and its sum of exp(l - maximum).
        sums: of the blocks before; changed in place. No synchronisation. Costs one read of the statistics.
        """
        (tiles, _, padded), query = stats.shape, self.work.query
        batch = len(query)
        partition_kernel[(triton.cdiv(batch, PARTITION_QUERIES),)](
            stats, self.measures.facts, query.alpha.contiguous(), query.inverse_variance.contiguous(), sums.scalars,
            sums.partials, sums.factor, self.reference, self.counts, tiles, batch, padded,
            self.reference.stride(0), sums.parts,
            int(sums.begun), *self.law, PARTS=MOST_PARTS, BLOCK_T=TILE_BLOCK, BLOCK_B=PARTITION_QUERIES, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip

    def partition(self, sums: RunningSums) -> Float64[Tensor, "B"]:
        """Return the log-partition of all samples met, [B]."""
        return sums.scalars[0]
