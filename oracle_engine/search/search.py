"""Candidate searches: which samples can matter to a query, and what all the others can hold at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..base.errors import invalid
from ..kernels import Rows, Work
from ..kernels.screens import (
    Allowance,
    Knowledge,
    Screen,
    Shortlist,
    SideInformation,
    UpperLogits,
    asks_nothing,
    entries_on_card,
    entry_levels,
    screened,
    strongest,
)


@runtime_checkable
class Search(Protocol):
    """A way to find the samples that matter; one that is not certified cannot tell what it leaves out."""

    @property
    def certified(self) -> bool:
        """Whether it bounds what it leaves out."""
        ...

    @property
    def least_snr(self) -> float:
        """Ratio alpha^2 / sigma^2, in row units, below which it finds nothing for queries of which nothing is known."""
        ...

    def asks_nothing(self, rows: Rows) -> bool:
        """Return whether the host waits for nothing while it searches `rows`."""
        ...

    def within(self, work: Work, side: SideInformation, allowance: Allowance) -> Shortlist:
        """Return all samples that can matter to each query; queries for which they are too many are pending.

        work: the queries, the rows and their span, and what is wanted. side: what is known of the queries.
        allowance: posterior mass that may be left out.
        """
        ...

    def top(self, work: Work, side: SideInformation, count: int) -> Shortlist:
        """Return the most promising samples of each query.

        work: the queries, the rows and their span, and what is wanted. side: what is known of the queries.
        count: how many samples of each query.
        """
        ...


@dataclass(frozen=True)
class ScreenSearch:
    """Matrix products with short rows, level by level; certified by the sum of all other upper weights."""

    screen: Screen
    certified: bool = True

    def asks_nothing(self, rows: Rows) -> bool:
        """Return whether the host waits for nothing while it searches `rows`."""
        return asks_nothing(self.screen, rows)

    @property
    def least_snr(self) -> float:
        """The lowest threshold of the levels of the screen."""
        return min(self.screen.thresholds[Knowledge.NOTHING])

    def within(self, work: Work, side: SideInformation, allowance: Allowance) -> Shortlist:
        """Return all samples that can matter; `work`, `side` and `allowance` as in :meth:`Search.within`.

        Costs nothing for queries below the SNR thresholds of the screen, for others a product with each level that
        helps.
        """
        if len(work.query) > 0 and len(work.span) > 0 and asks_nothing(self.screen, work.rows):
            upper = UpperLogits.of(work, self.screen, side)
            return screened(upper, allowance, entry=entries_on_card(upper))
        entry = entry_levels(self.screen, work.query, self.screen.knowledge(work.query, side), len(work.span))
        index = (entry < len(self.screen.widths)).nonzero()[:, 0]
        least = int(entry.min()) if len(entry) else 0
        if len(index) == len(entry):
            return screened(UpperLogits.of(work, self.screen, side, least), allowance, entry=entry)
        found = Shortlist.pending(work)
        if len(index) == 0:
            return found
        upper = UpperLogits.of(work.take(index), self.screen, side.take(index), least)
        return found.put(index, screened(upper, allowance.take(index), entry=entry[index]))

    def top(self, work: Work, side: SideInformation, count: int) -> Shortlist:
        """Return the `count` samples with the largest upper logits; `work` and `side` as in :meth:`Search.top`."""
        return strongest(UpperLogits.of(work, self.screen, side), count)


@dataclass(frozen=True)
class NoSearch:
    """The search of data for which no screen pays, for the reason given: it certifies nothing."""

    reason: str
    certified: bool = False

    @property
    def least_snr(self) -> float:
        """Infinite: there is no query that it finds anything for."""
        return math.inf

    def asks_nothing(self, rows: Rows) -> bool:
        """Return False: what is left to a scan is known by the host."""
        return False

    def within(self, work: Work, side: SideInformation, allowance: Allowance) -> Shortlist:
        """Return nothing, whatever `side` and `allowance` are: every query of `work` is left to a scan."""
        return Shortlist.pending(work)

    def top(self, work: Work, side: SideInformation, count: int) -> Shortlist:
        """Never return, whatever `work`, `side` and `count` are. Raises InputError: there is no screen to search."""
        raise invalid("mode", "top_k needs a screen", f"none: {self.reason}", "call engine.prepare('pca')")
