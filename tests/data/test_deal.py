"""Rows are dealt to shards so that each holds a part of every class, and can be found again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle_engine.data.deal import Deal


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from([1, 2, 3, 16]))
def test_every_row_is_in_one_shard_where_it_is_found(counts: list[int], shards: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    deal = Deal.of(len(labels), labels, shards)
    dealt = []
    for shard in range(shards):
        rows = torch.cat([torch.arange(*run) for run in [(0, 0), *deal.runs(shard)]])
        assert torch.equal(deal.rows_of(shard, torch.arange(len(rows))), rows)
        found, place = deal.find(rows)
        assert torch.equal(found, torch.full_like(rows, shard))
        assert torch.equal(place, torch.arange(len(rows)))
        sizes = torch.bincount(labels[rows], minlength=len(counts))
        assert bool((sizes >= torch.tensor(counts) // shards).all())
        assert bool((sizes <= -(-torch.tensor(counts) // shards)).all())
        dealt.append(rows)
    assert torch.equal(torch.cat(dealt).sort().values, torch.arange(len(labels)))


def test_rows_without_labels_are_dealt_in_one_run_each() -> None:
    deal = Deal.of(10, None, 4)
    assert [deal.runs(shard) for shard in range(4)] == [[(0, 2)], [(2, 5)], [(5, 7)], [(7, 10)]]


def test_no_row_is_in_no_shard() -> None:
    shard, place = Deal.of(10, None, 4).find(torch.tensor([-1, 9]))
    assert shard.tolist() == [-1, 3]
    assert place.tolist() == [-1, 2]
    assert Deal.of(10, None, 4).rows_of(3, torch.tensor([-1, 2])).tolist() == [-1, 9]


def test_single_samples_of_many_classes_go_to_different_shards() -> None:
    deal = Deal.of(32, torch.arange(32), 16)
    assert [sum(stop - start for start, stop in deal.runs(shard)) for shard in range(16)] == [2] * 16
