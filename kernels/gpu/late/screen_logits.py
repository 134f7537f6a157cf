"""Triton: upper logits of a tile of rows for some queries, from the terms of a level of a screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import triton
import triton.language as tl

from ....base.arrays import Float, Tensor
from ...common.screen_terms import CARD_ROWS
from ...common.work import Work
from ..jit.masks import masked_by_ranges
from ..jit.matrix_unit import signed

# rows of a tile
SCREEN_ROWS = CARD_ROWS

# queries of a tile, for few of them and for many; coordinates of codes and of float32 features that are read together
SCREEN_FEW_QUERIES, SCREEN_MANY_QUERIES, SCREEN_CODES, SCREEN_FEATURES = 16, 32, 32, 16

SCREEN_WARPS, SCREEN_STAGES = 4, 3

# a value is a step times a whole number, 128 h + l with |h| <= 127 and -64 <= l < 64
_BASE, _LARGEST = tl.constexpr(128), tl.constexpr(127 * 128 + 63)


@triton.jit
@no_type_check
def code_products(codes, row, m_n, o_b, m_b, i_digit, BLOCK_D: tl.constexpr):
    """Return products of rows with a digit of queries times what it is worth, in float32, [BLOCK_N, BLOCK_B].

    codes: the rows [N, w] of 8-bit numbers, digits [2, B, w], what each is worth and its sums begin with, [2, B], w,
    values from one row to the next, and B.
    """
    p_codes, p_digits, p_worth, p_origin, width, code_stride, batch = codes
    b_sum = tl.zeros([row.shape[0], o_b.shape[0]], dtype=tl.int32)
    o_digit = i_digit * batch + o_b
    p_digit = p_digits + o_digit.to(tl.int64)[:, None] * width
    p_row = p_codes + row[:, None] * code_stride
    for start in range(0, width, BLOCK_D):
        o_d = start + tl.arange(0, BLOCK_D)
        m_d = (o_d < width)[None, :]
        b_codes = signed(tl.load(p_row + o_d[None, :], mask=m_n[:, None] & m_d, other=0))
        b_digit = tl.load(p_digit + o_d[None, :], mask=m_b[:, None] & m_d, other=0)
        b_sum = tl.dot(b_codes, tl.trans(b_digit), b_sum, out_dtype=tl.int32)
    # less the products with the centre, sums are small where rows are close to it: only these are rounded
    b_sum += tl.load(p_origin + o_digit, mask=m_b, other=0)[None, :]
    return b_sum.to(tl.float32) * tl.load(p_worth + o_digit, mask=m_b, other=0.0)[None, :]


@triton.jit
@no_type_check
def feature_products(features, row, m_n, o_b, m_b, BLOCK_E: tl.constexpr):
    """Return products of float32 rows [N, e] with factors [B, e], summed in float32, [BLOCK_N, BLOCK_B].

    features: the rows, the factors, e, and values from one row to the next.
    """
    p_features, p_gains, count, stride = features
    b_sum = tl.zeros([row.shape[0], o_b.shape[0]], dtype=tl.float32)
    p_row, p_gain = p_features + row[:, None] * stride, p_gains + o_b.to(tl.int64)[:, None] * count
    for start in range(0, count, BLOCK_E):
        o_e = start + tl.arange(0, BLOCK_E)
        m_e = (o_e < count)[None, :]
        b_rows = tl.load(p_row + o_e[None, :], mask=m_n[:, None] & m_e, other=0.0)
        b_gain = tl.load(p_gain + o_e[None, :], mask=m_b[:, None] & m_e, other=0.0)
        b_sum = tl.dot(b_rows, tl.trans(b_gain), b_sum, input_precision="ieee", out_dtype=tl.float32)
    return b_sum


@triton.jit
@no_type_check
def upper_logits(
    codes, features, norms, shared, p_slack, ranges, row, m_n, o_b, m_b, DIGITS: tl.constexpr, FEATURES: tl.constexpr,
    NORMED: tl.constexpr, WEIGHTED: tl.constexpr, SHARED: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Return the upper logits of a tile of rows for some queries, [BLOCK_N, BLOCK_B], -inf for what does not count.

    codes, features: as the steps above take them. norms: |r|^2 / 2 and the logs of the weights, [N] float64, and minus
    the factor of the former, [B]. shared: products of trajectories [N, P], which is a query's and its factor, [B], and
    P. p_slack: [B]. ranges: excluded ones [B, _, 2], and their number.
    """
    b_upper = tl.zeros([row.shape[0], o_b.shape[0]], dtype=tl.float32)
    for i_digit in tl.static_range(DIGITS):
        b_upper += code_products(codes, row, m_n, o_b, m_b, i_digit, BLOCK_D)
    if FEATURES:
        b_upper += feature_products(features, row, m_n, o_b, m_b, BLOCK_E)
    if NORMED:
        half_norm = tl.load(norms[0] + row, mask=m_n, other=0.0).to(tl.float32)
        b_upper -= half_norm[:, None] * tl.load(norms[2] + o_b, mask=m_b, other=0.0)[None, :]
        if WEIGHTED:
            b_upper += tl.load(norms[1] + row, mask=m_n, other=0.0).to(tl.float32)[:, None]
    if SHARED:
        p_products, p_column, p_gain, stride = shared
        column, gain = tl.load(p_column + o_b, mask=m_b, other=0), tl.load(p_gain + o_b, mask=m_b, other=0.0)
        p_product = p_products + row[:, None] * stride + column[None, :]
        b_upper += tl.load(p_product, mask=m_n[:, None] & m_b[None, :], other=0.0) * gain[None, :]
    b_upper += tl.load(p_slack + o_b, mask=m_b, other=0.0)[None, :]
    b_upper = masked_by_ranges(b_upper, row, o_b.to(tl.int64), m_b, ranges[0], ranges[1])
    return tl.where(m_n[:, None] & m_b[None, :], b_upper, float("-inf"))


