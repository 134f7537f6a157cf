"""What a shortlist leaves out is never more than it says: mass and mean, for every search, time and storage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from closed_form import FAMILIES, clusters, generators, near_duplicates, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import make_query, whole
from screen_cases import Find, Masses, assert_honest, ruled_out_by_the_first_level, wanting
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import Query, Rows, Span, Wanted, Work, prepare_rows, reference_logits
from oracle_engine.kernels.reference import state_from_logits
from oracle_engine.kernels.screens.bounds.costs import SearchCosts
from oracle_engine.kernels.screens.bounds.query_bounds import Knowledge, SideInformation, Source
from oracle_engine.kernels.screens.bounds.shared_products import SharedProducts
from oracle_engine.kernels.screens.bounds.upper_bounds import UpperLogits
from oracle_engine.kernels.screens.kinds.pca import principal_screen
from oracle_engine.kernels.screens.searches.cascade import entry_levels, screened, tried
from oracle_engine.kernels.screens.searches.shortlist import FixedAllowance, Shortlist, strongest

TIMES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.9, 0.99, 1 - 1e-4)


def leaving(mass: float, limit: int | None = None) -> Find:
    return lambda upper: screened(upper, FixedAllowance(mass), limit=limit)


def best(count: int) -> Find:
    return lambda upper: strongest(upper, count)


def upper_logits(
    rows: Rows, query: Query, span: Span | None = None, widths: Sequence[int] | None = None
) -> UpperLogits:
    most = min(len(rows), rows.dim, 16)
    screen = principal_screen(rows, widths or sorted({max(1, most // 4), most}))
    return UpperLogits.of(Work(rows, query, span or whole(rows)), screen, SideInformation())


@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([1, 2, 17, 65, 300]),
    st.sampled_from([1, 3, 48]),
    st.sampled_from([1e-2, 1e-4, 1e-8]),
    st.booleans(),
)
def test_no_more_is_left_out_than_is_said(
    generator: torch.Generator, family: str, dtype: torch.dtype, count: int, dim: int, mass: float, weighted: bool
) -> None:
    weights = torch.rand(count, generator=generator).double() + 1e-9 if weighted else None
    rows = prepare_rows(stored_as(FAMILIES[family](count, dim, generator), dtype), weights)
    upper = upper_logits(rows, make_query(rows, generator, 24, TIMES))
    found = assert_honest(upper, leaving(mass))
    # the last tile counts as full
    share = (found.log_omitted - found.state.lse).exp()[found.certified]
    assert bool((share <= 2.0 * mass).all())
    for kept in (1, 7):
        assert bool(assert_honest(upper, best(kept)).certified.all())


@pytest.mark.parametrize("t", [0.3, 0.9])
@pytest.mark.parametrize("copies", [2, 20, 100])
def test_copies_share_what_is_theirs(generator: torch.Generator, t: float, copies: int) -> None:
    rows = prepare_rows(normal(200 // copies, 24, generator).float().repeat(copies, 1), None)
    upper = upper_logits(rows, make_query(rows, generator, 8, (t,)))
    found = assert_honest(upper, leaving(1e-6, limit=200))
    assert bool(found.certified.all())
    # one of many copies is left with the others in what it leaves out
    alone = assert_honest(upper, best(1))
    assert bool(((alone.log_omitted - alone.state.lse).exp() >= copies - 1).all())


@pytest.mark.parametrize("count", [1, 5, 64, 130])
def test_a_look_at_every_row_leaves_nothing_out(generator: torch.Generator, count: int) -> None:
    rows = prepare_rows(normal(count, 12, generator).float(), None)
    query = make_query(rows, generator, 16, TIMES)
    upper = upper_logits(rows, query)
    expected = state_from_logits(
        reference_logits(rows, query, whole(rows)),
        rows.gather(torch.arange(count)) - rows.centre,
        whole(rows),
        Wanted(),
    )
    for asked in (count, count + 1, 10 * count):
        found = assert_honest(upper, best(asked))
        assert bool((found.log_omitted == -torch.inf).all())
        assert_close(found.state.lse, expected.lse, "moment")
        assert_rows_close(found.state.mean, expected.mean, "mean", rows.radius or 1.0)


def either(upper: UpperLogits) -> tuple[Shortlist, Shortlist]:
    return screened(upper, FixedAllowance(1e-6)), strongest(upper, 3)


@pytest.mark.parametrize("start", [0, 63, 64, 129])
def test_a_class_of_one_is_its_sample(generator: torch.Generator, start: int) -> None:
    rows = prepare_rows(normal(130, 24, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 16, TIMES), Span(start, start + 1))
    for found in either(wanting(upper, 2)):
        assert bool(found.certified.all())
        assert found.state.top_rows.tolist() == [[start, -1]] * 16
        assert bool(((found.log_omitted - found.state.lse) < math.log(1e-6)).all())
        assert_rows_close(found.state.mean, (rows.gather(torch.tensor([start] * 16)) - rows.centre), "float64")


@pytest.mark.parametrize("left", [0, 63, 64, 129])
def test_everything_excluded_but_one(generator: torch.Generator, left: int) -> None:
    rows = prepare_rows(normal(130, 24, generator).float(), None)
    query = make_query(rows, generator, 16, TIMES)
    excluded = torch.tensor([[0, left], [left + 1, 130]]).expand(16, 2, 2)
    upper = upper_logits(rows, replace(query, excluded=excluded))
    for found in either(wanting(upper, 2)):
        assert found.state.top_rows.tolist() == [[left, -1]] * 16
        assert bool(found.certified.all())
    assert bool((strongest(upper, 3).log_omitted == -torch.inf).all())


def test_an_excluded_row_is_not_found(generator: torch.Generator) -> None:
    rows = prepare_rows(near_duplicates(130, 24, generator).float(), None)
    query = make_query(rows, generator, 16, (0.9, 0.99))
    own = strongest(wanting(upper_logits(rows, query), 1), 1).state.top_rows
    upper = upper_logits(rows, replace(query, excluded=torch.stack([own, own + 1], 2)))
    for found in either(wanting(upper, 1)):
        assert bool((found.state.top_rows != own).all())
        # the duplicate takes its place
        assert torch.equal(found.state.top_rows // 2, own // 2)
    assert_honest(upper, leaving(1e-6))


def test_queries_that_too_many_rows_matter_to_stay_pending(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(600, 32, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 32, (0.05, 0.95)))
    found = assert_honest(upper, leaving(1e-6, limit=50))
    assert found.certified.tolist() == [False, True] * 16
    assert int(found.survivors.max()) <= 50
    assert tried(upper, 0, 1e-6).share == pytest.approx(0.5, abs=0.1)


# a search costs 100 a call, 10 or 20 a query and 1 or 4 a row; a scan 8 a row
COSTS = SearchCosts(
    scan_start=2.0,
    scan=8.0,
    starts=(0.0, 0.0),
    levels=(1.0, 4.0),
    call=100.0,
    queries=(10.0, 20.0),
    tile=10.0,
    row=10.0,
)


def entered(batch: Query, *thresholds: float, rows: int = 200, **changed: Any) -> list[int]:
    """Return the levels that queries enter at where these are worth it from so large an alpha^2 / sigma^2 on."""
    points = prepare_rows(torch.ones(4, batch.point.shape[1]), None)
    screen = replace(
        principal_screen(points, (1, 2)),
        thresholds=(thresholds,) * len(Knowledge),
        measured_costs=replace(COSTS, **changed),
    )
    return entry_levels(screen, batch, screen.knowledge(batch, SideInformation()), rows).tolist()


def test_levels_are_tried_from_their_snr_threshold_on(generator: torch.Generator) -> None:
    # alpha^2 / sigma^2 is 81 and 9801 in units of one variance
    query = make_query(prepare_rows(normal(20, 32, generator).float(), None), generator, 4, (0.9, 0.99))
    assert entered(query, math.inf, math.inf) == [2, 2, 2, 2]
    assert entered(query, 1000.0, 0.0) == [1, 0, 1, 0]
    assert entered(query, 0.0, 0.0) == [0, 0, 0, 0]


def test_a_search_has_to_cost_less_than_the_scan_of_its_queries(generator: torch.Generator) -> None:
    query = make_query(prepare_rows(normal(20, 32, generator).float(), None), generator, 4, (0.9, 0.99))
    # of the two late ones a search saves 200 x 2 x (8 - 1) - 2 x 10 - 100
    assert entered(query, 1000.0, math.inf, call=2700.0) == [2, 0, 2, 0]
    assert entered(query, 1000.0, math.inf, call=2800.0) == [2, 2, 2, 2]
    assert entered(query, 1000.0, math.inf, queries=(1400.0, 1400.0)) == [2, 2, 2, 2]
    # kernels that compute with many queries at once: 200 x (2 x (8 - 1) - 13) - 2 x 10 - 100 is saved
    assert entered(query, 1000.0, math.inf, starts=(13.0, 0.0), call=100.0) == [2, 0, 2, 0]
    assert entered(query, 1000.0, math.inf, starts=(14.0, 0.0), call=100.0) == [2, 2, 2, 2]
    # over few rows the scan is cheap
    assert entered(query, 1000.0, math.inf, rows=8) == [2, 2, 2, 2]
    # where nobody is left for a scan, its start is saved too
    assert entered(query.take(torch.tensor([1, 3])), 1000.0, math.inf, call=2800.0) == [0, 0]


def test_early_queries_take_no_late_ones_along(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(20, 32, generator).float(), None)
    # one late query among many that are scanned
    query = make_query(rows, generator, 32, (*[0.1] * 31, 0.99))
    assert entered(query, 1000.0, math.inf) == [*[2] * 31, 0]


@pytest.mark.usefixtures("portable")
def test_deeper_levels_look_at_the_rows_that_are_left(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ten clusters one after the other: a coarse level tells them apart, a fine one their members
    points = clusters(640, 48, generator).reshape(64, 10, 48).transpose(0, 1).reshape(640, 48)
    rows = prepare_rows(points.float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 64, (0.8,)), widths=(4, 32))
    at, looks = UpperLogits.at, []

    def spied(self: UpperLogits, level: int, chosen: Tensor | None = None) -> Tensor:
        looks.append((level, None if chosen is None else len(chosen)))
        return at(self, level, chosen)

    monkeypatch.setattr(UpperLogits, "at", spied)
    found = assert_honest(upper, leaving(1e-6, limit=12))
    assert float(found.certified.double().mean()) > 0.5
    assert looks[0] == (0, None)
    assert {level for level, _ in looks} == {0, 1}


@pytest.mark.usefixtures("portable")
def test_a_deeper_level_reads_only_rows_that_may_matter_and_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    upper = ruled_out_by_the_first_level()
    at, looks = UpperLogits.at, []

    def spied(self: UpperLogits, level: int, chosen: Tensor | None = None) -> Tensor:
        looks.append(640 if chosen is None else len(chosen))
        return at(self, level, chosen)

    monkeypatch.setattr(UpperLogits, "at", spied)
    found = assert_honest(upper, leaving(0.5, limit=50))
    assert looks == [640, 64]
    assert found.certified.tolist() == [True]


def test_each_query_has_its_own_allowance_on_every_level(generator: torch.Generator) -> None:
    rows = prepare_rows(clusters(640, 48, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 64, (0.7, 0.8, 0.9, 0.99)), widths=(4, 32))
    mass = torch.tensor([1e-2, 1e-5, 1e-8], dtype=torch.float64).repeat(22)[:64]
    found = assert_honest(upper, lambda upper: screened(upper, Masses(mass), limit=100))
    assert float(found.certified.double().mean()) > 0.5
    share = (found.log_omitted - found.state.lse).exp()
    assert bool((share <= 2.0 * mass)[found.certified].all())


def test_a_part_of_a_batch_has_the_shortlist_that_it_has_in_it(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(300, 32, generator).float(), None)
    query = make_query(rows, generator, 24, (0.3, 0.6, 0.9), excluded=1)
    work, screen = Work(rows, query, whole(rows)), principal_screen(rows, (4, 16))
    start = 0.9 * query.point + 0.1 * normal(24, 32, generator)
    known = Source(torch.arange(24), torch.zeros(24, dtype=torch.float64), 1e-6)
    index = torch.tensor([1, 2, 5, 6, 7, 20])
    for side in (SideInformation(), SideInformation(known), SideInformation(None, SharedProducts.of(rows, start))):
        upper, alone = UpperLogits.of(work, screen, side), UpperLogits.of(work.take(index), screen, side.take(index))
        expected = screened(upper, FixedAllowance(1e-6)).take(index)
        for part in (upper.take(index), alone):
            found = screened(part, FixedAllowance(1e-6))
            assert torch.equal(found.certified, expected.certified)
            assert_close(found.state.lse[found.certified], expected.state.lse[found.certified], "moment")
            assert_close(found.log_omitted, expected.log_omitted, "rounded upper logits")


def test_the_sum_rule_tells_something(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(500, 32, generator).float(), None)
    for widths, t in (((8, 16), 0.95), ((32,), 0.6)):
        upper = upper_logits(rows, make_query(rows, generator, 32, (t,)), widths=widths)
        shares = [strongest(upper, count) for count in (1, 4, 16, 64, 256)]
        logs = torch.stack([found.log_omitted - found.state.lse for found in shares])
        assert bool((logs[1:] <= logs[:-1]).all())
        assert float(logs[2].median()) < math.log(1e-3)
    # a screen as wide as the data bounds what is left out by little more than it is
    found = strongest(wanting(upper, 4), 4)
    logits = reference_logits(rows, upper.work.query, whole(rows))
    left_out = logits.scatter(1, found.state.top_rows, -torch.inf).logsumexp(1)
    assert_close(found.log_omitted, left_out, "rounded upper logits")


def test_shortlists_of_disjoint_rows_join(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(200, 24, generator).float(), None)
    query = make_query(rows, generator, 16, (0.5, 0.9))
    cuts = [Span(0, 70), Span(70, 71), Span(71, 200)]

    def joined(upper: UpperLogits) -> Shortlist:
        total = Shortlist.nothing(upper.work)
        for span in cuts:
            total = total.merged(strongest(replace(upper, work=replace(upper.work, span=span)), 2))
        return total

    assert int(assert_honest(upper_logits(rows, query), joined).survivors.max()) == 5


def test_an_empty_batch_has_an_empty_shortlist(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(100, 24, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 16).take(torch.arange(0)))
    for found in either(wanting(upper, 2)):
        assert len(found.certified) == 0
        assert found.state.mean.shape == (0, 24)
