"""Parts are merged in one order, however they are grouped."""

from __future__ import annotations

import pytest

from oracle_engine.scans.tree import cover, merged


def together(first: str, second: str) -> str:
    return f"({first}{second})"


@pytest.mark.parametrize("shards", [1, 3, 4, 7, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 16])
def test_any_number_of_ranks_merges_in_the_order_of_one(shards: int, ranks: int) -> None:
    leaves = {(number, number + 1): chr(97 + number) for number in range(shards)}
    parts = {}
    for rank in range(ranks):
        held = (shards * rank // ranks, shards * (rank + 1) // ranks)
        for node in cover(held, (0, shards)):
            parts[node] = merged(leaves, node, together)
    assert merged(parts, (0, shards), together) == merged(leaves, (0, shards), together)


def test_a_rank_that_holds_an_aligned_power_of_two_sends_one_state() -> None:
    assert cover((4, 8), (0, 16)) == [(4, 8)]
    assert cover((5, 10), (0, 16)) == [(5, 6), (6, 8), (8, 10)]
    assert cover((3, 3), (0, 16)) == []
