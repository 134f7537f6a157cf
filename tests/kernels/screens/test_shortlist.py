"""What a shortlist leaves out is never more than it says: mass and mean, for every search, time, storage and hole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from closed_form import FAMILIES, clusters, generators, near_duplicates, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import make_query, whole
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import Query, Rows, Span, Wanted, prepare_rows, reference_logits
from oracle_engine.kernels.reference import state_from_logits
from oracle_engine.kernels.screens import shortlist
from oracle_engine.kernels.screens.pca import PrincipalScreen, principal_screen, row_features
from oracle_engine.kernels.screens.query_bounds import Knowledge
from oracle_engine.kernels.screens.screen import no_thresholds
from oracle_engine.kernels.screens.shortlist import Allowance, Shortlist, certified_share, screened, strongest
from oracle_engine.kernels.screens.upper_bounds import UpperLogits

TIMES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.9, 0.99, 1 - 1e-4)

Find = Callable[[UpperLogits, Wanted], Shortlist]


def allowing(mass: float) -> Allowance:
    return lambda index, state: torch.full_like(state.lse, mass)


def best(count: int) -> Find:
    return lambda upper, wanted: strongest(upper, wanted, count)


def upper_logits(
    rows: Rows, query: Query, span: Span | None = None, widths: Sequence[int] | None = None
) -> UpperLogits:
    most = min(len(rows), rows.dim, 16)
    screen = principal_screen(rows, widths or sorted({max(1, most // 4), most}))
    return UpperLogits.of(rows, screen, query, span or whole(rows), None, None)


def assert_honest(upper: UpperLogits, find: Find) -> Shortlist:
    """Return the shortlist, after a comparison of what it says of the queries it settled with the truth in float64."""
    rows, span = upper.rows, upper.span
    # as many names as rows: every row that was looked at is named
    found = find(upper, Wanted(top_k=len(span)))
    logits = reference_logits(rows, upper.query, span)
    samples = rows.gather(torch.arange(span.start, span.stop)) - rows.centre
    truth = state_from_logits(logits, samples, span, Wanted())
    named = found.state.top_rows
    kept = torch.zeros(len(logits), len(span) + 1, dtype=torch.bool)
    kept = kept.scatter_(1, torch.where(named < 0, len(span), named - span.start), value=True)[:, :-1]
    some = found.certified
    left_out = logits.masked_fill(kept, -torch.inf).logsumexp(1)
    assert bool((left_out <= found.log_omitted)[some].all())
    assert_close(found.state.lse[some], logits.masked_fill(~kept, -torch.inf).logsumexp(1)[some], "moment")
    assert bool((kept.sum(1) <= found.survivors)[some].all())
    omitted = torch.sigmoid(found.log_omitted - found.state.lse)
    error = (found.state.mean - truth.mean).norm(dim=1)
    allowed = omitted * (rows.radius + found.state.mean.norm(dim=1)) + 1e-9 * rows.stored_radius
    assert bool((error <= allowed)[some].all())
    assert_untouched(found, ~some)
    return found


def assert_untouched(found: Shortlist, which: Tensor) -> None:
    """What was not decided says so: nothing looked at, everything left out."""
    assert bool((found.log_omitted[which] == torch.inf).all())
    assert bool((found.state.lse[which] == -torch.inf).all())
    assert bool((found.survivors[which] == 0).all())


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
    found = assert_honest(upper, lambda upper, wanted: screened(upper, wanted, allowing(mass)))
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
    found = assert_honest(upper, lambda upper, wanted: screened(upper, wanted, allowing(1e-6), limit=200))
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


def either(upper: UpperLogits, wanted: Wanted) -> tuple[Shortlist, Shortlist]:
    return screened(upper, wanted, allowing(1e-6)), strongest(upper, wanted, 3)


@pytest.mark.parametrize("start", [0, 63, 64, 129])
def test_a_class_of_one_is_its_sample(generator: torch.Generator, start: int) -> None:
    rows = prepare_rows(normal(130, 24, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 16, TIMES), Span(start, start + 1))
    for found in either(upper, Wanted(top_k=2)):
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
    for found in either(upper, Wanted(top_k=2)):
        assert found.state.top_rows.tolist() == [[left, -1]] * 16
        assert bool(found.certified.all())
    assert bool((strongest(upper, Wanted(), 3).log_omitted == -torch.inf).all())


def test_an_excluded_row_is_not_found(generator: torch.Generator) -> None:
    rows = prepare_rows(near_duplicates(130, 24, generator).float(), None)
    query = make_query(rows, generator, 16, (0.9, 0.99))
    own = strongest(upper_logits(rows, query), Wanted(top_k=1), 1).state.top_rows
    upper = upper_logits(rows, replace(query, excluded=torch.stack([own, own + 1], 2)))
    for found in either(upper, Wanted(top_k=1)):
        assert bool((found.state.top_rows != own).all())
        # the duplicate takes its place
        assert torch.equal(found.state.top_rows // 2, own // 2)
    assert_honest(upper, lambda upper, wanted: screened(upper, wanted, allowing(1e-6)))


def test_queries_that_too_many_rows_matter_to_stay_unsettled(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(600, 32, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 32, (0.05, 0.95)))
    found = assert_honest(upper, lambda upper, wanted: screened(upper, wanted, allowing(1e-6), limit=50))
    assert found.certified.tolist() == [False, True] * 16
    assert int(found.survivors.max()) <= 50
    assert certified_share(upper, 0, 1e-6) == pytest.approx(0.5, abs=0.1)


def settled_with(upper: UpperLogits, *thresholds: float) -> list[int]:
    """Return the queries that are settled where the levels are worth it from these alpha^2 / sigma^2 on."""
    screen = replace(upper.screen, thresholds=(thresholds,) * len(Knowledge))
    found = assert_honest(replace(upper, screen=screen), lambda upper, wanted: screened(upper, wanted, allowing(1e-6)))
    return found.certified.nonzero()[:, 0].tolist()


def test_levels_are_tried_from_their_reach_on(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(200, 32, generator).float(), None)
    # alpha^2 / sigma^2 is 81 and 9801 in units of one variance
    upper = upper_logits(rows, make_query(rows, generator, 8, (0.9, 0.99)))
    assert settled_with(upper, math.inf, math.inf) == []
    assert settled_with(upper, 1000.0, 0.0) == [*range(8)]


def test_queries_join_a_scan_that_others_need(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prepare_rows(normal(200, 32, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 8, (0.9, 0.99)))
    # rows this short are scanned for less than a look at their upper logits costs
    assert settled_with(upper, math.inf, 1000.0) == []
    monkeypatch.setattr(shortlist, "TOUCH_COST", -1000)
    assert settled_with(upper, math.inf, 1000.0) == [1, 3, 5, 7]
    # not late enough to be cheaper than the scan's product
    assert settled_with(upper, math.inf, 5000.0) == []
    # alone they are worth a look
    late = upper_logits(rows, make_query(rows, generator, 8, (0.99,)))
    assert settled_with(late, math.inf, 5000.0) == [*range(8)]


def test_deeper_levels_look_at_the_rows_that_are_left(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ten clusters one after the other: a coarse level tells them apart, a fine one their members
    points = clusters(640, 48, generator).reshape(64, 10, 48).transpose(0, 1).reshape(640, 48)
    rows = prepare_rows(points.float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 64, (0.8,)), widths=(4, 32))
    at, looks = UpperLogits.at, []

    def spied(self: UpperLogits, level: int, index: Tensor, chosen: Tensor | None = None) -> Tensor:
        looks.append((level, None if chosen is None else len(chosen)))
        return at(self, level, index, chosen)

    monkeypatch.setattr(UpperLogits, "at", spied)
    found = assert_honest(upper, lambda upper, wanted: screened(upper, wanted, allowing(1e-6), limit=12))
    assert float(found.certified.double().mean()) > 0.5
    assert looks[0] == (0, None)
    assert {level for level, _ in looks} == {0, 1}


def test_a_deeper_level_reads_only_rows_that_may_matter_and_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # a query at 3 e_20, 40 rows there, 24 rows that only the second level tells from them (shorter, so that a row at
    # the query leads), and 576 rows that the first level rules out: each weighs little, together they are nearly all
    # that is left out
    axes = torch.eye(48, dtype=torch.float64)
    stored = torch.cat([3.0 * axes[[20] * 40], 2.9 * axes[[30] * 24], 2.4 * axes[[1] * 576]])
    half_norms = 0.5 * stored.square().sum(1)
    rows = Rows(stored, torch.zeros(48, dtype=torch.float64), half_norms, None, 3.0, 3.0)
    ones = torch.ones(1, dtype=torch.float64)
    query = Query(3.0 * axes[20:21], ones, ones, torch.zeros(1, 0, 2).long())
    features = row_features(rows, axes, (8, 48), whole(rows))
    screen = PrincipalScreen(thresholds=no_thresholds(2), dim=48, basis=axes, widths=(8, 48), features=features)
    at, looks = UpperLogits.at, []

    def spied(self: UpperLogits, level: int, index: Tensor, chosen: Tensor | None = None) -> Tensor:
        looks.append(640 if chosen is None else len(chosen))
        return at(self, level, index, chosen)

    monkeypatch.setattr(UpperLogits, "at", spied)
    upper = UpperLogits.of(rows, screen, query, whole(rows), None, None)
    found = assert_honest(upper, lambda upper, wanted: screened(upper, wanted, allowing(0.5), limit=50))
    assert looks == [640, 64]
    assert found.certified.tolist() == [True]


def test_the_sum_rule_tells_something(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(500, 32, generator).float(), None)
    for widths, t in (((8, 16), 0.95), ((32,), 0.6)):
        upper = upper_logits(rows, make_query(rows, generator, 32, (t,)), widths=widths)
        shares = [strongest(upper, Wanted(), count) for count in (1, 4, 16, 64, 256)]
        logs = torch.stack([found.log_omitted - found.state.lse for found in shares])
        assert bool((logs[1:] <= logs[:-1]).all())
        assert float(logs[2].median()) < math.log(1e-3)
    # a screen as wide as the data bounds what is left out by little more than it is
    found = strongest(upper, Wanted(top_k=4), 4)
    logits = reference_logits(rows, upper.query, whole(rows))
    left_out = logits.scatter(1, found.state.top_rows, -torch.inf).logsumexp(1)
    assert_close(found.log_omitted, left_out, "rounded upper logits")


def test_shortlists_of_disjoint_rows_join(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(200, 24, generator).float(), None)
    query = make_query(rows, generator, 16, (0.5, 0.9))
    cuts = [Span(0, 70), Span(70, 71), Span(71, 200)]

    def joined(upper: UpperLogits, wanted: Wanted) -> Shortlist:
        total = Shortlist.nothing(len(query), 24, wanted.top_k, rows.device)
        for span in cuts:
            total = total.joined(strongest(replace(upper, span=span), wanted, 2))
        return total

    assert int(assert_honest(upper_logits(rows, query), joined).survivors.max()) == 5


def test_an_empty_batch_has_an_empty_shortlist(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(100, 24, generator).float(), None)
    upper = upper_logits(rows, make_query(rows, generator, 16).take(torch.arange(0)))
    for found in either(upper, Wanted(top_k=2)):
        assert len(found.certified) == 0
        assert found.state.mean.shape == (0, 24)
