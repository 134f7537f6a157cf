"""Named samples rescored by the native library: float64 differences, more digits where gaps ask for it, any storage."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import mpmath
import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_cases import EVERYTHING, assert_identical, make_query, whole
from tolerances import assert_close, assert_rows_close, assert_within

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import (
    GivenPoints,
    Pairs,
    PosteriorState,
    Query,
    Rows,
    Wanted,
    pairs_state,
    prepare_rows,
    reference_logits,
)
from oracle_engine.kernels.common import rescore
from oracle_engine.kernels.native import pairs
from oracle_engine.kernels.reference import state_from_logits


def named_by(chosen: torch.Tensor, order: torch.Generator) -> Pairs:
    """Return the pairs that a mask, [B, N], names, in any order."""
    query, row = chosen.nonzero().unbind(1)
    shuffled = torch.randperm(len(query), generator=order)
    return Pairs(query[shuffled], row[shuffled], torch.zeros(len(query), dtype=torch.float64))


def true_state(rows: Rows, query: Query, chosen: torch.Tensor, wanted: Wanted) -> PosteriorState:
    """Return the states over the rows that a mask, [B, N], names, from the formula."""
    logits = reference_logits(rows, query, whole(rows)).masked_fill(~chosen, -torch.inf)
    return state_from_logits(logits, rows.stored.double() - rows.centre, whole(rows), wanted)


def assert_agree(rows: Rows, actual: PosteriorState, expected: PosteriorState) -> None:
    """Compare states of which everything was wanted."""
    radius = rows.radius or 1.0
    assert_close(actual.lse, expected.lse, "float64")
    assert_rows_close(actual.mean, expected.mean, "mean", radius)
    for name in ("entropy", "concentration", "variance"):
        scale = radius**2 if name == "variance" else None
        assert_close(getattr(actual, name), getattr(expected, name), "moment", scale)
    assert_close(actual.top_logits, expected.top_logits, "float64")
    assert torch.equal(actual.top_rows < 0, expected.top_rows < 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([1, 3, 8, 17, 300, 5000]),
    st.sampled_from([0.0, 0.02, 0.5]),
    st.booleans(),
)
def test_states_are_those_of_the_formula(
    target: str,
    generator: torch.Generator,
    family: str,
    dtype: torch.dtype,
    dim: int,
    share: float,
    weighted: bool,
) -> None:
    weights = torch.rand(60, generator=generator).double() + 0.01 if weighted else None
    rows = prepare_rows(stored_as(FAMILIES[family](60, dim, generator), dtype), weights)
    query = make_query(rows, generator)
    chosen = torch.rand(8, 60, generator=generator) < share
    found = pairs_state(rows, query, named_by(chosen, generator), EVERYTHING)
    assert_agree(rows, found, true_state(rows, query, chosen, EVERYTHING))


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(mean=False, moments=True), Wanted(mean=False, top_k=70)])
def test_only_what_is_wanted_is_computed(target: str, generator: torch.Generator, wanted: Wanted) -> None:
    rows = prepare_rows(normal(60, 20, generator), None)
    query, chosen = make_query(rows, generator), torch.rand(8, 60, generator=generator) < 0.4
    found, true = pairs_state(rows, query, named_by(chosen, generator), wanted), true_state(rows, query, chosen, wanted)
    assert_close(found.lse, true.lse, "float64")
    assert bool((found.mean == 0).all()) != wanted.mean
    assert bool((found.entropy == 0).all()) != wanted.moments
    assert not found.variance.any()
    assert torch.equal(found.top_rows, true.top_rows)


@pytest.mark.parametrize("distance", [1e7, 1e9, 1e11])
def test_logits_whose_last_place_is_many_nats_are_weighed_by_both_parts(
    target: str, generator: torch.Generator, distance: float
) -> None:
    rows = prepare_rows(normal(60, 24, generator).double(), None)
    query = make_query(rows, generator)
    query = replace(query, point=distance * query.point, given=None)
    chosen = torch.rand(8, 60, generator=generator) < 0.4
    named = named_by(chosen, generator)
    found, expected = (
        pairs_state(rows, query, named, EVERYTHING) for pairs_state in (pairs.native_pairs_state, rescore.pairs_state)
    )
    assert_agree(rows, found, expected)


@pytest.mark.parametrize("given_as", ["rows", "values"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [1e-3, 1e-5, 1e-7])
def test_late_between_two_samples_gaps_are_exact(
    target: str, generator: torch.Generator, given_as: str, dtype: torch.dtype, sigma: float
) -> None:
    # two samples among fifty are equally far from the query, but for the rounding of its coordinates: float64
    # differences alone err by 1e-16 / sigma^2 nats
    rows = prepare_rows(stored_as(normal(50, 37, generator), dtype), None)
    scale, offset = (1.0 / 127.5, -1.0) if given_as == "values" else (1.0, 0.0)
    alpha = torch.tensor([1.0 - sigma], dtype=torch.float64)
    sigma *= scale * float(rows.radius) / 37**0.5
    middle = rows.stored[:2].double().mean(0, keepdim=True) - (0.0 if given_as == "values" else rows.centre)
    x = alpha * (middle * scale + offset)
    point = (x - alpha * offset) / scale - (alpha * rows.centre if given_as == "values" else 0.0)
    given_points = GivenPoints(x, scale, offset) if given_as == "values" else None
    precision, none = torch.tensor([(scale / sigma) ** 2]).double(), torch.empty(1, 0, 2).long()
    query = Query(point, alpha, precision, none, given_points)
    everyone = named_by(torch.ones(1, 50, dtype=torch.bool), generator)
    found = pairs_state(rows, query, everyone, Wanted(mean=False, top_k=50))
    first, second = ((found.top_rows[0] == row).nonzero()[0, 0] for row in (0, 1))
    high, low = found.top_logits[0], found.top_rest[0]
    gap = (high[second] - high[first]) + (low[second] - low[first])
    true = exact_gap(rows, query)
    assert abs(true) < 60
    assert_within(gap - true, "float64")
    assert int(found.top_rows[0, 0]) in (0, 1)


def exact_gap(rows: Rows, query: Query) -> float:
    """Return the logit of row 1 minus that of row 0, from the query as it was given, in 300 bits."""
    with mpmath.workprec(300):
        centre = [mpmath.mpf(value) for value in rows.centre.tolist()]
        points = query.given or GivenPoints(query.point, 1.0, 0.0)
        scale, offset = mpmath.mpf(points.scale), mpmath.mpf(points.offset)
        squares = []
        for row in rows.stored[:2].double().tolist():
            values = [scale * v + offset if query.given else v - c for v, c in zip(row, centre, strict=True)]
            differences = [x - float(query.alpha) * v for x, v in zip(points.x[0].tolist(), values, strict=True)]
            squares.append(sum((d * d for d in differences), mpmath.mpf(0)))
        return float((squares[0] - squares[1]) * float(query.inverse_variance) / scale**2 / 2)


def test_lists_without_a_sample_give_the_empty_state(target: str, generator: torch.Generator) -> None:
    rows = prepare_rows(normal(5, 3, generator), None)
    query = make_query(rows, generator)
    none = PosteriorState.empty(8, 3, 4, rows.device)
    assert_identical(pairs_state(rows, query, Pairs.none(rows.device), EVERYTHING), none)
    chosen = torch.zeros(8, 5, dtype=torch.bool)
    chosen[6] = True
    found = pairs_state(rows, query, named_by(chosen, generator), EVERYTHING)
    others = torch.tensor([0, 1, 2, 3, 4, 5, 7])
    assert_identical(found.take(others), none.take(others))


def test_samples_without_weight_are_named_by_no_one(target: str, generator: torch.Generator) -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 2.0]).double()
    rows = prepare_rows(normal(4, 9, generator), weights)
    query, chosen = make_query(rows, generator), torch.ones(8, 4, dtype=torch.bool)
    found = pairs_state(rows, query, named_by(chosen, generator), EVERYTHING)
    assert_agree(rows, found, true_state(rows, query, chosen, EVERYTHING))
    assert bool((found.top_rows[:, 2:] == -1).all())


def test_bits_do_not_depend_on_the_number_of_threads(target: str, generator: torch.Generator) -> None:
    rows = prepare_rows(normal(300, 2500, generator).float(), None)
    query, named = make_query(rows, generator), named_by(torch.ones(8, 300, dtype=torch.bool), generator)
    threads = torch.get_num_threads()
    try:
        states = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            states.append(pairs_state(rows, query, named, EVERYTHING))
    finally:
        torch.set_num_threads(threads)
    assert_identical(states[0], states[1])
    assert_identical(states[0], states[2])


def test_rows_apart_in_memory_are_read_where_they_are(target: str, generator: torch.Generator) -> None:
    together = prepare_rows(normal(50, 20, generator), None)
    apart = torch.full((50, 2, 20), torch.nan, dtype=torch.float64)
    apart[:, 1] = together.stored
    query, named = make_query(together, generator), named_by(torch.ones(8, 50, dtype=torch.bool), generator)
    expected = pairs_state(together, query, named, EVERYTHING)
    assert_identical(pairs_state(replace(together, stored=apart[:, 1]), query, named, EVERYTHING), expected)


def test_without_a_library_states_come_from_torch(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_NATIVE", "off")
    rows = prepare_rows(normal(50, 20, generator), None)
    query, named = make_query(rows, generator), named_by(torch.ones(8, 50, dtype=torch.bool), generator)
    expected = rescore.pairs_state(rows, query, named, EVERYTHING)
    assert_identical(pairs_state(rows, query, named, EVERYTHING), expected)


def _sum_of_means(rows: Rows, query: Query, named: Pairs) -> float:
    return float(pairs_state(rows, query, named, Wanted()).mean.sum())


def test_a_forked_process_computes_too(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(300, 2500, generator).float(), None)
    query, named = make_query(rows, generator), named_by(torch.ones(8, 300, dtype=torch.bool), generator)
    # plain memory: torch would share the tensors through files
    here = _sum_of_means(rows, query, named)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(_sum_of_means(rows, query, named)))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == here
    child.join()
