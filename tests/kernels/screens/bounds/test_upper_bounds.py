"""No logit is above its upper logit: every basis, width, storage, time, weight, and what is known of a query."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import centred, make_query, whole
from screen_cases import TIMES, UNKNOWN, assert_bounded, assert_bounded_everywhere, noised, slack, whole_logits
from tolerances import assert_close, assert_within

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import Query, Rows, Span, Work, prepare_rows
from oracle_engine.kernels.common.rescore import Pairs, product_error, product_logits
from oracle_engine.kernels.screens.bounds.nearest import nearest_distances
from oracle_engine.kernels.screens.bounds.query_bounds import SideInformation
from oracle_engine.kernels.screens.bounds.screen import no_thresholds
from oracle_engine.kernels.screens.bounds.shared_products import SharedProducts
from oracle_engine.kernels.screens.bounds.upper_bounds import UpperLogits
from oracle_engine.kernels.screens.kinds.pca import PrincipalScreen, principal_screen
from oracle_engine.kernels.screens.kinds.principal_coordinates import row_features


def some_widths(rows: Rows) -> tuple[int, ...]:
    most = min(len(rows), rows.dim)
    return tuple(sorted({max(1, most // 16), max(1, most // 2), most}))


def random_screen(rows: Rows, widths: tuple[int, ...], generator: torch.Generator) -> PrincipalScreen:
    """Return a screen in directions that have nothing to do with the data."""
    basis = torch.linalg.qr(normal(rows.dim, widths[-1], generator)).Q
    features = row_features(rows, basis, widths, whole(rows))
    return PrincipalScreen(
        thresholds=no_thresholds(len(widths)), dim=rows.dim, basis=basis, widths=widths, features=features
    )


@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([1, 2, 17, 64, 65, 200]),
    st.sampled_from([1, 2, 17, 64, 300]),
    st.booleans(),
    st.booleans(),
)
def test_upper_logits_are_above_logits(
    generator: torch.Generator, family: str, dtype: torch.dtype, count: int, dim: int, fitted: bool, weighted: bool
) -> None:
    weights = torch.rand(count, generator=generator).double().pow(8) + 1e-30 if weighted else None
    rows = prepare_rows(stored_as(FAMILIES[family](count, dim, generator), dtype), weights)
    widths = some_widths(rows)
    screen = principal_screen(rows, widths) if fitted else random_screen(rows, widths, generator)
    assert_bounded_everywhere(rows, screen, generator)


def test_samples_without_weight_are_bounded(generator: torch.Generator) -> None:
    weights = (torch.arange(100) % 3).double()
    rows = prepare_rows(normal(100, 20, generator).float(), weights)
    assert_bounded(rows, principal_screen(rows, (4, 8)), make_query(rows, generator, 16, TIMES))


def test_float64_samples_far_from_zero_keep_their_digits(generator: torch.Generator) -> None:
    rows = prepare_rows(1e6 + normal(150, 48, generator), None)
    query = make_query(rows, generator, 16, TIMES)
    assert_bounded(rows, principal_screen(rows, (4, 8, 48)), query)
    which, row = torch.arange(16).repeat_interleave(150), torch.arange(150).repeat(16)
    found = product_logits(rows, query, Pairs(which, row, torch.zeros(2400, dtype=torch.float64)))
    error = (found.reshape(16, 150).T - whole_logits(rows, query)).abs()
    assert bool((error <= product_error(rows, query)).all())


@pytest.mark.parametrize("t", [1e-3, 0.5, 0.99])
def test_rows_along_the_query_meet_the_bound(generator: torch.Generator, t: float) -> None:
    # every part of such a row points as the same part of the query does: Cauchy and Schwarz are equal
    point = normal(1, 200, generator)
    lengths = torch.tensor([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], dtype=torch.float64)
    rows = prepare_rows(lengths[:, None] * point, None)
    times = torch.tensor([t], dtype=torch.float64)
    query = Query(t * point, times, (1 - times).pow(-2), torch.zeros(1, 0, 2).long())
    scale = query.gain * (query.norm * rows.radius + query.alpha * rows.radius**2)
    for above in slack(rows, random_screen(rows, (3, 90, 170), generator), query):
        assert bool((above >= 0.0).all())
        assert_within(above[3:] / scale, "upper logits")


@pytest.mark.parametrize("rank", [4, 40])
def test_a_screen_that_holds_all_of_the_data_leaves_nothing_to_bound(generator: torch.Generator, rank: int) -> None:
    rows = prepare_rows(normal(90, rank, generator) @ normal(rank, 40, generator), None)
    query = make_query(rows, generator, 16, (0.1, 0.5, 0.9))
    scale = query.gain * (query.norm * rows.radius + query.alpha * rows.radius**2)
    for above in slack(rows, principal_screen(rows, (rank,)), query):
        assert bool((above >= 0.0).all())
        # coordinates beyond the rank have no norm but what float32 leaves of it: the root of a roundoff
        assert_within(above / scale, "upper logits" if rank == 40 else "vanished norms")


def test_chosen_rows_have_the_bounds_they_have_among_all(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(200, 48, generator).float(), None)
    query = make_query(rows, generator, 8, excluded=1)
    upper = UpperLogits.of(Work(rows, query, Span(20, 190)), principal_screen(rows, (4, 8)), UNKNOWN)
    index, chosen = torch.tensor([5, 0, 3]), torch.tensor([150, 21, 40, 189])
    some = upper.take(index)
    picked, among_all = some.at(1, chosen), some.at(1)
    assert_close(among_all, upper.at(1)[:, index], "float32 sums")
    assert_close(picked[:4], among_all[chosen - 20], "float32 sums")
    assert bool((picked[4:] == -torch.inf).all())


@pytest.mark.parametrize("t", [0.2, 0.7, 0.99])
def test_the_bound_of_a_known_source_holds_for_gaussian_noise(generator: torch.Generator, t: float) -> None:
    # little is left of a row beyond the screen, much of the noise
    rows = prepare_rows(FAMILIES["one direction"](150, 300, generator).float(), None)
    screen = principal_screen(rows, (4, 8))
    query, source, _ = noised(rows, t, 2000, generator)
    blind, known = slack(rows, screen, query), slack(rows, screen, query, SideInformation(source))
    for without, above in zip(blind, known, strict=True):
        assert int((above < 0.0).any(0).sum()) == 0
        # what it is for: the others are bounded lower
        if t < 0.9:
            assert float(above.mean()) < 0.8 * float(without.mean())
    # a probability of failure is one: no more queries fail than that, and the bound is lower still
    even = slack(rows, screen, query, SideInformation(replace(source, failure=0.5)))
    assert float(torch.stack([(above < 0.0).any(0) for above in even]).any(0).double().mean()) <= 0.5
    assert float(even[0].mean()) < float(known[0].mean())


def test_queries_without_a_source_have_the_bound_of_all_queries(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(100, 48, generator).float(), None)
    screen = principal_screen(rows, (4, 8))
    # where noise is most of the query and a failure is likely, knowing the source is sure to help
    query, source, _ = noised(rows, 0.1, 10, generator)
    mixed = replace(source, row=torch.where(torch.arange(10) % 2 == 0, -1, source.row), failure=0.5)
    for blind, some in zip(slack(rows, screen, query), slack(rows, screen, query, SideInformation(mixed)), strict=True):
        assert torch.equal(blind[:, ::2], some[:, ::2])
        assert bool((some[:, 1::2].mean(0) < blind[:, 1::2].mean(0)).all())


def test_a_source_never_widens_the_bound_of_a_typical_row(generator: torch.Generator) -> None:
    # of short rows late in t: the tail of the noise is longer than all of it
    rows = prepare_rows(normal(100, 24, generator).float(), None)
    screen = principal_screen(rows, (4, 8))
    query, source, _ = noised(rows, 0.95, 10, generator)
    for blind, some in zip(
        slack(rows, screen, query), slack(rows, screen, query, SideInformation(source)), strict=True
    ):
        assert bool((some.mean(0) <= 1.05 * blind.mean(0)).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_a_query_is_no_noise(generator: torch.Generator, dtype: torch.dtype) -> None:
    rows = prepare_rows(normal(150, 48, generator).float(), None)
    screen = principal_screen(rows, (4, 8))
    query, source, blur = noised(rows, 1 - 1e-4, 1000, generator, dtype)
    assert_bounded(rows, screen, query, SideInformation(replace(source, blur=blur)))
    # rounding is many times the noise here: taken for noise it breaks the bound
    assert any(bool((above < 0.0).any()) for above in slack(rows, screen, query, SideInformation(source)))


@given(generators(), st.sampled_from(["own", "near", "other", "zero"]), st.booleans())
def test_shared_products_bound_from_any_point(generator: torch.Generator, which: str, weighted: bool) -> None:
    weights = torch.rand(130, generator=generator).double() if weighted else None
    rows = prepare_rows(normal(130, 48, generator).float(), weights)
    screen = principal_screen(rows, (4, 8))
    query = make_query(rows, generator, 16, (1e-3, 0.1, 0.5, 0.9, 0.999), excluded=1)
    other = normal(16, 48, generator)
    point = {"own": query.point, "near": query.point + 0.05 * other, "other": other, "zero": 0 * other}[which]
    side = SideInformation(shared_products=SharedProducts.of(rows, point))
    assert_bounded(rows, screen, query, side)
    assert_bounded(rows, screen, query, side, span=Span(30, 100))
    if which == "own":
        # nothing is left to bound
        scale = query.gain * (query.norm * rows.radius + query.alpha * rows.radius**2) + 10.0 * weighted
        assert_within(slack(rows, screen, query, side)[0] / scale, "upper logits")


def test_appended_rows_keep_a_screen(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(150, 48, generator).float(), torch.rand(150, generator=generator).double())
    assert rows.log_weights is not None
    first = replace(
        rows, stored=rows.stored[:100], half_norms=rows.half_norms[:100], log_weights=rows.log_weights[:100]
    )
    screen = principal_screen(first, (4, 8))
    extended = screen.extended(rows, torch.arange(100))
    assert len(extended) == 150
    for part, at_once in zip(extended.features, row_features(rows, screen.basis, (4, 8), whole(rows)), strict=True):
        assert_close(part, at_once, "float32 sums", rows.radius**2)
    assert_bounded(rows, extended, make_query(rows, generator, 16, TIMES))


@pytest.mark.parametrize("family", ["gaussian", "far from zero", "one direction"])
def test_the_basis_is_orthonormal_and_drawn_in_private(generator: torch.Generator, family: str) -> None:
    rows = prepare_rows(FAMILIES[family](120, 48, generator).float(), None)
    before = torch.get_rng_state()
    screen, again = principal_screen(rows, (4, 8)), principal_screen(rows, (4, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(screen.basis, again.basis)
    assert_close(screen.basis.T @ screen.basis, torch.eye(8, dtype=torch.float64), "float64")
    # leading directions hold more of the data than any others would
    held = (centred(rows) @ screen.basis).square().sum()
    by_chance = (centred(rows) @ torch.linalg.qr(normal(48, 8, generator)).Q).square().sum()
    assert held > by_chance


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("count", [1, 2, 130])
def test_neighbours_are_no_nearer_than_said(generator: torch.Generator, family: str, count: int) -> None:
    rows = prepare_rows(FAMILIES[family](count, 48, generator).float(), None)
    said = nearest_distances(principal_screen(rows, some_widths(rows)).vectors(rows)).double()
    gaps = torch.cdist(centred(rows), centred(rows), compute_mode="donot_use_mm_for_euclid_dist")
    true = gaps.fill_diagonal_(torch.inf).amin(1)
    assert bool((said <= true).all())
    if family == "gaussian" and count > 2:
        assert bool((said > 0.9 * true).all())
