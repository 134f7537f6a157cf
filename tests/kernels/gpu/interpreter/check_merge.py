"""Means over two parts of the samples become one in a kernel as they do in torch; guided answers are made of them."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import all_times, make_query, make_rows, small_backend
from tolerances import assert_close, assert_rows_close

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.base.calls import checked
from oracle_engine.kernels import PosteriorState, Span, merge, reference_state
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.states.merge import merged_means
from oracle_engine.scans import backends


def test_two_parts_become_one_and_one_without_samples_changes_nothing(generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 60, 70, generator, weighted=True)
    query = make_query(rows, all_times(5), generator)
    first, second = (reference_state(Work(rows, query, span)) for span in (Span(0, 20), Span(20, 60)))
    nothing = PosteriorState.empty(5, 70, 0, rows.device)
    for parts in ((first, second), (second, first), (first, nothing), (nothing, second), (nothing, nothing)):
        found, true = merged_means(*parts), merge(*parts)
        assert_close(found.lse, true.lse, "float64")
        assert_close(found.lse_rest, true.lse_rest, "float64")
        assert_rows_close(found.mean, true.mean, "float64", rows.radius)


@pytest.mark.parametrize("guidance", [torch.tensor([2.0, 1.0, 0.5, -1.0]).double(), 2.0], ids=["each", "number"])
def test_guided_answers_are_the_same_where_the_host_does_not_look(
    guidance: float | torch.Tensor, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setitem(backends.BACKENDS, "triton", small_backend())
    data = OracleDataset(torch.randn(60, 40, generator=generator).half(), labels=torch.arange(60) % 3)
    x, t = torch.randn(4, 40, generator=generator).double(), torch.tensor([0.1, 0.4, 0.6, 0.9]).double()
    # one of them is of no class
    labels = torch.tensor([0, 2, -1, 1])
    true = OracleEngine(data, backend="reference").velocity(x, t, labels=labels, guidance=guidance)
    monkeypatch.setattr(checked, "on_host", lambda values: False)
    found = OracleEngine(data, backend="triton").velocity(x, t, labels=labels, guidance=guidance)
    assert_rows_close(found, true, "bar")
