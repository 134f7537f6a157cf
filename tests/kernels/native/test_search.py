"""The search in one call: what it leaves out it bounds, as the portable cascade does, whatever is known of queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_form import FAMILIES, clusters, generators, normal, stored_as
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_cases import make_query, whole
from screen_cases import noised, whole_logits
from tolerances import assert_close, assert_rows_close

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import Query, Rows, Span, Wanted, Work, prepare_rows
from oracle_engine.kernels.common.search import SearchLimits
from oracle_engine.kernels.native.screens import TILE
from oracle_engine.kernels.screens import FixedAllowance, SharedProducts, Shortlist, SideInformation, UpperLogits
from oracle_engine.kernels.screens import screened as found_by
from oracle_engine.kernels.screens.kinds.pca import principal_screen
from oracle_engine.kernels.screens.searches.one_call import one_call_applies, searched

TIMES = (0.0, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)


def upper_logits(
    rows: Rows, query: Query, side: SideInformation | None = None, *, span: Span | None = None
) -> UpperLogits:
    """Return upper logits of levels that have a block each, for states that name all of their rows."""
    most = min(len(rows), rows.dim, 24)
    screen = principal_screen(rows, sorted({max(1, most // 6), most}))
    span = span or whole(rows)
    work = Work(rows, query, span, Wanted(moments=True, top_k=len(span)))
    return UpperLogits.of(work, screen, side or SideInformation())


def assert_honest(upper: UpperLogits, mass: float = 1e-6) -> None:
    """Compare what one call leaves out, from every level on, with the logits in float64."""
    rows, query, span = upper.work.rows, upper.work.query, upper.work.span
    assert one_call_applies(upper)
    logits = whole_logits(rows, query)[span.start : span.stop].T
    common = -0.5 * query.inverse_variance * query.norm.square()
    for level in range(len(upper.screen.widths)):
        found = searched(upper, level, FixedAllowance(mass), SearchLimits())
        some = found.found.bool()
        named = found.state.top_rows
        place = torch.where(named < 0, len(span), named - span.start)
        kept = torch.zeros(len(query), len(span) + 1, dtype=torch.bool).scatter_(1, place, value=True)[:, :-1]
        left_out = logits.masked_fill(kept, -torch.inf).logsumexp(1) + common
        assert bool((left_out <= found.log_omitted)[some].all())
        lse = logits.masked_fill(~kept, -torch.inf).logsumexp(1) + common
        assert_close(found.state.lse[some], lse[some], "moment")
        assert torch.equal(found.survivors[some], kept.sum(1)[some])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([(1, 1), (TILE, 3), (2 * TILE + 1, 17), (150, 48)]),
    st.sampled_from([1, 5, 33]),
    st.booleans(),
)
def test_odd_shapes_leave_out_no_more_than_is_said(
    target: str,
    generator: torch.Generator,
    family: str,
    dtype: torch.dtype,
    shape: tuple[int, int],
    batch: int,
    weighted: bool,
) -> None:
    count, dim = shape
    weights = torch.rand(count, generator=generator).double() + 1e-9 if weighted else None
    rows = prepare_rows(stored_as(FAMILIES[family](count, dim, generator), dtype), weights)
    query = make_query(rows, generator, batch, TIMES, excluded=2)
    assert_honest(upper_logits(rows, query))
    if count > 3:
        assert_honest(upper_logits(rows, query, span=Span(count // 3, count - 1)))


@pytest.mark.parametrize("t", [0.3, 0.7, 0.95])
def test_late_queries_that_know_more_are_bounded_too(target: str, generator: torch.Generator, t: float) -> None:
    rows = prepare_rows(clusters(200, 48, generator).float(), None)
    query, source, _ = noised(rows, t, 20, generator)
    assert_honest(upper_logits(rows, query, SideInformation(source)))
    # every other query has no source
    some = replace(source, row=torch.where(torch.arange(20) % 2 == 0, source.row, -1))
    assert_honest(upper_logits(rows, query, SideInformation(some)))
    start = normal(30, 48, generator)
    shared = SharedProducts.of(rows, start)
    for column in (torch.arange(20), torch.arange(20) + 10, torch.randperm(30, generator=generator)[:20]):
        along = replace(query, point=0.3 * start[column] + query.alpha[:, None] * query.point)
        known = SharedProducts(start[column], shared.products, column)
        assert_honest(upper_logits(rows, along, SideInformation(shared_products=known)))


def answered(upper: UpperLogits, monkeypatch: pytest.MonkeyPatch, *, in_one_call: bool) -> Shortlist:
    with monkeypatch.context() as patch:
        if not in_one_call:
            patch.setattr("oracle_engine.kernels.screens.searches.cascade.one_call_applies", lambda upper: False)
        return found_by(upper, FixedAllowance(1e-9))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_late_answers_are_those_of_the_cascade(
    target: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    rows = prepare_rows(stored_as(clusters(300, 64, generator), dtype), None)
    upper = upper_logits(rows, make_query(rows, generator, 40, (0.8, 0.9, 0.99), excluded=1))
    one, other = (answered(upper, monkeypatch, in_one_call=there) for there in (True, False))
    both = one.certified & other.certified
    assert float(both.double().mean()) > 0.5
    assert_close(one.state.lse[both], other.state.lse[both], "moment")
    assert_rows_close(one.state.mean[both], other.state.mean[both], "mean", rows.radius)
    assert_close(one.state.entropy[both], other.state.entropy[both], "moment")


def test_none_is_certified_that_needs_more_rows_than_there_may_be(target: str, generator: torch.Generator) -> None:
    rows = prepare_rows(normal(400, 32, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 20, (0.05, 0.99)))
    found = searched(upper, 0, FixedAllowance(1e-6), SearchLimits(rows=50))
    assert found.found.tolist() == [0, 1] * 10
    assert bool((found.log_omitted == torch.inf).eq(found.found == 0).all())
    assert bool((found.survivors[::2] == 0).all())
    assert int(searched(upper, 0, FixedAllowance(1e-6), SearchLimits(tiles=0)).found.sum()) == 0


def test_queries_whose_bounds_float32_cannot_hold_are_none_of_its(target: str, generator: torch.Generator) -> None:
    rows = prepare_rows(normal(100, 32, generator).float(), None)
    query = make_query(rows, generator, 6, (0.9,))
    far = replace(query, point=torch.where(torch.arange(6)[:, None] % 2 == 0, 1e35, 1.0) * query.point)
    found = searched(upper_logits(rows, far), 0, FixedAllowance(1e-6), SearchLimits())
    assert found.found.tolist() == [0, 1] * 3
