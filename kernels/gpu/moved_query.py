"""Triton: queries as they were given, brought to the coordinates of the rows in one launch."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ...base.arrays import Int64, Tensor
from ..common.rows import GivenPoints, Query, ValueQuery
from .compensated import sum_of_three
from .given import float32_parts

# values of D that a program moves
MOVE_BLOCK = 1024


@triton.jit
@no_type_check
def moved_query_kernel(
    p_x, p_alpha, p_variance, p_base, p_which, p_point, p_precision, p_x_out, p_alpha_out, dim, scale, scale_rest,
    scale_last, GATHERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A slice of D of a query less alpha times the base, over a scale that is the sum of three numbers.

    p_x, p_point: [B, D]. p_alpha, p_variance: [B]. p_base: [D]. p_precision: [B], 1 / sigma^2 in the units of the rows.
    GATHERED: the query p_which [B] int64 is taken for each, and its x and alpha are written to p_x_out and p_alpha_out.
    """
    i_b = tl.program_id(0).to(tl.int64)
    i_from = i_b
    if GATHERED:
        i_from = tl.load(p_which + i_b)
    o_d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_d = o_d < dim
    unit, alpha = sum_of_three(scale, scale_rest, scale_last), tl.load(p_alpha + i_from)
    # [BLOCK]
    b_x = tl.load(p_x + i_from * dim + o_d, mask=m_d, other=0.0)
    b_point = (b_x - alpha * tl.load(p_base + o_d, mask=m_d, other=0.0)) / unit
    tl.store(p_point + i_b * dim + o_d, b_point, mask=m_d)
    if GATHERED:
        tl.store(p_x_out + i_b * dim + o_d, b_x, mask=m_d)
    if tl.program_id(1) == 0:
        tl.store(p_precision + i_b, unit * unit / tl.load(p_variance + i_from))
        if GATHERED:
            tl.store(p_alpha_out + i_b, alpha)


def taken(query: Query, which: Int64[Tensor, "P"]) -> Query:
    """Return the queries in `which`, [P], with nothing excluded; no synchronisation. Costs a read of them."""
    if not isinstance(query, ValueQuery):
        return query.excluding(query.excluded[:, :0]).take(which)
    x, alpha = query.given.x.new_empty(len(which), query.given.x.shape[1]), query.alpha.new_empty(len(which))
    point, precision = _launched(query, which, x, alpha)
    given = GivenPoints(x, query.given.scale, query.given.offset)
    return Query(point, alpha, precision, query.excluded.new_empty(len(which), 0, 2), given)


def make_ready(query: Query) -> None:
    """Have `query` know its points and variances in the coordinates of the rows; no synchronisation."""
    if isinstance(query, ValueQuery) and not {"point", "inverse_variance"} & vars(query).keys():
        # unread where nothing is gathered
        point, precision = _launched(query, None, query.given.x, query.alpha)
        vars(query).update(point=point, inverse_variance=precision)


def _launched(query: ValueQuery, which: Int64[Tensor, "P"] | None, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points and 1 / sigma^2 of the queries `which`, or all; write these to `x` and `alpha`."""
    given, (batch, dim) = query.given, x.shape
    point, precision = x.new_empty(batch, dim), x.new_empty(batch)
    moved_query_kernel[(batch, triton.cdiv(dim, MOVE_BLOCK))](
        given.x.contiguous(), query.alpha.contiguous(), query.variance.contiguous(), query.base,
        query.excluded if which is None else which, point, precision, x, alpha, dim, *float32_parts(given.scale),
        GATHERED=which is not None, BLOCK=MOVE_BLOCK, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return point, precision
