"""Codes of leading coordinates: bounds that hold in integers and floats, at every level, with and without sources."""

from __future__ import annotations

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import make_query
from screen_cases import TIMES, assert_bounded, assert_bounded_everywhere, noised, slack

from oracle_engine.kernels import Rows, prepare_rows
from oracle_engine.kernels.screens.bounds.query_bounds import SideInformation
from oracle_engine.kernels.screens.bounds.shared_products import SharedProducts
from oracle_engine.kernels.screens.kinds.pca8 import LeadingCodeScreen, leading_code_screen

# of 8-bit products in floats and in integers
COSTS = (1.0, 0.5)

WIDTHS = (24, 40)


def screen_of(rows: Rows, cost: float = 1.0) -> LeadingCodeScreen:
    return leading_code_screen(rows, WIDTHS, product_cost=cost)


@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from([torch.uint8, torch.int8, torch.float16, torch.float32, torch.float64]),
    st.sampled_from([48, 130]),
    st.sampled_from([48, 72]),
    st.booleans(),
    st.sampled_from(COSTS),
)
def test_upper_logits_are_above_logits(
    generator: torch.Generator, family: str, dtype: torch.dtype, count: int, dim: int, weighted: bool, cost: float
) -> None:
    weights = torch.rand(count, generator=generator).double().pow(8) + 1e-30 if weighted else None
    rows = prepare_rows(stored_as(FAMILIES[family](count, dim, generator), dtype), weights)
    assert_bounded_everywhere(rows, screen_of(rows, cost), generator)


def test_outliers_are_cut_and_bounded(generator: torch.Generator) -> None:
    points = normal(300, 64, generator)
    points[7, 3] = 1e4
    rows = prepare_rows(points.float(), None)
    assert_bounded(rows, screen_of(rows), make_query(rows, generator, 16, TIMES))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("cost", COSTS)
def test_a_known_source_narrows_the_bounds(generator: torch.Generator, t: float, cost: float) -> None:
    rows = prepare_rows(normal(150, 600, generator).float(), None)
    query, source, _ = noised(rows, t, 1000, generator)
    screen = screen_of(rows, cost)
    pairs = zip(slack(rows, screen, query), slack(rows, screen, query, SideInformation(source)), strict=True)
    for blind, known in pairs:
        assert int((known < 0.0).any(0).sum()) == 0
        assert float(known.mean()) <= (0.7 if t < 0.2 else 1.0) * float(blind.mean())


def test_shared_products_are_used(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(130, 48, generator).float(), None)
    query = make_query(rows, generator, 16, (1e-3, 0.1, 0.5, 0.9, 0.999), excluded=1)
    start = query.point + 0.05 * rows.radius / 7 * normal(16, 48, generator)
    side = SideInformation(shared_products=SharedProducts.of(rows, start))
    blind, known = slack(rows, screen_of(rows), query), slack(rows, screen_of(rows), query, side)
    for without, beside in zip(blind, known, strict=True):
        assert bool((beside >= 0.0).all())
        assert float(beside.mean()) < float(without.mean())


def test_more_codes_bound_more_closely_than_as_many_bytes_of_coordinates(generator: torch.Generator) -> None:
    rows = prepare_rows((normal(400, 96, generator) * torch.linspace(2.0, 0.1, 96)).float(), None)
    first, last = slack(rows, screen_of(rows), make_query(rows, generator, 16, (0.6,)))
    assert float(last.mean()) < float(first.mean())
