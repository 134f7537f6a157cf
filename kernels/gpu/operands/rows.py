"""Blocks of rows as the Triton kernels read them: as stored, or a centred copy where products would lose digits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ....base.arrays import Float, Int64, Shaped, Tensor
from ...common.rows import Rows, Span
from .parts import ScoredQuery

# the power of two that the largest norm of float32 rows is brought to, so that two float16 hold 22 bits of every value
# that is not 2^-28 times smaller
ROW_EXPONENT = 14

# a float16 whose last bits are zero, so that setting them to the bits of an 8-bit level gives the sum of both: this is
# how the kernels turn 8-bit rows into float16
RAISED = 1024.0


def operand_rows(rows: Rows) -> Rows:
    """Return `rows` as the kernels multiply them: of 8-bit rows the centre, which is a whole number, is taken off."""
    return rows if rows.stored.is_floating_point() else rows.with_centre_off()


def keep_ready(rows: Rows) -> None:
    """Make what all scans of `rows` read beside them, so that no first call, recorded in a graph, makes it there."""
    scanned = operand_rows(rows)
    BlockOperand.of(scanned, Span(0, 0))
    for used in (rows, scanned):
        _ = used.operand_centre


def copied(rows: Rows) -> bool:
    """Return whether the kernels read a centred copy of `rows`.

    They do for floating point rows whose centre is so large that products would lose digits to it.
    """
    return rows.stored.is_floating_point() and not rows.raw_operand


def block_dtype(rows: Rows) -> torch.dtype:
    """Return the dtype in which the kernels read `rows`: that of the storage, float32 where they are copied."""
    return torch.float32 if copied(rows) else rows.stored.dtype


def copy_bytes(rows: Rows) -> int:
    """Return the bytes of the centred copy of a row, zero where the kernels read the rows as they are stored."""
    return 4 * rows.dim if copied(rows) else 0


@dataclass(frozen=True)
class BlockOperand:
    """Rows [start, start + n) of a data set as the kernels read them.

    rows: [n, D] in a dtype of KERNEL_DTYPES. half_norms: [n] float32, |r|^2 / 2. log_weights: [n] float32, not read
    unless `weighted`. start: the first row. scale: the power of two that float32 rows are multiplied by before they are
    split, 1 for others.
    centre: [D] float16, what is taken off 8-bit rows in registers: the centre, counted from the lowest level, plus
    RAISED; empty for other rows.
    """

    rows: Shaped[Tensor, "n D"]
    centre: Float[Tensor, "C"]
    half_norms: Float[Tensor, "n"]
    log_weights: Float[Tensor, "n"]
    weighted: bool
    start: int
    scale: float = 1.0

    @classmethod
    def of(cls, rows: Rows, span: Span) -> BlockOperand:
        """Return the operand of the rows in `span`: a view of the data, or a centred copy where :func:`copied`."""
        stored = rows.stored[span.start : span.stop]
        if copied(rows):
            copy = torch.empty(stored.shape, dtype=block_dtype(rows), device=rows.device)
            stored = rows.block(span.start, span.stop, copy)
        part = slice(span.start, span.stop)
        half_norms = rows.derived("half norms", _single_half_norms)[part]
        weighted = rows.log_weights is not None
        log_weights = rows.derived("log weights", _single_log_weights)[part] if weighted else half_norms
        centre, scale = rows.derived("raised centre", _raised_centre), _row_scale(rows, stored.dtype)
        return cls(stored, centre, half_norms, log_weights, weighted, span.start, scale)

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def dim(self) -> int:
        """D, the values of a row."""
        return self.rows.shape[1]

    def excluded(self, query: ScoredQuery) -> Int64[Tensor, "B H 2"]:
        """Return the excluded ranges of `query` as row numbers within the block, [B, H, 2] int64."""
        moved = query.excluded.numel() > 0 and self.start > 0
        return (query.excluded - self.start if moved else query.excluded).contiguous()


def _single_half_norms(rows: Rows) -> Float[Tensor, "N"]:
    return rows.half_norms.float()


def _single_log_weights(rows: Rows) -> Float[Tensor, "N"]:
    if rows.log_weights is None:
        raise AssertionError("asked for of weighted rows only")
    return rows.log_weights.float()


def _row_scale(rows: Rows, dtype: torch.dtype) -> float:
    if dtype != torch.float32:
        return 1.0
    _, exponent = math.frexp(rows.operand_radius)
    return math.ldexp(1.0, ROW_EXPONENT - exponent)


def _raised_centre(rows: Rows) -> Float[Tensor, "C"]:
    if rows.stored.is_floating_point():
        return rows.centre[:0].half()
    lowest = torch.iinfo(rows.stored.dtype).min
    return (rows.centre - lowest + RAISED).half()
