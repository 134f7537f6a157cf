"""Triton: what a search decides for each query at a level of a screen, which the host never asks about."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from .jit import share_of, where_positive
from .state_steps import log_mass

# the floor of queries without a row that counts: finite, so that differences of infinities do not arise
_LOWEST_FLOOR = tl.constexpr(-1e38)

# sums of float32 weights, no smaller than SUM_ERROR of `..common.screen_terms`, and below which they would vanish
_SUM_ERROR, _LEAST_SUM = tl.constexpr(1.0 + 2.0**-13), tl.constexpr(1e-300)


@triton.jit
@no_type_check
def takes_part(enter, level):
    """Return whether a query is searched for at a level: it entered by then, and is not found, which is below zero."""
    return (enter >= 0) & (enter <= level)


@triton.jit
@no_type_check
def answer_norms(p_mean, rows, answer, scale, scale_rest, dim, BLOCK: tl.constexpr):
    """Return the norms of the answer that the mean of some rows of a query makes, and of that mean.

    p_mean: [D], the mean times the mass in `rows`. answer: the point [D] and the base [D] in the units of the answer,
    alpha, and the factors of the mean and of the gap to the point. scale, scale_rest: add up to that of means to these
    units.
    """
    p_x, p_base, alpha, direct, gap = answer
    b_speed = tl.zeros([BLOCK], dtype=tl.float64)
    b_norm = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, dim, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        m_d = o_d < dim
        b_mean = tl.load(p_mean + o_d, mask=m_d, other=0.0) / rows
        b_value = b_mean * scale + b_mean * scale_rest + tl.load(p_base + o_d, mask=m_d, other=0.0)
        b_answer = direct * b_value + gap * (tl.load(p_x + o_d, mask=m_d, other=0.0) - alpha * b_value)
        b_norm += b_mean * b_mean
        b_speed += tl.where(m_d, b_answer * b_answer, 0.0)
    return tl.sqrt(tl.sum(b_speed, axis=0)), tl.sqrt(tl.sum(b_norm, axis=0))


@triton.jit(do_not_specialize=["batch", "level"])
@no_type_check
def floor_kernel(
    p_sums, p_means, p_point, p_precision, p_mass, p_x, p_base, p_alpha, p_direct, p_gap, p_change, p_enter, p_floor,
    p_common, batch, dim, level, scale, scale_rest, radius, log_rows, ANSWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The upper logit below which a row of a query may be left out, from its first rows; infinite where none is asked.

    p_sums: [4, 1, B] and p_means: [1, B, D], as Rescored has them. p_mass: [B], what may be left out at most. ANSWER:
    less where the answer that p_x [B, D] .. p_gap [B] make of the mean is small, see `answer_norms`, beside what
    p_change [B] makes of the way from the mean to a row as far as the `radius` says. p_common: [B], what all logits of
    a query have in common and upper logits leave out. log_rows: of how many rows share the mass.
    """
    i_b = tl.program_id(0).to(tl.int64)
    floor = tl.cast(float("inf"), tl.float64)
    if takes_part(tl.load(p_enter + i_b), level):
        b_square = tl.zeros([BLOCK], dtype=tl.float64)
        for start in range(0, dim, BLOCK):
            o_d = start + tl.arange(0, BLOCK)
            b_point = tl.load(p_point + i_b * dim + o_d, mask=o_d < dim, other=0.0)
            b_square += b_point * b_point
        common = -0.5 * tl.load(p_precision + i_b) * tl.sum(b_square, axis=0)
        tl.store(p_common + i_b, common)
        rows, mass = tl.load(p_sums + batch + i_b), tl.load(p_mass + i_b)
        if ANSWER:  # noqa: SIM102  a constant, which a number cannot be joined to
            if rows > 0.0:
                alpha, direct, gap = tl.load(p_alpha + i_b), tl.load(p_direct + i_b), tl.load(p_gap + i_b)
                answer = (p_x + i_b * dim, p_base, alpha, direct, gap)
                speed, norm = answer_norms(p_means + i_b * dim, rows, answer, scale, scale_rest, dim, BLOCK)
                most = tl.load(p_change + i_b) * scale * (radius + norm)
                mass *= tl.minimum(speed / tl.maximum(most, 1e-300), 1.0)
        floor = log_mass(tl.load(p_sums + i_b), rows) - common + tl.log(tl.maximum(mass, 1e-300)) - log_rows
        # rounded down: comparisons and exponentials are in float32
        floor = tl.maximum(floor - tl.abs(floor) * 2.384185791015625e-07, _LOWEST_FLOOR)
    tl.store(p_floor + i_b, floor.to(tl.float32))


