"""What is said of a posterior beside its mean is the same from a kernel as from torch."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import all_times, make_query, make_rows
from tolerances import assert_close

from oracle_engine.kernels import Description, Span, Wanted, described, gpu_described, reference_state
from oracle_engine.kernels.common.work import Work


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("top_k", [5, 70, 0])
def test_facts_of_posteriors_are_those_of_torch(ordered: bool, top_k: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 60, 33, generator, weighted=True)
    query = make_query(rows, all_times(6), generator)
    state = reference_state(Work(rows, query, Span(0, 60), Wanted(moments=True, top_k=top_k)))
    order = torch.randperm(60, generator=generator) if ordered else None
    for mass in (0.7, torch.linspace(0.1, 2.0, 6).double(), torch.arange(1, 7)):
        description = Description(state, 33, mass, query.inverse_variance.reciprocal(), order, 2 / 255)
        found, true = gpu_described(description), described(description)
        for name in ("log_density", "ess", "variance", "top_weights", "zeros", "ones"):
            assert_close(getattr(found, name), getattr(true, name), "float64")
        assert torch.equal(found.top_indices, true.top_indices)
