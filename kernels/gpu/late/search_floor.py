"""Triton: the upper logit below which rows of a query may be left out, from the first rows that a level names."""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...common.rounding import UNIT_ROUNDOFF, WALK
from ..rescore.steps import difference_logits
from ..sums.softmax import softmax_step
from ..sums.state_steps import log_mass
from .screen_tiles import named_first

# the floor of queries without a row that counts: finite, so that differences of infinities do not arise
_LOWEST_FLOOR = tl.constexpr(-1e38)

# what rounding may lose of a term that logits share and of a log-partition, relative to the sizes they are made of
_LOST = tl.constexpr(2.0 * WALK * UNIT_ROUNDOFF[torch.float64])


@triton.jit
@no_type_check
def takes_part(enter, level):
    """Return whether a query is searched for at a level: it entered by then, and is not found, which is below zero."""
    return (enter >= 0) & (enter <= level)


@triton.jit
@no_type_check
def answer_slice(b_mean, o_d, m_d, answer, units):
    """Return the values `o_d` of the answer that a mean makes, zeros where not in `m_d`.

    b_mean: the same values of the mean. answer: the point [D] and the base [D] in the units of the answer, alpha, and
    the factors of the mean and of the gap to the point. units: two numbers that add up to that of means in these units.
    """
    p_x, p_base, alpha, direct, gap = answer
    b_value = b_mean * units[0] + b_mean * units[1] + tl.load(p_base + o_d, mask=m_d, other=0.0)
    b_answer = direct * b_value + gap * (tl.load(p_x + o_d, mask=m_d, other=0.0) - alpha * b_value)
    return tl.where(m_d, b_answer, 0.0)


@triton.jit
@no_type_check
def answer_norms(samples, row, m_f, b_share, answer, units, BLOCK: tl.constexpr):
    """Return the norms of the answer that the mean of some rows makes, and of that mean.

    samples: as :mod:`..rescore.steps` has them. row, m_f, b_share: the rows, which of them count, and their shares.
    answer, units: as in `answer_slice`.
    """
    p_rows, p_centre, _, dim, row_stride = samples
    b_speed = tl.zeros([BLOCK], dtype=tl.float64)
    b_norm = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, dim, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        m_d = o_d < dim
        mask = m_f[:, None] & m_d[None, :]
        b_rows = tl.load(p_rows + row[:, None] * row_stride + o_d[None, :], mask=mask, other=0).to(tl.float64)
        b_rows -= tl.load(p_centre + o_d, mask=m_d, other=0.0)[None, :]
        b_mean = tl.sum(tl.where(mask, b_share[:, None] * b_rows, 0.0), axis=0)
        b_answer = answer_slice(b_mean, o_d, m_d, answer, units)
        b_norm += b_mean * b_mean
        b_speed += b_answer * b_answer
    return tl.sqrt(tl.sum(b_speed, axis=0)), tl.sqrt(tl.sum(b_norm, axis=0))


@triton.jit
@no_type_check
def square_norm(p_point, dim, BLOCK: tl.constexpr):
    """Return the squared norm of a point [D] in float64."""
    b_square = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, dim, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_point = tl.load(p_point + o_d, mask=o_d < dim, other=0.0)
        b_square += b_point * b_point
    return tl.sum(b_square, axis=0)


@triton.jit
@no_type_check
def digits_shared(common, alpha, precision, radius, reach):
    """Return how far the term `common` to all logits may be off beside a log-partition, see `common_term`.

    radius: of the rows. reach: no less than the longest row with its centre.
    """
    distance = tl.sqrt(-2.0 * common / precision)
    size = 2.0 * distance + tl.abs(alpha) * (radius + reach)
    return _LOST * precision * (distance + tl.abs(alpha) * radius) * size


@triton.jit(do_not_specialize=["batch", "first_row", "level"])
@no_type_check
def floor_kernel(
    p_rows, p_point, p_centre, p_alpha, p_precision, p_log_weight, p_first, p_mass, p_x, p_base, p_answer_alpha,
    p_direct, p_gap, p_enter, p_floor, p_common, p_reached, p_closed, batch, first_row, level, dim,
    row_stride, scale, scale_rest, radius, reach, log_rows,
    ANSWER: tl.constexpr, WEIGHTED: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The upper logit below which a row of a query may be left out, [B]; infinite where none is asked.

    p_rows .. p_log_weight: see `scored`. p_first: [FIRST, B], which rows to score, see `named_first`.
    p_mass: [B], what may be left out at most. ANSWER: less where the answer that p_x [B, D] .. p_gap [B] make of the
    mean is small, see `answer_slice`, beside what they make of the way from the mean to a row as far as the `radius`
    says. p_common: [B], what all logits of a query have in common and upper logits leave out, at most. p_reached,
    p_closed: [B], zero afterwards. reach: as GivenOperand has it. log_rows: of how many rows share the mass.
    """
    i_b = tl.program_id(0).to(tl.int64)
    tl.store(p_reached + i_b, 0)
    tl.store(p_closed + i_b, 0)
    floor = tl.cast(float("inf"), tl.float64)
    if takes_part(tl.load(p_enter + i_b), level):
        samples, p_own = (p_rows, p_centre, p_log_weight, dim, row_stride), p_point + i_b * dim
        row, m_f = named_first(p_first + i_b, first_row, batch, FIRST)
        query = (p_own, tl.load(p_alpha + i_b), tl.load(p_precision + i_b))
        b_logits = difference_logits(samples, query, row, m_f, WEIGHTED, FIRST, BLOCK)
        none = tl.cast(0.0, tl.float64)
        b_weights, _, top, held, _, _ = softmax_step(tl.cast(float("-inf"), tl.float64), none, none, none, b_logits)
        common = -0.5 * query[2] * square_norm(p_own, dim, BLOCK)
        tl.store(p_common + i_b, common + digits_shared(common, query[1], query[2], radius, reach))
        mass = tl.load(p_mass + i_b)
        if ANSWER:  # noqa: SIM102  a constant, which a number cannot be joined to
            if held > 0.0:
                alpha, direct, gap = tl.load(p_answer_alpha + i_b), tl.load(p_direct + i_b), tl.load(p_gap + i_b)
                answer = (p_x + i_b * dim, p_base, alpha, direct, gap)
                speed, norm = answer_norms(samples, row, m_f, b_weights / held, answer, (scale, scale_rest), BLOCK)
                most = tl.abs(direct - alpha * gap) * scale * (radius + norm)
                mass *= tl.minimum(speed / tl.maximum(most, 1e-300), 1.0)
        floor = log_mass(top, held) - common + tl.log(tl.maximum(mass, 1e-300)) - log_rows
        # rounded down: comparisons and exponentials are in float32
        floor = tl.maximum(floor - tl.abs(floor) * 2.384185791015625e-07, _LOWEST_FLOOR)
    tl.store(p_floor + i_b, floor.to(tl.float32))
