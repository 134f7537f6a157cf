"""Triton: queries as they were given, brought to the coordinates of the rows in one launch."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ....base.arrays import Int64, Tensor
from ...common.rows import GivenPoints, Query, ValueQuery
from ..jit.compensated import sum_of_three
from ..jit.masks import where_positive
from .given import float32_parts

# values of D that a program moves
MOVE_BLOCK = 1024


@triton.jit(do_not_specialize=["count", "first"])
@no_type_check
def moved_query_kernel(
    p_x, p_alpha, p_variance, p_base, p_which, p_point, p_precision, p_x_out, p_alpha_out, count, first, dim, scale,
    scale_rest, scale_last, GATHERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A slice of D of a query less alpha times the base, over a scale that is the sum of three numbers.

    p_x, p_point: [B, D]. p_alpha, p_variance: [B]. p_base: [D]. p_precision: [B], 1 / sigma^2 in the units of the rows.
    GATHERED: for the first `count` programs the query in p_which, [count] int64, is taken, and its x and alpha are
    written to p_x_out and p_alpha_out; further ones take the queries one after the other, from place `first` on.
    """
    i_b = tl.program_id(0).to(tl.int64)
    i_from, i_out = i_b, i_b
    if GATHERED:
        if i_b < count:
            i_from = tl.load(p_which + i_b)
        else:
            i_from = i_b - count
            i_out = i_from + first
    o_d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_d = o_d < dim
    unit, alpha = sum_of_three(scale, scale_rest, scale_last), tl.load(p_alpha + i_from)
    # [BLOCK]
    b_x = tl.load(p_x + i_from * dim + o_d, mask=m_d, other=0.0)
    b_point = (b_x - alpha * tl.load(p_base + o_d, mask=m_d, other=0.0)) / unit
    tl.store(p_point + i_out * dim + o_d, b_point, mask=m_d)
    if GATHERED:
        tl.store(p_x_out + i_b * dim + o_d, b_x, mask=where_positive(m_d, count - i_b))
    if tl.program_id(1) == 0:
        tl.store(p_precision + i_out, unit * unit / tl.load(p_variance + i_from))
        if GATHERED:  # noqa: SIM102  a constant, which a number cannot be joined to
            if i_b < count:
                tl.store(p_alpha_out + i_b, alpha)


def taken(query: Query, which: Int64[Tensor, "P"], *, ready: bool = False) -> Query:
    """Return the queries in `which`, [P], with nothing excluded; no synchronisation. Costs a read of them.

    ready: whether `query` is made ready too, as :func:`make_ready` does.
    """
    if not isinstance(query, ValueQuery):
        return query.excluding(query.excluded[:, :0]).take(which)
    count = len(which)
    x, alpha = query.given.x.new_empty(count, query.given.x.shape[1]), query.alpha.new_empty(count)
    point, precision = _launched(query, which, x, alpha, len(query) if ready else 0)
    if ready:
        vars(query).update(point=point[-len(query) :], inverse_variance=precision[-len(query) :])
    given = GivenPoints(x, query.given.scale, query.given.offset)
    return Query(point[:count], alpha, precision[:count], query.excluded.new_empty(count, 0, 2), given)


def make_ready(query: Query) -> None:
    """Have `query` know its points and variances in the coordinates of the rows; no synchronisation."""
    if isinstance(query, ValueQuery) and not {"point", "inverse_variance"} & vars(query).keys():
        # unread where nothing is gathered
        point, precision = _launched(query, None, query.given.x, query.alpha, 0)
        vars(query).update(point=point, inverse_variance=precision)


def _launched(
    query: ValueQuery, which: Int64[Tensor, "P"] | None, x: Tensor, alpha: Tensor, further: int
) -> tuple[Tensor, Tensor]:
    """Return the points and 1 / sigma^2 of the queries `which`, or all; write these to `x` and `alpha`.

    further: how many queries, from the first on, follow them.
    """
    given, (batch, dim) = query.given, x.shape
    # so that those that follow begin as every tensor does: a kernel is compiled anew for others
    first = 16 * triton.cdiv(batch, 16) if further else batch
    point, precision = x.new_empty(first + further, dim), x.new_empty(first + further)
    moved_query_kernel[(batch + further, triton.cdiv(dim, MOVE_BLOCK))](
        given.x.contiguous(), query.alpha.contiguous(), query.variance.contiguous(), query.base,
        query.excluded if which is None else which, point, precision, x, alpha, batch, first, dim,
        *float32_parts(given.scale), GATHERED=which is not None, BLOCK=MOVE_BLOCK, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return point, precision
