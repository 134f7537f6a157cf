"""Triton: from the states of the spans of a query to one of the query, and whether that is in doubt."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ..jit.compensated import twice_sum
from ..jit.masks import finite, where_positive
from ..rescore.doubt import doubtful_square
from ..rescore.lists import AGAIN
from .finish import share_entropy

# values of D and samples that a program looks at together
UNION_BLOCK, UNION_TOP = 1024, 32

_AGAIN = tl.constexpr(AGAIN)


@triton.jit
@no_type_check
def span_weight(p_lse, p_rest, origin, rest):
    """Return exp(lse - origin) of a span, zero where it has no sample; both logs with what float64 cuts off them."""
    lse = tl.load(p_lse)
    some = lse > float("-inf")
    return tl.where(some, tl.exp(tl.where(some, lse - origin, 0.0) + (tl.load(p_rest) - rest)), 0.0)


@triton.jit
@no_type_check
def union_moments(p_facts, parts, p_place, each, batch, origin, rest, mass):
    """Write concentration and entropy over the spans of a query, and return what its spans have of the variance.

    p_facts: [5, B], at the query. parts: log-partition, what float64 cut off it, concentration, entropy and variance of
    every span. origin, rest, mass: what the masses of spans are relative to, and their sum.
    """
    p_lse, p_rest, p_concentration, p_entropy, p_variance = parts
    concentration, entropy = tl.cast(0.0, tl.float64), tl.cast(0.0, tl.float64)
    variance = tl.cast(0.0, tl.float64)
    for i_span in range(each):
        place = tl.load(p_place + i_span)
        share = span_weight(p_lse + place, p_rest + place, origin, rest) / mass
        concentration += share * share * tl.load(p_concentration + place)
        entropy += share * tl.load(p_entropy + place) + share_entropy(share)
        variance += share * tl.load(p_variance + place)
    tl.store(p_facts + 2 * batch, concentration)
    tl.store(p_facts + 3 * batch, entropy)
    return variance


@triton.jit(
    do_not_specialize=["each", "batch"], do_not_specialize_on_alignment=["p_concentration", "p_entropy", "p_variance"]
)
@no_type_check
def union_kernel(
    p_lse, p_rest, p_concentration, p_entropy, p_variance, p_mean, p_place, p_facts, p_mean_out, each, batch, dim,
    MOMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The state over the `each` spans of a query, for slices of D, all of them with MOMENTS, as `merge` has it of two.

    p_lse, p_rest: [P] float64, the log-partition of every span and what float64 cut off it. p_concentration, p_entropy,
    p_variance: [P]. p_mean: [P, D]. p_place: [B each], where the spans of each query are among these. p_facts: [5, B],
    log-partition, what float64 cut off it, and, with MOMENTS, concentration, entropy and variance.
    """
    i_b = tl.program_id(0).to(tl.int64)
    p_place += i_b * each
    p_facts += i_b
    top, top_rest = tl.cast(float("-inf"), tl.float64), tl.cast(0.0, tl.float64)
    for i_span in range(each):
        place = tl.load(p_place + i_span)
        lse, rest = tl.load(p_lse + place), tl.load(p_rest + place)
        above = (lse > top) | ((lse == top) & (rest > top_rest))
        top, top_rest = tl.where(above, lse, top), tl.where(above, rest, top_rest)
    origin, some = finite(top), top > float("-inf")
    mass = tl.cast(0.0, tl.float64)
    for i_span in range(each):
        place = tl.load(p_place + i_span)
        mass += span_weight(p_lse + place, p_rest + place, origin, top_rest)
    mass = tl.where(some, mass, 1.0)
    if tl.program_id(1) == 0:
        lse, rest = twice_sum(origin, top_rest + tl.log(mass))
        tl.store(p_facts, tl.where(some, lse, float("-inf")))
        tl.store(p_facts + batch, tl.where(some, rest, 0.0))
    # [BLOCK]
    b_far = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(tl.program_id(1) * BLOCK, dim, tl.num_programs(1) * BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_mean = tl.zeros([BLOCK], dtype=tl.float64)
        for i_span in range(each):
            place = tl.load(p_place + i_span)
            share = span_weight(p_lse + place, p_rest + place, origin, top_rest) / mass
            m_d = where_positive(o_d < dim, share)
            b_mean += share * tl.load(p_mean + place * dim + o_d, mask=m_d, other=0.0)
        tl.store(p_mean_out + i_b * dim + o_d, b_mean, mask=o_d < dim)
        if MOMENTS:
            for i_span in range(each):
                place = tl.load(p_place + i_span)
                share = span_weight(p_lse + place, p_rest + place, origin, top_rest) / mass
                m_d = where_positive(o_d < dim, share)
                b_gap = tl.load(p_mean + place * dim + o_d, mask=m_d, other=0.0) - b_mean
                b_far += tl.where(m_d, share * b_gap * b_gap, 0.0)
    if MOMENTS:
        parts = (p_lse, p_rest, p_concentration, p_entropy, p_variance)
        variance = union_moments(p_facts, parts, p_place, each, batch, origin, top_rest, mass)
        tl.store(p_facts + 4 * batch, variance + tl.sum(b_far, axis=0))


@triton.jit(do_not_specialize=["each", "top"])
@no_type_check
def union_top_kernel(
    p_logits, p_rest, p_row, p_place, p_logits_out, p_rest_out, p_row_out, each, top, BLOCK: tl.constexpr
):  # fmt: skip
    """The `top` heaviest samples of a query, in falling order, of those of its `each` spans.

    p_logits, p_rest, p_row: [P, top], logits, what float64 cut off them, and rows; -inf, 0 and -1 for none. p_place: as
    in `union_kernel`. The others are the same of the queries, [B, top].
    """
    i_b = tl.program_id(0).to(tl.int64)
    p_place += i_b * each
    o_s = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_s = o_s < each * top
    o_from = tl.load(p_place + o_s // top, mask=m_s, other=0) * top + o_s % top
    logits = tl.load(p_logits + o_from, mask=m_s, other=0.0)
    rest = tl.load(p_rest + o_from, mask=m_s, other=0.0)
    rank = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, each * top, BLOCK):
        o_r = start + tl.arange(0, BLOCK)
        m_r = o_r < each * top
        o_rival = tl.load(p_place + o_r // top, mask=m_r, other=0) * top + o_r % top
        rival = tl.load(p_logits + o_rival, mask=m_r, other=0.0)
        rival_rest = tl.load(p_rest + o_rival, mask=m_r, other=0.0)
        # [BLOCK, BLOCK]; of equal ones the first comes first
        earlier = (rival_rest[None, :] == rest[:, None]) & (o_r[None, :] < o_s[:, None])
        earlier = (rival_rest[None, :] > rest[:, None]) | earlier
        before = (rival[None, :] > logits[:, None]) | ((rival[None, :] == logits[:, None]) & earlier)
        rank += tl.sum((before & m_r[None, :]).to(tl.int32), axis=1)
    m_s = m_s & (rank < top)
    tl.store(p_logits_out + i_b * top + rank, logits, mask=m_s)
    tl.store(p_rest_out + i_b * top + rank, rest, mask=m_s)
    tl.store(p_row_out + i_b * top + rank, tl.load(p_row + o_from, mask=m_s, other=0), mask=m_s)


@triton.jit(do_not_specialize=["each", "pairs"])
@no_type_check
def union_doubt_kernel(
    p_lse, p_mean, p_point, p_alpha, p_precision, p_facts, p_place, p_count, each, pairs, dim,
    radius, operand_radius, unit, cut, query, weight, noise, log_count, budget, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write AGAIN to p_count [B] for a query in doubt, and zero for others.

    p_lse: [B]. p_mean, p_point: [B, D]. p_facts: [3, pairs], by places of the pairs, those of each query at p_place
    [B each]. Other arguments are those of `doubt_kernel`.
    """
    i_b = tl.program_id(0).to(tl.int64)
    lse, place = tl.load(p_lse + i_b), tl.load(p_place + i_b * each)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    law = (radius, operand_radius, unit, cut, query, weight, noise, log_count, budget)
    facts = (tl.load(p_facts + place), tl.load(p_facts + pairs + place))
    doubtful = tl.cast(0.0, tl.float64)
    if lse > float("-inf"):
        # which share float32 sums have is not known here, nor the partition by coarse logits: the worst of both
        unknown = tl.cast(float("inf"), tl.float64)
        doubtful = doubtful_square(law, facts, alpha, precision, unknown, lse, 1.0, dim)
    square = tl.cast(0.0, tl.float64)
    start = 0
    while (start < dim) & (square < doubtful):
        o_d = start + tl.arange(0, BLOCK)
        b_gap = tl.load(p_point + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        b_gap -= alpha * tl.load(p_mean + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        square += tl.sum(b_gap * b_gap, axis=0)
        start += BLOCK
    tl.store(p_count + i_b, tl.where(square < doubtful, _AGAIN, 0))
