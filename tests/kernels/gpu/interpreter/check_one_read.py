"""A single query answered in one read of the rows has the state of the float64 reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_problems import DTYPES, compare, make_query, make_rows, scanned

from oracle_engine.kernels import Span, Wanted
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.scans import one_read


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.itemsize > 1], ids=str)
@pytest.mark.parametrize("time", [0.01, 0.5, 0.999])
def test_every_dtype_and_time(dtype: torch.dtype, time: float, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 150, 77, generator)
    with one_read.reading_once():
        compare(rows, make_query(rows, torch.tensor([time]).double(), generator), Wanted(moments=True))


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(mean=False)], ids=str)
def test_excluded_ranges_weights_and_spans(wanted: Wanted, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 150, 77, generator, weighted=True, offset=3.0)
    with one_read.reading_once():
        compare(rows, make_query(rows, torch.tensor([0.3]).double(), generator, excluded=2), wanted, Span(13, 149))


def test_shares_of_no_row_and_no_row_at_all(generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 65, 700, generator)
    query = make_query(rows, torch.tensor([0.3]).double(), generator, excluded=1)
    with one_read.reading_once():
        compare(rows, query, Wanted())
        nothing = replace(query, excluded=torch.tensor([[[0, 65]]]))
        state = scanned(Work(rows, nothing, Span(0, 65), Wanted()))
    assert state.lse[0] == -torch.inf
    assert state.mean.isfinite().all()


def test_only_single_queries_that_ask_for_it(generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 65, 77, generator)
    queries = [make_query(rows, torch.full((count,), 0.3).double(), generator) for count in (1, 2)]
    one, two = (Work(rows, query, Span(0, 65), Wanted()) for query in queries)
    assert not one_read.reads_once(one)
    with one_read.reading_once():
        assert one_read.reads_once(one)
        assert not one_read.reads_once(two)
        assert not one_read.reads_once(replace(one, wanted=Wanted(top_k=1)))
