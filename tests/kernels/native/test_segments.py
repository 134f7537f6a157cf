"""The native scan of several spans gives the states of the float64 reference, in one loop, whatever queries ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import EVERYTHING, MEAN_ONLY, assert_identical, assert_states_close, make_query

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import (
    PosteriorState,
    Rows,
    SegmentWork,
    Wanted,
    Work,
    native_library,
    prepare_rows,
    reference_state,
    segments_state,
    span_by_span,
)
from oracle_engine.kernels.native import segments as native_segments
from oracle_engine.kernels.native.scan import NATIVE_LIMITS, NativeLimits

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

# blocks and calls of few rows, as those of a large data set are beside it
SMALL = NativeLimits(block_rows=12, step_operations=1e6, threads=2)


def make_work(
    rows: Rows, generator: torch.Generator, *, spans: int, most: int, batch: int = 24, excluded: int = 0
) -> SegmentWork:
    """Return queries that ask about up to `most` of as many spans of random length, which may be none."""
    query = make_query(rows, generator, batch, excluded=excluded)
    ends = torch.randint(len(rows) + 1, (spans - 1,), generator=generator).sort().values
    cut = torch.cat([torch.tensor([0]), ends, torch.tensor([len(rows)])])
    asked = torch.rand(batch, spans, generator=generator).argsort(1) < torch.randint(
        most + 1, (batch, 1), generator=generator
    )
    pairs, name = (asked & (cut[1:] > cut[:-1])).nonzero().unbind(1)
    order = torch.randperm(len(pairs), generator=generator)
    return SegmentWork(rows, query, pairs[order], torch.stack([cut[name], cut[name + 1]], 1)[order], EVERYTHING)


def assert_parity(work: SegmentWork, limits: NativeLimits = SMALL) -> PosteriorState:
    """Compare the scan with the reference, span by span."""
    found = segments_state(work, limits=limits)
    assert_states_close(found, span_by_span(work, reference_state), work.rows, work.wanted)
    return found


@pytest.mark.parametrize("name", ["clusters", "nearer duplicates"])
@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_parity_for_every_storage(generator: torch.Generator, dtype: torch.dtype, name: str) -> None:
    rows = prepare_rows(stored_as(FAMILIES[name](300, 96, generator), dtype), None)
    for spans in (2, 12):
        work = make_work(rows, generator, spans=spans, most=3)
        assert_parity(work)
        assert_parity(replace(work, wanted=MEAN_ONLY), NATIVE_LIMITS)


@given(generators(), st.integers(1, 200), st.sampled_from([1, 5, 70, 130]), st.integers(1, 30), st.integers(0, 3))
def test_parity_for_unions_of_spans_with_weights_and_excluded_ranges(
    generator: torch.Generator, count: int, dim: int, spans: int, excluded: int
) -> None:
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    weights[1:][torch.rand(count - 1, generator=generator) < 1 / 3] = 0.0
    rows = prepare_rows(normal(count, dim, generator).float(), weights)
    work = make_work(rows, generator, spans=spans, most=4, excluded=excluded)
    for wanted in (Wanted(moments=True, top_k=3), MEAN_ONLY, Wanted(mean=False, moments=True)):
        assert_parity(replace(work, wanted=wanted))


def test_long_spans_are_cut_and_large_groups_of_queries_too(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_segments, "LEAST_ROWS", 7)
    monkeypatch.setattr(native_segments, "MOST_QUERIES", 5)
    rows = prepare_rows(normal(900, 80, generator).float(), None)
    # one span is nearly everything, and a third of the queries ask about it
    work = make_work(rows, generator, spans=2, most=2, batch=40)
    for threads in (1, 3):
        assert_parity(work, NativeLimits(block_rows=12, threads=threads))


def test_queries_without_a_span_have_the_empty_state(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(90, 80, generator).float(), None)
    query = make_query(rows, generator, 6)
    pairs, spans = torch.tensor([1, 4, 4]), torch.tensor([[0, 9], [9, 20], [30, 90]])
    work = SegmentWork(rows, query, pairs, spans, EVERYTHING)
    found = assert_parity(work)
    alone = torch.tensor([0, 2, 3, 5])
    assert_identical(found.take(alone), work.nothing().take(alone))
    assert_identical(segments_state(replace(work, pairs=pairs[:0], spans=spans[:0])), work.nothing())


def test_spans_of_many_near_duplicates_are_scanned_again_in_float64(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[int] = []

    def recorded(work: Work) -> PosteriorState:
        again.append(len(work.query))
        return reference_state(work)

    monkeypatch.setattr(native_segments, "double_state", recorded)
    crowd = normal(1, 784, generator) + 1e-4 * normal(600, 784, generator)
    rows = prepare_rows(torch.cat([crowd, normal(600, 784, generator)]).float(), None)
    query = make_query(rows, generator, times=(0.95,))
    spans = torch.tensor([[0, 500], [500, 1000], [1000, 1200]]).repeat(len(query), 1)
    assert_parity(SegmentWork(rows, query, torch.arange(len(query)).repeat_interleave(3), spans, EVERYTHING))
    assert again


def test_one_span_for_all_queries_is_a_plain_scan(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prepare_rows(normal(90, 80, generator).float(), None)
    query = make_query(rows, generator, 6)
    asked: list[Work] = []

    def recorded(work: Work, **_: object) -> PosteriorState:
        asked.append(work)
        return reference_state(work)

    monkeypatch.setattr(native_segments, "native_state", recorded)
    segments_state(SegmentWork(rows, query, torch.arange(6), torch.tensor([[5, 60]] * 6), EVERYTHING))
    assert [(len(work.query), work.span.start, work.span.stop) for work in asked] == [(6, 5, 60)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_threads_give_the_same_bits(generator: torch.Generator, threads: int) -> None:
    rows = prepare_rows(normal(3000, 200, generator).float(), None)
    work = make_work(rows, generator, spans=40, most=3, batch=50)
    limits = NativeLimits(threads=threads)
    assert_identical(segments_state(work, limits=limits), segments_state(work, limits=limits))


def test_any_order_of_pairs_gives_the_same_bits(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(500, 80, generator).float(), None)
    work = make_work(rows, generator, spans=20, most=1)
    order = torch.randperm(len(work.pairs), generator=generator)
    assert_identical(
        segments_state(work), segments_state(replace(work, pairs=work.pairs[order], spans=work.spans[order]))
    )
