"""The heaviest samples of each query, kept while a scan passes by."""

from __future__ import annotations

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from .rescore import candidate_logits
from .rows import Query, Rows

# coarse logits keep this many more candidates than asked for, so that rounding cannot push one out
MARGIN = 8


class TopCandidates:
    """The `count` + MARGIN largest coarse logits of each query and their rows."""

    def __init__(self, batch: int, count: int, device: torch.device) -> None:
        """Start from nothing: `count` samples, 0 or more, of each of `batch` queries, kept on `device`."""
        self.count = count
        width = count + MARGIN if count else 0
        self.logits = torch.full((batch, width), -torch.inf, dtype=torch.float64, device=device)
        self.rows = torch.full((batch, width), -1, dtype=torch.int64, device=device)

    def offer(self, logits: Float[Tensor, "B n"], largest: Float[Tensor, "B"], offset: int) -> None:
        """Take what belongs here from a block.

        logits: its coarse logits, [B, n]. largest: their maxima, [B]. offset: the first row of the block.
        """
        if self.count == 0:
            return
        which = (largest > self.logits[:, -1]).nonzero()[:, 0]
        if len(which) == 0:
            return
        block = logits[which].topk(min(self.logits.shape[1], logits.shape[1]), dim=1)
        both = torch.cat([self.logits[which], block.values.double()], dim=1)
        rows = torch.cat([self.rows[which], block.indices + offset], dim=1)
        best = both.topk(self.logits.shape[1], dim=1)
        self.logits[which] = best.values
        self.rows[which] = rows.gather(1, best.indices)

    def heaviest(self, rows: Rows, query: Query) -> tuple[Float64[Tensor, "B K"], Int64[Tensor, "B K"]]:
        """Return the `count` largest logits of each query, rescored in float64, and their rows, in falling order.

        rows, query: those that were scanned. -inf and -1 where there are fewer samples. Costs one gather of B K rows.
        """
        if self.count == 0:
            return self.logits, self.rows
        named = self.rows.masked_fill(self.logits == -torch.inf, -1)
        best = candidate_logits(rows, query, named).topk(self.count, dim=1)
        return best.values, named.gather(1, best.indices)
