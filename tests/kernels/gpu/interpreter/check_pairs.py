"""Named samples rescored by the kernels of a card, beside the same in torch, and who asks for them."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import DTYPES, EDGE, make_query, make_rows
from tolerances import assert_close, assert_rows_close

from oracle_engine.kernels import Pairs, PosteriorState, Query, Rows, Wanted, pairs
from oracle_engine.kernels.common import rescore
from oracle_engine.kernels.gpu.states.pairs import triton_pairs_state

ALL = Wanted(moments=True, top_k=3)


def assert_agree(rows: Rows, found: PosteriorState, true: PosteriorState) -> None:
    """Compare states of everything; a query without samples has none."""
    assert_close(found.lse, true.lse, "float64")
    some = true.lse > -torch.inf
    assert_rows_close(found.mean[some], true.mean[some], "mean", rows.radius)
    for name in ("entropy", "concentration", "variance"):
        assert_close(getattr(found, name), getattr(true, name), "moment", rows.radius**2)
    assert_close(found.top_logits, true.top_logits, "float64")
    assert torch.equal(found.top_rows, true.top_rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_named_samples_have_the_states_that_torch_finds(dtype: torch.dtype, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 60, 70, generator, weighted=dtype == torch.float16, offset=3.0)
    query = make_query(rows, torch.tensor([0.2, 0.9, 0.5, 1 - EDGE]).double(), generator)
    chosen = torch.rand(4, 60, generator=generator) < torch.tensor([0.5, 0.1, 0.0, 0.2])[:, None]
    which, row = chosen.nonzero()[torch.randperm(int(chosen.sum()), generator=generator)].unbind(1)
    named = Pairs(which, row, torch.zeros(len(row), dtype=torch.float64))
    for wanted in (ALL, Wanted(mean=False)):
        found, true = (state(rows, query, named, wanted) for state in (triton_pairs_state, rescore.pairs_state))
        assert_agree(rows, found, true)


def test_no_named_sample_is_no_weight(generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 20, 30, generator)
    query = make_query(rows, torch.tensor([0.2, 0.9]).double(), generator)
    found = triton_pairs_state(rows, query, Pairs.none(rows.device), ALL)
    assert bool((found.lse == -torch.inf).all())
    assert bool((found.top_rows == -1).all())


@pytest.mark.parametrize("proven", [False, True])
def test_samples_are_rescored_where_they_are(
    proven: bool, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    calls: list[int] = []

    def counted(rows: Rows, query: Query, named: Pairs, wanted: Wanted) -> PosteriorState:
        calls.append(len(named))
        return triton_pairs_state(rows, query, named, wanted)

    monkeypatch.setattr(pairs, "gpu_proven", lambda rows, task: proven)
    monkeypatch.setattr(pairs, "gpu_pairs_state", counted)
    rows = make_rows(torch.float32, 40, 30, generator)
    query = make_query(rows, torch.tensor([0.2, 0.9]).double(), generator)
    which = torch.tensor([1, 0, 1])
    named = Pairs(which, torch.tensor([3, 8, 5]), which.double())
    found = pairs.pairs_state(rows, query, named, ALL)
    assert calls == [3] * proven
    assert_agree(rows, found, rescore.pairs_state(rows, query, named, ALL))
