"""The streaming kernel gives the states of the float64 reference: every shape, storage, regime, hole and weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import EVERYTHING, MEAN_ONLY, SMALL_BLOCKS, assert_identical, assert_parity, make_query, whole
from tolerances import assert_close, assert_rows_close

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import PosteriorState, Query, Span, Wanted, posterior_state, prepare_rows, reference_state
from oracle_engine.kernels.common.work import Work

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize("dim", [1, 2, 31, 32, 33, 784, 3072])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000])
def test_parity_on_odd_shapes(generator: torch.Generator, count: int, dim: int) -> None:
    rows = prepare_rows(normal(count, dim, generator).float(), None)
    for batch in (1, 3, 17) if count < 1000 else (17,):
        query = make_query(rows, generator, batch)
        assert_parity(rows, query)
        assert_parity(rows, query, wanted=MEAN_ONLY)


@pytest.mark.parametrize("name", ["clusters", "nearer duplicates", "one direction"])
@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_parity_for_every_storage(generator: torch.Generator, dtype: torch.dtype, name: str) -> None:
    rows = prepare_rows(stored_as(FAMILIES[name](300, 96, generator), dtype), None)
    assert rows.stored.dtype == dtype
    query = make_query(rows, generator)
    assert_parity(rows, query)
    assert_parity(rows, query, wanted=MEAN_ONLY)


@given(generators(), st.integers(1, 200), st.sampled_from([1, 5, 40, 130]), st.integers(0, 3), st.integers(0, 12))
def test_parity_with_excluded_ranges_weights_and_any_top_k(
    generator: torch.Generator, count: int, dim: int, excluded: int, top_k: int
) -> None:
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    # a third of the samples, but not the first, does not count at all
    weights[1:][torch.rand(count - 1, generator=generator) < 1 / 3] = 0.0
    rows = prepare_rows(normal(count, dim, generator).float(), weights)
    query = make_query(rows, generator, excluded=excluded)
    start = int(torch.randint(count, (1,), generator=generator))
    for span in (whole(rows), Span(start, count), Span(0, start + 1)):
        assert_parity(rows, query, span, Wanted(moments=True, top_k=top_k))
        assert_parity(rows, query, span, MEAN_ONLY)


@pytest.mark.parametrize("dim", [4, 64])
def test_what_is_left_of_a_span_without_samples_is_the_empty_state(generator: torch.Generator, dim: int) -> None:
    weights = torch.ones(90, dtype=torch.float64)
    weights[:30] = 0.0
    rows = prepare_rows(normal(90, dim, generator).float(), weights)
    query = make_query(rows, generator)
    hidden = Query(query.point, query.alpha, query.inverse_variance, torch.tensor([[30, 90]]).repeat(len(query), 1, 1))
    for wanted in (EVERYTHING, MEAN_ONLY):
        empty = PosteriorState.empty(len(query), dim, wanted.top_k, rows.device)
        assert_identical(posterior_state(Work(rows, query, Span(0, 30), wanted)), empty)
        assert_identical(posterior_state(Work(rows, hidden, whole(rows), wanted)), empty)


@pytest.mark.parametrize("dim", [4, 64])
@pytest.mark.parametrize("wanted", [EVERYTHING, MEAN_ONLY])
@pytest.mark.parametrize("kernel", [posterior_state, reference_state])
def test_no_queries_give_no_states(
    generator: torch.Generator, dim: int, wanted: Wanted, kernel: Callable[..., PosteriorState]
) -> None:
    rows = prepare_rows(normal(20, dim, generator).float(), None)
    state = kernel(Work(rows, make_query(rows, generator, batch=0), whole(rows), wanted))
    assert_identical(state, PosteriorState.empty(0, dim, wanted.top_k, rows.device))


@pytest.mark.parametrize("dim", [4, 64])
def test_more_names_than_samples_are_filled_up_with_nobody(generator: torch.Generator, dim: int) -> None:
    rows = prepare_rows(normal(3, dim, generator).float(), None)
    state = assert_parity(rows, make_query(rows, generator), wanted=Wanted(top_k=7))
    assert bool((state.top_rows[:, 3:] == -1).all())
    assert torch.equal(state.top_rows[:, :3].sort(1).values, torch.arange(3).expand(8, 3))


def test_only_what_is_wanted_is_computed(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(200, 64, generator).float(), None)
    query = make_query(rows, generator)
    full = posterior_state(Work(rows, query, whole(rows), EVERYTHING))
    density = posterior_state(Work(rows, query, whole(rows), Wanted(mean=False)))
    assert_close(density.lse, full.lse, "moment")
    for left_out in (density.mean, density.entropy, density.concentration, density.variance):
        assert not bool(left_out.any())
    assert_parity(rows, query, wanted=Wanted(mean=False, moments=True, top_k=2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("wanted", [EVERYTHING, MEAN_ONLY])
def test_many_small_blocks_give_what_one_block_gives(
    generator: torch.Generator, dtype: torch.dtype, wanted: Wanted
) -> None:
    rows = prepare_rows(stored_as(normal(1001, 80, generator), dtype), None)
    query = make_query(rows, generator, 16, excluded=1)
    assert_parity(rows, query, wanted=wanted)
    assert_parity(rows, query, wanted=wanted, limits=SMALL_BLOCKS)
    assert_parity(rows, query.take(torch.arange(16)), Span(70, 333), wanted, limits=SMALL_BLOCKS)


@pytest.mark.parametrize("wanted", [EVERYTHING, MEAN_ONLY])
def test_each_query_is_answered_as_if_it_were_alone(generator: torch.Generator, wanted: Wanted) -> None:
    rows = prepare_rows(normal(700, 64, generator).float(), None)
    query = make_query(rows, generator, 16)
    together = posterior_state(Work(rows, query, whole(rows), wanted))
    for place in range(16):
        alone = posterior_state(Work(rows, query.take(torch.tensor([place])), whole(rows), wanted))
        assert_close(alone.lse, together.lse[place, None], "moment")
        assert_rows_close(alone.mean, together.mean[place, None], "mean", rows.radius)
