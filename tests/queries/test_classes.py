"""Which rows queries use by their classes, and which lie between these."""

from __future__ import annotations

import torch

from oracle_engine.data.labels import class_spans, class_table
from oracle_engine.kernels import Span
from oracle_engine.queries.classes import class_pairs, rows_between, table_ranges, used_ranges

# rows of no class come first
SORTED = torch.tensor([-1, -1, 0, 0, 0, 2, 2, 5])


def test_queries_use_the_rows_of_their_classes_or_all() -> None:
    labels = torch.tensor([[5, 0], [2, -1], [-1, -1]])
    ranges = used_ranges(labels, SORTED)
    used = [[list(range(*span)) for span in spans if span[1] > span[0]] for spans in ranges.tolist()]
    assert used == [[[2, 3, 4], [7]], [[5, 6]], [[0, 1, 2, 3, 4, 5, 6, 7]]]
    query, spans = class_pairs(ranges)
    assert query.tolist() == [0, 0, 1, 2]
    assert spans.tolist() == [[2, 5], [7, 8], [5, 7], [0, 8]]


def test_a_table_of_the_classes_says_the_same() -> None:
    segments = class_spans(SORTED)
    table = class_table(segments, len(SORTED), SORTED.device)
    assert table is not None
    labels = torch.tensor([[5], [0], [-1], [2], [3]])
    found, true = table_ranges(labels, table), used_ranges(labels, SORTED)
    assert torch.equal(found[:4], true[:4])
    unions = torch.tensor([[5, 0, -1], [2, -1, -1], [-1, -1, -1], [5, 2, 0]])
    for own, direct in zip(table_ranges(unions, table).tolist(), used_ranges(unions, SORTED).tolist(), strict=True):
        assert [span for span in own if span[0] < span[1]] == [span for span in direct if span[0] < span[1]]
    # what is between them is asked for too
    assert (table_ranges(unions, table).flatten(1).diff() >= 0).all()
    # no row is of the last one, nor of numbers that no table has
    for ranges in (found[4:], true[4:], table_ranges(torch.tensor([[6], [99]]), table)):
        assert (ranges[..., 0] == ranges[..., 1]).all()
    # numbers may be too large for one
    assert class_table({10**9: Span(0, 8)}, 8, SORTED.device) is None


def test_what_lies_between_them_is_the_rest() -> None:
    for labels in (torch.tensor([[5, 0], [2, -1], [2, 2], [-1, -1]]), torch.tensor([[0], [2], [-1]])):
        ranges = used_ranges(labels, SORTED)
        for own, between in zip(ranges.tolist(), rows_between(ranges, 8).tolist(), strict=True):
            inside = {row for span in own for row in range(*span)}
            outside = {row for span in between for row in range(*span)}
            assert inside | outside == set(range(8))
            assert not inside & outside
