"""Blocks of rows as a scan reads them, and the coarse logits of a block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Tensor
from ...base.machine.settings import block_megabytes
from ..common.matmul import score_product
from ..common.rounding import longest_sum
from ..common.rows import Query, Rows, Span
from ..common.work import Work

# a block of rows as operand, in bytes: with the logits beside it, it stays in a last-level cache
BLOCK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class BlockLimits:
    """Sizes that a portable scan keeps to; the defaults are measured, tests pass smaller ones.

    block_bytes: of a block of rows as operand, or None for what suits the device.
    sparse_share: below this share of rows with weight in a block a query sums it row by row; the break-even was
        measured on CPU at 0.12 .. 0.2.
    rescored: samples of a query that are rescored one by one, at least and at most; with more of them, or with more
        than a 32nd of the span, the query is scanned in float64.
    """

    block_bytes: int | None = None
    sparse_share: float = 0.12
    rescored: tuple[int, int] = (256, 8192)

    def rescore_limit(self, count: int) -> int:
        """Return how many samples of a query are rescored one by one in a span of `count` rows."""
        least, most = self.rescored
        return min(max(least, count // 32), most)


BLOCK_LIMITS = BlockLimits()


@dataclass(frozen=True)
class Block:
    """Rows of a span as the products read them, valid until the next block.

    operand: [n, D] in the dtype of the products. half_norms: |r|^2 / 2, [n] in that dtype.
    """

    span: Span
    operand: Float[Tensor, "n D"]
    half_norms: Float[Tensor, "n"]


class BlockLogits:
    """The queries of some work as factors of the coarse logits of every block."""

    def __init__(self, work: Work, dtype: torch.dtype, limits: BlockLimits = BLOCK_LIMITS) -> None:
        """Scale the queries of `work` for products in `dtype`, float32 or float64."""
        query = work.query
        self.work, self.dtype, self.limits = work, dtype, limits
        self.scaled = (query.gain[:, None] * query.point).to(dtype)
        self.bias = (-query.gain * query.alpha).to(dtype)
        self.longest = work.rows.dim if dtype == torch.float64 else longest_sum(work.rows, len(query))

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of the span."""
        rows, span = self.work.rows, self.work.span
        size = block_rows(rows, self.dtype, span, block_bytes=self.limits.block_bytes)
        buffer = torch.empty(size, rows.dim, dtype=self.dtype, device=rows.device)
        for start in range(span.start, span.stop, size):
            stop = min(start + size, span.stop)
            half_norms = rows.half_norms[start:stop].to(self.dtype)
            yield Block(Span(start, stop), rows.block(start, stop, buffer), half_norms)

    def of(self, block: Block) -> Float[Tensor, "B n"]:
        """Return the coarse logits of a block, [B, n]: without the terms that all samples of a query share."""
        rows, span = self.work.rows, block.span
        if self.dtype == torch.float64:
            logits = (self.scaled @ block.operand.T).addr_(self.bias, block.half_norms)
        else:
            logits = score_product(block.operand, self.scaled, self.longest).addr_(block.half_norms, self.bias).T
        if rows.log_weights is not None:
            logits += rows.log_weights[span.start : span.stop].to(self.dtype)
        mask_excluded(logits, self.work.query, span)
        return logits


def mask_excluded(logits: Float[Tensor, "B n"], query: Query, span: Span) -> None:
    """Set the logits of rows of `span` that do not count for a query to -inf, in place."""
    for excluded in query.excluded.unbind(1):
        touched = ((excluded[:, 0] < span.stop) & (excluded[:, 1] > span.start)).nonzero()[:, 0]
        if len(touched):
            index = torch.arange(span.start, span.stop, device=logits.device)
            inside = (index >= excluded[touched, :1]) & (index < excluded[touched, 1:])
            logits[touched] = logits[touched].masked_fill(inside, -torch.inf)


def block_rows(rows: Rows, dtype: torch.dtype, span: Span, *, block_bytes: int | None = None) -> int:
    """Return how many rows a block holds.

    dtype: of the products. span: the rows scanned. block_bytes: of the operand, or None for what ORACLE_BLOCK_MB says,
    or what suits the device. Raises InputError where ORACLE_BLOCK_MB cannot be used.
    """
    wished = block_bytes or block_megabytes() * 2**20 or BLOCK_BYTES["cpu" if rows.device.type == "cpu" else "cuda"]
    size = int(wished) // (rows.dim * dtype.itemsize)
    return max(1, min(len(span), max(64, min(size, 16384))))
