"""Triton: the running sums of a scan on the device, to which one launch adds what a block leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Float64, Tensor
from ..jit.masks import where_positive
from ..jit.places import share_of

# values of D, tiles and queries that a program adds together, and programs that share the tiles
TOTAL_BLOCK, SUM_TILES, SUM_QUERIES, MOST_PARTS = 1024, 16, 32, 32


@triton.jit
@no_type_check
def partial_sum(p_partial, i_sum, parts, batch, mask, PARTS: tl.constexpr):
    """Return one of the four sums that the last block left, at the queries that `p_partial` [BLOCK_B] points to."""
    o_p = tl.arange(0, PARTS)
    # [PARTS, BLOCK_B], all at once: the loads of a loop would wait for each other
    p_part = p_partial[None, :] + (4 * o_p + i_sum)[:, None] * batch
    return tl.sum(tl.load(p_part, mask=(o_p < parts)[:, None] & mask[None, :], other=0.0), axis=0)


@triton.jit
@no_type_check
def added_partials(p_scalar, p_partial, parts, batch, mask, PARTS: tl.constexpr):
    """Return mass, squares, first logit and half norm of the sums so far: what is kept, and what the last block left.

    p_scalar: [6, B] and p_partial: [parts, 4, B], both at the queries of the program, which `mask` says are read.
    """
    mass = tl.load(p_scalar + 2 * batch, mask=mask, other=0.0)
    squares = tl.load(p_scalar + 3 * batch, mask=mask, other=0.0)
    first_logit = tl.load(p_scalar + 4 * batch, mask=mask, other=0.0)
    half_norm = tl.load(p_scalar + 5 * batch, mask=mask, other=0.0)
    mass += partial_sum(p_partial, 0, parts, batch, mask, PARTS)
    squares += partial_sum(p_partial, 1, parts, batch, mask, PARTS)
    first_logit += partial_sum(p_partial, 2, parts, batch, mask, PARTS)
    half_norm += partial_sum(p_partial, 3, parts, batch, mask, PARTS)
    return mass, squares, first_logit, half_norm


@triton.jit
@no_type_check
def add_tiles(
    p_sums, p_partials, i_part, i_b, parts, tiles, batch, tile_stride,
    SUMS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Store the sums of one share of the tiles of a block, for some queries; zeros for those that tiles have not."""
    o_b = i_b * BLOCK_B + tl.arange(0, BLOCK_B)
    m_b = o_b < batch
    begin, end = share_of(tiles, i_part, parts, BLOCK_T)
    # [BLOCK_T, BLOCK_B]
    b_mass = tl.zeros([BLOCK_T, BLOCK_B], dtype=tl.float64)
    b_squares = tl.zeros([BLOCK_T, BLOCK_B], dtype=tl.float64)
    b_first = tl.zeros([BLOCK_T, BLOCK_B], dtype=tl.float64)
    b_norm = tl.zeros([BLOCK_T, BLOCK_B], dtype=tl.float64)
    for start in range(begin, end, BLOCK_T):
        o_t = start + tl.arange(0, BLOCK_T)
        mask = (o_t < end)[:, None] & m_b[None, :]
        p_tile = p_sums + SUMS * o_t.to(tl.int64)[:, None] * tile_stride + o_b[None, :]
        b_mass += tl.load(p_tile, mask=mask, other=0.0).to(tl.float64)
        if SUMS == 4:
            b_squares += tl.load(p_tile + tile_stride, mask=mask, other=0.0).to(tl.float64)
            b_first += tl.load(p_tile + 2 * tile_stride, mask=mask, other=0.0).to(tl.float64)
            b_norm += tl.load(p_tile + 3 * tile_stride, mask=mask, other=0.0).to(tl.float64)
    p_part = p_partials + 4 * i_part * batch + o_b
    tl.store(p_part, tl.sum(b_mass, axis=0), mask=m_b)
    tl.store(p_part + batch, tl.sum(b_squares, axis=0), mask=m_b)
    tl.store(p_part + 2 * batch, tl.sum(b_first, axis=0), mask=m_b)
    tl.store(p_part + 3 * batch, tl.sum(b_norm, axis=0), mask=m_b)


