"""Native screens bound what they say they bound: tile maxima, rows above a floor, and everything else together."""

from __future__ import annotations

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_cases import make_query, whole
from screen_cases import (
    assert_deeper_levels_look_at_open_tiles,
    assert_shortlists_follow_the_formula,
    assert_tiles_bounded,
    kernel_tiles,
    made,
    whole_logits,
)
from tolerances import assert_close

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import Span, Work, prepare_rows
from oracle_engine.kernels.native.screens import TILE
from oracle_engine.kernels.screens import (
    SharedProducts,
    SideInformation,
    UpperLogits,
)
from oracle_engine.kernels.screens.searches.tiles import PortableTiles, Remaining, tile_bounds

TIMES = (0.0, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)
KINDS = ("pca", "pca8", "int8", "exact8")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    generators(),
    st.sampled_from(KINDS),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([1, 11, 12, 25, 130]),
    st.sampled_from([8, 48, 72]),
    st.booleans(),
    st.sampled_from([0, 2]),
)
def test_tiles_and_rows_are_bounded_for_odd_shapes_and_storage(
    target: str,
    generator: torch.Generator,
    kind: str,
    family: str,
    dtype: torch.dtype,
    count: int,
    dim: int,
    weighted: bool,
    excluded: int,
) -> None:
    weights = torch.rand(count, generator=generator).double() + 1e-9 if weighted else None
    rows = prepare_rows(stored_as(FAMILIES[family](count, dim, generator), dtype), weights)
    query = make_query(rows, generator, 21, TIMES, excluded=excluded)
    for span in (whole(rows), Span(count // 3, count)):
        upper = UpperLogits.of(Work(rows, query, span), made(kind, rows), SideInformation())
        best = whole_logits(rows, query)[span.start : span.stop].amax(0).clamp_min(-1e30)
        for below in (0.0, 3.0, 300.0):
            for level in range(len(upper.screen.widths)):
                assert_tiles_bounded(kernel_tiles(upper, level), upper, (best - below).float(), TILE)


# rows stored in 8 bits are multiplied with one digit here, and with two there
@pytest.mark.parametrize("kind", ["pca", "int8"])
def test_maxima_are_those_of_the_portable_upper_logits(target: str, generator: torch.Generator, kind: str) -> None:
    rows = prepare_rows(stored_as(normal(130, 48, generator), torch.uint8), None)
    query = make_query(rows, generator, 21, (0.3, 0.6), excluded=1)
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made(kind, rows), SideInformation())
    for level in range(len(upper.screen.widths)):
        portable = upper.for_level(level).at(level)[:132].unflatten(0, (-1, TILE)).amax(1)
        native = kernel_tiles(upper, level).level.largest[:, :21]
        assert_close(native[portable > -torch.inf], portable[portable > -torch.inf], "rounded upper logits")
        assert torch.equal(native == -torch.inf, portable == -torch.inf)


@pytest.mark.parametrize("kind", ["pca", "pca8"])
def test_shared_products_narrow_the_bounds(target: str, generator: torch.Generator, kind: str) -> None:
    rows = prepare_rows(normal(130, 48, generator).float(), None)
    query = make_query(rows, generator, 20, (0.3, 0.6, 0.9))
    start = 0.9 * query.point + 0.1 * normal(20, 48, generator)
    side = SideInformation(None, SharedProducts.of(rows, start))
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made(kind, rows), side)
    best = whole_logits(rows, query).amax(0)
    # queries that are no neighbours in the products
    for part in (upper, upper.take(torch.tensor([1, 2, 7, 19]))):
        floor = best[: len(part)] if part is upper else best[torch.tensor([1, 2, 7, 19])]
        for level in range(2):
            assert_tiles_bounded(kernel_tiles(part, level), part, (floor - 3.0).float(), TILE)


def test_a_deeper_level_looks_at_open_tiles_only(target: str, generator: torch.Generator) -> None:
    assert_deeper_levels_look_at_open_tiles(kernel_tiles, generator, below=20.0, height=TILE)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float32, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_shortlists_are_those_of_the_formula(
    target: str, generator: torch.Generator, kind: str, dtype: torch.dtype
) -> None:
    assert_shortlists_follow_the_formula(kind, dtype, 40, generator)


def test_upper_logits_are_portable_without_the_library(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    rows = prepare_rows(normal(130, 48, generator).float(), None)
    upper = UpperLogits.of(
        Work(rows, make_query(rows, generator, 5), whole(rows)), made("pca", rows), SideInformation()
    )
    monkeypatch.setenv("ORACLE_NATIVE", "off")
    assert upper.terms(0) is None
    assert isinstance(tile_bounds(upper, 0, Remaining.everything(5, torch.device("cpu"))), PortableTiles)
