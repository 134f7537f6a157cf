"""Screens of 8-bit rows: bounds that hold, in integers and in floats, for every row, scale, weight, class and time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import centred, make_query, whole
from screen_cases import TIMES, assert_bounded, assert_bounded_everywhere, noised, slack
from tolerances import assert_within

from oracle_engine.kernels import Query, Rows, Span, Wanted, Work, prepare_rows, reference_logits
from oracle_engine.kernels.native.library import NativeLibrary
from oracle_engine.kernels.screens.bounds.query_bounds import SideInformation
from oracle_engine.kernels.screens.bounds.screen import Screen
from oracle_engine.kernels.screens.bounds.shared_products import SharedProducts
from oracle_engine.kernels.screens.bounds.upper_bounds import UpperLogits
from oracle_engine.kernels.screens.choice.choose import best_screen, with_thresholds
from oracle_engine.kernels.screens.kinds import int8_products
from oracle_engine.kernels.screens.kinds.exact8 import stored_screen
from oracle_engine.kernels.screens.kinds.int8 import CodeScreen, code_screen
from oracle_engine.kernels.screens.kinds.int8_products import LARGEST, product_cost, products, two_digits
from oracle_engine.kernels.screens.searches.cascade import screened
from oracle_engine.kernels.screens.searches.shortlist import FixedAllowance

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EIGHT = (torch.uint8, torch.int8)

# of 8-bit products in floats and in integers
COSTS = (1.0, 0.5)


def screens(rows: Rows, cost: float = 1.0) -> list[Screen]:
    """Return the screens of 8-bit rows that these rows can have."""
    return [stored_screen(rows, cost)] if rows.stored.dtype in EIGHT else [code_screen(rows, product_cost=cost)]


@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(FLOATS + EIGHT),
    st.sampled_from([1, 2, 17, 65, 200]),
    st.sampled_from([1, 8, 17, 64, 300, 520]),
    st.booleans(),
    st.sampled_from(COSTS),
)
def test_upper_logits_are_above_logits(
    generator: torch.Generator, family: str, dtype: torch.dtype, count: int, dim: int, weighted: bool, cost: float
) -> None:
    weights = torch.rand(count, generator=generator).double().pow(8) + 1e-30 if weighted else None
    rows = prepare_rows(stored_as(FAMILIES[family](count, dim, generator), dtype), weights)
    for screen in screens(rows, cost):
        assert_bounded_everywhere(rows, screen, generator)


@given(generators(), st.sampled_from(COSTS), st.sampled_from([1e-12, 1.0, 1e3]))
def test_any_codes_and_scales_bound(generator: torch.Generator, cost: float, size: float) -> None:
    # codes that have nothing to do with the rows: what they leave out is bounded all the same
    rows = prepare_rows(normal(90, 48, generator), torch.rand(90, generator=generator).double())
    scale = size * torch.rand(48, generator=generator, dtype=torch.float64)
    made = code_screen(rows, product_cost=cost)
    codes = torch.randint(-127, 128, (90, 48), generator=generator, dtype=torch.int8)
    left = centred(rows) - codes * scale
    norms = left.norm(dim=1, keepdim=True) * (1 + 2.0**-20)
    features = torch.cat([norms, norms, made.features[:, 2:].double()], 1).float()
    longest = float(codes.double().norm(dim=1).max())
    screen = replace(made, scale=scale, codes=codes, features=features, radius=longest)
    query = make_query(rows, generator, 16, TIMES)
    # decoded rows may be far longer than the rows: rounding is relative to the longest
    assert_bounded(replace(rows, radius=max(rows.radius, size * longest)), screen, query)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("t", [1e-3, 0.5, 0.99])
def test_a_row_whose_remainder_points_along_the_query_meets_the_bound(
    generator: torch.Generator, t: float, cost: float
) -> None:
    # the query is what the codes leave out of the first row: Cauchy and Schwarz are equal, in one block
    rows = prepare_rows(normal(60, 200, generator), None)
    screen = code_screen(rows, product_cost=cost)
    left = centred(rows)[:1] - screen.codes[:1] * screen.scale
    times = torch.tensor([t], dtype=torch.float64)
    query = Query(1e3 * left, times, (1 - times).pow(-2), torch.zeros(1, 0, 2).long())
    above = slack(rows, screen, query)[0]
    assert bool((above >= 0.0).all())
    scale = query.gain * (query.norm * rows.radius + query.alpha * rows.radius**2)
    assert_within(above[0] / scale, "upper logits" if cost == 1.0 else "rounded upper logits")


@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize("cost", COSTS)
def test_stored_rows_leave_nothing_to_bound_but_rounding(
    generator: torch.Generator, dtype: torch.dtype, cost: float
) -> None:
    rows = prepare_rows(torch.randint(0, 120, (150, 96), generator=generator).to(dtype), None)
    screen = stored_screen(rows, cost)
    assert screen.nbytes == 0
    query = make_query(rows, generator, 16, (0.1, 0.5, 0.9))
    scale = query.gain * (query.norm * rows.radius + query.alpha * rows.radius**2)
    above = slack(rows, screen, query)[0]
    assert bool((above >= 0.0).all())
    assert_within(above / scale, "two digits" if cost < 1.0 else "upper logits")


def test_outliers_do_not_coarsen_the_other_rows(generator: torch.Generator) -> None:
    points = normal(300, 64, generator)
    points[7, 3] = 1e4
    rows = prepare_rows(points.float(), None)
    left = code_screen(rows).features[:, 1]
    assert float(left[7]) > 1e3
    calm = code_screen(prepare_rows(normal(300, 64, generator).float(), None)).features[:, 1]
    # the column of the outlier alone is coarser
    assert float(left.median()) < 600 * float(calm.median())
    assert_bounded(rows, code_screen(rows), make_query(rows, generator, 16, TIMES))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("cost", COSTS)
def test_a_known_source_narrows_the_bounds_of_codes(generator: torch.Generator, t: float, cost: float) -> None:
    rows = prepare_rows(normal(150, 600, generator).float(), None)
    screen = code_screen(rows, product_cost=cost)
    query, source, _ = noised(rows, t, 1000, generator)
    blind, known = slack(rows, screen, query)[0], slack(rows, screen, query, SideInformation(source))[0]
    assert int((known < 0.0).any(0).sum()) == 0
    if t < 0.2:
        assert float(known.mean()) < 0.7 * float(blind.mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_shared_products_are_used_or_ignored(generator: torch.Generator, dtype: torch.dtype) -> None:
    rows = prepare_rows(stored_as(normal(130, 48, generator), dtype), None)
    query = make_query(rows, generator, 16, (1e-3, 0.1, 0.5, 0.9, 0.999), excluded=1)
    for screen in screens(rows):
        start = query.point + 0.05 * rows.radius / 7 * normal(16, 48, generator)
        side = SideInformation(shared_products=SharedProducts.of(rows, start))
        assert_bounded(rows, screen, query, side)
        assert_bounded(rows, screen, query, side, span=Span(30, 100))


@given(generators(), st.sampled_from(EIGHT), st.sampled_from([1, 16, 17, 300]), st.sampled_from([8, 64, 3072]))
def test_sums_of_digits_are_exact(generator: torch.Generator, dtype: torch.dtype, count: int, dim: int) -> None:
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    rows = torch.randint(low, high, (count, dim), generator=generator).to(dtype)
    factors = two_digits(normal(5, dim, generator) * 10.0 ** torch.arange(-20, 30, 10)[:, None])
    assert torch.equal(two_digits(factors), factors)
    out = torch.empty(count, 5)
    products(rows, factors, out, integers=True)
    truth = rows.double() @ factors.T
    # one rounding to float32
    assert bool(((out - truth).abs() <= 2.0**-23 * truth.abs()).all())
    steps = factors.abs().amax(1) / LARGEST
    assert_within((factors / steps[:, None]).round() - factors / steps[:, None], "float64")


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("cost", COSTS)
def test_a_shortlist_leaves_out_no_more_than_it_says(
    generator: torch.Generator, dtype: torch.dtype, cost: float
) -> None:
    rows = prepare_rows(stored_as(normal(400, 64, generator), dtype), None)
    query = make_query(rows, generator, 32, (0.3, 0.6, 0.9, 0.99), excluded=1)
    for screen in screens(rows, cost):
        upper = UpperLogits.of(Work(rows, query, whole(rows), Wanted(top_k=400)), screen, SideInformation())
        found = screened(upper, FixedAllowance(1e-6), limit=200)
        named = torch.zeros(32, 401, dtype=torch.bool)
        named.scatter_(1, found.state.top_rows.where(found.state.top_rows >= 0, 400), value=True)
        left_out = reference_logits(rows, query, whole(rows)).masked_fill(named[:, :400], -torch.inf).logsumexp(1)
        assert bool((left_out <= found.log_omitted)[found.certified].all())
        assert int(found.certified.sum()) >= 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("weighted", [False, True])
def test_appended_rows_keep_a_screen(generator: torch.Generator, dtype: torch.dtype, weighted: bool) -> None:
    weights = torch.rand(150, generator=generator).double() if weighted else None
    rows = prepare_rows(stored_as(normal(150, 48, generator), dtype), weights)
    kept = torch.randperm(150, generator=generator)[:100]
    log_weights = None if rows.log_weights is None else rows.log_weights[kept] + 1.0
    first = replace(rows, stored=rows.stored[kept], half_norms=rows.half_norms[kept], log_weights=log_weights)
    for screen in screens(first):
        extended = screen.extended(rows, kept)
        assert len(extended) == 150
        assert_bounded(rows, extended, make_query(rows, generator, 16, TIMES))
        if isinstance(screen, CodeScreen) and isinstance(extended, CodeScreen):
            assert torch.equal(extended.codes[kept], screen.codes)


def test_a_kind_is_chosen_where_few_samples_have_weight(generator: torch.Generator) -> None:
    weights = torch.zeros(4096, dtype=torch.float64)
    weights[[8, 10]] = 1.0
    # a sample of the rows that missed both would have no posterior
    screen, reason = best_screen(prepare_rows(normal(4096, 96, generator).float(), weights), sample=64)
    assert screen is not None
    assert "pca saves" in reason


@pytest.mark.usefixtures("portable")
def test_kinds_compete_on_what_they_save(generator: torch.Generator) -> None:
    flat = prepare_rows(normal(300, 256, generator).float(), None)
    low = prepare_rows((normal(300, 6, generator) @ normal(6, 256, generator)).float(), None)
    # where 8-bit products are quick, codes prove what no few coordinates of flat data do
    found = {name: best_screen(rows, product_cost=0.25) for name, rows in (("flat", flat), ("low", low))}
    assert {name: screen.kind for name, (screen, _) in found.items() if screen} == {"flat": "int8", "low": "pca"}
    assert "int8 saves" in found["flat"][1]
    assert "pca saves" in found["flat"][1]
    # elsewhere a product with codes costs what a scan does
    screen, reason = best_screen(flat, product_cost=1.0)
    assert screen is None or screen.kind == "pca"
    assert "int8 costs what a scan does" in reason


@pytest.mark.usefixtures("portable")
def test_what_is_saved_is_what_is_certified_less_its_cost(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(400, 64, generator).float(), None)
    variance = float(2 * rows.half_norms.mean()) / 64
    saved, tried = {}, {}
    for cost in (0.25, 0.5):
        found = with_thresholds(rows, code_screen(rows, product_cost=cost))
        thresholds = [least for (least,) in found.screen.thresholds]
        assert all(0.0 < least < math.inf for least in thresholds)
        saved[cost] = found.saved
        # where it is tried: noise up to its SNR threshold, as a share of noise and signal
        tried[cost] = sum(1 / (1 + math.sqrt(least * variance)) for least in thresholds) / 3
    assert 0.24 * tried[0.5] < saved[0.25] - saved[0.5] < 0.26 * tried[0.25]
    assert 0.5 * tried[0.25] < saved[0.25] < 0.75 * tried[0.25]


def test_a_product_costs_no_more_than_a_converted_one() -> None:
    assert 0.0 < product_cost(torch.device("cpu")) <= 1.0


def test_nothing_is_built_where_nothing_pays(generator: torch.Generator) -> None:
    # two thousand copies of each of two samples share every posterior
    screen, reason = best_screen(prepare_rows(normal(2, 96, generator).repeat(2000, 1).float(), None))
    assert screen is None
    assert reason.startswith("pca saves 0% of the products")


@pytest.mark.parametrize(("target", "sooner"), [("amx", True), ("v4", True), ("v3", False), (None, False)])
def test_native_products_of_bytes_count_where_a_library_has_them(
    monkeypatch: pytest.MonkeyPatch, target: str | None, sooner: bool
) -> None:
    monkeypatch.setattr(int8_products, "native_library", lambda: NativeLibrary(None, target, "as it is told"))
    assert int8_products.native_bytes(torch.device("cpu")) is sooner
    assert not int8_products.native_bytes(torch.device("cuda"))
    assert (int8_products.given_or_timed(None, torch.device("cpu"), 1) < 0.5) is sooner
