"""Posterior weights are what they are however far a query is from all samples, or it is refused in words."""

from __future__ import annotations

import mpmath
import pytest
import torch
from closed_form import generators, normal, stored_as
from exact_answers import exact_answer
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, TopK
from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.paths.paths import coefficients


def true_weights(engine: OracleEngine, x: Tensor, t: float) -> Tensor:
    """Return the posterior weights of a query over all samples, [N]."""
    with mpmath.workdps(60):
        at = coefficients(engine.path, torch.tensor([t], dtype=torch.float64))
        return torch.tensor([float(weight) for weight in exact_answer(engine.data, x, at).weights]).double()


def assert_weights(engine: OracleEngine, x: Tensor, t: float) -> None:
    """Compare heaviest samples, their weights and the effective sample size with the truth."""
    true, found = true_weights(engine, x, t), engine.posterior(x[None], t, top_k=len(engine.data))
    assert_within(found.top_weights[0] - true[found.top_indices[0]], "moment")
    assert_close(found.ess, true.square().sum().reciprocal()[None], "moment")


@given(
    generator=generators(),
    dtype=st.sampled_from(STORAGE_DTYPES),
    dim=st.sampled_from([1, 3, 17, 70]),
    count=st.sampled_from([1, 2, 12]),
    backend=st.sampled_from(["auto", "torch"]),
    t=st.sampled_from([0.05, 0.5, 0.99]),
    distance=st.floats(2.0, 10.0),
)
@settings(max_examples=60)
def test_weights_of_queries_far_from_all_samples(
    generator: torch.Generator, dtype: torch.dtype, dim: int, count: int, backend: str, t: float, distance: float
) -> None:
    data = OracleDataset(stored_as(normal(count, dim, generator), dtype))
    x = 10.0**distance * (1 - t) * normal(1, dim, generator)[0]
    assert_weights(OracleEngine(data, backend=backend), x, t)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("dim", [3, 70])
@pytest.mark.parametrize("spread", [1e-9, 1e-6])
def test_samples_that_hardly_differ_beside_the_noise(
    generator: torch.Generator, backend: str, dim: int, spread: float
) -> None:
    # all have weight, and what their logits share is a thousand billion times as large as what tells them apart
    data = OracleDataset((spread * normal(12, dim, generator)).float())
    x = normal(1, dim, generator)[0] / spread
    assert_weights(OracleEngine(data, backend=backend), x, 0.5)


@pytest.mark.parametrize("seed", range(6))
def test_between_two_samples_just_before_the_end(seed: int) -> None:
    # the largest of float64 logits may be off by more nats than weights have room for
    generator, t = torch.Generator().manual_seed(seed), 1 - 1e-10
    data = OracleDataset(normal(3, 40, generator).bfloat16())
    engine = OracleEngine(data, path="gvp")
    alpha = coefficients(engine.path, torch.tensor([t], dtype=torch.float64)).alpha_t
    assert_weights(engine, alpha * (data[0].double() + data[1].double()) / 2, t)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_where_nothing_tells_samples_apart_a_query_is_refused(generator: torch.Generator, backend: str) -> None:
    data = OracleDataset(normal(1, 64, generator).repeat(60, 1))
    x = 1e20 * normal(1, 64, generator)
    message = r"`x` must be near enough to the samples for their distances to differ; received .* sigma from all"
    for engine in (OracleEngine(data, backend=backend), OracleEngine(data, backend=backend, mode=TopK(2))):
        if isinstance(engine.mode, TopK):
            engine.prepare("pca", neighbours=False)
        with refused(message):
            engine.posterior(x, 0.5)
        with refused(message):
            engine.denoiser(x, 0.5)
        # which one it is hardly matters to a velocity
        assert_rows_close(engine.velocity(x, 0.5), 2.0 * (data[:1] - x), "bar")


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_as_far_away_it_is_answered_where_one_sample_is_nearest(generator: torch.Generator, backend: str) -> None:
    data = OracleDataset(normal(5, 40, generator))
    assert_weights(OracleEngine(data, backend=backend), 1e20 * normal(1, 40, generator)[0], 0.5)
