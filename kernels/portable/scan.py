"""The portable implementation: one streaming pass over blocks of rows in plain torch, on any device."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..common.matmul import SERIAL_QUERIES, SUM_ROWS, ieee_products
from ..common.rescore import GATHER_VALUES
from ..common.rows import Rows, Span
from ..common.state import PosteriorState
from ..common.work import Work
from .blocks import BLOCK_LIMITS, BlockLimits, block_rows
from .double import double_state
from .single import single_state

# the largest D that is scanned in float64: the products cost less than the exponentials beside them
DOUBLE_DIM = 64


def posterior_state(work: Work, *, limits: BlockLimits = BLOCK_LIMITS) -> PosteriorState:
    """Return the posterior states of the queries of `work` over its span, [B].

    limits: sizes of blocks and rescore lists. The relative velocity error is below 1e-5 against float64 for queries in
    every regime. Costs one read of the span, 2 B n D operations for the logits and as many again for the blocks that
    carry weight; memory is a block of rows, its logits, and B D values.
    """
    if len(work.query) == 0:
        return work.nothing()
    with ieee_products(work.rows.device.type):
        if score_dtype(work.rows) == torch.float64:
            return double_state(work, limits)
        # sums of weighted rows drift with the centre that these carry, by more than a mean of mapped values may be off
        return single_state(replace(work, rows=work.rows.with_centre_off()), limits)


def score_dtype(rows: Rows, narrow: int = DOUBLE_DIM) -> torch.dtype:
    """Return the dtype of the matrix products over these rows: float32, or float64 where these are not enough.

    narrow: values of rows that products in float64 are taken of in any case.
    """
    wide = rows.stored.dtype != torch.float64 and rows.dim > narrow
    return torch.float32 if wide and rows.squares_in_single else torch.float64


def scan_memory(rows: Rows, batch: int) -> int:
    """Return the most bytes that a scan of all `rows` for `batch` queries needs beyond the data.

    They do not grow with N x batch.
    """
    dtype = score_dtype(rows)
    size = block_rows(rows, dtype, Span(0, len(rows)))
    raw = dtype == torch.float64 and rows.raw_operand and rows.stored.dtype == dtype
    copies = 0 if raw else size * rows.dim
    logits = 3 * size * batch  # the product, its transpose with the bias, and a mask
    # scaled and padded queries and sums; query, means and their merge in float64
    sums = batch * rows.dim * (3 + 8 * 8 // dtype.itemsize)
    shares = batch * rows.dim * dtype.itemsize * (-(-size // SUM_ROWS) if batch <= SERIAL_QUERIES else 1)
    again = 0 if dtype == torch.float64 else 4 * 8 * min(GATHER_VALUES, batch * len(rows) * rows.dim)
    return (copies + logits + sums) * dtype.itemsize + shares + again
