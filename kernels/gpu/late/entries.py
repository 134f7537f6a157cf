"""Triton: the levels of a screen that queries enter at, in one launch."""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float64, Int64, Shaped, Tensor
from ...common.rows import Query
from ..operands.moved_query import make_ready

# queries that the only program looks at together
ENTRY_BLOCK = 256


@triton.jit
@no_type_check
def levels_entered(p_alpha, p_precision, p_source, p_least, o_b, m_b, levels, knowledge, SOURCE: tl.constexpr):
    """Return the first level whose least alpha^2 / sigma^2 the queries `o_b` reach, `levels` for none, int32.

    p_least: [K, levels], for what is known of a query: its `knowledge`, or 1 where it has a SOURCE in p_source [B].
    """
    alpha = tl.load(p_alpha + o_b, mask=m_b, other=0.0)
    snr = alpha * alpha * tl.load(p_precision + o_b, mask=m_b, other=0.0)
    kind = tl.zeros(o_b.shape, dtype=tl.int32) + knowledge
    if SOURCE:
        kind = tl.where(tl.load(p_source + o_b, mask=m_b, other=-1) >= 0, 1, kind)
    entry = tl.zeros(o_b.shape, dtype=tl.int32) + levels
    for step in range(levels):
        level = levels - 1 - step
        least = tl.load(p_least + kind * levels + level, mask=m_b, other=float("inf"))
        entry = tl.where(snr >= least, level, entry)
    return entry


@triton.jit(do_not_specialize=["batch", "rows", "levels", "knowledge"])
@no_type_check
def entry_kernel(
    p_alpha, p_precision, p_source, p_least, p_costs, p_entry, batch, rows, levels, knowledge,
    SOURCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The level that each query enters at, [B] int32, or the number of levels for all where a search saves nothing.

    p_alpha .. p_least: see `levels_entered`. p_costs: what a scan costs a row beside its queries and for each; what a
    search costs a call; then for each level what it costs a row beside its queries and for each, and a query.
    """
    scan_start, scan, call = tl.load(p_costs), tl.load(p_costs + 1), tl.load(p_costs + 2)
    spent = tl.cast(0.0, tl.float64)
    entering = tl.cast(0, tl.int32)
    for level in range(levels):
        b_count = tl.zeros([BLOCK], dtype=tl.int32)
        for start in range(0, batch, BLOCK):
            o_b = start + tl.arange(0, BLOCK)
            entry = levels_entered(p_alpha, p_precision, p_source, p_least, o_b, o_b < batch, levels, knowledge, SOURCE)
            b_count += ((entry == level) & (o_b < batch)).to(tl.int32)
        count = tl.sum(b_count, axis=0)
        entering += count
        p_level = p_costs + 3 + 3 * level
        each = rows * tl.load(p_level + 1) + tl.load(p_level + 2)
        spent += tl.where(count > 0, call + rows * tl.load(p_level) + count * each, 0.0)
    # the start of a scan is saved where no query is left for one
    saved = rows * (entering * scan + tl.where(entering == batch, scan_start, 0.0)) - spent
    for start in range(0, batch, BLOCK):
        o_b = start + tl.arange(0, BLOCK)
        entry = levels_entered(p_alpha, p_precision, p_source, p_least, o_b, o_b < batch, levels, knowledge, SOURCE)
        tl.store(p_entry + o_b, tl.where(saved > 0.0, entry, levels), mask=o_b < batch)


def card_entries(
    query: Query,
    source: Int64[Tensor, "B"] | None,
    knowledge: int,
    least: Float64[Tensor, "K L"],
    costs: Float64[Tensor, "C"],
    *,
    rows: int,
) -> Shaped[Tensor, "B"]:
    """Return the level that each query enters at, the number of levels for none, [B] int32; no synchronisation.

    query: the batch. source: the row that each was made from, less than zero for unknown, or None where none counts.
    knowledge: what is known of the others. least: for what is known, the smallest alpha^2 / sigma^2 of each level.
    costs: see `entry_kernel`. rows: how many are searched.
    """
    make_ready(query)
    alpha, precision = query.alpha.contiguous(), query.inverse_variance.contiguous()
    entry = alpha.new_empty(len(alpha), dtype=torch.int32)
    entry_kernel[(1,)](
        alpha, precision, alpha if source is None else source.contiguous(), least, costs, entry, len(alpha), rows,
        least.shape[1], knowledge, SOURCE=source is not None, BLOCK=ENTRY_BLOCK, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return entry