@triton.jit(do_not_specialize=["shares", "batch", "most", "level"])
@no_type_check
def gate_kernel(
    p_reached, p_below, p_floor, p_chosen, p_opened, p_closed, shares, batch, most, level,
    BLOCK_S: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """The floors of queries that at most so many tiles reach, infinite for others; and the weights of closed tiles.

    p_reached, p_below: [shares, B]. p_floor: [B]. p_chosen: [B]. p_opened: [B] int64, tiles that are looked into.
    p_closed: [B] float64, relative to the floor.
    """
    o_b, o_s = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_S)
    m_b = o_b < batch
    o_in, mask = o_s[:, None] * batch + o_b[None, :], (o_s < shares)[:, None] & m_b[None, :]
    reached = tl.sum(tl.load(p_reached + o_in, mask=mask, other=0), axis=0)
    floor = tl.load(p_floor + o_b, mask=m_b, other=float("inf"))
    few = reached <= most
    tl.store(p_chosen + o_b, tl.where(few, floor, float("inf")), mask=m_b)
    tl.store(p_closed + o_b, tl.sum(tl.load(p_below + o_in, mask=mask, other=0.0), axis=0), mask=m_b)
    # of those that no longer take part, what was looked into before
    m_opened = (m_b & (floor < float("inf"))) | where_positive(m_b, 1 - level)
    tl.store(p_opened + o_b, tl.where(few, reached, 0).to(tl.int64), mask=m_opened)


@triton.jit
@no_type_check
def log_of_both(first, floor, weights):
    """Return the log of exp(`first`) and of `weights` relative to a `floor`, sums of float32 terms, no less than it."""
    second = floor + tl.log(weights * _SUM_ERROR + _LEAST_SUM)
    larger = tl.maximum(first, second)
    return larger + tl.log(1.0 + tl.exp(tl.minimum(first, second) - larger))


@triton.jit
@no_type_check
def verdict(i_b, p_count, p_below, floors, found, omitted, tiles, level, most, BLOCK: tl.constexpr):
    """Decide whether a query is found at this level, bound what is left out of it, and leave tiles to the next one.

    p_count, p_below: [B, tiles]. floors: [B], of what is left out, infinite where nobody looked into tiles in the
    second one, the weights of closed tiles, and what tiles have to reach that are left. found: [B] each: the level that
    the query enters at, rows listed as int32, and as int64, and a flag. omitted: [B] each: what levels left out before
    this one, all that is left out of queries that are found, and what their logits have in common.
    """
    p_floor, p_chosen, p_closed, p_left = floors
    p_enter, p_listed, p_kept, p_found = found
    p_before, p_omitted, p_common = omitted
    enter, left = tl.load(p_enter + i_b), tl.cast(float("inf"), tl.float32)
    # those that were found before stay so
    if enter >= 0:
        b_count = tl.zeros([BLOCK], dtype=tl.int32)
        b_below = tl.zeros([BLOCK], dtype=tl.float64)
        for start in range(0, tiles, BLOCK):
            o_t = start + tl.arange(0, BLOCK)
            b_count += tl.load(p_count + i_b * tiles + o_t, mask=o_t < tiles, other=0)
            b_below += tl.load(p_below + i_b * tiles + o_t, mask=o_t < tiles, other=0.0).to(tl.float64)
        count, closed = tl.sum(b_count, axis=0), tl.load(p_closed + i_b)
        chosen, floor = tl.load(p_chosen + i_b), tl.load(p_floor + i_b).to(tl.float64)
        is_found = takes_part(enter, level) & (chosen < float("inf")) & (count <= most)
        before = tl.cast(float("-inf"), tl.float64)
        if takes_part(enter, level - 1):
            before = tl.load(p_before + i_b)
        log_omitted = tl.cast(float("inf"), tl.float64)
        if is_found:
            log_omitted = log_of_both(before, floor, closed + tl.sum(b_below, axis=0)) + tl.load(p_common + i_b)
            tl.store(p_enter + i_b, -1)
        elif takes_part(enter, level):
            tl.store(p_before + i_b, log_of_both(before, floor, closed))
            left = tl.load(p_floor + i_b)
        elif enter == level + 1:
            left = tl.cast(float("-inf"), tl.float32)
        count = tl.where(is_found, count, 0)
        tl.store(p_listed + i_b, count)
        tl.store(p_kept + i_b, count.to(tl.int64))
        tl.store(p_found + i_b, is_found.to(tl.int8))
        tl.store(p_omitted + i_b, log_omitted)
    tl.store(p_left + i_b, left)


