"""Samples on a rescore list are scored and weighed as the float64 reference does, whatever the lists hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_problems import DTYPES, all_times, make_query, make_rows
from torch import Tensor

from oracle_engine.kernels import PosteriorState, Query, Span, Wanted, reference_state
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core.limits import DEFAULT_LIMITS, ScanLimits
from oracle_engine.kernels.gpu.operands.queries import QueryMeasures
from oracle_engine.kernels.gpu.rescore.listed_pairs import ListedPairs
from oracle_engine.kernels.gpu.rescore.lists import EVERY, RescoreList
from oracle_engine.kernels.gpu.rescore.rescored import Rescored
from oracle_engine.kernels.gpu.states.finish import Finish
from oracle_engine.kernels.gpu.states.top import rescored_top
from oracle_engine.kernels.gpu.sums.running_sums import RunningSums

ALL = Wanted(moments=True, top_k=5)


def only(query: Query, chosen: Tensor) -> Query:
    """Return the queries with an excluded range wherever `chosen` [B, N] is false."""
    rows = torch.arange(chosen.shape[1])
    excluded = torch.where(chosen[:, :, None], 0, torch.stack([rows, rows + 1], dim=1))
    return replace(query, excluded=torch.cat([query.excluded, excluded], dim=1))


def state_of(work: Work, rescore_list: RescoreList, limits: ScanLimits) -> PosteriorState:
    """Return the state of a rescore list, beside which nothing was added."""
    batch = len(work.query)
    zeros = torch.zeros(6, batch, dtype=torch.float64)
    measures = QueryMeasures(torch.zeros(batch), torch.zeros(batch), zeros[:3])
    sums = RunningSums(zeros, zeros[None, :4], zeros[0], zeros.new_zeros(batch, work.rows.dim))
    rescored = Rescored.of(work, rescore_list)
    state = Finish(work, measures, sums, rescored).state()
    top = rescored_top(rescored, reads_values=True, limits=limits)
    return replace(state, top_logits=top.logits, top_rows=top.rows, top_rest=top.rest)


def compare(work: Work, rescore_list: RescoreList, chosen: Tensor, limits: ScanLimits = DEFAULT_LIMITS) -> None:
    """Check the state of `rescore_list` against a reference that sees nothing but `chosen` [B, N]."""
    rows = work.rows
    found = state_of(work, rescore_list, limits)
    true = reference_state(replace(work, query=only(work.query, chosen)))
    torch.testing.assert_close(found.lse, true.lse)
    present = true.lse > -torch.inf
    assert found.mean.isfinite().all()
    for name in ("mean", "concentration", "entropy", "variance"):
        values = (getattr(state, name)[present] for state in (found, true))
        torch.testing.assert_close(*values, rtol=1e-7, atol=1e-9 * rows.radius**2)
    torch.testing.assert_close(found.top_logits, true.top_logits)
    assert torch.equal(found.top_rows, true.top_rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [2, 20, 300])
def test_listed_rows_of_every_dtype(dtype: torch.dtype, dim: int, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 90, dim, generator, weighted=dim == 20, offset=3.0)
    query = make_query(rows, all_times(5), generator, excluded=1)
    chosen = torch.rand(5, 90, generator=generator) < torch.tensor([0.0, 0.02, 0.3, 0.6, 1.0])[:, None]
    width = int(chosen.sum(1).max())
    first = torch.zeros(5, width, dtype=torch.int64)
    for place, marked in zip(first, chosen, strict=True):
        place[: int(marked.sum())] = marked.nonzero()[:, 0]
    compare(Work(rows, query, Span(0, 90), ALL), RescoreList(first, chosen.sum(1).int(), 1), chosen)


@pytest.mark.parametrize("part", [1, 128 << 20])
def test_runs_end_with_the_span_and_every_row_can_be_rescored(part: int, generator: torch.Generator) -> None:
    rows, span = make_rows(torch.float16, 200, 40, generator), Span(3, 195)
    query = make_query(rows, all_times(3), generator, excluded=2)
    first = torch.tensor([[35, 179], [3, 0], [0, 0]])
    chosen = torch.zeros(3, 200, dtype=torch.bool)
    chosen[0, 35:51] = chosen[0, 179:195] = chosen[1, 3:19] = chosen[2, 3:195] = True
    # the run of 16 rows that begins with row 179 is cut by the end of the span
    rescore_list = RescoreList(first, torch.tensor([2, 1, EVERY], dtype=torch.int32), 16)
    compare(Work(rows, query, span, ALL), rescore_list, chosen, ScanLimits(logit_bytes=part))


@pytest.mark.parametrize("listed", [0, 1, 63, 64, 65, 300, 301])
def test_lists_come_in_the_order_of_the_rows(listed: int, generator: torch.Generator) -> None:
    order = torch.stack([torch.randperm(5000, generator=generator)[:300] for _ in range(2)])
    logit = torch.rand(2, 300, generator=generator)
    # beyond its end a list is only counted
    pairs = ListedPairs(torch.tensor([listed, 2], dtype=torch.int32), order, logit)
    found = RescoreList.of_list(pairs, torch.tensor([0.4, 0.0]), torch.zeros(2, dtype=torch.int32))
    assert found.count.tolist() == ([EVERY, 2] if listed > 300 else [int((logit[0, :listed] >= 0.4).sum()), 2])
    assert found.overflowed.tolist() == [listed > 300, False]
    if listed <= 300:
        kept = order[0, :listed][logit[0, :listed] >= 0.4].sort().values
        assert torch.equal(found.first[0, : len(kept)], kept)
    assert found.first[1, :2].tolist() == sorted(order[1, :2].tolist())
