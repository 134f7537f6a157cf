"""Candidate searches: which samples can matter to a query, and what all the others can hold at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..base.errors import invalid
from ..kernels import Query, Rows, Span, Wanted
from ..kernels.screens import (
    Allowance,
    Screen,
    SharedProducts,
    Shortlist,
    Source,
    UpperLogits,
    below_thresholds,
    screened,
    strongest,
)


@dataclass(frozen=True)
class Ask:
    """What a search is asked: queries over a span of rows, what is wanted, and what is known about the queries."""

    query: Query
    span: Span
    wanted: Wanted
    source: Source
    shared_products: SharedProducts | None = None


@runtime_checkable
class Search(Protocol):
    """A way to find the samples that matter; one that is not certified cannot tell what it leaves out."""

    @property
    def certified(self) -> bool:
        """Whether it bounds what it leaves out."""
        ...

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return all samples that can matter, leaving out no more than `allowance`; others stay unsettled."""
        ...

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Return the `count` most promising samples of each query."""
        ...


@dataclass(frozen=True)
class ScreenSearch:
    """Matrix products with short rows, level by level; certified by the sum of all other upper logits."""

    screen: Screen
    certified: bool = True

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return all samples that can matter, leaving out no more than `allowance`; others stay unsettled."""
        if below_thresholds(self.screen, ask.query, ask.shared_products is not None):
            return Shortlist.pending(len(ask.query), rows.dim, ask.wanted.top_k, rows.device)
        return screened(_upper(rows, self.screen, ask), ask.wanted, allowance)

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Return the `count` samples with the largest upper logits."""
        return strongest(_upper(rows, self.screen, ask), ask.wanted, count)


@dataclass(frozen=True)
class NoSearch:
    """The search of data for which no screen pays, for the reason given: it settles nothing."""

    reason: str
    certified: bool = False

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return nothing: every query is left to a scan."""
        return Shortlist.pending(len(ask.query), rows.dim, ask.wanted.top_k, rows.device)

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Raise InputError: there is nothing to look things up in."""
        raise invalid("mode", "top_k needs a screen", f"none: {self.reason}", "call engine.prepare('pca')")


def _upper(rows: Rows, screen: Screen, ask: Ask) -> UpperLogits:
    return UpperLogits.of(rows, screen, ask.query, ask.span, ask.source, ask.shared_products)
