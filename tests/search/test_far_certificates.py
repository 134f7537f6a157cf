"""What a search left out is bounded however far a query is from all samples."""

from __future__ import annotations

import pytest
import torch
from closed_form import generators, normal, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle_engine import OracleDataset, OracleEngine, TopK

# nats that tell samples apart beside the rounding of their float64 products
APART = 1e6


@pytest.mark.parametrize("kind", ["pca", "pca8", "int8", "flat", "exact8"])
@given(generator=generators(), backend=st.sampled_from(["auto", "torch"]))
@settings(max_examples=6)
def test_omitted_mass_is_bounded_far_from_all_samples(kind: str, generator: torch.Generator, backend: str) -> None:
    spread = torch.linspace(2.0, 0.05, 80, dtype=torch.float64)
    points = spread * normal(120, 80, generator)
    data = OracleDataset((40 * points + 128).round().clamp(0, 255).byte() if kind == "exact8" else points.float())
    engine = OracleEngine(data, mode=TopK(1), backend=backend).prepare(kind, neighbours=False)
    x = torch.logspace(9, 14, 300, dtype=torch.float64)[:, None] * normal(300, 80, generator)
    found = engine.posterior(x, 0.5, top_k=1)
    # t = sigma = 1/2, and squared norms of samples do not count so far away
    nearest = (2.0 * x @ values_of(data).T).topk(2, dim=1)
    apart = nearest.values[:, 0] - nearest.values[:, 1] > APART
    wrong = apart & (found.top_indices[:, 0] != nearest.indices[:, 0])
    assert bool((found.omitted_mass[wrong] == 1.0).all())
