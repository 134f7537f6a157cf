"""Triton: samples of the rescore lists, scored by direct difference and weighed; the host never waits.

A launch in float64 scores and weighs whatever is listed, a whole span where a list overflowed; nothing listed costs
nothing. A second one takes queries whose gaps float64 does not hold once more, in TWICE its digits: it is compiled
without fused multiply-adds, which would change what rounding leaves over. It also takes every row of queries that are
in doubt only once they were weighed.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ..jit.compensated import sum_of_three
from ..sums.softmax import softmax_step
from .compensate import in_question, near_logits
from .lists import AGAIN
from .steps import UNSEEN, add_rows, difference_logits, listed_share, logits_above, slot_rows, store_sums

_UNSEEN, _AGAIN = tl.constexpr(UNSEEN), tl.constexpr(AGAIN)


@triton.jit(do_not_specialize=["batch", "begin", "stop", "limit", "excluded"])
@no_type_check
def rescore_kernel(
    p_rows, p_point, p_centre, p_alpha, p_precision, p_log_weight, p_first, p_count, p_excluded, p_given, p_best,
    p_base, p_sums, p_out, batch, begin, stop, limit, run, dim, row_stride, excluded, reach, scale, scale_rest,
    scale_last, offset, offset_rest, offset_last,
    TWICE: tl.constexpr, MEAN: tl.constexpr, SPREAD: tl.constexpr, WEIGHTED: tl.constexpr, CENTRED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Softmax over one share of the rows to rescore of a query, with a moving origin.

    p_rows: [N, D] as stored. p_point: [B, D]. p_first: [B, limit]. p_count: [B], EVERY for all rows of [begin, stop).
    p_sums: [5, shares, B]: the largest logit l, and the sums of w, w^2 and w (l - largest), w = exp(l - largest), and,
    where SPREAD, of w |r - m|^2, m the mean of the share.
    p_out: [shares, B, D], the sum of w times the rows less the centre, written where one has weight.
    TWICE the digits: sums of queries whose gaps float64 does not hold are replaced by those relative to p_base [B]: the
    largest logit, p_best [B], for such a query, and zero for the others, whose sums stay, or are replaced by those over
    every row where p_count says AGAIN. p_given: [B, D], the queries as they were given. Three numbers add up to the
    scale, and three to the offset.
    """
    i_b, i_share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    samples = (p_rows, p_centre, p_log_weight, dim, row_stride)
    query = (p_point + i_b * dim, alpha, precision)
    given = (
        p_given + i_b * dim,
        sum_of_three(scale, scale_rest, scale_last),
        sum_of_three(offset, offset_rest, offset_last),
    )
    names = (p_first + i_b * limit, p_excluded + i_b * excluded * 2, excluded, begin, stop, run)
    base, window, asked = in_question(p_best, i_b, alpha, precision, reach, TWICE)
    floor = tl.cast(float("-inf"), tl.float64)
    if TWICE:
        tl.store(p_base + i_b, base, mask=i_share == 0)
        floor = tl.load(p_best + i_b) - tl.maximum(window, _UNSEEN)
        asked = asked | (tl.load(p_count + i_b) == _AGAIN)
    if asked:
        listed, slot, end = listed_share(p_count, i_b, i_share, tl.num_programs(1), run, stop - begin, BLOCK_N)
        p_sum = p_out + (i_share.to(tl.int64) * batch + i_b) * dim
        top = tl.cast(float("-inf"), tl.float64)
        mass = tl.cast(0.0, tl.float64)
        squares = tl.cast(0.0, tl.float64)
        first_logit = tl.cast(0.0, tl.float64)
        spread = tl.cast(0.0, tl.float64)
        for start in range(slot, end, BLOCK_N):
            row, m_s = slot_rows(start, end, listed, names, BLOCK_N)
            if TWICE:
                b_logits = logits_above(samples, query, floor, row, m_s, WEIGHTED, BLOCK_N, BLOCK_D)
                b_logits = near_logits(
                    b_logits, samples, query, given, base, window, row, m_s, WEIGHTED, CENTRED, BLOCK_N, BLOCK_D
                )
            else:
                b_logits = difference_logits(samples, query, row, m_s, WEIGHTED, BLOCK_N, BLOCK_D)
            seen, had = tl.max(b_logits, axis=0) > top - _UNSEEN, mass
            b_weights, factor, top, mass, squares, first_logit = softmax_step(top, mass, squares, first_logit, b_logits)
            if MEAN:  # noqa: SIM102  a constant, which a number cannot be joined to
                if seen:
                    sums = (had, spread)
                    spread = add_rows(samples, p_sum, row, m_s, b_weights, factor, sums, SPREAD, BLOCK_D)
        store_sums(p_sums, i_b, batch, (top, mass, squares, first_logit, spread), None, SPREAD)
