"""Steps that the Triton kernels share, for Triton 3.6 to 3.9, compiled or interpreted."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl
from triton.knobs import runtime

# whether kernels run in Triton's interpreter, which is decided when triton is imported
INTERPRET = bool(runtime.interpret)

_INTERPRET = tl.constexpr(INTERPRET)

# weights lie in [0, 1]; scaled by this they use the upper half of float16's range, so that 2^-28 keeps full precision
WEIGHT_SCALE = tl.constexpr(16384.0)


@triton.jit
@no_type_check
def panel_of(p_panels, i_b, count, batch, SEGMENTED: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return what a tile of queries is about: its first query, the one after the last, its first row, and its height.

    p_panels: [tiles of queries, 4] int32, where tiles have rows of their own: both queries, the first row and the one
    after the last. count, batch: rows and queries of all tiles elsewhere.
    """
    if SEGMENTED:
        p_panel = p_panels + 4 * i_b
        first, last, first_row = tl.load(p_panel), tl.load(p_panel + 1), tl.load(p_panel + 2)
        height = tl.load(p_panel + 3) - first_row
    else:
        first, last, first_row, height = i_b * BLOCK_B, batch, 0, count
    return first, last, first_row, height


@triton.jit
@no_type_check
def tile_of(p_panels, panels, count, batch, SEGMENTED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return where the tile of this program is, its rows, and its queries.

    Where: its number in rows, that of its tile of queries, of `panels`, its first row and its first query. Rows: the
    place of each in the panel, among all rows, and which exist. Queries: the place of each, its column, which exist.
    p_panels, count, batch: as in :func:`panel_of`.
    """
    # neighbouring programs share their rows, which are the larger operand
    i_b = tl.program_id(0) % panels
    i_n = tl.program_id(0) // panels
    first, last, first_row, height = panel_of(p_panels, i_b, count, batch, SEGMENTED, BLOCK_B)
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_b = first + tl.arange(0, BLOCK_B)
    column = i_b * BLOCK_B + tl.arange(0, BLOCK_B)
    where = (i_n, i_b, first_row + i_n * BLOCK_N, first)
    return where, (o_n, first_row + o_n, o_n < height), (o_b, column, o_b < last)


@triton.jit
@no_type_check
def slice_of(dim, BLOCK_D: tl.constexpr):
    """Return the first value of D in the slice of this program, and the one after its last."""
    width = tl.cdiv(tl.cdiv(dim, tl.num_programs(1)), BLOCK_D) * BLOCK_D
    begin = tl.program_id(1) * width
    return begin, tl.minimum(begin + width, dim)


@triton.jit
@no_type_check
def share_of(count, i_share, shares, BLOCK_N: tl.constexpr):
    """Return the first of the `count` rows in share `i_share` of `shares`, and the one after its last."""
    share = tl.cdiv(tl.cdiv(count, shares), BLOCK_N) * BLOCK_N
    begin = i_share * share
    return begin, tl.minimum(begin + share, count)


@triton.jit
@no_type_check
def row_tile(rows, first, row, m_n, start, end, row_stride, DESCRIBED: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return values [start, start + BLOCK_D) of some rows as they are stored, zeros from `end` on.

    rows: a descriptor of the rows, of which those from `first` on are read, or a pointer to them, of which those in
    `row`, masked by `m_n`, are read.
    """
    if DESCRIBED:
        b_rows = rows.load([first, start])
    else:
        o_d = start + tl.arange(0, BLOCK_D)
        # 64-bit offsets: N D may exceed 2^31
        p_rows = rows + row.to(tl.int64)[:, None] * row_stride + o_d[None, :]
        b_rows = tl.load(p_rows, mask=m_n[:, None] & (o_d < end)[None, :], other=0)
    return b_rows


@triton.jit
@no_type_check
def query_tile(
    query, where, PARTS: tl.constexpr, DESCRIBED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Return a slice of all parts of a tile of queries: [PARTS BLOCK_B, BLOCK_D], zeros beyond the end.

    query: a descriptor of the parts [PARTS, B, D], or a pointer to them. where: the first query, B, the first value of
    D, the one after the last, D, and the values of a part.
    """
    first, batch, start, end, dim, part_stride = where
    if DESCRIBED:
        b_query = tl.reshape(query.load([0, first, start]), [PARTS * BLOCK_B, BLOCK_D])
    else:
        o_w, o_d = tl.arange(0, PARTS * BLOCK_B), start + tl.arange(0, BLOCK_D)
        o_b = first + o_w % BLOCK_B
        p_query = query + ((o_w // BLOCK_B).to(tl.int64) * part_stride + o_b.to(tl.int64) * dim)[:, None] + o_d[None, :]
        b_query = tl.load(p_query, mask=(o_b < batch)[:, None] & (o_d < end)[None, :], other=0)
    return b_query


@triton.jit
@no_type_check
def part_tile(query, i_part, where, DESCRIBED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return a slice of part `i_part` of a tile of queries: [BLOCK_B, BLOCK_D], otherwise as :func:`query_tile`."""
    first, batch, start, end, dim, part_stride = where
    if DESCRIBED:
        b_query = tl.reshape(query.load([i_part, first, start]), [BLOCK_B, BLOCK_D])
    else:
        o_b, o_d = first + tl.arange(0, BLOCK_B), start + tl.arange(0, BLOCK_D)
        p_query = query + i_part * part_stride + o_b.to(tl.int64)[:, None] * dim + o_d[None, :]
        b_query = tl.load(p_query, mask=(o_b < batch)[:, None] & (o_d < end)[None, :], other=0)
    return b_query


@triton.jit
@no_type_check
def parts_sum(b_sum, PARTS: tl.constexpr):
    """Return the sum over the parts that stand side by side in `b_sum` [M, PARTS N]: [M, N]."""
    if PARTS > 1:
        b_sum = tl.sum(tl.reshape(b_sum, [b_sum.shape[0], PARTS, b_sum.shape[1] // PARTS]), axis=1)
    return b_sum


@triton.jit
@no_type_check
def dot(left, right):
    """Return the product of two blocks of one 16-bit dtype, summed in float32 from zero."""
    # the interpreter multiplies the bit patterns of bf16; in float32 the products of 16-bit numbers are exact as well
    if _INTERPRET:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(left, right, out_dtype=tl.float32)
    return product


@triton.jit
@no_type_check
def dot_add(left, right, total):
    """Return the product of two blocks of one 16-bit dtype, summed inside the matrix unit on top of `total`."""
    if _INTERPRET:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision="ieee")
    else:
        product = tl.dot(left, right, total, out_dtype=tl.float32)
    return product


@triton.jit
@no_type_check
def add_products(rows, centre, scale, right, total, TURNED: tl.constexpr):
    """Return `total` plus the product of rows as they are stored, TURNED or not, with `right`, in the matrix unit.

    centre: what is taken off 8-bit rows, to be broadcast over `rows`. scale: what float32 rows are multiplied by.
    """
    dtype: tl.constexpr = right.dtype
    if rows.dtype == tl.float32:
        high, rest = halves(rows, scale, dtype)
        total = dot_add(turned(rest, TURNED), right, total)
    else:
        high = operand(rows, centre, dtype)
    return dot_add(turned(high, TURNED), right, total)


@triton.jit
@no_type_check
def halves(rows, scale, dtype: tl.constexpr):
    """Return float32 rows times `scale` as the sum of two numbers of `dtype`."""
    rows = rows * scale
    high = rows.to(dtype)
    return high, (rows - high.to(tl.float32)).to(dtype)


@triton.jit
@no_type_check
def turned(block, TURNED: tl.constexpr):
    """Return a block, or its transpose where it is TURNED."""
    return tl.trans(block) if TURNED else block


@triton.jit
@no_type_check
def centre_of(stored: tl.constexpr, p_centre, o_d, m_d):
    """Return what :func:`operand` takes off rows of dtype `stored` at the values `o_d` of D, masked by `m_d`.

    Zeros but for 8-bit rows.
    """
    if stored.primitive_bitwidth == 8:
        centre = tl.load(p_centre + o_d, mask=m_d, other=0.0)
    else:
        centre = tl.zeros(o_d.shape, dtype=tl.float16)
    return centre


@triton.jit
@no_type_check
def operand(rows, centre, dtype: tl.constexpr):
    """Return rows as operands of `dtype`, exactly: 8-bit ones in float16, less `centre`."""
    if rows.dtype.primitive_bitwidth == 8:
        if rows.dtype == tl.int8:
            rows = rows.to(tl.uint8, bitcast=True) ^ 0x80
        # the bits of 1024, whose last place is one, with a level in their last byte: this takes no conversion
        # instruction, only the subtraction of the centre, which is higher by 1024 as well
        rows = (rows.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True) - centre
    else:
        rows = rows.to(dtype)
    return rows


@triton.jit
@no_type_check
def signed(rows):
    """Return 8-bit rows as int8: unsigned levels less 128."""
    if rows.dtype == tl.uint8:
        rows = (rows ^ 0x80).to(tl.int8, bitcast=True)
    return rows


@triton.jit
@no_type_check
def masked_by_ranges(logits, o_row, o_b, m_b, p_excluded, excluded):
    """Return logits [rows, queries] with -inf where a row lies in one of the `excluded` ranges of a query.

    o_row: rows of the tile. o_b, m_b: its queries, and which exist. p_excluded: [B, excluded, 2] int64.
    """
    for i_h in range(excluded):
        # [BLOCK_B]
        p_range = p_excluded + (o_b * excluded + i_h) * 2
        start = tl.load(p_range, mask=m_b, other=0)
        stop = tl.load(p_range + 1, mask=m_b, other=0)
        inside = (o_row[:, None] >= start[None, :]) & (o_row[:, None] < stop[None, :])
        logits = tl.where(inside, float("-inf"), logits)
    return logits


@triton.jit
@no_type_check
def covered_by_ranges(first_row, last_row, o_b, m_b, p_excluded, excluded):
    """Return for which queries one of the `excluded` ranges holds all rows [first_row, last_row), above zero for these.

    o_b, m_b, p_excluded: as in :func:`masked_by_ranges`.
    """
    covered = tl.zeros(o_b.shape, dtype=tl.int32)
    for i_h in range(excluded):
        p_range = p_excluded + (o_b * excluded + i_h) * 2
        start = tl.load(p_range, mask=m_b, other=0)
        stop = tl.load(p_range + 1, mask=m_b, other=0)
        covered += ((start <= first_row) & (stop >= last_row)).to(tl.int32)
    return covered


@triton.jit
@no_type_check
def finite(reference):
    """Return the reference of a softmax, zero where it is -inf, so that -inf minus it stays -inf."""
    return tl.where(reference == float("-inf"), 0.0, reference)


@triton.jit
@no_type_check
def where_positive(mask, number):
    """Return `mask`, a block, where the scalar `number` is above zero, and false everywhere else."""
    # as a block: the interpreter cannot spread what a comparison of scalars gives
    return mask & (tl.zeros(mask.shape, dtype=tl.float64) + number > 0.0)


@triton.jit
@no_type_check
def nearest(values, dtype: tl.constexpr):
    """Return float32 values, none of them negative zero or infinite, rounded to the nearest of `dtype`."""
    # the interpreter truncates to bf16, half a unit of its last place off
    if _INTERPRET and dtype == tl.bfloat16:
        bits = values.to(tl.uint32, bitcast=True) + 0x8000
        values = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return values.to(dtype)


@triton.jit
@no_type_check
def rounded(weights, PARTS: tl.constexpr, dtype: tl.constexpr):
    """Return what `PARTS` numbers of `dtype` hold of float32 weights: the first part, the rest, and their sum."""
    first = nearest(weights, dtype)
    kept = first.to(tl.float32)
    rest = nearest(weights - kept, dtype)
    if PARTS == 2:
        kept += rest.to(tl.float32)
    return first, rest, kept
