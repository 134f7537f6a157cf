"""Noised rows as queries: what is measured of a screen is measured with these."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ....base.arrays import Float64, Int64, Tensor
from ...common.prepare import total_variance
from ...common.rows import Query, Rows, Span
from ...common.work import Work
from ..bounds.query_bounds import BOUND_FAILURE, Knowledge, SideInformation, Source
from ..bounds.screen import Screen
from ..bounds.shared_products import SharedProducts
from ..bounds.upper_bounds import UpperLogits

# queries of a trial: a multiple of the lanes that products are taken in
TRIALS = 64


@dataclass(frozen=True)
class Trials:
    """Noised rows as queries.

    rows: the data. variance: of a coordinate. chosen: the rows that are noised, [T] int64. noise: of unit variance,
    [T, D] float64. excluded: rows that do not count, [T, 1, 2] int64. side: what is known of the queries.
    """

    rows: Rows
    variance: float
    chosen: Int64[Tensor, "T"]
    noise: Float64[Tensor, "T D"]
    excluded: Int64[Tensor, "T 1 2"]
    side: SideInformation

    @classmethod
    def drawn(cls, rows: Rows, knowledge: Knowledge, seed: int) -> Trials:
        """Return trials over `rows` with this `knowledge`; where there is none, their own rows do not count.

        seed: of the rows and the noise.
        """
        device, generator = rows.device, torch.Generator(rows.device).manual_seed(seed)
        chosen = torch.randint(len(rows), (TRIALS,), generator=generator, device=device)
        noise = torch.randn(TRIALS, rows.dim, generator=generator, device=device, dtype=torch.float64)
        # held-out queries leave out their own row
        left_out = chosen if knowledge == Knowledge.NOTHING else torch.full_like(chosen, -1)
        excluded = torch.stack([left_out, left_out + (left_out >= 0)], dim=1)[:, None]
        source = shared_products = None
        if knowledge == Knowledge.SOURCE:
            source = Source(chosen, torch.zeros(TRIALS, dtype=torch.float64, device=device), BOUND_FAILURE)
        if knowledge == Knowledge.TRAJECTORY:
            shared_products = SharedProducts.of(rows, noise)
        side = SideInformation(source, shared_products)
        return cls(rows, max(total_variance(rows) / rows.dim, 1e-300), chosen, noise, excluded, side)

    def snr(self, scaled: float) -> float:
        """Return alpha^2 / sigma^2 where it is `scaled` in units of the variance."""
        return scaled / self.variance

    def work(self, scaled: float, span: Span | None = None) -> Work:
        """Return the trials where alpha^2 / sigma^2 is `scaled` in units of the variance, over `span` or all rows."""
        rows, ones, snr = self.rows, torch.ones_like(self.noise[:, 0]), self.snr(scaled)
        point = rows.gather(self.chosen) - rows.centre + self.noise / math.sqrt(snr)
        return Work(rows, Query(point, ones, snr * ones, self.excluded), span or Span(0, len(rows)))

    def upper(self, screen: Screen, scaled: float) -> UpperLogits:
        """Return the upper logits of the trials in `screen`; `scaled` as for :meth:`work`."""
        return UpperLogits.of(self.work(scaled), screen, self.side)
