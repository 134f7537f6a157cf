"""A search on a card leaves out no more than it says, through several levels, and as the portable cascade does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from closed_form import clusters, near_duplicates, normal, stored_as
from kernel_problems import BAR
from late_cases import TIMES as ALL_TIMES
from late_cases import prepared, queries
from row_cases import make_query, whole
from screen_cases import Masses, assert_honest, assert_untouched, made, noised, ruled_out_by_the_first_level
from torch import Tensor

from oracle_engine import InputError, OracleEngine
from oracle_engine.kernels import PosteriorState, Rows, Span, Wanted, Work, gpu, prepare_rows
from oracle_engine.kernels.common.search import Mass, Searched
from oracle_engine.kernels.gpu.late import search
from oracle_engine.kernels.screens import (
    FixedAllowance,
    SearchCosts,
    SharedProducts,
    Shortlist,
    SideInformation,
    UpperLogits,
    entries_on_card,
    screened,
)
from oracle_engine.kernels.screens.searches import card_call
from oracle_engine.kernels.screens.searches.cascade import entry_levels, tried
from oracle_engine.search.routes import VelocityAllowance

TIMES = (0.05, 0.4, 0.7, 0.9, 0.99)

UNKNOWN = SideInformation()

CASES = [
    ("pca", torch.float16, True),
    ("pca8", torch.float32, True),
    ("exact8", torch.uint8, False),
    ("int8", torch.bfloat16, False),
]


@pytest.fixture(autouse=True)
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are on a card whose kernels have been proven."""
    monkeypatch.setattr(gpu, "proven_card", lambda device, task: True)


def rows_of(
    count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32, *, weighted: bool = False
) -> Rows:
    weights = torch.rand(count, generator=generator).double() + 1e-9 if weighted else None
    return prepare_rows(stored_as(clusters(count, 48, generator), dtype), weights)


def upper_of(
    kind: str, rows: Rows, generator: torch.Generator, batch: int = 18, *, excluded: int = 0, span: Span | None = None
) -> UpperLogits:
    query = make_query(rows, generator, batch, TIMES, excluded=excluded)
    return UpperLogits.of(Work(rows, query, span or whole(rows)), made(kind, rows), UNKNOWN)


def found_by(upper: UpperLogits, mass: float = 1e-6, limit: int | None = 60, entry: Tensor | None = None) -> Shortlist:
    return screened(upper, FixedAllowance(mass), entry=entry, limit=limit)


def off_card() -> Any:
    """Return a context in which rows are on no card."""
    return patch.object(gpu, "proven_card", lambda device, task: False)


def on_torch(upper: UpperLogits, mass: float = 1e-6, limit: int | None = 60) -> Shortlist:
    """Return what the cascade finds without kernels of a card."""
    with off_card():
        return found_by(replace(upper), mass, limit)


@pytest.mark.parametrize(("kind", "dtype", "weighted"), CASES, ids=str)
def test_no_more_is_left_out_than_is_said(
    kind: str, dtype: torch.dtype, weighted: bool, generator: torch.Generator
) -> None:
    rows = rows_of(300, generator, dtype, weighted=weighted)
    upper = upper_of(kind, rows, generator, 35, excluded=2, span=Span(20, 290))
    found = assert_honest(upper, found_by)
    some = found.certified
    # two levels leave out their part each, and the last tile counts as full
    assert bool(((found.log_omitted - found.state.lse)[some].exp() <= 4e-6).all())
    # nearly as many as by other means, which multiply codes with two digits
    assert int(some.sum()) >= 0.8 * int(on_torch(upper).certified.sum())
    assert 0.3 < float(some.double().mean()) < 1.0


@pytest.mark.parametrize("knowledge", ["source", "trajectory"])
def test_what_is_known_of_queries_narrows_the_search(knowledge: str, generator: torch.Generator) -> None:
    rows = rows_of(300, generator)
    query, source, blur = noised(rows, 0.8, 20, generator)
    side = SideInformation(replace(source, blur=blur))
    if knowledge == "trajectory":
        side = SideInformation(None, SharedProducts.of(rows, query.point + 0.1 * normal(20, 48, generator)))
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made("pca8", rows), side)
    known, unknown = assert_honest(upper, found_by), found_by(replace(upper, side=UNKNOWN))
    assert bool(known.certified.all())
    assert int(known.survivors.sum()) <= int(unknown.survivors.sum())


@pytest.mark.parametrize("count", [1, 5, 64, 65])
def test_few_rows_are_enough(count: int, generator: torch.Generator) -> None:
    rows = prepare_rows(normal(count, 12, generator).float(), None)
    upper = upper_of("pca", rows, generator, 3)
    found = assert_honest(upper, partial(found_by, limit=100))
    assert bool(found.certified.all())


