"""Pairs of a query and a span: those of no row are left out by who looks, and one scan of all rows does the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tolerances import assert_close

from oracle_engine.kernels import Query, SegmentWork, prepare_rows, reference_state, span_by_span

# the spans of three queries, some of which have no row
SPANS = [[[0, 4], [4, 11], [11, 11]], [[3, 3], [3, 3], [3, 3]], [[4, 11], [11, 12], [14, 20]]]


@pytest.fixture
def work(generator: torch.Generator) -> SegmentWork:
    """The work of three queries over three spans of 20 rows each."""
    rows = prepare_rows(torch.randn(20, 5, generator=generator), None)
    points, ones = torch.randn(3, 5, generator=generator).double(), torch.ones(3).double()
    query = Query(points, ones, ones, torch.tensor([[[5, 6]]]).expand(3, 1, 2))
    return SegmentWork(rows, query, torch.arange(9) // 3, torch.tensor(SPANS).reshape(-1, 2), each=3, longest=7)


def test_pairs_of_no_row_are_left_out(work: SegmentWork) -> None:
    some = work.some()
    assert some.pairs.tolist() == [0, 0, 2, 2, 2]
    assert some.spans.tolist() == [[0, 4], [4, 11], [4, 11], [11, 12], [14, 20]]
    assert (some.each, some.longest) == (None, None)
    assert some.some() is some
    taken = work.take(torch.tensor([2, 0]))
    assert taken.pairs.tolist() == [1, 1, 0, 0, 0]


def test_every_query_gets_as_many_pairs(work: SegmentWork) -> None:
    assert work.even() is work
    even = work.some().even()
    assert (even.each, even.longest, even.pairs.tolist()) == (3, 7, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    nothing = [20, 20]
    assert even.spans.tolist() == [[0, 4], [4, 11], nothing, *[nothing] * 3, [4, 11], [11, 12], [14, 20]]
    # all rows are no long span
    whole = replace(work, spans=work.spans.index_fill(0, torch.tensor([2]), 0), longest=None)
    whole.spans[2, 1] = 20
    assert whole.even().longest == 7


def test_a_scan_of_all_rows_that_leaves_out_the_others_is_the_same(work: SegmentWork) -> None:
    together, apart = reference_state(work.in_one(torch.tensor(SPANS))), span_by_span(work, reference_state)
    assert together.lse[1] == apart.lse[1] == -torch.inf
    some = torch.tensor([0, 2])
    assert_close(together.lse[some], apart.lse[some], "merge")
    assert_close(together.mean[some], apart.mean[some], "merge")
