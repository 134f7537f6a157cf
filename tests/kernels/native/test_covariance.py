"""Products with posterior covariances by the native library agree with the formula: every storage, regime and span."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from direction_cases import assert_product, late_between_near_samples, vectors_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_cases import make_query
from tolerances import assert_within

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import Directions, Rows, Span, Work, covariance_product, native_library, prepare_rows
from oracle_engine.kernels.native import covariance as native_covariance
from oracle_engine.kernels.native import double
from oracle_engine.kernels.native.scan import NativeLimits
from oracle_engine.kernels.portable import covariance
from oracle_engine.kernels.reference import reference_logits


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([1, 3, 64, 65, 300]),
    st.sampled_from([1, 2, 8, 33]),
    st.integers(0, 2),
    st.booleans(),
)
def test_products_agree_with_the_formula(
    target: str,
    generator: torch.Generator,
    family: str,
    dtype: torch.dtype,
    dim: int,
    batch: int,
    excluded: int,
    curved: bool,
) -> None:
    weights = torch.rand(90, generator=generator).double() + 0.01 if curved else None
    rows = prepare_rows(stored_as(FAMILIES[family](90, dim, generator), dtype), weights)
    query = make_query(rows, generator, batch=batch, excluded=excluded)
    assert_product(covariance_product, rows, vectors_of(rows, query, generator, curved=curved), Span(0, 90))


@pytest.mark.parametrize("sigma", [1e-5, 1e-6, 1e-7])
@pytest.mark.parametrize("dim", [8, 96])
def test_late_between_two_near_samples(target: str, generator: torch.Generator, sigma: float, dim: int) -> None:
    rows, query = late_between_near_samples(dim, sigma, generator)
    assert_product(covariance_product, rows, vectors_of(rows, query, generator), Span(0, 300))


@pytest.mark.parametrize("size", [1e-100, 1e100])
def test_vectors_of_any_size_are_multiplied_alike(target: str, generator: torch.Generator, size: float) -> None:
    rows = prepare_rows(normal(50, 80, generator).float(), None)
    vectors = vectors_of(rows, make_query(rows, generator, times=(0.05, 0.3)), generator, size, curved=True)
    assert_product(covariance_product, rows, vectors, Span(0, 50))


def test_products_of_many_calls_add_up(
    target: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # narrow rows are summed from differences, a part of them in each call
    rows = prepare_rows(normal(2500, 40, generator).float(), None)
    vectors = vectors_of(rows, make_query(rows, generator), generator)
    whole = covariance_product(rows, vectors, Span(0, 2500))
    monkeypatch.setattr(double, "CALL_VALUES", 1)
    product, calls = native_covariance._product, []

    def counted(work: Work, some: Directions) -> torch.Tensor:
        calls.append(len(work.span))
        return product(work, some)

    monkeypatch.setattr(native_covariance, "_product", counted)
    parts = covariance_product(rows, vectors, Span(0, 2500))
    assert calls == [1024, 1024, 452]
    assert_within((parts - whole).norm(dim=1) / (whole.norm(dim=1) + vectors.vector.norm(dim=1)), "float64")


@pytest.mark.parametrize("batch", [2, 12])
def test_products_of_disjoint_spans_add_up(target: str, generator: torch.Generator, batch: int) -> None:
    rows = prepare_rows(stored_as(FAMILIES["clusters"](700, 70, generator), torch.uint8), None)
    vectors = vectors_of(rows, make_query(rows, generator, batch), generator, curved=True)

    def in_parts(rows: Rows, vectors: Directions, span: Span) -> torch.Tensor:
        spans = Span(0, 300), Span(300, 301), Span(301, len(span))
        return torch.stack([covariance_product(rows, vectors, part) for part in spans]).sum(0)

    assert_product(in_parts, rows, vectors, Span(0, 700))


@pytest.mark.parametrize("batch", [2, 12])
def test_rows_may_lie_apart_and_a_span_may_be_excluded(target: str, generator: torch.Generator, batch: int) -> None:
    rows = prepare_rows(stored_as(normal(300, 90, generator), torch.uint8)[:, :70], None)
    apart = replace(rows, stored=torch.cat([rows.stored, rows.stored], 1)[:, :70])
    assert not apart.stored.is_contiguous()
    for some in (rows, apart):
        query = replace(make_query(some, generator, batch), excluded=torch.tensor([[[0, 120]]]).expand(batch, 1, 2))
        vectors = vectors_of(some, query, generator)
        assert_product(covariance_product, some, vectors, Span(0, 300))
        assert (covariance_product(some, vectors, Span(20, 120)) == 0).all()


@pytest.mark.parametrize("batch", [2, 12])
def test_late_products_touch_what_has_weight_alone(
    target: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    rows = prepare_rows(stored_as(normal(2000, 128, generator), torch.uint8), None)
    vectors = vectors_of(rows, make_query(rows, generator, batch, (0.9, 0.99)), generator)
    # nothing is left to products in float64
    monkeypatch.delattr(native_covariance, "_fine_product")
    assert_product(covariance_product, rows, vectors, Span(0, 2000))


@pytest.mark.parametrize("dtype", STORAGE_DTYPES[:5])
@pytest.mark.parametrize("curved", [False, True])
def test_products_of_larger_batches_are_those_of_one_scan(
    target: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, curved: bool
) -> None:
    rows = prepare_rows(stored_as(normal(2000, 128, generator), dtype), None)
    query = make_query(rows, generator, 21, (0.001,) if curved else (0.05, 0.2, 0.4))
    vectors = vectors_of(rows, query, generator, curved=curved)
    # blocks that are neither whole tiles nor whole vectors, more queries than a tile of them holds
    found, many = _scanned(rows, vectors, NativeLimits(block_rows=36, threads=3))
    assert len(many) == 0
    assert_product(lambda *_: found, rows, vectors, Span(0, 2000))
    monkeypatch.delattr(native_covariance, "_fine_product")
    assert_product(covariance_product, rows, vectors, Span(0, 2000))


@pytest.mark.parametrize("dim", [128, 3072])
@pytest.mark.parametrize("t", [0.3, 0.5, 0.7])
def test_logits_whose_rounding_would_show_are_computed_again(
    target: str, generator: torch.Generator, dim: int, t: float
) -> None:
    # samples along one line share the mass late, where logits are large: off by 1e-5 to 6e-5 in float32
    rows = prepare_rows(FAMILIES["one direction"](300, dim, generator).float(), None)
    vectors = vectors_of(rows, make_query(rows, generator, 12, (t,)), generator)
    assert_product(covariance_product, rows, vectors, Span(0, 300))


@pytest.mark.parametrize(("batch", "times"), [(2, (0.05, 0.95)), (12, (0.3, 0.95))])
def test_queries_that_list_too_much_are_left_to_others(
    target: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, batch: int, times: tuple[float, ...]
) -> None:
    monkeypatch.setattr(native_covariance, "LISTED_PAIRS", 0)
    rows = prepare_rows(FAMILIES["one direction"](600, 70, generator).float(), None)
    vectors = vectors_of(rows, make_query(rows, generator, batch, times), generator)
    found, many = _scanned(rows, vectors, NativeLimits(rescored=(8, 8), threads=2))
    weights = (reference_logits(rows, vectors.query, Span(0, 600)) - vectors.lse[:, None]).exp()
    assert 0 < len(many) < batch
    if batch <= native_covariance.FEW:
        assert many.tolist() == (weights > 1e-9).sum(1).gt(8).nonzero()[:, 0].tolist()
    assert (found[many] == 0).all()
    few = torch.tensor([query for query in range(batch) if query not in many])
    assert_product(lambda *_: found[few], rows, vectors.take(few), Span(0, 600))
    assert_product(covariance_product, rows, vectors, Span(0, 600))


def _scanned(rows: Rows, vectors: Directions, limits: NativeLimits) -> tuple[torch.Tensor, torch.Tensor]:
    library = native_library().library
    assert library is not None
    return native_covariance.scanned_product(rows, vectors, Span(0, len(rows)), library=library, limits=limits)


def test_no_queries_give_no_products(target: str, generator: torch.Generator) -> None:
    rows = prepare_rows(normal(5, 3, generator), None)
    vectors = vectors_of(rows, make_query(rows, generator), generator).take(torch.arange(0))
    assert covariance_product(rows, vectors, Span(0, 5)).shape == (0, 3)


def test_without_a_library_products_come_from_torch(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACLE_NATIVE", "off")
    rows = prepare_rows(normal(50, 20, generator), None)
    vectors = vectors_of(rows, make_query(rows, generator), generator)
    expected = covariance.covariance_product(rows, vectors, Span(0, 50))
    assert torch.equal(covariance_product(rows, vectors, Span(0, 50)), expected)
