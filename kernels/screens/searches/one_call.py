"""A search of leading coordinates by one call of the native library, where that can be."""

from __future__ import annotations

from ...common.search import NoiseKnown, Searched, SearchLimits
from ...native.search import NativeSearch, search_applies
from ..bounds.query_bounds import noise_deviations
from ..bounds.upper_bounds import UpperLogits
from ..kinds.pca import PrincipalScreen
from .shortlist import Allowance


def one_call_applies(upper: UpperLogits) -> bool:
    """Return whether one call answers the queries of `upper`."""
    return isinstance(upper.screen, PrincipalScreen) and search_applies(upper.work, upper.screen.leading)


def searched(upper: UpperLogits, level: int, allowance: Allowance, limits: SearchLimits) -> Searched:
    """Return what a search finds that one call answers, see :func:`one_call_applies`.

    upper: upper logits of the batch. level: that bounds all rows, the cheapest is 0; single rows that are left are
    bounded by the further ones. allowance: posterior mass that may be left out. limits: from which on a query is left
    to a scan. Costs a product of the batch with the basis and one of the level.
    """
    screen, work, side = upper.screen, upper.work, upper.side
    if not isinstance(screen, PrincipalScreen):
        raise TypeError(f"one call searches leading coordinates, not {screen.kind}")
    mass = allowance.allowed(len(upper), work.rows.device)
    search = NativeSearch(work, screen.leading, screen.roundings(work.rows), mass, limits)
    if side.shared_products is not None:
        search.along(side.shared_products.products, side.shared_products.column, side.shared_products.point)
    elif side.source is not None:
        tests = len(screen) * len(screen.widths)
        deviations = noise_deviations(tests, side.source.failure)
        search.from_sources(NoiseKnown(side.source.row, side.source.blur, deviations))
    return search.found(level)
