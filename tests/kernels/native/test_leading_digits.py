"""Late in time leading digits close most pairs of a row and a query, and states are still those of the reference."""

from __future__ import annotations

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import EVERYTHING, MEAN_ONLY, assert_states_close, make_query, native_scan, whole

from oracle_engine.base.arrays import Tensor
from oracle_engine.kernels import (
    Query,
    Rows,
    SegmentWork,
    Span,
    Wanted,
    Work,
    native_library,
    prepare_rows,
    reference_state,
    segments_state,
    span_by_span,
)
from oracle_engine.kernels.native.scan import NATIVE_LIMITS, NativeLimits

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

# blocks of a tile each, and two threads
SMALL = NativeLimits(block_rows=24, threads=2)

# libraries that have products of bytes
LEADING = ("v3", "v4", "amx")

LATE = (0.9, 0.95, 0.99, 0.999)

# rows that are brought into codes where many queries share them, and those that are multiplied as they are
DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)


def closed_share(
    rows: Rows, query: Query, span: Span | None = None, wanted: Wanted = EVERYTHING, limits: NativeLimits = SMALL
) -> float:
    """Compare the scan with the reference; return the share of the pairs that leading digits closed."""
    work = Work(rows, query, span or whole(rows), wanted)
    scan, _ = native_scan(work, limits)
    return float(scan.asked.closed) / (len(work.span) * len(query))


