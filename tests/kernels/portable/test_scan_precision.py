"""The streaming kernel keeps what single precision loses: near duplicates, ties, tight clusters, far maxima."""

from __future__ import annotations

import pytest
import torch
from closed_form import near_duplicates, normal
from row_cases import EVERYTHING, SMALL_BLOCKS, assert_parity, centred, make_query, whole
from tolerances import assert_close

from oracle_engine.kernels import Query, Wanted, posterior_state, prepare_rows, reference_state
from oracle_engine.kernels.common.rescore import candidate_logits
from oracle_engine.kernels.common.work import Work


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_a_running_maximum_may_move_any_distance(generator: torch.Generator, order: str) -> None:
    # the samples come nearer and nearer, or go away, over many blocks: logits climb by thousands of nats
    points = normal(1000, 40, generator)
    distance = torch.linspace(30, 0, 1000, dtype=torch.float64)[:, None]
    points = points * 0.1 + (distance if order == "rising" else distance.flip(0))
    rows = prepare_rows(points.float(), None)
    assert_parity(rows, make_query(rows, generator), limits=SMALL_BLOCKS)


@pytest.mark.parametrize("top_k", [1, 8, 40])
def test_the_heaviest_of_many_near_duplicates_are_named(generator: torch.Generator, top_k: int) -> None:
    # sixty copies that single precision cannot rank, far fewer than it takes to start again in float64
    cluster = normal(1, 3072, generator) + 1e-4 * normal(60, 3072, generator)
    rows = prepare_rows(torch.cat([cluster, normal(400, 3072, generator)]).float(), None)
    t = torch.tensor([0.9, 0.97, 0.99], dtype=torch.float64)
    x = t[:, None] * centred(rows)[:3] + (1 - t)[:, None] * normal(3, 3072, generator)
    query = Query(x, t, (1 - t).pow(-2), torch.empty(3, 0, 2).long())
    wanted = Wanted(moments=True, top_k=top_k)
    actual, expected = (kernel(Work(rows, query, whole(rows), wanted)) for kernel in (posterior_state, reference_state))
    weights = [(state.top_logits - state.lse[:, None]).exp() for state in (actual, expected)]
    assert_close(weights[0], weights[1], "moment")


@pytest.mark.parametrize("dim", [200, 784])
@pytest.mark.parametrize("time", [0.99, 0.999, 1 - 1e-4])
def test_two_samples_at_the_same_distance_both_count(generator: torch.Generator, dim: int, time: float) -> None:
    # their coarse logits differ by thousands of nats when sigma is small, and neither may be lost
    rows = prepare_rows(normal(1500, dim, generator).float(), None)
    pairs = torch.arange(12).reshape(6, 2)
    t = torch.full((6,), time, dtype=torch.float64)
    query = Query(t[:, None] * centred(rows)[pairs].mean(1), t, (1 - t).pow(-2), torch.empty(6, 0, 2).long())
    state = posterior_state(Work(rows, query, whole(rows), EVERYTHING))
    assert torch.equal(state.top_rows[:, :2].sort(1).values, pairs)
    # half of the mass each: the last digits of float64 decide no more than a hundredth
    assert bool((1 / state.concentration > 1.99).all())
    assert bool(((state.top_logits - state.lse[:, None]).exp() < 0.55).all())


def test_the_spread_of_a_tight_cluster_keeps_its_digits(generator: torch.Generator) -> None:
    cluster, others = normal(1, 64, generator) + 1e-4 * normal(60, 64, generator), 9 + normal(60, 64, generator)
    rows = prepare_rows(torch.cat([cluster, others]).float(), None)
    t = torch.tensor([0.3, 0.5], dtype=torch.float64)
    query = Query(t[:, None] * centred(rows)[:1], t, (1 - t).pow(-2), torch.empty(2, 0, 2).long())
    actual, expected = (
        kernel(Work(rows, query, whole(rows), EVERYTHING)) for kernel in (posterior_state, reference_state)
    )
    assert bool((expected.variance < 1e-4).all())
    assert_close(actual.variance, expected.variance, "moment", expected.variance)


def test_candidates_are_scored_as_the_reference_scores_them(generator: torch.Generator) -> None:
    rows = prepare_rows(near_duplicates(300, 50, generator).float(), torch.rand(300, generator=generator).double())
    query = make_query(rows, generator)
    named = torch.randint(-1, 300, (8, 9), generator=generator)
    expected = reference_state(Work(rows, query, whole(rows), Wanted(top_k=300)))
    table = torch.full((8, 300), torch.nan, dtype=torch.float64).scatter(1, expected.top_rows, expected.top_logits)
    wanted = table.gather(1, named.clamp_min(0)).masked_fill(named < 0, -torch.inf)
    assert_close(candidate_logits(rows, query, named).high, wanted, "float64")
