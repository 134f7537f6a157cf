"""Triton: what the upper logits of a screen multiply rows with, made of queries in a few launches.

A query y has coordinates c = V^T y in the directions V of a screen. Its product with a row z is at most the sum of
<c, coordinates of z> over those that the level holds, of the norms of c and of the residual of z in every block, and of
those of both beyond all blocks; |y beyond|^2 = |y|^2 - |c|^2, and what float32 hides of c is added to it.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Float64, Tensor
from ...common.rows import Query
from ...common.search import ProjectedTerms, Projection
from ...common.work import Work
from ..jit.masks import where_positive
from .screen_logits import LevelCoefficients, digits_of, step_of, store_rounded_up

# values of a query that a program looks at together
POINT_BLOCK, COEFFICIENT_BLOCK, COEFFICIENT_WARPS = 1024, 512, 4

# factors of norms are rounded up: more than a few float32 roundings
_UPWARD = tl.constexpr(1.0 + 2.0**-20)

# slack of queries whose products float32 does not hold, at least a millionth of these, and squares of such queries
_MOST_SLACK, _MOST_SQUARE = tl.constexpr(1e28), tl.constexpr(1e72)

# host numbers that become float32
ROUNDED_UP = 1.0 + 2.0**-20


@triton.jit(do_not_specialize=["batch"])
@no_type_check
def point_kernel(p_point, p_shared, p_narrow, p_facts, batch, dim, SHARED: tl.constexpr, BLOCK: tl.constexpr):
    """A query less what it holds of the point of its trajectory, in float32, and facts of it.

    p_point, p_shared: [B, D] float64; the latter where points are SHARED. p_narrow: [B, D]. p_facts: [3, B], see
    :class:`...common.search.Projection`.
    """
    i_b = tl.program_id(0).to(tl.int64)
    share = tl.cast(0.0, tl.float64)
    if SHARED:
        b_square = tl.zeros([BLOCK], dtype=tl.float64)
        b_product = tl.zeros([BLOCK], dtype=tl.float64)
        for start in range(0, dim, BLOCK):
            o_d = start + tl.arange(0, BLOCK)
            b_shared = tl.load(p_shared + i_b * dim + o_d, mask=o_d < dim, other=0.0)
            b_square += b_shared * b_shared
            b_product += b_shared * tl.load(p_point + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        square = tl.sum(b_square, axis=0)
        # bounds hold for any multiple of the point; this one leaves the shortest rest
        share = tl.sum(b_product, axis=0) / tl.maximum(square, 1e-300)
        tl.store(p_facts + batch + i_b, share)
        tl.store(p_facts + 2 * batch + i_b, tl.sqrt(square))
    b_rest = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, dim, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_point = tl.load(p_point + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        if SHARED:
            b_point -= share * tl.load(p_shared + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        b_rest += b_point * b_point
        tl.store(p_narrow + i_b * dim + o_d, b_point.to(tl.float32), mask=o_d < dim)
    tl.store(p_facts + i_b, tl.sum(b_rest, axis=0))


@triton.jit
@no_type_check
def square_of(p_coordinate, begin, end, BLOCK: tl.constexpr):
    """Return the sum of the squares of the float32 numbers [begin, end) at `p_coordinate`, in float64."""
    b_sum = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(begin, end, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_value = tl.load(p_coordinate + o_d, mask=o_d < end, other=0.0).to(tl.float64)
        b_sum += b_value * b_value
    return tl.sum(b_sum, axis=0)


@triton.jit
@no_type_check
def decoded_norm(p_code, p_scale, begin, end, BLOCK: tl.constexpr):
    """Return the norm of the codes [begin, end) of a row times their scales."""
    b_sum = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(begin, end, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_value = tl.load(p_code + o_d, mask=o_d < end, other=0).to(tl.float64)
        b_value *= tl.load(p_scale + o_d, mask=o_d < end, other=0.0)
        b_sum += b_value * b_value
    return tl.sqrt(tl.sum(b_sum, axis=0))


@triton.jit
@no_type_check
def query_norm(query, level, k, BLOCK: tl.constexpr):
    """Return the norm of a query in block `k`, and behind the last one beyond all blocks; see `source_noise`."""
    norm = query[1]
    if k < level[4]:
        norm = tl.sqrt(square_of(query[0], tl.load(level[3] + k), tl.load(level[3] + k + 1), BLOCK))
    return norm


@triton.jit
@no_type_check
def source_norm(level, k, CODED: tl.constexpr, BLOCK: tl.constexpr):
    """Return what bounds products of a source with residuals in block `k`, or beyond all; see `source_noise`."""
    p_norm, p_code, p_scale, p_edge, blocks, _, _ = level
    norm = tl.load(p_norm + k).to(tl.float64)
    if CODED:  # noqa: SIM102  a constant, which a number cannot be joined to
        # residuals of codes are not orthogonal to the source: all of its coordinates count
        if k < blocks:
            begin, end, leading = tl.load(p_edge + k), tl.load(p_edge + k + 1), tl.load(p_edge)
            norm += decoded_norm(p_code, p_scale, begin - leading, end - leading, BLOCK)
    return norm


@triton.jit
@no_type_check
def source_noise(source, query, level, known, CODED: tl.constexpr, BLOCK: tl.constexpr):
    """Return what bounds the noise of a query whose source is known, negative where that narrows nothing.

    source: its row, or -1. query: its coordinates, its norm beyond all blocks, alpha and 1 / sigma^2. level: where the
    norms of the source and its codes are, the scales, edges, numbers of blocks and of norms, and those of a typical
    row. known: what rounding added to the query, and deviations that no Gaussian product exceeds.
    |y_b| |e_b| becomes alpha |s_b| |e_b| + sigma |e| deviations, s the source.
    """
    _, _, alpha, precision = query
    norms, p_typical = level[5], level[6]
    # by how much the bound of a typical row grows
    growth = tl.cast(0.0, tl.float64)
    for k in range(norms):
        own = alpha * source_norm(level, k, CODED, BLOCK)
        growth += (own - query_norm(query, level, k, BLOCK)) * tl.load(p_typical + k)
    noise = known[1] / tl.sqrt(precision) + known[0]
    narrows = (source >= 0) & (growth + noise * tl.load(p_typical + norms) < 0.0)
    return tl.where(narrows, noise, -1.0)


@triton.jit
@no_type_check
def store_gains(
    p_gains, gain, held, query, level, source, known, SOURCE: tl.constexpr, CODED: tl.constexpr,
    WEIGHTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the factors of the features of a query: leading coordinates, norms, |r|^2 / 2 and the log of the weight.

    gain: alpha / sigma^2. held: not above zero where all factors are to be zero. query, level, source, known: as in
    `source_noise`, where a SOURCE may be known.
    """
    p_coordinate, _, alpha, _ = query
    norms, leading = level[5], tl.load(level[3])
    for start in range(0, leading, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_value = tl.load(p_coordinate + o_d, mask=where_positive(o_d < leading, held), other=0.0).to(tl.float64)
        tl.store(p_gains + o_d, (gain * b_value).to(tl.float32), mask=o_d < leading)
    noise = tl.cast(-1.0, tl.float64)
    if SOURCE:
        noise = source_noise(source, query, level, known, CODED, BLOCK)
    p_gains += leading
    for k in range(norms):
        norm = query_norm(query, level, k, BLOCK)
        if noise >= 0.0:
            norm = alpha * source_norm(level, k, CODED, BLOCK)
        tl.store(p_gains + k, tl.where(held > 0.0, gain * norm * _UPWARD, 0.0).to(tl.float32))
    p_gains += norms
    tl.store(p_gains, tl.where(held > 0.0, gain * tl.maximum(noise, 0.0) * _UPWARD, 0.0).to(tl.float32))
    tl.store(p_gains + 1, tl.where(held > 0.0, -gain * alpha, 0.0).to(tl.float32))
    if WEIGHTED:
        tl.store(p_gains + 2, 1.0)


@triton.jit
@no_type_check
def store_digits(
    p_coordinate, p_scale, gain, held, centre, digits, i_b, batch, width, CENTRED: tl.constexpr, DIGITS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the factors of the codes of a query as digits, and return the norm of what is left of the factors.

    held: not above zero where all factors are to be zero. centre: [w], whole numbers that are taken off the codes where
    they are CENTRED, and by how much codes are read lower than they are. digits: those [2, B, w], what each is worth
    and what its sums begin with, [2, B].
    """
    p_digits, p_worth, p_origin = digits
    b_size = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, width, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        m_held = where_positive(o_d < width, held)
        b_value = tl.load(p_coordinate + o_d, mask=m_held, other=0.0).to(tl.float64)
        b_size = tl.maximum(b_size, tl.abs(gain * b_value * tl.load(p_scale + o_d, mask=m_held, other=0.0)))
    step = step_of(tl.max(b_size, axis=0))
    b_left = tl.zeros([BLOCK], dtype=tl.float64)
    b_high = tl.zeros([BLOCK], dtype=tl.int32)
    b_low = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, width, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        m_held = where_positive(o_d < width, held)
        b_value = tl.load(p_coordinate + o_d, mask=m_held, other=0.0).to(tl.float64)
        b_value = gain * b_value * tl.load(p_scale + o_d, mask=m_held, other=0.0)
        b_first, b_second, b_rest = digits_of(b_value, step, DIGITS)
        b_left += b_rest * b_rest
        if CENTRED:
            b_centre = tl.load(centre[0] + o_d, mask=o_d < width, other=0.0).to(tl.int32) - centre[1]
            b_high += b_first * b_centre
            b_low += b_second * b_centre
        p_digit = p_digits + i_b * width + o_d
        tl.store(p_digit, b_first.to(tl.int8), mask=o_d < width)
        tl.store(p_digit + batch.to(tl.int64) * width, b_second.to(tl.int8), mask=o_d < width)
    tl.store(p_worth + i_b, (step * 128.0).to(tl.float32))
    tl.store(p_worth + batch + i_b, step.to(tl.float32))
    tl.store(p_origin + i_b, -tl.sum(b_high, axis=0))
    tl.store(p_origin + batch + i_b, -tl.sum(b_low, axis=0))
    return tl.sqrt(tl.sum(b_left, axis=0))


@triton.jit(do_not_specialize=["batch", "coordinates", "blocks", "norms", "count", "width", "lower"])
@no_type_check
def coefficients_kernel(
    p_coordinate, p_facts, p_alpha, p_precision, p_edge, p_scale, p_features, p_codes, p_centre, p_source, p_blur,
    p_typical, p_gains, p_slack, p_shared_gain, p_digits, p_worth, p_origin, batch, coordinates, blocks, norms, count,
    width, lower, feature_stride, code_stride, beyond, upper, row_size, square_size, shared, weights, deviations,
    radius, FEATURES: tl.constexpr, CODED: tl.constexpr, CENTRED: tl.constexpr, SOURCE: tl.constexpr,
    SHARED: tl.constexpr, WEIGHTED: tl.constexpr, DIGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The factors of the FEATURES of a query, [B, count], or that of half norms alone; those of its codes; its slack.

    p_coordinate: [B, coordinates] and p_facts: [3, B], as in :class:`...common.search.Projection`. p_edge .. p_codes,
    p_typical, blocks, norms, beyond .. weights: as in LeadingLevel. p_source, p_blur: [B], where a SOURCE may be known,
    and deviations, as in NoiseKnown. p_slack: [B]. p_shared_gain: [B], where points are SHARED. p_digits .. p_origin,
    p_centre, lower: where rows are CODED, [B, width] codes in digits, see `store_digits`; radius: no less than the
    longest row of codes less their centre.
    """
    i_b = tl.program_id(0).to(tl.int64)
    alpha, precision, square = tl.load(p_alpha + i_b), tl.load(p_precision + i_b), tl.load(p_facts + i_b)
    gain = alpha * precision
    p_coordinate += i_b * coordinates
    slack = gain * upper * (tl.sqrt(square) * row_size + alpha * square_size) + weights
    if SHARED:
        share = tl.load(p_facts + batch + i_b)
        slack += gain * shared * tl.abs(share) * tl.load(p_facts + 2 * batch + i_b)
    # sums that float32 cannot hold bound nothing: all rows are left of such a query
    held = tl.where((slack < _MOST_SLACK) & (square < _MOST_SQUARE), 1.0, 0.0)
    if FEATURES:
        kept = square_of(p_coordinate, 0, tl.load(p_edge + blocks), BLOCK)
        rest = tl.sqrt(tl.maximum(square * (1.0 + beyond) - kept, 0.0))
        source = tl.cast(-1, tl.int64)
        blur = tl.cast(0.0, tl.float64)
        if SOURCE:
            source, blur = tl.load(p_source + i_b), tl.load(p_blur + i_b)
        p_norm = p_features + tl.load(p_edge) + tl.maximum(source, 0) * feature_stride
        p_code = p_codes + tl.maximum(source, 0) * code_stride
        level = (p_norm, p_code, p_scale, p_edge, blocks, norms, p_typical)
        query, known = (p_coordinate, rest, alpha, precision), (blur, deviations)
        store_gains(p_gains + i_b * count, gain, held, query, level, source, known, SOURCE, CODED, WEIGHTED, BLOCK)
    else:
        tl.store(p_gains + i_b, tl.where(held > 0.0, gain * alpha, 0.0).to(tl.float32))
    if SHARED:
        tl.store(p_shared_gain + i_b, tl.where(held > 0.0, gain * share, 0.0).to(tl.float32))
    if CODED:
        digits, p_coded = (p_digits, p_worth, p_origin), p_coordinate + tl.load(p_edge)
        left = store_digits(
            p_coded, p_scale, gain, held, (p_centre, lower), digits, i_b, batch, width, CENTRED, DIGITS, BLOCK
        )
        slack += radius * left
    store_rounded_up(p_slack + i_b, tl.where(held > 0.0, slack, float("inf")))


def projected(query: Query, basis: Float[Tensor, "D M"] | None, shared: Float64[Tensor, "B D"] | None) -> Projection:
    """Return queries in the coordinates of a screen; no synchronisation.

    query: the batch. basis: directions of leading coordinates, float32, or None where coordinates are values. shared:
    points whose products with all rows are known, one for each query, or None. Costs a product of 2 B D M operations in
    float32.
    """
    point = query.point.contiguous()
    batch, dim = point.shape
    narrow, facts = point.new_empty(batch, dim, dtype=torch.float32), point.new_empty(3, batch)
    point_kernel[(batch,)](
        point, point if shared is None else shared.contiguous(), narrow, facts, batch, dim, SHARED=shared is not None,
        BLOCK=POINT_BLOCK, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return Projection(narrow if basis is None else narrow @ basis, facts)


def projected_coefficients(work: Work, terms: ProjectedTerms) -> LevelCoefficients:
    """Return what the rows of a level are multiplied with; no synchronisation, one launch.

    work: the queries and the rows. terms: of the level. They bound no less than those of QueryBound do.
    """
    level, projection, query = terms.level, terms.projection, work.query
    batch, coordinates = projection.coordinates.shape
    features, codes, centre = level.features, level.codes, level.centre
    slack = projection.coordinates.new_empty(batch)
    gains = slack.new_empty(batch, 1 if features is None else features.shape[1])
    width = 0 if codes is None else codes.shape[1]
    digits = slack.new_empty(2, batch, width, dtype=torch.int8)
    worth, origin = slack.new_empty(2, batch), slack.new_empty(2, batch, dtype=torch.int32)
    gain, beside = torch.empty_like(slack), slack if features is None else features
    read = beside if codes is None else codes
    known, scale = terms.known, level.typical if level.scale is None else level.scale
    row, blur, deviations = (origin, slack, 0.0) if known is None else (known.row, known.blur, known.deviations)
    numbers = (level.coordinate, level.upper, level.row_size, level.square_size, level.shared, level.weights)
    coefficients_kernel[(batch,)](
        projection.coordinates, projection.facts, query.alpha.contiguous(), query.inverse_variance.contiguous(),
        level.edges, scale, beside, read, scale if centre is None else centre, row.contiguous(), blur.contiguous(),
        level.typical, gains, slack, gain, digits, worth, origin, batch, coordinates, level.blocks, level.norms,
        gains.shape[1], width, 128 if read.dtype == torch.uint8 else 0, beside.stride(0), read.stride(0),
        *(ROUNDED_UP * number for number in (*numbers, deviations, level.radius)),
        FEATURES=features is not None, CODED=codes is not None, CENTRED=centre is not None, SOURCE=known is not None,
        SHARED=terms.products is not None, WEIGHTED=work.rows.log_weights is not None, DIGITS=level.digits,
        BLOCK=COEFFICIENT_BLOCK, num_warps=COEFFICIENT_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    coded = None if codes is None else (codes, digits, worth, origin)
    shared = None if terms.products is None or terms.column is None else (terms.products, terms.column, gain)
    norm_gain = gains.view(batch) if features is None else None
    factors = None if features is None else gains
    return LevelCoefficients(slack, features, factors, coded, level.digits if coded else 0, norm_gain, shared)
