"""A plan for sizes alone states the arithmetic of memory, reads, products and merges, and the fewest ranks that do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle_engine import InputError, OracleDataset
from oracle_engine.engine.plans.cards import CARDS, Card, card_named
from oracle_engine.engine.plans.scale_plan import ScalePlan, ScaleProblem, plan_scale

ROUND = Card("round", memory=80e9, read=3e12, matrix=790e12, host=50e9, network=50e9)


def plan(problem: ScaleProblem, ranks: int, card: Card = ROUND) -> ScalePlan:
    return plan_scale(problem, card, ranks)


def test_ten_thousand_million_samples_on_a_thousand_cards() -> None:
    made = plan(ScaleProblem(10**10, 4096, "float16", 256, queries=256 * 3600), 1000)
    # 81.9 GB of values a rank and the norms, a pass of 27 ms, products of 53 ms, 16.8 MB to merge, even at 132 queries
    written = f"{made.memory:.3g} {made.read:.2g} {made.products:.2g} {made.merge_bytes:.3g} {made.even_batch:.3g}"
    assert written == "8.2e+10 0.027 0.053 1.68e+07 132"
    assert not made.fits
    assert made.least_ranks == 1172
    assert made.call == made.products + made.merge
    # samples that do not fit come from the host, 82 GB at 50 GB/s a call
    assert f"{made.streamed:.3g} {made.hours:.3g} {made.card_hours:.3g}" == "1.64 1.64 1.64e+03"


def test_one_rank_merges_nothing_and_reads_everything() -> None:
    made = plan(ScaleProblem(1000, 10, "uint8", 1), 1)
    assert (made.merge_bytes, made.merge, made.hours) == (0.0, 0.0, None)
    assert made.call == made.read == 1000 * 18 / 3e12
    assert made.fits


@given(
    samples=st.integers(1, 10**13),
    dim=st.integers(1, 200_000),
    storage=st.sampled_from(["uint8", "int8", "float16", "bfloat16", "float32", "float64"]),
    name=st.sampled_from(sorted(CARDS)),
)
def test_the_fewest_ranks_fit_and_one_fewer_do_not(samples: int, dim: int, storage: str, name: str) -> None:
    problem, card = ScaleProblem(samples, dim, storage), CARDS[name]
    least = plan_scale(problem, card, 1).least_ranks
    assert plan_scale(problem, card, least).fits
    assert least == 1 or not plan_scale(problem, card, least - 1).fits


def test_the_memory_of_a_plan_is_that_of_a_data_set() -> None:
    rows = OracleDataset(torch.randint(256, (50, 7), dtype=torch.uint8)).rows
    held = rows.stored.nbytes + rows.half_norms.nbytes
    assert plan(ScaleProblem(50, 7, "uint8"), 1).memory == held


def test_this_machine_is_a_card_too() -> None:
    card = card_named("cpu")
    assert card.host is None
    assert min(card.memory, card.read, card.matrix) > 1e6
    assert plan(ScaleProblem(100, 10), 2, card).streamed is None


@pytest.mark.parametrize(
    ("sizes", "parameter"),
    [
        ({"samples": 0}, "samples"),
        ({"dim": -1}, "dim"),
        ({"storage": "complex64"}, "storage"),
        ({"batch": 0}, "batch"),
        ({"queries": 0}, "queries"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, object], parameter: str) -> None:
    with pytest.raises(InputError, match=f"^`{parameter}` must"):
        ScaleProblem(**{"samples": 10, "dim": 10, **sizes})  # type: ignore[arg-type]


def test_unknown_cards_and_no_ranks_are_refused() -> None:
    with pytest.raises(InputError, match="`card` must be one of cpu, a100"):
        card_named("abacus")
    with pytest.raises(InputError, match="`ranks` must"):
        plan(ScaleProblem(10, 10), 0)
