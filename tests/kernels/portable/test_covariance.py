"""Products with posterior covariances agree with float64 by direct difference: every storage, regime, hole and span."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from direction_cases import assert_product, late_between_near_samples, vectors_of
from hypothesis import given
from hypothesis import strategies as st
from row_cases import REGIMES, make_query
from tolerances import assert_close, assert_within

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import (
    Directions,
    Span,
    prepare_rows,
    reference_covariance_product,
)
from oracle_engine.kernels.portable import covariance
from oracle_engine.kernels.portable.blocks import BlockLimits, BlockLogits
from oracle_engine.kernels.portable.covariance import covariance_product


@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([1, 3, 64, 65, 300]),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
def test_products_agree_with_float64(
    generator: torch.Generator,
    family: str,
    dtype: torch.dtype,
    dim: int,
    excluded: int,
    weighted: bool,
    curved: bool,
) -> None:
    points = stored_as(FAMILIES[family](90, dim, generator), dtype)
    weights = torch.rand(90, generator=generator).double() + 0.01 if weighted else None
    rows = prepare_rows(points, weights)
    query = make_query(rows, generator, excluded=excluded)
    assert_product(covariance_product, rows, vectors_of(rows, query, generator, curved=curved), Span(0, 90))


@pytest.mark.parametrize("sigma", [1e-5, 1e-6, 1e-7])
@pytest.mark.parametrize("dim", [8, 96])
def test_late_between_two_near_samples(generator: torch.Generator, sigma: float, dim: int) -> None:
    # products of coordinates of one in float64 err by 1e-16 / sigma^2 nats
    rows, query = late_between_near_samples(dim, sigma, generator)
    assert_product(covariance_product, rows, vectors_of(rows, query, generator), Span(0, 300))


@pytest.mark.parametrize("curved", [False, True])
def test_products_of_spans_add_up(generator: torch.Generator, curved: bool) -> None:
    rows = prepare_rows(normal(200, 80, generator).float(), None)
    vectors = vectors_of(rows, make_query(rows, generator), generator, curved=curved)
    spans = [Span(0, 70), Span(70, 71), Span(71, 200)]
    total = sum((covariance_product(rows, vectors, span) for span in spans), torch.zeros(8, 80).double())
    whole = covariance_product(rows, vectors, Span(0, 200))
    unit = vectors.vector.norm(dim=1) / vectors.query.gain + whole.norm(dim=1)
    assert_within((total - whole).norm(dim=1) / unit, "derivative")


@pytest.mark.parametrize("size", [1e-100, 1e-30, 1e30, 1e100])
@pytest.mark.parametrize("curved", [False, True])
def test_vectors_of_any_size_are_multiplied_alike(generator: torch.Generator, size: float, curved: bool) -> None:
    rows = prepare_rows(normal(50, 80, generator).float(), None)
    vectors = vectors_of(rows, make_query(rows, generator, times=(0.05, 0.3)), generator, size, curved=curved)
    assert_product(covariance_product, rows, vectors, Span(0, 50))


def test_a_vector_of_zeros_gives_zeros(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(50, 80, generator).float(), None)
    vectors = vectors_of(rows, make_query(rows, generator), generator, 0.0)
    assert torch.equal(covariance_product(rows, vectors, Span(0, 50)), torch.zeros(8, 80).double())


def test_queries_among_many_duplicates_are_summed_in_blocks(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, dense = [], covariance._dense_product

    def recorded(vectors: Directions, scores: BlockLogits) -> torch.Tensor:
        called.append(scores.dtype)
        return dense(vectors, scores)

    monkeypatch.setattr(covariance, "_dense_product", recorded)
    points = normal(10, 300, generator).repeat(40, 1) + 1e-4 * normal(400, 300, generator)
    rows = prepare_rows(points.float(), None)
    vectors = vectors_of(rows, make_query(rows, generator, times=(0.7, 0.9)), generator)
    product = partial(covariance_product, limits=BlockLimits(rescored=(12, 12)))
    assert_product(product, rows, vectors, Span(0, 400))
    assert called == [torch.float64]


def test_products_are_symmetric_and_positive(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(60, 20, generator), None)
    query = make_query(rows, generator, times=REGIMES[:4])
    first, second = (vectors_of(rows, query, generator) for _ in range(2))
    ahead, back = (covariance_product(rows, side, Span(0, 60)) for side in (first, second))
    unit = ahead.norm(dim=1) * second.vector.norm(dim=1)
    assert_close((ahead * second.vector).sum(1), (back * first.vector).sum(1), "float64", unit)
    assert bool(((ahead * first.vector).sum(1) >= 0).all())


def test_no_queries_give_no_products(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(5, 3, generator), None)
    vectors = vectors_of(rows, make_query(rows, generator), generator).take(torch.arange(0))
    for product in (covariance_product, reference_covariance_product):
        assert product(rows, vectors, Span(0, 5)).shape == (0, 3)