@pytest.mark.parametrize("batch", [7, 16, 33, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_parity_where_few_rows_matter(generator: torch.Generator, target: str, dtype: torch.dtype, batch: int) -> None:
    for dim in (128, 132, 133):
        rows = prepare_rows(stored_as(normal(400, dim, generator), dtype), None)
        query = make_query(rows, generator, batch, LATE)
        share = closed_share(rows, query, wanted=MEAN_ONLY)
        closed_share(rows, query)
        closed_share(rows, query, Span(5, 391), limits=NATIVE_LIMITS)
        # bytes are multiplied in fours, and codes pay for many queries
        words = dim % 4 == 0 or target == "amx"
        led = target in LEADING and (batch >= 32 if dtype.is_floating_point else words)
        assert share > 0.3 if led else share == 0.0


def test_early_queries_are_multiplied_whole(generator: torch.Generator) -> None:
    rows = prepare_rows(stored_as(normal(600, 132, generator), torch.uint8), None)
    assert closed_share(rows, make_query(rows, generator, 32, (0.001, 0.01)), wanted=MEAN_ONLY) == 0.0


def test_lists_of_the_heaviest_rows_close_what_is_not_among_them(generator: torch.Generator, target: str) -> None:
    rows = prepare_rows(stored_as(normal(6000, 132, generator), torch.uint8), None)
    share = closed_share(rows, make_query(rows, generator, 32, LATE), wanted=Wanted(top_k=1))
    assert share > 0.3 if target in LEADING else share == 0.0


@given(generators(), st.sampled_from(DTYPES), st.sampled_from(sorted(FAMILIES)), st.integers(0, 3), st.integers(0, 9))
def test_parity_of_mixed_times_with_weights_excluded_ranges_and_any_top_k(
    generator: torch.Generator, dtype: torch.dtype, family: str, excluded: int, top_k: int
) -> None:
    weights = torch.rand(300, generator=generator, dtype=torch.float64)
    weights[1:][torch.rand(299, generator=generator) < 1 / 3] = 0.0
    rows = prepare_rows(stored_as(FAMILIES[family](300, 128, generator), dtype), weights)
    query = make_query(rows, generator, 40, excluded=excluded)
    closed_share(rows, query, wanted=Wanted(moments=True, top_k=top_k))


def test_the_nearest_row_may_be_excluded(generator: torch.Generator) -> None:
    rows = prepare_rows(stored_as(normal(300, 128, generator), torch.uint8), None)
    own = torch.arange(40)
    point = rows.stored.double()[own] - rows.centre
    alone = torch.stack([own, own + 1], 1)[:, None]
    precision = torch.full((40,), 1e-2, dtype=torch.float64)
    closed_share(rows, Query(point, torch.ones(40, dtype=torch.float64), precision, alone))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_blocks_of_nothing_but_excluded_rows_raise_no_floor(generator: torch.Generator, dtype: torch.dtype) -> None:
    # the first blocks of a share hold the sources of the queries, excluded with all rows around them
    rows = prepare_rows(stored_as(normal(300, 128, generator), dtype), None)
    own = torch.arange(40)
    point = rows.stored.double()[own] - rows.centre
    around = torch.tensor([0, 100]).expand(40, 1, 2)
    ones = torch.ones(40, dtype=torch.float64)
    precision = 1e-2 if dtype == torch.uint8 else 1e4
    closed_share(rows, Query(point, ones, precision * ones, around), wanted=Wanted(top_k=2))


def lower_digits_decide(levels: Tensor, dim: int) -> tuple[Rows, Query]:
    """Return rows of one value each, and queries whose leading digits are all rounded to the same side."""
    stored = levels[:, None].expand(-1, dim).clone()
    # a coordinate of every query is so large that half a unit of the leading digits is more than what separates rows
    stored[:, 0] = 128
    rows = prepare_rows(stored.to(torch.uint8), None)
    far = levels[(levels < 90) | (levels > 170)][:40]
    point = far[:, None].double().expand(-1, dim) - rows.centre
    point[:, 0] = 300.0
    ones = torch.ones(len(point), dtype=torch.float64)
    return rows, Query(point, ones, 0.05 * ones, torch.zeros(len(point), 0, 2, dtype=torch.int64))


@pytest.mark.parametrize("dim", [128, 256])
def test_rounding_that_all_coordinates_share_closes_no_row_that_matters(
    generator: torch.Generator, target: str, dim: int
) -> None:
    # errors of leading digits add up with one sign here: a bound that takes them for a random walk would be wrong
    levels = torch.cat([torch.randperm(256, generator=generator) for _ in range(6)])
    rows, query = lower_digits_decide(levels, dim)
    share = closed_share(rows, query, wanted=MEAN_ONLY)
    assert share > 0.3 or target not in ("v4", "amx")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rows_that_matter_may_come_at_the_end(generator: torch.Generator, dtype: torch.dtype) -> None:
    crowd = 3.0 + 0.01 * normal(500, 128, generator)
    rows = prepare_rows(stored_as(torch.cat([crowd, normal(500, 128, generator)]), dtype), None)
    own = rows.stored.double()[960:] - rows.centre
    unit = 40.0 if dtype == torch.uint8 else 1.0
    query = Query(
        own + 0.05 * unit * normal(40, 128, generator),
        torch.ones(40, dtype=torch.float64),
        torch.full((40,), (0.05 * unit) ** -2, dtype=torch.float64),
        torch.zeros(40, 0, 2, dtype=torch.int64),
    )
    closed_share(rows, query, limits=NativeLimits(block_rows=24, threads=1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("times", [(0.001, 0.01), (0.001, 0.9), LATE])
def test_blocks_grow_while_all_rows_are_multiplied_whole(
    generator: torch.Generator, dtype: torch.dtype, times: tuple[float, ...]
) -> None:
    # the first rows matter to all queries, of the last ones few do: blocks grow, and shrink again
    near = normal(700, 128, generator)
    rows = prepare_rows(stored_as(torch.cat([near, 4.0 + 3.0 * normal(911, 128, generator)]), dtype), None)
    query = make_query(rows, generator, 40, times)
    for whole_rows in (24, 96, 504):
        limits = NativeLimits(block_rows=24, whole_rows=whole_rows, threads=1)
        closed_share(rows, query, wanted=Wanted(moments=True, top_k=3), limits=limits)
        closed_share(rows, query, Span(3, 1600), wanted=MEAN_ONLY, limits=limits)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_parity_for_classes_of_many_rows(generator: torch.Generator, dtype: torch.dtype) -> None:
    rows = prepare_rows(stored_as(FAMILIES["clusters"](2400, 128, generator), dtype), None)
    query = make_query(rows, generator, 80, LATE)
    spans = torch.tensor([[0, 1100], [1100, 2400]])[torch.arange(80) % 2]
    work = SegmentWork(rows, query, torch.arange(80), spans, EVERYTHING)
    for limits in (SMALL, NATIVE_LIMITS):
        found = segments_state(work, limits=limits)
        assert_states_close(found, span_by_span(work, reference_state), rows, work.wanted)
