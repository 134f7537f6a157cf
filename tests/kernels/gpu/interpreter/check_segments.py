"""Queries over segments of the rows agree with a scan of each segment alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from kernel_problems import DTYPES, all_times, make_query, make_rows, velocity_error
from recording import Waiting
from tolerances import assert_within

from oracle_engine.kernels import Span, Wanted, reference_state
from oracle_engine.kernels.common.segments import SegmentWork, span_by_span
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.limits import ScanLimits
from oracle_engine.kernels.gpu.panels import Panels
from oracle_engine.kernels.gpu.segments import segment_states, segments_height, segments_state

BOUNDS = (0, 40, 41, 150, 260, 300)


def spans_of(numbers: tuple[int, ...]) -> torch.Tensor:
    """Rows of the segments of these numbers; -1 stands for none."""
    return torch.tensor([(BOUNDS[number], BOUNDS[number + 1]) if number >= 0 else (0, 0) for number in numbers])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [48, 77])
def test_every_pair_has_the_state_of_its_segment(dtype: torch.dtype, dim: int, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 300, dim, generator, weighted=True)
    query = make_query(rows, all_times(9), generator, excluded=1)
    numbers = (0, 2, 2, 4, 1, -1, 3, 0, 2, 2, 3)
    which = torch.tensor([*range(9), 0, 0])
    work = Work(rows, query, Span(0, 300), Wanted(moments=True))
    assert segments_height(work, len(which)) >= 110
    found = segment_states(work, which, spans_of(numbers), 110)
    for place, (number, own) in enumerate(zip(numbers, which, strict=True)):
        state, asked = found.take(torch.tensor([place])), query.take(own[None])
        span = Span(0, 0) if number < 0 else Span(BOUNDS[number], BOUNDS[number + 1])
        true = reference_state(Work(rows, asked, span, Wanted(moments=True)))
        if true.lse == -torch.inf:
            assert state.lse == -torch.inf
            continue
        torch.testing.assert_close(state.lse, true.lse, rtol=2e-6, atol=1e-5)
        assert_within(velocity_error(rows, asked, state, true), "bar")
        torch.testing.assert_close(state.entropy, true.entropy, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(state.variance, true.variance, rtol=1e-4, atol=2e-5 * rows.radius**2)


def test_more_queries_than_a_tile_holds_take_another(generator: torch.Generator) -> None:
    spans = spans_of((0,) * 5 + (2,) * 35 + (3,))
    panels = Panels.of(spans, 16, 110)
    assert panels.table[:6].tolist() == [
        [0, 5, 0, 40], [5, 21, 41, 150], [21, 37, 41, 150], [37, 40, 41, 150], [40, 41, 150, 260], [0, 0, 0, 0],
    ]  # fmt: skip
    assert panels.columns.tolist() == [*range(5), *range(16, 32), *range(32, 48), 48, 49, 50, 64]
    rows = make_rows(torch.float16, 300, 64, generator)
    query = make_query(rows, all_times(41), generator)
    found = segment_states(Work(rows, query, Span(0, 300)), torch.arange(41), spans, 110)
    for span in {tuple(span) for span in spans.tolist()}:
        own = (spans == torch.tensor(span)).all(1).nonzero()[:, 0]
        true = reference_state(Work(rows, query.take(own), Span(*span)))
        assert_within(velocity_error(rows, query.take(own), found.take(own), true), "bar")


def test_segments_wait_for_nothing_and_keep_their_limits(generator: torch.Generator) -> None:
    rows = make_rows(torch.uint8, 300, 48, generator)
    work = Work(rows, make_query(rows, all_times(3), generator), Span(0, 300))
    which, spans = torch.arange(3), spans_of((0, 2, 2))
    with Waiting() as waiting:
        segment_states(work, which, spans, 110)
    assert waiting.found == []
    assert segments_height(work, 3, ScanLimits(score_bytes=576 * 50)) == 50


@pytest.mark.parametrize("room", [1 << 30, 50, 0])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(moments=True, top_k=3)])
def test_unions_are_those_of_the_spans_one_by_one(room: int, wanted: Wanted, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 300, 48, generator)
    query = make_query(rows, all_times(4), generator)
    # the third query uses all rows, the fourth a span of no row
    pairs = torch.tensor([0, 0, 0, 1, 2, 3])
    spans = torch.tensor([[0, 40], [41, 150], [260, 300], [40, 41], [0, 300], [0, 0]])
    work = SegmentWork(rows, query, pairs, spans, wanted)
    found = segments_state(work, limits=ScanLimits(score_bytes=12 * 16 * len(pairs) * room))
    true = span_by_span(work, reference_state)
    assert found.lse[3] == -torch.inf
    some = torch.arange(3)
    assert_within(velocity_error(rows, query.take(some), found.take(some), true.take(some)), "bar")
    assert torch.equal(found.top_rows, true.top_rows)


@pytest.mark.parametrize("wanted", [Wanted(moments=True, top_k=3), Wanted()])
@pytest.mark.parametrize("whole", [(1, 3), (), (0, 1, 2, 3, 4)], ids=str)
def test_queries_of_all_rows_are_answered_beside_those_of_segments(
    whole: tuple[int, ...], wanted: Wanted, generator: torch.Generator, counted: Counter[str]
) -> None:
    rows = make_rows(torch.float16, 300, 48, generator, weighted=True)
    query = make_query(rows, all_times(5), generator, excluded=1)
    spans = spans_of((2, 0, 4, 1, -1))
    spans[list(whole)] = torch.tensor([0, 300])
    work = SegmentWork(rows, query, torch.arange(5), spans, wanted, each=1, longest=110)
    with Waiting() as waiting:
        found = segments_state(work)
    # how many use all rows, which the host reads early
    assert waiting.found == ["_local_scalar_dense"]
    # those are scanned once, and the others by a scan of their own
    assert counted["score"] == bool(whole)
    some = torch.tensor([place for place in range(5) if place < 4 or place in whole])
    true = span_by_span(work, reference_state)
    assert_within(velocity_error(rows, query.take(some), found.take(some), true.take(some)), "bar")
    torch.testing.assert_close(found.lse, true.lse, rtol=2e-6, atol=1e-5)
    assert torch.equal(found.top_rows, true.top_rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8], ids=str)
@pytest.mark.parametrize("room", [1 << 30, 120])
def test_the_heaviest_of_a_segment_each_come_from_one_launch(
    dtype: torch.dtype, room: int, generator: torch.Generator
) -> None:
    rows = make_rows(dtype, 300, 48, generator, weighted=True)
    query = make_query(rows, all_times(9), generator, excluded=1)
    # the last query uses all rows, which leaves it behind in less room
    spans = torch.cat([spans_of((0, 2, 2, 4, 1, 3, 0, 2)), torch.tensor([[0, 300]])])
    work = SegmentWork(rows, query, torch.arange(9), spans, Wanted(moments=True, top_k=4), each=1)
    found = segments_state(work, limits=ScanLimits(score_bytes=12 * 16 * 9 * room))
    true = span_by_span(work, reference_state)
    assert_within(velocity_error(rows, query, found, true), "bar")
    assert torch.equal(found.top_rows, true.top_rows)
    torch.testing.assert_close(found.top_logits, true.top_logits, rtol=1e-9, atol=1e-7)