@triton.jit
@no_type_check
def digits_of(b_value, step, DIGITS: tl.constexpr):
    """Return two digits of values in units of a step, int32, and what is left of the values by the first DIGITS."""
    b_whole = tl.floor(b_value / step + 0.5)
    b_both = b_whole.to(tl.int32)
    b_first = (b_both + _BASE // 2) >> 7
    b_second = b_both - _BASE * b_first
    b_rest = b_value - b_whole * step
    if DIGITS == 1:
        b_rest += b_second.to(tl.float64) * step
    return b_first, b_second, b_rest


@triton.jit
@no_type_check
def step_of(largest):
    """Return the step in which numbers up to `largest` have two digits."""
    return tl.maximum(largest, 1e-290) / _LARGEST


@triton.jit
@no_type_check
def store_rounded_up(p_out, slack):
    """Store a float64 number as a float32 one that is no smaller."""
    tl.store(p_out, (slack + tl.abs(slack) * 1.9073486328125e-06).to(tl.float32))


@dataclass(frozen=True)
class LevelCoefficients:
    """What kernels multiply a level of a screen with, for a batch of queries, and what it is.

    slack: [B] float32. features, gains: float32 rows [N, e] and their factors [B, e], or None. codes: 8-bit rows
    [N, w], the digits of their factors [2, B, w], what these are worth and what their sums begin with, [2, B], or None.
    digits: how many are multiplied. norm_gain: minus the factor of |r|^2 / 2, [B], or None where it is among features.
    shared: products of trajectories [N, P], which is a query's and its float32 factor, [B], or None.
    """

    slack: Float[Tensor, "B"]
    features: Float[Tensor, "N e"] | None = None
    gains: Float[Tensor, "B e"] | None = None
    codes: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    digits: int = 0
    norm_gain: Float[Tensor, "B"] | None = None
    shared: tuple[Tensor, Tensor, Tensor] | None = None


@dataclass(frozen=True)
class ScreenOperand:
    """What kernels read of a level of a screen, for a batch of queries.

    pointers, numbers, constants: as the kernels of :mod:`.screen_tiles` take them. batch: number of queries. start,
    stop: the span.
    """

    pointers: tuple[Tensor, ...]
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    batch: int
    start: int
    stop: int

    @property
    def tiles(self) -> int:
        """Number of tiles of the span."""
        return -(-(self.stop - self.start) // SCREEN_ROWS)

    @property
    def grid(self) -> tuple[int]:
        """Programs: one for a tile of rows and some queries, those of a tile beside each other."""
        return (self.tiles * triton.cdiv(self.batch, self.constants["BLOCK_B"]),)

    @property
    def arguments(self) -> tuple[Tensor | int, ...]:
        """What the kernels are told of the level and its queries."""
        return (*self.pointers, self.start, self.stop, self.batch, *self.numbers)

    @classmethod
    def of(cls, work: Work, coefficients: LevelCoefficients) -> ScreenOperand:
        """Return what kernels read for the queries of `work`; no synchronisation.

        work: the queries, the rows and their span. coefficients: of the queries at a level.
        """
        known, rows, excluded = coefficients, work.rows, work.query.excluded.contiguous()
        slack, features = known.slack, known.features
        codes = known.codes or (slack,) * 4
        beside = (slack, slack) if features is None or known.gains is None else (features, known.gains)
        norms = (rows.half_norms, rows.half_norms if rows.log_weights is None else rows.log_weights)
        products = known.shared or (slack, slack, slack)
        norm_gain = slack if known.norm_gain is None else known.norm_gain
        numbers = (
            0 if known.codes is None else codes[0].shape[1], 0 if known.codes is None else codes[0].stride(0),
            0 if features is None else features.shape[1], 0 if features is None else features.stride(0),
            0 if known.shared is None else products[0].stride(0), excluded.shape[1],
        )  # fmt: skip
        constants = {
            "DIGITS": known.digits,
            "FEATURES": features is not None,
            "NORMED": known.norm_gain is not None,
            "WEIGHTED": rows.log_weights is not None,
            "SHARED": known.shared is not None,
            "BLOCK_N": SCREEN_ROWS,
            "BLOCK_B": SCREEN_FEW_QUERIES if len(work.query) <= SCREEN_FEW_QUERIES else SCREEN_MANY_QUERIES,
            "BLOCK_D": SCREEN_CODES,
            "BLOCK_E": SCREEN_FEATURES,
            "num_warps": SCREEN_WARPS,
            "num_stages": SCREEN_STAGES,
            "enable_fp_fusion": True,
        }
        pointers = (*codes, *beside, *norms, norm_gain, *products, slack, excluded)
        return cls(pointers, numbers, constants, len(work.query), work.span.start, work.span.stop)
