"""Triton: what a search decides for each query at a level of a screen, which the host never asks about."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ..jit.places import share_of
from .screen_tiles import CLOSED_PARTS
from .search_floor import answer_slice, takes_part

# sums of float32 weights, no smaller than SUM_ERROR of `...common.screen_terms`, and below which they would vanish
_SUM_ERROR, _LEAST_SUM = tl.constexpr(1.0 + 2.0**-13), tl.constexpr(1e-300)

_PART = tl.constexpr(1.0 / CLOSED_PARTS)


@triton.jit
@no_type_check
def log_of_both(first, floor, weights):
    """Return the log of exp(`first`) and of `weights` relative to a `floor`, sums of float32 terms, no less than it."""
    second = floor + tl.log(weights * _SUM_ERROR + _LEAST_SUM)
    larger = tl.maximum(first, second)
    return larger + tl.log(1.0 + tl.exp(tl.minimum(first, second) - larger))


@triton.jit
@no_type_check
def decide(i_b, p_count, p_below, floors, found, omitted, tiles, level, limits, BLOCK: tl.constexpr):
    """Decide whether a query is found at this level, bound what is left out of it, and leave tiles to the next one.

    p_count, p_below: [B, tiles]. floors: [B] each: those of :class:`.screen_tiles.Floors`, and what tiles have to reach
    that are left. found: [B] each: the level that the query enters at, rows listed as int32, and as int64, a flag, and
    tiles that were looked into. omitted: [B] each: what levels left out before this one, all that is left out of
    queries that are found, and what their logits have in common. limits: tiles that are looked into, and rows that are
    listed.
    """
    p_floor, p_reached, p_closed, p_left = floors
    p_enter, p_listed, p_kept, p_found, p_opened = found
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
        count, floor = tl.sum(b_count, axis=0), tl.load(p_floor + i_b).to(tl.float64)
        reached, closed = tl.load(p_reached + i_b), tl.load(p_closed + i_b).to(tl.float64) * _PART
        few = takes_part(enter, level) & (reached <= limits[0])
        is_found = few & (count <= limits[1])
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
        tl.store(p_opened + i_b, tl.where(few, reached, 0).to(tl.int64))
        tl.store(p_omitted + i_b, log_omitted)
    tl.store(p_left + i_b, left)


@triton.jit(do_not_specialize=["tiles", "level", "most_tiles", "most", "first_row"])
@no_type_check
def list_kernel(
    p_bits, p_count, p_below, p_floor, p_reached, p_closed, p_left, p_enter, p_listed, p_kept, p_found, p_opened,
    p_before, p_omitted, p_common, p_first, tiles, level, most_tiles, most, room, first_row,
    BLOCK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """List the rows of a share of the tiles of a query whose bits are set, in rising order; the first share decides.

    p_bits: [B, tiles] int64. p_count .. p_common: see `decide`. p_first: [B, room]; what has no room is not listed,
    and no query with more than `most_tiles` open tiles or `most` rows is found, of which there are `room` at most.
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
        floors, found = (p_floor, p_reached, p_closed, p_left), (p_enter, p_listed, p_kept, p_found, p_opened)
        omitted, limits = (p_before, p_omitted, p_common), (most_tiles, most)
        decide(i_b, p_count, p_below, floors, found, omitted, tiles, level, limits, BLOCK)


@triton.jit
@no_type_check
def mean_norms(p_mean, answer, units, dim, BLOCK: tl.constexpr):
    """Return the norms of the answer that a mean [D] makes, and of that mean; answer, units: see `answer_slice`."""
    b_speed = tl.zeros([BLOCK], dtype=tl.float64)
    b_norm = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, dim, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_mean = tl.load(p_mean + o_d, mask=o_d < dim, other=0.0)
        b_answer = answer_slice(b_mean, o_d, o_d < dim, answer, units)
        b_norm += b_mean * b_mean
        b_speed += b_answer * b_answer
    return tl.sqrt(tl.sum(b_speed, axis=0)), tl.sqrt(tl.sum(b_norm, axis=0))


@triton.jit(do_not_specialize=["batch"])
@no_type_check
def certify_kernel(
    p_mean, p_lse, p_omitted, p_error, p_x, p_base, p_alpha, p_direct, p_gap, p_found, p_pending,
    dim, scale, scale_rest, reach, radius, BLOCK: tl.constexpr,
):  # fmt: skip
    """Find a query only where the error of its answer is proved to be small enough, and count the others.

    p_mean: [B, D], p_lse and p_omitted: [B], of what was found. p_error: [B], the largest relative error. p_x .. p_gap,
    scale, scale_rest: see `.search_floor.floor_kernel`; reach and radius: no less than the scale, and than the norm of
    any row. p_found: [B] int8. p_pending: [1] int32, zero before.
    """
    i_b = tl.program_id(0).to(tl.int64)
    proved = tl.cast(0, tl.int32)
    if tl.load(p_found + i_b) > 0:
        alpha, direct, gap = tl.load(p_alpha + i_b), tl.load(p_direct + i_b), tl.load(p_gap + i_b)
        answer = (p_x + i_b * dim, p_base, alpha, direct, gap)
        speed, norm = mean_norms(p_mean + i_b * dim, answer, (scale, scale_rest), dim, BLOCK)
        lse, omitted = tl.load(p_lse + i_b), tl.load(p_omitted + i_b)
        share = 1.0 / (1.0 + tl.exp(tl.minimum(lse - omitted, 700.0)))
        moved = tl.abs(direct - alpha * gap) * share * reach * (radius + norm)
        # a shortlist without any weight proves nothing
        proved = ((lse > float("-inf")) & (moved <= tl.load(p_error + i_b) * speed)).to(tl.int32)
    tl.store(p_found + i_b, proved.to(tl.int8))
    if proved == 0:
        tl.atomic_add(p_pending, 1)
