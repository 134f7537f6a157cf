"""Blocks that come later and outweigh everything before them, by more than floating point can hold."""

from __future__ import annotations

import pytest
import torch
from row_cases import SMALL_BLOCKS
from tolerances import assert_close

from oracle_engine.kernels import Query, Span, Wanted, posterior_state, prepare_rows, reference_state
from oracle_engine.kernels.common.work import Work


@pytest.mark.parametrize("dim", [2, 48])
@pytest.mark.parametrize("sigma", [0.3, 0.03, 0.003])
def test_the_nearest_row_comes_last(dim: int, sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, dim, generator=generator)
    # far rows first: every block beats the last one, at small sigma by e^10000
    points = points[points.norm(dim=1).argsort(descending=True)]
    rows = prepare_rows(points, None)
    alpha = torch.full((1,), 1 - sigma, dtype=torch.float64)
    own = points[-1:].double() - rows.centre
    query = Query(alpha[:, None] * own, alpha, (sigma / alpha).pow(-2), torch.empty(1, 0, 2, dtype=torch.int64))
    wanted = Wanted(moments=True, top_k=2)
    state = posterior_state(Work(rows, query, Span(0, len(rows)), wanted), limits=SMALL_BLOCKS)
    truth = reference_state(Work(rows, query, Span(0, len(rows)), wanted))
    assert_close(state.mean, truth.mean, "mean", float(points.norm(dim=1).max()))
    assert torch.equal(state.top_rows, truth.top_rows)
