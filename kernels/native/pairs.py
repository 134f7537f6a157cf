"""Named candidates of each query, rescored by the native library where it can be, else in torch."""

from __future__ import annotations

from ctypes import c_void_p

import torch

from ...base.arrays import Int64, Tensor
from ..common import rescore
from ..common.compensated import DoubleDouble
from ..common.rescore import Pairs
from ..common.rows import Query, Rows
from ..common.state import PosteriorState, Wanted
from .views import Digits, ListsView, QueriesView, RowsView, StatesView, called, readable, writable


def pairs_state(rows: Rows, query: Query, pairs: Pairs, wanted: Wanted) -> PosteriorState:
    """Return the states of the samples that `pairs` names, [B], each scored by direct difference in float64.

    rows, query: the samples and B queries. wanted: of the states. Logits are in twice the digits where the gaps
    between them ask for it. Costs one read of P rows, a second of those with weight for the mean, 32 bytes a pair.
    """
    if not readable(rows):
        return rescore.pairs_state(rows, query, pairs, wanted)
    state = writable(PosteriorState.empty(len(query), rows.dim, wanted.top_k, rows.device))
    if len(pairs):
        first, row = lists_of(pairs, len(query))
        views = RowsView(rows), QueriesView(rows, query), Digits(wanted.mergeable), ListsView(first, row)
        called("oracle_weigh_pairs", *views, StatesView(state, wanted))
    return state


def candidate_logits(rows: Rows, query: Query, candidates: Int64[Tensor, "B K"]) -> DoubleDouble:
    """Return log w_j - |q - alpha r_j|^2 / 2 sigma^2 of the rows in `candidates`, [B, K]; -inf where an entry is -1.

    rows, query: the samples and B queries. The difference is taken before it is squared, which errs no more than the
    inputs do at any sigma, and in twice the digits where gaps ask for it. Costs one read of B K rows.
    """
    if not readable(rows):
        return rescore.candidate_logits(rows, query, candidates)
    count, width = candidates.shape
    high = candidates.new_zeros(count, width, dtype=torch.float64)
    low = torch.zeros_like(high)
    lists = ListsView(torch.arange(count + 1) * width, candidates.reshape(-1).contiguous())
    views = RowsView(rows), QueriesView(rows, query), Digits(False), lists
    called("oracle_score_pairs", *views, c_void_p(high.data_ptr()), c_void_p(low.data_ptr()))
    return DoubleDouble(high, low)


def lists_of(pairs: Pairs, batch: int) -> tuple[Int64[Tensor, "C"], Int64[Tensor, "P"]]:
    """Return where the list of each of `batch` queries starts, [B + 1], and the rows of all lists, [P]."""
    ordered = bool((pairs.query[1:] >= pairs.query[:-1]).all())
    row = pairs.row if ordered else pairs.row[pairs.query.argsort(stable=True)]
    counts = torch.bincount(pairs.query, minlength=batch)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), row.contiguous()