@triton.jit(do_not_specialize=["tiles", "level", "most", "first_row"])
@no_type_check
def list_kernel(
    p_bits, p_count, p_below, p_floor, p_chosen, p_closed, p_left, p_enter, p_listed, p_kept, p_found, p_before,
    p_omitted, p_common, p_first, tiles, level, most, room, first_row,
    BLOCK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """List the rows of a share of the tiles of a query whose bits are set, in rising order; the first share decides.

    p_bits: [B, tiles] int64. p_count .. p_common: see `verdict`. p_first: [B, room]; what has no room is not listed,
    and no query with more than `most` rows is found, of which there are `room` at most.
    """
    i_b = tl.program_id(0).to(tl.int64)
    begin, end = share_of(tiles, tl.program_id(1), tl.num_programs(1), BLOCK_T)
    b_rows = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, begin, BLOCK):
        o_t = start + tl.arange(0, BLOCK)
        b_rows += tl.load(p_count + i_b * tiles + o_t, mask=o_t < begin, other=0)
    slot = tl.sum(b_rows, axis=0)
    for start in range(begin, end, BLOCK_T):
        o_t, o_n = start + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_N)
        b_count = tl.load(p_count + i_b * tiles + o_t, mask=o_t < end, other=0)
        here = tl.sum(b_count, axis=0)
        if here > 0:
            bits = tl.load(p_bits + i_b * tiles + o_t, mask=o_t < end, other=0)
            # [BLOCK_T, BLOCK_N]
            b_set = ((bits[:, None] >> o_n.to(tl.int64)[None, :]) & 1).to(tl.int32)
            b_slot = slot + (tl.cumsum(b_count, axis=0) - b_count)[:, None] + tl.cumsum(b_set, axis=1) - 1
            b_row = first_row + o_t.to(tl.int64)[:, None] * BLOCK_N + o_n[None, :]
            tl.store(p_first + i_b * room + b_slot, b_row, mask=(b_set > 0) & (b_slot < room))
        slot += here
    if tl.program_id(1) == 0:
        floors, found = (p_floor, p_chosen, p_closed, p_left), (p_enter, p_listed, p_kept, p_found)
        verdict(i_b, p_count, p_below, floors, found, (p_before, p_omitted, p_common), tiles, level, most, BLOCK)


@triton.jit(do_not_specialize=["batch"])
@no_type_check
def certify_kernel(
    p_mean, p_lse, p_omitted, p_error, p_x, p_base, p_alpha, p_direct, p_gap, p_change, p_found, p_pending,
    dim, scale, scale_rest, reach, radius, BLOCK: tl.constexpr,
):  # fmt: skip
    """Find a query only where the error of its answer is proved to be small enough, and count the others.

    p_mean: [B, D], p_lse and p_omitted: [B], of what was found. p_error: [B], the largest relative error. p_x ..
    p_change, scale, scale_rest: see `floor_kernel`; reach and radius: no less than the scale, and than the norm of any
    row. p_found: [B] int8. p_pending: [1] int32, zero before.
    """
    i_b = tl.program_id(0).to(tl.int64)
    proved = tl.cast(0, tl.int32)
    if tl.load(p_found + i_b) > 0:
        alpha, direct, gap = tl.load(p_alpha + i_b), tl.load(p_direct + i_b), tl.load(p_gap + i_b)
        answer = (p_x + i_b * dim, p_base, alpha, direct, gap)
        speed, norm = answer_norms(p_mean + i_b * dim, 1.0, answer, scale, scale_rest, dim, BLOCK)
        lse, omitted = tl.load(p_lse + i_b), tl.load(p_omitted + i_b)
        share = 1.0 / (1.0 + tl.exp(tl.minimum(lse - omitted, 700.0)))
        moved = tl.load(p_change + i_b) * share * reach * (radius + norm)
        # a shortlist without any weight proves nothing
        proved = ((lse > float("-inf")) & (moved <= tl.load(p_error + i_b) * speed)).to(tl.int32)
    tl.store(p_found + i_b, proved.to(tl.int8))
    if proved == 0:
        tl.atomic_add(p_pending, 1)
