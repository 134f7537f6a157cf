"""A search of all levels of a screen by kernels of a card, which the host launches without asking what they find."""

from __future__ import annotations

from collections.abc import Mapping

from ...base.arrays import Int64, Tensor
from ..common.search import Searched, SearchLevel, SearchLimits
from ..gpu import gpu_proven, gpu_searched
from ..native.screens import TILE
from .shortlist import Allowance
from .upper_bounds import CHUNK_QUERIES, UpperLogits

# what a search may hold of tiles at once, and what it holds of each for a query, in bytes
TILE_BYTES, EACH_TILE = 512 << 20, 21


def card_call_applies(upper: UpperLogits) -> bool:
    """Return whether the kernels of a card search for the queries of `upper`."""
    return len(upper) > 0 and gpu_proven(upper.work.rows, "late") and upper.terms(upper.level) is not None


def card_chunk(upper: UpperLogits) -> int:
    """Return how many queries to search for at once: a multiple of CHUNK_QUERIES."""
    tiles = -(-len(upper.work.span) // TILE)
    return max(1, TILE_BYTES // (EACH_TILE * tiles * CHUNK_QUERIES)) * CHUNK_QUERIES


def searched_on_card(
    upper: UpperLogits,
    allowance: Allowance,
    limits: Mapping[int, SearchLimits],
    entry: Int64[Tensor, "B"] | None = None,
) -> Searched:
    """Return what a search finds at some levels of a screen, see :func:`card_call_applies`; no wait.

    upper: upper logits of the batch. allowance: posterior mass that may be left out. limits: of levels that follow each
    other, the cheapest is 0, from which on a query goes on to the next. entry: the level that each query enters at, no
    earlier one, [B]; None for the first. Costs a product of the batch with the basis for each level that has its own.
    """
    levels = []
    for level, limit in limits.items():
        at = upper.for_level(level)
        terms = at.terms(level)
        if terms is None:
            raise TypeError(f"the kernels of this card do not read level {level} of {upper.screen.kind}")
        levels.append(SearchLevel(terms, at.kernel_shared, limit))
    first = min(limits)
    mass = allowance.allowed(len(upper), upper.work.rows.device)
    return gpu_searched(upper.work, levels, mass, entry - first if entry is not None and first else entry)
