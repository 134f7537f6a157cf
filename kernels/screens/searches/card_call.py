"""A search of all levels of a screen by kernels of a card, which the host launches without asking what they find."""

from __future__ import annotations

from collections.abc import Mapping

from ....base.arrays import Shaped, Tensor
from ...common.rows import Rows
from ...common.screen_terms import CARD_ROWS
from ...common.search import NoiseKnown, ProjectedTerms, Projection, Searched, SearchLevel, SearchLimits
from ...gpu import gpu_entries, gpu_projected, gpu_proven, gpu_searched
from ..bounds.query_bounds import Knowledge, noise_deviations
from ..bounds.screen import Screen
from ..bounds.upper_bounds import CHUNK_QUERIES, UpperLogits
from .shortlist import Allowance

# what a search may hold of tiles at once, and what it holds of each for a query, in bytes
TILE_BYTES, EACH_TILE = 512 << 20, 24


def card_call_applies(upper: UpperLogits) -> bool:
    """Return whether the kernels of a card search for the queries of `upper`."""
    return len(upper) > 0 and len(upper.work.span) > 0 and asks_nothing(upper.screen, upper.work.rows)


def asks_nothing(screen: Screen, rows: Rows) -> bool:
    """Return whether the host waits for nothing while a card searches `rows` by the thresholds of `screen`."""
    return gpu_proven(rows, "late") and screen.leading_level(rows, 0) is not None


def entries_on_card(upper: UpperLogits) -> Shaped[Tensor, "B"]:
    """Return the level that is worth trying first for each query of `upper`, [B] int32, as `entry_levels` does.

    Costs one launch and no wait.
    """
    screen, work, side = upper.screen, upper.work, upper.side
    knowledge, source = Knowledge.NOTHING, None
    if side.shared_products is not None and screen.uses_shared_products:
        knowledge = Knowledge.TRAJECTORY
    elif side.source is not None and screen.uses_sources:
        source = side.source.row
    least, costs = screen.entry_terms(work.rows.device)
    return gpu_entries(work.query, source, knowledge, least, costs, rows=len(work.span))


def card_chunk(upper: UpperLogits) -> int:
    """Return how many queries to search for at once: a multiple of CHUNK_QUERIES."""
    tiles = -(-len(upper.work.span) // CARD_ROWS)
    return max(1, TILE_BYTES // (EACH_TILE * tiles * CHUNK_QUERIES)) * CHUNK_QUERIES


def searched_on_card(
    upper: UpperLogits,
    allowance: Allowance,
    limits: Mapping[int, SearchLimits],
    entry: Shaped[Tensor, "B"] | None = None,
) -> Searched:
    """Return what a search finds at some levels of a screen, see :func:`card_call_applies`; no wait.

    upper: upper logits of the batch. allowance: posterior mass that may be left out. limits: of levels that follow each
    other, the cheapest is 0, from which on a query goes on to the next. entry: the level that each query enters at, no
    earlier one, [B]; None for the first. Costs a product of the batch with the basis for each level that has its own.
    """
    first, mass = min(limits), allowance.allowed(len(upper), upper.work.rows.device)
    levels = levels_of(upper, limits)
    return gpu_searched(upper.work, levels, mass, entry - first if entry is not None and first else entry)


def levels_of(upper: UpperLogits, limits: Mapping[int, SearchLimits]) -> list[SearchLevel]:
    """Return the levels that a search passes.

    upper: upper logits of the batch. limits: of the levels, the cheapest is 0. Costs a product of the batch with the
    basis of the screen, where it has one.
    """
    screen, shared = upper.screen, upper.side.shared_products if upper.screen.uses_shared_products else None
    point = None if shared is None else shared.point
    projection = gpu_projected(upper.work.query, screen.narrow_basis, point)
    return [SearchLevel(_projected(upper, level, projection), limit) for level, limit in limits.items()]


def _projected(upper: UpperLogits, number: int, projection: Projection) -> ProjectedTerms:
    """Return the terms of a level for the queries of `upper`, narrowed by what is known of them."""
    screen, side = upper.screen, upper.side
    level = screen.leading_level(upper.work.rows, number)
    if level is None:
        raise TypeError(f"the kernels of this card do not read level {number} of {screen.kind}")
    if side.shared_products is not None and screen.uses_shared_products:
        return ProjectedTerms(level, projection, None, side.shared_products.products, side.shared_products.column)
    if side.source is None or not screen.uses_sources:
        return ProjectedTerms(level, projection)
    deviations = noise_deviations(len(screen) * len(screen.widths), side.source.failure)
    return ProjectedTerms(level, projection, NoiseKnown(side.source.row, side.source.blur, deviations))