@triton.jit
@no_type_check
def add_shares(p_shares, p_factor, p_total, i_d, i_b, shares, batch, dim, begun, BLOCK_D: tl.constexpr):
    """Rescale a slice of the total of a query, and add the shares of a block to it."""
    o_d = i_d * BLOCK_D + tl.arange(0, BLOCK_D)
    m_d = o_d < dim
    factor = tl.load(p_factor + i_b)
    p_sum = p_total + i_b.to(tl.int64) * dim + o_d
    # [BLOCK_D]
    b_total = factor * tl.load(p_sum, mask=where_positive(m_d, begun), other=0.0)
    p_share = p_shares + i_b.to(tl.int64) * dim + o_d
    for _ in range(shares):
        b_total += tl.load(p_share, mask=m_d, other=0.0).to(tl.float64)
        p_share += batch.to(tl.int64) * dim
    tl.store(p_sum, b_total, mask=m_d)


@triton.jit(do_not_specialize=["tiles", "parts", "batch", "shares", "slices", "begun"])
@no_type_check
def add_kernel(
    p_sums,
    p_partials,
    p_shares,
    p_factor,
    p_total,
    tiles,
    parts,
    batch,
    tile_stride,
    shares,
    slices,
    dim,
    begun,
    SUMS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add a block: programs for the sums of its tiles come first, then those for `slices` slices of each total.

    p_sums: [tiles, SUMS, P] float32, the first of four. p_partials: [parts, 4, B]. p_shares: [shares, B, D] float32.
    p_total: [B, D], not read before one has `begun`.
    """
    programs = parts * tl.cdiv(batch, BLOCK_B)
    i_program = tl.program_id(0)
    if i_program < programs:
        i_part = i_program % parts
        add_tiles(
            p_sums, p_partials, i_part, i_program // parts, parts, tiles, batch, tile_stride, SUMS, BLOCK_T, BLOCK_B
        )  # fmt: skip
    else:
        i_slice = i_program - programs
        add_shares(
            p_shares, p_factor, p_total, i_slice % slices, i_slice // slices, shares, batch, dim, begun, BLOCK_D
        )  # fmt: skip


@dataclass
class RunningSums:
    """Sums over the samples of a scan that were added and not left to rescoring, in float64 on the device.

    They are those of :class:`...common.accumulate.RunningSums`, in one origin that moves with the log-partition.
    scalars: [6, B]: the log-partition of every sample met, the origin, and the sums of p, p^2, p (l - origin) and
    p |r|^2 / 2. total: of p r, [B, D], or [B, 0] where the mean is not wanted. partials: [MOST_PARTS, 4, B], of which
    the first `parts` are still to be added to the last four of the scalars. factor: [B], what the total is still to be
    rescaled by. begun: whether a block was met; before, nothing here holds anything.
    """

    scalars: Float64[Tensor, "6 B"]
    partials: Float64[Tensor, "P 4 B"]
    factor: Float64[Tensor, "B"]
    total: Float64[Tensor, "B E"]
    parts: int = 0
    begun: bool = False

    @classmethod
    def empty(cls, batch: int, dim: int, device: torch.device) -> RunningSums:
        """Return room for the sums of `batch` queries over `dim` values, 0 without the mean, on `device`."""
        double = torch.empty(0, dtype=torch.float64, device=device)
        scalars, partials = double.new_empty(6, batch), double.new_empty(MOST_PARTS, 4, batch)
        return cls(scalars, partials, double.new_empty(batch), double.new_empty(batch, dim))

    @classmethod
    def nothing(cls, batch: int, dim: int, device: torch.device) -> RunningSums:
        """Return the sums over no sample at all; arguments as in :meth:`empty`."""
        room = cls.empty(batch, dim, device)
        room.scalars.zero_()
        return room

    def add(self, sums: Float[Tensor, "T M P"], shares: Float[Tensor, "S B E"]) -> None:
        """Add a block whose weights have the origin of these sums; no synchronisation.

        sums: of its tiles, all four or only the first, [T, 4, P] or [T, 1, P] float32. shares: of its weighted sums,
        [S, B, D] float32, or [S, B, 0].
        Costs one read of both, and of the total.
        """
        (tiles, held, padded), (count, batch, dim) = sums.shape, shares.shape
        self.parts = max(1, min(MOST_PARTS, triton.cdiv(tiles, SUM_TILES)))
        slices = triton.cdiv(dim, TOTAL_BLOCK)
        programs = self.parts * triton.cdiv(batch, SUM_QUERIES) + batch * slices
        add_kernel[(programs,)](
            sums, self.partials, shares, self.factor, self.total, tiles, self.parts, batch, padded, count, slices, dim,
            int(self.begun), SUMS=held, BLOCK_T=SUM_TILES, BLOCK_B=SUM_QUERIES, BLOCK_D=TOTAL_BLOCK, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
        self.begun = True
