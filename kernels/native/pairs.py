"""Named samples of each query, rescored by the native library where it can be, else in torch."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...base.arrays import Int64, Tensor
from ...base.outside.rows import OutsideRows
from ..common import rescore
from ..common.rescore import Pairs
from ..common.rows import Query, Rows
from ..common.state import PosteriorState, Wanted
from .views import AskedQueries, Digits, ListsView, RowsView, StatesView, called, readable, writable

# bytes of rows in files that are read for one list; longer ones are read bit by bit
GATHERED_BYTES = 256 << 20


def native_pairs_state(rows: Rows, query: Query, pairs: Pairs, wanted: Wanted) -> PosteriorState:
    """Return the states of the samples that `pairs` names, [B], each scored by direct difference in float64.

    rows, query: the samples and B queries. wanted: of the states. Logits are in twice the digits where the gaps
    between them ask for it. Costs one read of P rows, a second of those with weight for the mean, 32 bytes a pair.
    """
    if isinstance(rows.stored, OutsideRows) and len(pairs):
        return _gathered(rows, query, pairs, wanted)
    if not readable(rows):
        return rescore.pairs_state(rows, query, pairs, wanted)
    state = writable(PosteriorState.empty(len(query), rows.dim, wanted.top_k, rows.device))
    if len(pairs):
        first, row = lists_of(pairs, len(query))
        views = RowsView.of(rows), AskedQueries(query), Digits(wanted.compared), ListsView(first, row)
        called("oracle_weigh_pairs", *views, StatesView(state, wanted))
    return state


def _gathered(rows: Rows, query: Query, pairs: Pairs, wanted: Wanted) -> PosteriorState:
    """Return what :func:`native_pairs_state` does of rows that stay in files: those that are named are read once."""
    chosen, place = pairs.row.unique(return_inverse=True)
    if len(chosen) * rows.dim * rows.stored.element_size() > GATHERED_BYTES:
        return rescore.pairs_state(rows, query, pairs, wanted)
    weights = None if rows.log_weights is None else rows.log_weights[chosen]
    stored, half_norms = rows.stored.index_select(0, chosen), rows.half_norms[chosen]
    some = replace(rows, stored=stored, half_norms=half_norms, log_weights=weights)
    state = native_pairs_state(some, query, replace(pairs, row=place), wanted)
    return replace(state, top_rows=torch.where(state.top_rows < 0, -1, chosen[state.top_rows.clamp_min(0)]))


def lists_of(pairs: Pairs, batch: int) -> tuple[Int64[Tensor, "C"], Int64[Tensor, "P"]]:
    """Return where the list of each of `batch` queries starts, [B + 1], and the rows of all lists, [P]."""
    ordered = bool((pairs.query[1:] >= pairs.query[:-1]).all())
    row = pairs.row if ordered else pairs.row[pairs.query.argsort(stable=True)]
    counts = torch.bincount(pairs.query, minlength=batch)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), row.contiguous()