def test_nothing_that_counts_is_found_without_weight(generator: torch.Generator) -> None:
    upper = upper_of("pca8", rows_of(100, generator), generator, 3)
    none = torch.tensor([[[0, 100]]]).expand(3, 1, 2)
    work = replace(upper.work, query=upper.work.query.excluding(none))
    found = found_by(replace(upper, work=work))
    assert bool((found.state.lse == -torch.inf).all())
    assert bool((found.log_omitted < -1e30).all())
    assert found.survivors.tolist() == [0, 0, 0]


def test_queries_that_too_many_rows_matter_to_stay_pending(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prepare_rows(normal(300, 48, generator).float(), None)
    query = make_query(rows, generator, 34, (0.05, 0.95))
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made("pca", rows), UNKNOWN)
    for limit, slots in ((30, 256), (None, 30)):
        monkeypatch.setattr(search, "ALL_SLOTS", 1)
        monkeypatch.setattr(search, "LEAST_SLOTS", slots)
        found = assert_honest(upper, partial(found_by, limit=limit))
        assert found.certified.tolist() == [False, True] * 17
        assert 1 <= int(found.survivors.max()) <= 30


def test_lists_are_filled_by_several_programs(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prepare_rows(near_duplicates(620, 48, generator).float(), None)
    upper = upper_of("pca", rows, generator, 9)
    expected = found_by(upper, limit=200)
    monkeypatch.setattr(search, "LIST_BLOCK", 2)
    monkeypatch.setattr(search, "LIST_TILES", 2)
    found = assert_honest(upper, partial(found_by, limit=200))
    assert torch.equal(found.certified, expected.certified)
    assert torch.equal(found.survivors, expected.survivors)
    assert torch.equal(found.state.lse, expected.state.lse)


def test_queries_enter_where_they_are_told_to(generator: torch.Generator) -> None:
    upper = upper_of("pca", rows_of(300, generator), generator, 30)
    entry = torch.tensor([0, 1, 2]).repeat(10)
    found = assert_honest(upper, partial(found_by, entry=entry))
    assert_untouched(found, entry == 2)
    assert not bool(found.certified[entry == 2].any())
    for level in (0, 1):
        same = entry == level
        expected = found_by(upper, entry=torch.full_like(entry, level))
        assert torch.equal(found.certified[same], expected.certified[same])
        assert torch.equal(found.survivors[same], expected.survivors[same])
        assert torch.equal(found.log_omitted[same], expected.log_omitted[same])


def test_deeper_levels_find_more(generator: torch.Generator) -> None:
    upper = upper_of("pca", rows_of(300, generator), generator, 20)
    found = assert_honest(upper, found_by)
    first, second = (tried(upper, level, 1e-6) for level in (0, 1))
    assert first.share < second.share <= float(found.certified.double().mean())
    assert min(first.cost, second.cost) > 0.0
    assert not first.complete


def test_what_the_first_level_leaves_out_is_counted_at_the_next() -> None:
    # each of the rows that it rules out weighs little, together they are nearly all that is left out
    found = assert_honest(ruled_out_by_the_first_level(), partial(found_by, mass=0.5, limit=50))
    assert found.certified.tolist() == [True]
    assert found.survivors.tolist() == [40]


def test_each_query_has_its_own_allowance(generator: torch.Generator) -> None:
    upper = upper_of("pca8", rows_of(300, generator), generator, 20)
    mass = torch.tensor([1e-2, 1e-8], dtype=torch.float64).repeat(10)
    found = assert_honest(upper, lambda upper: screened(upper, Masses(mass), limit=100))
    some, omitted = found.certified, (found.log_omitted - found.state.lse).exp()
    assert bool((omitted <= 4.0 * mass)[some].all())
    assert bool((omitted > 1e-7)[some & (mass > 1e-3)].any())


def test_parts_of_a_batch_are_found_as_all_of_it(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    upper = upper_of("pca8", rows_of(200, generator), generator, 40)
    entry = torch.tensor([0, 2]).repeat(20)
    expected = found_by(upper, entry=entry)
    monkeypatch.setattr(card_call, "TILE_BYTES", 1)
    found = found_by(replace(upper), entry=entry)
    assert torch.equal(found.certified, expected.certified)
    assert torch.equal(found.survivors, expected.survivors)


@pytest.mark.parametrize("knowledge", ["nothing", "source", "trajectory"])
@pytest.mark.parametrize(
    ("thresholds", "changed"),
    [
        ((0.5, 0.0), {}),
        ((20.0, 2.0), {}),
        ((math.inf, 3.0), {"call": 1e3}),
        ((3.0, math.inf), {"starts": (1e3, 0.0)}),
        ((3.0, math.inf), {"queries": (1e9, 0.0)}),
    ],
    ids=str,
)
def test_queries_enter_as_the_host_would_have_them(
    thresholds: tuple[float, float], changed: dict[str, Any], knowledge: str, generator: torch.Generator
) -> None:
    rows = rows_of(100, generator)
    query, source, blur = noised(rows, 0.6, 300, generator)
    query = replace(query, inverse_variance=query.inverse_variance * torch.rand(300, generator=generator).double())
    row = torch.where(torch.arange(300) % 2 == 0, -1, source.row)
    side = {
        "nothing": UNKNOWN,
        "source": SideInformation(replace(source, row=row, blur=blur)),
        "trajectory": SideInformation(None, SharedProducts.of(rows, query.point)),
    }[knowledge]
    costs = replace(SearchCosts.by_operations(8, (1, 2)), **changed)
    least = (thresholds, (0.1, 0.1), (1.0, 0.5))
    screen = replace(made("pca", rows), thresholds=least, measured_costs=costs)
    found = entries_on_card(UpperLogits.of(Work(rows, query, whole(rows)), screen, side))
    assert torch.equal(found.long(), entry_levels(screen, query, screen.knowledge(query, side), 100))


def test_only_answers_within_their_errors_are_found(generator: torch.Generator) -> None:
    with off_card():
        engine = prepared("duplicates", "pca")
        t = torch.linspace(0.5, 0.95, 24).double()
        x = queries(engine.data, generator, ALL_TIMES[-1].expand(24)) + normal(24, 64, generator) * (1 - t)[:, None]
        request = engine.request_builder.request(x, t)
    assert engine.index is not None
    assert engine.index.screen is not None
    # some of these are met by what leaves out much
    tolerance = torch.tensor([0.3, 1e-2, 1e-6], dtype=torch.float64).repeat(8)
    allowed = VelocityAllowance(engine.data, request, tolerance, 0.0)
    upper = UpperLogits.of(request.work(engine.data, Wanted()), engine.index.screen, UNKNOWN)
    anyway = screened(upper, Loose(replace(allowed, whole=False)), limit=60)
    found = screened(upper, Loose(allowed), limit=60)
    assert anyway.uncertified is None
    met = anyway.certified & allowed.met_by(anyway.state, anyway.log_omitted)
    assert torch.equal(found.certified, met)
    assert 0 < int(met.sum()) < int(anyway.certified.sum())
    assert found.uncertified is not None
    assert int(found.uncertified) == 24 - int(met.sum())


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("kind", ["pca", "pca8"])
@pytest.mark.parametrize("times", [1e35, 1e80])
def test_queries_whose_bounds_float32_cannot_hold_are_not_found(
    kind: str, times: float, generator: torch.Generator
) -> None:
    upper = upper_of(kind, rows_of(300, generator), generator, 6)
    query = make_query(upper.work.rows, generator, 6, (0.95,))
    far = torch.arange(6)[:, None] % 2 == 0
    query = replace(query, point=torch.where(far, torch.tensor(times, dtype=torch.float64), 1.0) * query.point)
    found = found_by(replace(upper, work=replace(upper.work, query=query)))
    assert found.certified.tolist() == [False, True] * 3


@dataclass(frozen=True)
class Loose:
    """An allowance that leaves out a third of the mass of every query, whatever error that may cause."""

    allowance: VelocityAllowance

    def take(self, index: Tensor) -> Loose:
        return Loose(self.allowance.take(index))

    def __call__(self, state: PosteriorState) -> Tensor:
        return torch.full_like(state.lse, 0.3)

    def allowed(self, batch: int, device: torch.device) -> Mass:
        mass = self.allowance.allowed(batch, device)
        return replace(mass, largest=torch.full_like(mass.largest, 0.3))


def test_what_is_refused_is_refused_after_a_search(generator: torch.Generator) -> None:
    with off_card():
        engine = prepared(spec="pca", backend="triton")
    x = queries(engine.data, generator, torch.full((4,), 0.9).double())
    x[2, 5] = torch.nan
    with pytest.raises(InputError, match=r"`x` must be finite; .*query 2"):
        engine.velocity(x, 0.9)


@pytest.mark.parametrize(
    "options",
    [{}, {"labels": 1}, {"exclude": 3}, {"labels": [0, 2, -1]}, {"labels": [[0, 2], [1, -1], [-1, -1]], "exclude": 3}],
    ids=str,
)
def test_an_engine_certifies_what_the_kernels_find(
    options: dict[str, Any], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with off_card():
        engine = prepared("duplicates", "pca", tolerance=1e-3)
    exact, searches = OracleEngine(engine.data, backend="reference"), []

    def counted(work: Work, *asked: Any) -> Searched:
        searches.append(len(work.query))
        return gpu.gpu_searched(work, *asked)

    monkeypatch.setattr(card_call, "gpu_searched", counted)
    t = ALL_TIMES[ALL_TIMES > 0.3]
    x = queries(engine.data, generator, t)
    if isinstance(options.get("labels"), list):
        each = torch.tensor(options["labels"])
        options = {**options, "labels": each[torch.arange(len(t)) % len(each)]}
    found, true = (side.velocity(x, t, **options) for side in (engine, exact))
    assert searches == [len(t)]
    posterior = engine.posterior(x, t, **options)
    assert posterior.route.count("screen") > 2
    error = (found - true).norm(dim=1) / true.norm(dim=1)
    assert bool((error <= posterior.velocity_error + BAR).all())
    assert bool((posterior.velocity_error <= 1e-3).all())
