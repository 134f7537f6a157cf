"""Screens on the kernels of a card bound what they say they bound, and say what native kernels and torch say."""

from __future__ import annotations

import pytest
import torch
from closed_form import normal, stored_as
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
from torch import Tensor

from oracle_engine.kernels import Span, Work, gpu, pairs, prepare_rows
from oracle_engine.kernels.gpu.screen_logits import SCREEN_ROWS
from oracle_engine.kernels.gpu.screen_tiles import TritonLevel
from oracle_engine.kernels.screens import SharedProducts, SideInformation, UpperLogits
from oracle_engine.kernels.screens.tiles import KernelTiles, Remaining

TIMES = (0.0, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)


@pytest.fixture(autouse=True)
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are on a card whose kernels have been proven."""
    monkeypatch.setattr(gpu, "proven_card", lambda device, task: True)


def tiles_of(upper: UpperLogits, level: int, remaining: Remaining | None = None) -> KernelTiles:
    """Return what the kernels of a card tell of a level."""
    found = kernel_tiles(upper, level, remaining)
    assert isinstance(found.level, TritonLevel)
    return found


def upper_of(kind: str, dtype: torch.dtype, generator: torch.Generator, *, weighted: bool) -> UpperLogits:
    """Return upper logits of a part of the rows for 18 queries with excluded ranges."""
    count = 150
    weights = torch.rand(count, generator=generator).double() + 1e-9 if weighted else None
    rows = prepare_rows(stored_as(normal(count, 48, generator), dtype), weights)
    query = make_query(rows, generator, 18, TIMES, excluded=2)
    return UpperLogits.of(Work(rows, query, Span(count // 10, count)), made(kind, rows), SideInformation())


def best_of(upper: UpperLogits) -> Tensor:
    """Return the largest logit of each query."""
    span = upper.work.span
    return whole_logits(upper.work.rows, upper.work.query)[span.start : span.stop].amax(0).clamp_min(-1e30)


CASES = [
    ("pca", torch.float16, True),
    ("pca8", torch.float32, True),
    ("exact8", torch.uint8, True),
    ("exact8", torch.int8, False),
    ("int8", torch.float32, False),
]


@pytest.mark.parametrize(("kind", "dtype", "weighted"), CASES, ids=str)
def test_tiles_and_rows_are_bounded(kind: str, dtype: torch.dtype, weighted: bool, generator: torch.Generator) -> None:
    upper = upper_of(kind, dtype, generator, weighted=weighted)
    best = best_of(upper)
    for level in range(len(upper.screen.widths)):
        tiles = tiles_of(upper, level)
        for below in (0.0, 300.0):
            assert_tiles_bounded(tiles, upper, (best - below).float(), SCREEN_ROWS)


@pytest.mark.parametrize(("kind", "dtype", "weighted"), CASES, ids=str)
def test_maxima_are_those_of_the_portable_upper_logits(
    kind: str, dtype: torch.dtype, weighted: bool, generator: torch.Generator
) -> None:
    upper = upper_of(kind, dtype, generator, weighted=weighted)
    level = len(upper.screen.widths) - 1
    values = upper.for_level(level).at(level)
    portable = values.unflatten(0, (-1, SCREEN_ROWS)).amax(1)
    tiles = tiles_of(upper, level)
    some = portable > -torch.inf
    assert torch.equal(tiles.level.largest > -torch.inf, some)
    # codes of these kinds are multiplied with one digit of two
    if kind in ("pca", "int8"):
        assert_close(tiles.level.largest[some], portable[some], "rounded upper logits")
        found = tiles.promising(2)
        held = values[found.row - upper.work.span.start, found.query]
        assert_close(held, found.logit.float(), "rounded upper logits")


def test_shared_products_narrow_the_bounds(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(130, 48, generator).float(), None)
    query = make_query(rows, generator, 20, (0.3, 0.6, 0.9))
    side = SideInformation(None, SharedProducts.of(rows, 0.9 * query.point + 0.1 * normal(20, 48, generator)))
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made("pca8", rows), side)
    few = torch.tensor([1, 2, 7, 19])
    part = upper.take(few)
    assert_tiles_bounded(tiles_of(part, 1), part, (best_of(upper)[few] - 3.0).float(), SCREEN_ROWS)


def test_a_deeper_level_looks_at_open_tiles_only(generator: torch.Generator) -> None:
    assert_deeper_levels_look_at_open_tiles(tiles_of, generator, below=4.0, height=SCREEN_ROWS)


@pytest.mark.parametrize(("kind", "dtype"), [("pca", torch.float16), ("pca8", torch.float32), ("exact8", torch.uint8)])
def test_shortlists_are_those_of_the_formula(
    kind: str, dtype: torch.dtype, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what the rows of a shortlist hold is checked by other tests, and takes the interpreter long
    monkeypatch.setattr(pairs, "gpu_proven", lambda rows, task: False)
    assert_shortlists_follow_the_formula(kind, dtype, 18, generator)
