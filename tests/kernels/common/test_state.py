"""Partial results combine in any order and any grouping to the posterior of the whole."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import reduce
from itertools import pairwise

import pytest
import torch
from closed_form import generators, normal
from hypothesis import given
from hypothesis import strategies as st
from row_cases import assert_identical
from tolerances import assert_close
from torch import Tensor

from oracle_engine.kernels import (
    PosteriorState,
    Query,
    Rows,
    Span,
    Wanted,
    concatenate,
    merge,
    prepare_rows,
    reference_state,
)
from oracle_engine.kernels.common.work import Work

WANTED = Wanted(moments=True, top_k=5)
CPU = torch.device("cpu")


def make_problem(generator: torch.Generator, count: int = 40, dim: int = 3) -> tuple[Rows, Query]:
    """Return rows and six queries, from very noisy to nearly clean, one of them with a hole."""
    points = normal(count, dim, generator)
    rows = prepare_rows(points, torch.rand(count, generator=generator, dtype=torch.float64))
    t = torch.tensor([0.0, 0.1, 0.4, 0.7, 0.95, 0.999], dtype=torch.float64)
    x = t[:, None] * points[: len(t)] + (1 - t)[:, None] * normal(len(t), dim, generator)
    excluded = torch.full((len(t), 1, 2), -1)
    excluded[3, 0] = torch.tensor([2, 11])
    return rows, Query(x - t[:, None] * rows.centre, t, 1 / (1 - t).square(), excluded)


def states_between(rows: Rows, query: Query, cuts: list[int]) -> list[PosteriorState]:
    """Return the states of the spans between the cuts, some of them empty of rows."""
    edges = [0, *sorted(cuts), len(rows)]
    spans = [Span(start, stop) for start, stop in pairwise(edges)]
    empty = PosteriorState.empty(len(query), rows.dim, WANTED.top_k, CPU)
    return [reference_state(Work(rows, query, span, WANTED)) if len(span) else empty for span in spans]


def assert_same(first: PosteriorState, second: PosteriorState) -> None:
    for field in fields(first):
        assert_close(getattr(first, field.name), getattr(second, field.name), "merge")


def tree_merge(states: list[PosteriorState], draw: st.DataObject) -> PosteriorState:
    """Merge neighbours in a drawn order until one is left."""
    states = list(states)
    while len(states) > 1:
        place = draw.draw(st.integers(0, len(states) - 2))
        states[place : place + 2] = [merge(states[place], states[place + 1])]
    return states[0]


@given(generators(), st.lists(st.integers(0, 40), max_size=6), st.data())
def test_any_split_in_any_order_and_grouping_gives_the_state_of_the_whole(
    generator: torch.Generator, cuts: list[int], data: st.DataObject
) -> None:
    rows, query = make_problem(generator)
    parts = data.draw(st.permutations(states_between(rows, query, cuts)))
    whole = reference_state(Work(rows, query, Span(0, len(rows)), WANTED))
    assert_same(tree_merge(parts, data), whole)


@given(generators(), st.integers(1, 39))
def test_merge_is_commutative(generator: torch.Generator, cut: int) -> None:
    rows, query = make_problem(generator)
    first, second = states_between(rows, query, [cut])
    assert_same(merge(first, second), merge(second, first))


@given(generators(), st.integers(1, 20), st.integers(21, 39))
def test_merge_is_associative(generator: torch.Generator, low: int, high: int) -> None:
    first, second, third = states_between(*make_problem(generator), [low, high])
    assert_same(merge(merge(first, second), third), merge(first, merge(second, third)))


def test_the_empty_state_is_neutral_to_the_last_bit(generator: torch.Generator) -> None:
    rows, query = make_problem(generator)
    state = reference_state(Work(rows, query, Span(0, len(rows)), WANTED))
    empty = PosteriorState.empty(len(query), rows.dim, WANTED.top_k, CPU)
    assert_identical(merge(empty, state), state)
    assert_identical(merge(state, empty), state)
    assert_identical(merge(empty, empty), empty)


def one_row(logit: float, value: float) -> PosteriorState:
    """Return the state of a single sample for a single query."""
    state = PosteriorState.empty(1, 1, 1, CPU)
    return PosteriorState(
        lse=torch.full_like(state.lse, logit),
        mean=torch.full_like(state.mean, value),
        concentration=torch.ones_like(state.lse),
        entropy=state.entropy,
        variance=state.variance,
        top_logits=torch.full_like(state.top_logits, logit),
        top_rows=torch.full_like(state.top_rows, int(value)),
        lse_rest=state.lse_rest,
        top_rest=state.top_rest,
    )


@pytest.mark.parametrize("offset", [0.0, -1e6, 1e6])
def test_three_samples_by_hand(offset: float) -> None:
    # weights 1 : 2 : 4 wherever their logarithms lie
    logits = [offset + math.log(weight) for weight in (1, 2, 4)]
    state = reduce(merge, [one_row(logit, value) for logit, value in zip(logits, (0.0, 1.0, 2.0), strict=True)])
    shares = torch.tensor(logits, dtype=torch.float64).softmax(0)
    values = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    mean = shares @ values
    assert_close(state.mean[0], mean[None], "merge")
    assert_close(state.lse, torch.tensor(logits, dtype=torch.float64).logsumexp(0)[None], "merge")
    assert_close(state.concentration, shares.square().sum()[None], "merge")
    assert_close(state.entropy, -(shares * shares.log()).sum()[None], "merge")
    assert_close(state.variance, (shares @ (values - mean).square())[None], "merge")
    assert int(state.top_rows) in values[shares == shares.max()].tolist()


@pytest.mark.parametrize("lse", [-1e15, -1e16, -1e20])
@pytest.mark.parametrize("gap", [0.0, 0.25, 4.0])
def test_shares_sum_to_one_where_log_partitions_have_no_digits_left(lse: float, gap: float) -> None:
    # a state of a sampler that went astray: |x|^2 / 2 sigma^2 of 1e15 and more
    state = merge(one_row(lse, 2.0), one_row(lse - gap, 2.0))
    assert_close(state.mean, torch.tensor([[2.0]]), "merge")
    assert_close(state.variance, torch.tensor([0.0]), "merge")


@pytest.mark.parametrize("gap", [800.0, 1e5, math.inf])
def test_a_share_that_underflows_leaves_the_other_state_untouched(gap: float) -> None:
    state = merge(one_row(-gap, 3.0), one_row(5.0, 2.0))
    assert state.mean.item() == 2.0
    assert (state.lse.item(), state.entropy.item(), state.variance.item()) == (5.0, 0.0, 0.0)
    assert state.concentration.item() == 1.0


def test_merged_top_k_is_the_largest_of_both_in_falling_order(generator: torch.Generator) -> None:
    rows, query = make_problem(generator)
    first, second = states_between(rows, query, [3])
    merged = merge(first, second)
    assert bool((merged.top_logits[:, 1:] <= merged.top_logits[:, :-1]).all())
    assert torch.equal(merged.top_rows, reference_state(Work(rows, query, Span(0, len(rows)), WANTED)).top_rows)
    # three rows cannot fill five places
    assert bool((first.top_rows[:, 3:] == -1).all())
    assert bool((first.top_logits[:, 3:] == -torch.inf).all())


def test_concatenate_undoes_taking_apart(generator: torch.Generator) -> None:
    rows, query = make_problem(generator)
    state = reference_state(Work(rows, query, Span(0, len(rows)), WANTED))
    parts = [state.take(torch.tensor(index, dtype=torch.int64)) for index in ([0, 1], [2], [], [3, 4, 5])]
    assert_identical(concatenate(parts), state)


def test_taking_queries_then_scanning_is_scanning_then_taking(generator: torch.Generator) -> None:
    rows, query = make_problem(generator)
    index = torch.tensor([4, 1, 3])
    whole = reference_state(Work(rows, query, Span(0, len(rows)), WANTED))
    assert_same(reference_state(Work(rows, query.take(index), Span(0, len(rows)), WANTED)), whole.take(index))


def test_put_replaces_some_queries_and_changes_no_state(generator: torch.Generator) -> None:
    rows, query = make_problem(generator)
    state = reference_state(Work(rows, query, Span(0, len(rows)), WANTED))
    before = state.lse.clone()
    index = torch.tensor([5, 0])
    replaced = state.put(index, PosteriorState.empty(2, rows.dim, WANTED.top_k, CPU))
    kept: Tensor = torch.tensor([1, 2, 3, 4])
    assert_identical(replaced.take(kept), state.take(kept))
    assert bool((replaced.take(index).lse == -torch.inf).all())
    assert torch.equal(state.lse, before)
