"""Triton: a scan in which every tile of queries has rows of its own, a block of those of each at a time."""

from __future__ import annotations

from functools import cached_property

from ....base.arrays import Int64, Tensor
from ...common.rows import Span
from ..core.tiles import DigitConfig, ScoreConfig
from ..operands.digits import DigitOperand
from ..operands.panels import Panels
from ..operands.parts import QueryOperand
from ..operands.rows import BlockOperand
from ..products.logits import Scores, score
from ..products.logits_int8 import score_digits
from ..products.weighted_sum import weigh
from ..products.weights import Reference, weights_of
from .scan import BlockSums, TwoPhaseScan

# the batch whose tiles serve segments, of which few queries share one
SEGMENT_BATCH = 16


class SegmentScan(TwoPhaseScan):
    """A scan in which every tile of queries has rows of its own.

    spans: the rows of each query, [B, 2], equal ones beside each other. longest: rows of the longest. distinct: how
    many different ones there are at most but empty ones, or None. panels: the tiles of the last block.
    """

    spans: Int64[Tensor, "B 2"]
    longest: int
    distinct: int | None
    panels: Panels

    def blocks(self) -> list[Span]:
        """Return which rows of every segment are scanned together, as numbers within the segment."""
        height = self.limits.block_rows(self.config.score.block_b * self._most_panels, self.pair_bytes)
        return [Span(first, min(first + height, self.longest)) for first in range(0, self.longest, height)]

    @cached_property
    def _most_panels(self) -> int:
        # and one of queries without rows
        distinct = None if self.distinct is None else self.distinct + 1
        return Panels.most(len(self.query), self.config.score.block_b, distinct)

    @cached_property
    def _everything(self) -> BlockOperand:
        return BlockOperand.of(self.rows, self.work.span)

    def _block(self, span: Span) -> BlockOperand:
        self.panels = Panels.of(self.spans, self.config.score.block_b, span, most=self._most_panels)
        return self._everything

    def _score(self, block: BlockOperand) -> Scores:
        config, operand = self.config.score, self.operand
        if isinstance(config, DigitConfig) and isinstance(operand, DigitOperand):
            slices = config.least_slices(block.dim)
            return score_digits(operand, block, config, slices, panels=self.panels)
        if isinstance(config, ScoreConfig) and isinstance(operand, QueryOperand):
            return score(operand, block, config, 1, panels=self.panels)
        raise AssertionError(f"{type(operand).__name__} has no kernel for {config}")

    def _offer(self, scores: Scores, start: int) -> None:
        self.top.offer(scores, start, self.panels, self.spans)

    def _weigh(self, scores: Scores, block: BlockOperand, reference: Reference) -> BlockSums:
        config, wanted, panels = self.config, self.work.wanted, self.panels
        weights = weights_of(
            scores, block, reference, self.list, config=config.weigh, wanted=wanted, split=self.split, panels=panels
        )
        if not wanted.mean:
            return weights.sums, weights.sums.new_empty(0, len(self.query), 0)
        return weights.sums, weigh(weights, block, config.weigh, shares=1, panels=panels)
