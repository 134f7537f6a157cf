"""The heaviest samples of each query, kept while a scan passes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from .compensated import DoubleDouble, largest
from .rescore import Pairs, candidate_logits
from .rows import Query, Rows
from .state import PosteriorState

# the logits of rows [B, K] of each query, -inf where an entry is -1
Scored = Callable[[Rows, Query, Int64[Tensor, "B K"]], DoubleDouble]

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

    def pairs(self, index: Int64[Tensor, "b"], floor: Float64[Tensor, "b"]) -> Pairs:
        """Return the candidates of the queries in `index`, [b], whose coarse logits reach `floor`, [b]."""
        logits = self.logits[index]
        which, column = ((logits >= floor[:, None]) & (logits > -torch.inf)).nonzero().unbind(1)
        return Pairs(which, self.rows[index[which], column], logits[which, column])

    def heaviest(
        self,
        state: PosteriorState,
        rows: Rows,
        query: Query,
        *,
        count: int | None = None,
        scored: Scored = candidate_logits,
    ) -> PosteriorState:
        """Return `state` with the heaviest samples of each query named, rescored in float64, in falling order.

        rows, query: those that were scanned. count: how many to name, no more than were asked for, which None stands
        for. scored: what rescores them. -inf and -1 where there are fewer samples. Costs one gather of B K rows.
        """
        most = self.count if count is None else count
        if most == 0:
            none = self.logits[:, :0]
            return replace(state, top_logits=none, top_rows=self.rows[:, :0], top_rest=none)
        named = self.rows.masked_fill(self.logits == -torch.inf, -1)
        top, column = largest(scored(rows, query, named), most)
        return replace(state, top_logits=top.high, top_rows=named.gather(1, column), top_rest=top.low)
