"""Queries over segments of the rows agree with a scan of each segment alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from kernel_problems import DTYPES, all_times, make_query, make_rows, velocity_error
from recording import Waiting
from tolerances import assert_within

from oracle_engine.kernels import Span, Wanted, prepare_rows, reference_state
from oracle_engine.kernels.common.segments import SegmentWork, span_by_span
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core.limits import ScanLimits
from oracle_engine.kernels.gpu.operands.panels import Panels
from oracle_engine.kernels.gpu.scans.segment_scan import SegmentScan
from oracle_engine.kernels.gpu.scans.segments import scans_all, segment_states, segments_state

BOUNDS = (0, 40, 41, 150, 260, 300)

# a few rows of every segment at a time
IN_BLOCKS = ScanLimits(score_bytes=1, block_unit=32)
IN_FOUR = [(0, 32), (32, 64), (64, 96), (96, 110)]


@pytest.fixture
def segment_blocks(monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    """Collect which rows of every segment are scanned together."""
    found: list[Span] = []
    add = SegmentScan.add

    def adding(scan: SegmentScan, span: Span) -> None:
        found.append(span)
        add(scan, span)

    monkeypatch.setattr(SegmentScan, "add", adding)
    return found


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
    panels = Panels.of(spans, 16, Span(0, 110), most=41)
    assert panels.table[:6].tolist() == [
        [0, 5, 0, 40], [5, 21, 41, 150], [21, 37, 41, 150], [37, 40, 41, 150], [40, 41, 150, 260], [0, 0, 0, 0],
    ]  # fmt: skip
    assert panels.columns.tolist() == [*range(5), *range(16, 32), *range(32, 48), 48, 49, 50, 64]
    # all there can be of three spans, with the rows of each from its 64th on
    later = Panels.of(spans, 16, Span(64, 96), most=Panels.most(41, 16, 3))
    assert later.table.tolist() == [
        [0, 5, 40, 40],
        [5, 21, 105, 137],
        [21, 37, 105, 137],
        [37, 40, 105, 137],
        [40, 41, 214, 246],
    ]
    assert torch.equal(later.columns, panels.columns)
    rows = make_rows(torch.float16, 300, 64, generator)
    query = make_query(rows, all_times(41), generator)
    found = segment_states(Work(rows, query, Span(0, 300)), torch.arange(41), spans, 110)
    for span in {tuple(span) for span in spans.tolist()}:
        own = (spans == torch.tensor(span)).all(1).nonzero()[:, 0]
        true = reference_state(Work(rows, query.take(own), Span(*span)))
        assert_within(velocity_error(rows, query.take(own), found.take(own), true), "bar")


def test_segments_wait_for_nothing(generator: torch.Generator) -> None:
    rows = make_rows(torch.uint8, 300, 48, generator)
    work = Work(rows, make_query(rows, all_times(3), generator), Span(0, 300))
    which, spans = torch.arange(3), spans_of((0, 2, 2))
    with Waiting() as waiting:
        segment_states(work, which, spans, 110)
    assert waiting.found == []


@pytest.mark.parametrize(("limits", "blocks"), [(ScanLimits(), 1), (IN_BLOCKS, 4)])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(moments=True, top_k=3)])
def test_unions_are_those_of_the_spans_one_by_one(
    limits: ScanLimits, blocks: int, wanted: Wanted, generator: torch.Generator, segment_blocks: list[Span]
) -> None:
    rows = make_rows(torch.float16, 300, 48, generator)
    query = make_query(rows, all_times(4), generator)
    # the third query uses all rows, the fourth a span of no row
    pairs = torch.tensor([0, 0, 0, 1, 2, 3])
    spans = torch.tensor([[0, 40], [41, 150], [260, 300], [40, 41], [0, 300], [0, 0]])
    work = SegmentWork(rows, query, pairs, spans, wanted)
    found = segments_state(work, limits=limits)
    assert len(segment_blocks) == blocks
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
@pytest.mark.parametrize(("limits", "blocks"), [(ScanLimits(), 1), (IN_BLOCKS, 4)])
def test_the_heaviest_of_a_segment_each_come_from_one_scan(
    dtype: torch.dtype, limits: ScanLimits, blocks: int, generator: torch.Generator, segment_blocks: list[Span]
) -> None:
    rows = make_rows(dtype, 300, 48, generator, weighted=True)
    query = make_query(rows, all_times(9), generator, excluded=1)
    # the last query uses all rows, and is scanned apart
    spans = torch.cat([spans_of((0, 2, 2, 4, 1, 3, 0, 2)), torch.tensor([[0, 300]])])
    work = SegmentWork(rows, query, torch.arange(9), spans, Wanted(moments=True, top_k=4), each=1)
    found = segments_state(work, limits=limits)
    assert len(segment_blocks) == blocks
    true = span_by_span(work, reference_state)
    assert_within(velocity_error(rows, query, found, true), "bar")
    assert torch.equal(found.top_rows, true.top_rows)
    torch.testing.assert_close(found.top_logits, true.top_logits, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_segments_are_scanned_in_blocks(
    dtype: torch.dtype, generator: torch.Generator, segment_blocks: list[Span], counted: Counter[str]
) -> None:
    rows = make_rows(dtype, 300, 48, generator, weighted=True)
    query = make_query(rows, all_times(33), generator, excluded=1)
    # the last one has no row
    spans = spans_of((*(0, 2, 2, 4, 1, 3, 0, 2) * 4, -1))
    work = SegmentWork(rows, query, torch.arange(33), spans, Wanted(), each=1, longest=110, distinct=5)
    with Waiting() as waiting:
        found = segments_state(work, limits=IN_BLOCKS)
    # as for short ones, whether any query uses all rows
    assert waiting.found == ["_local_scalar_dense"]
    assert [(span.start, span.stop) for span in segment_blocks] == IN_FOUR
    assert counted["score"] == counted["score_digits"] == 0
    true, some = span_by_span(work, reference_state), torch.arange(32)
    torch.testing.assert_close(found.lse, true.lse, rtol=2e-6, atol=1e-5)
    assert_within(velocity_error(rows, query.take(some), found.take(some), true.take(some)), "bar")


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(moments=True, top_k=3)])
def test_few_classes_of_many_queries_are_scanned_at_once(
    wanted: Wanted, generator: torch.Generator, segment_blocks: list[Span]
) -> None:
    rows = make_rows(torch.float16, 300, 48, generator)
    query = make_query(rows, all_times(33), generator)
    spans = torch.tensor([[0, 150], [150, 300], [0, 300]]).repeat(11, 1)
    work = SegmentWork(rows, query, torch.arange(33), spans, wanted, each=1, longest=150, distinct=2)
    with Waiting() as waiting:
        found = segments_state(work)
    assert (waiting.found, segment_blocks) == ([], [])
    true = span_by_span(work, reference_state)
    assert_within(velocity_error(rows, query, found, true), "bar")
    assert torch.equal(found.top_rows, true.top_rows)


def test_segments_that_would_take_too_much_memory_are_masked(generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 300, 48, generator)
    every = Work(rows, make_query(rows, all_times(9), generator), Span(0, 300))
    work = SegmentWork(rows, every.query, torch.arange(9), spans_of((0,) * 9), each=1, longest=40, distinct=20)
    assert not scans_all(work, every)
    # five classes of few queries are no more to read than all rows
    assert scans_all(replace(work, distinct=5), every)
    # far from zero a copy of all rows is read, but for a scan of all rows in blocks
    far = prepare_rows(rows.stored + 100.0, None)
    moved, all_moved = replace(work, rows=far), replace(every, rows=far)
    assert not scans_all(moved, all_moved)
    assert scans_all(moved, all_moved, ScanLimits(score_bytes=4 * 300 * 48 - 1))
    # and more pairs than can be sorted
    many = torch.arange(9).repeat_interleave(1000)
    assert scans_all(replace(work, pairs=many, spans=work.spans.repeat_interleave(1000, 0), each=1000), every)
