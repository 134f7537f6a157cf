"""Triton: the states of named samples of each query, scored and weighed in float64 and beyond."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...common.rescore import Pairs
from ...common.rows import Query, Rows, Span
from ...common.state import PosteriorState, Wanted
from ...common.work import Work
from ..operands.queries import QueryMeasures
from ..rescore.lists import RescoreList
from ..rescore.rescored import Rescored
from ..sums.running_sums import RunningSums
from .finish import Finish
from .top import rescored_top


def triton_pairs_state(rows: Rows, query: Query, pairs: Pairs, wanted: Wanted) -> PosteriorState:
    """Return the states of the samples that `pairs` names, [B], each scored by direct difference in float64.

    rows, query: the samples and B queries. wanted: of the states. Logits are in twice the digits where their gaps ask
    for it. The host waits once, for the length of the longest list. Costs one read of P rows, another for the mean, and
    8 bytes for each query and place on the longest list.
    """
    if len(pairs) == 0:
        return PosteriorState.empty(len(query), rows.dim, wanted.top_k, rows.device)
    # pairs were found among rows that count
    work = Work(rows, query.excluding(query.excluded[:, :0]), Span(0, len(rows)), wanted)
    return listed_state(work, list_of(pairs, len(query)))


def listed_state(work: Work, rescore_list: RescoreList) -> PosteriorState:
    """Return the states of the samples on a list that cannot overflow, [B]; no synchronisation.

    work: rows, queries, a span that holds all samples, and what is wanted. rescore_list: for every query. Costs what
    :func:`triton_pairs_state` does, and with heaviest samples 16 bytes for each slot of the list.
    """
    query, rows, wanted = work.query, work.rows, work.wanted
    rescored = Rescored.of(work, rescore_list)
    nothing = RunningSums.nothing(len(query), rows.dim if wanted.mean else 0, rows.device)
    state = Finish(work, QueryMeasures.empty(query), nothing, rescored).state()
    if not wanted.top_k:
        return state
    top = rescored_top(rescored, reads_values=False)
    return replace(state, top_logits=top.logits, top_rows=top.rows, top_rest=top.rest)


def list_of(pairs: Pairs, batch: int) -> RescoreList:
    """Return the rows that `pairs` names, in the order of the pairs, as a list for each of `batch` queries."""
    order = pairs.query.argsort(stable=True)
    query, ones = pairs.query[order], torch.ones_like(pairs.query)
    counts = torch.zeros(batch, dtype=torch.int64, device=query.device).index_add_(0, query, ones)
    place = ones.cumsum(0) - 1 - (counts.cumsum(0) - counts)[query]
    first = counts.new_zeros(batch, int(counts.max()))
    first[query, place] = pairs.row[order]
    return RescoreList(first, counts.int(), 1, may_overflow=False)
