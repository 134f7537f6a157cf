"""Screens on the kernels of a card bound what they say they bound, and say what torch says."""

from __future__ import annotations

import pytest
import torch
from closed_form import normal, stored_as
from row_cases import make_query, whole
from screen_cases import made, whole_logits
from tolerances import assert_close
from torch import Tensor

from oracle_engine.kernels import Query, Rows, Span, Work, gpu, prepare_rows
from oracle_engine.kernels.common.search import SearchLimits
from oracle_engine.kernels.gpu.late.projection import projected_coefficients
from oracle_engine.kernels.gpu.late.screen_logits import SCREEN_ROWS, ScreenOperand
from oracle_engine.kernels.gpu.late.screen_tiles import CLOSED_PARTS, FIRST_ROWS, Floors, TileMaxima, TilesLeft
from oracle_engine.kernels.screens import SharedProducts, SideInformation, UpperLogits
from oracle_engine.kernels.screens.searches.card_call import levels_of

TIMES = (0.0, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)


@pytest.fixture(autouse=True)
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are on a card whose kernels have been proven."""
    monkeypatch.setattr(gpu, "proven_card", lambda device, task: True)


def tiles_of(upper: UpperLogits, level: int, left: TilesLeft | None = None) -> TileMaxima:
    """Return what the kernels of a card tell of a level, of what is `left` to it or of everything."""
    upper = upper.for_level(level)
    (made_ready,), nothing = levels_of(upper, {level: SearchLimits()}), torch.zeros(len(upper))
    operand = ScreenOperand.of(upper.work, projected_coefficients(upper.work, made_ready.terms))
    first = torch.zeros(FIRST_ROWS, len(upper), dtype=torch.int64)
    return TileMaxima.of(operand, left or (nothing[None], nothing), first)


def counted(tiles: TileMaxima, floor: Tensor) -> Floors:
    """Return what the kernels count of tiles that reach a floor."""
    floors = Floors(floor, torch.zeros(len(floor), dtype=torch.int32), torch.zeros(len(floor), dtype=torch.int64))
    tiles.count(floors)
    return floors


def upper_of(
    kind: str, dtype: torch.dtype, generator: torch.Generator, *, weighted: bool, count: int = 150
) -> UpperLogits:
    """Return upper logits of a part of so many rows for 18 queries with excluded ranges."""
    weights = torch.rand(count, generator=generator).double() + 1e-9 if weighted else None
    rows = prepare_rows(stored_as(normal(count, 48, generator), dtype), weights)
    query = make_query(rows, generator, 18, TIMES, excluded=2)
    return UpperLogits.of(Work(rows, query, Span(count // 10, count)), made(kind, rows), SideInformation())


def logits_of(upper: UpperLogits) -> Tensor:
    """Return the logits of the rows of the span, [n, B]."""
    span = upper.work.span
    return whole_logits(upper.work.rows, upper.work.query)[span.start : span.stop]


def in_tiles(logits: Tensor) -> Tensor:
    """Return logits [n, B] as tiles, [T, s, B]."""
    padded: Tensor = torch.nn.functional.pad(logits, (0, 0, 0, -len(logits) % SCREEN_ROWS), value=-torch.inf)
    tiles: Tensor = padded.unflatten(0, (-1, SCREEN_ROWS))
    return tiles


def assert_bounded(tiles: TileMaxima, logits: Tensor, floor: Tensor) -> None:
    """Compare what kernels say of tiles, of rows above a floor and of all others with the logits in float64."""
    assert bool((tiles.largest >= in_tiles(logits).amax(1)).all())
    floors = counted(tiles, floor)
    assert torch.equal(floors.reached.long(), (tiles.largest >= floor).sum(0))
    closed = floors.closed.double() / CLOSED_PARTS
    above = tiles.above(floors, len(tiles.largest))
    named = (above.bits[:, :, None] >> torch.arange(SCREEN_ROWS)) & 1
    assert torch.equal(named.sum(2), above.count.long())
    found = named.flatten(1)[:, : len(logits)].bool().T
    assert bool(found[logits >= floor].all())
    held = logits.masked_fill(found, -torch.inf).logsumexp(0)
    below = floor.double() + ((closed + above.below.double().sum(1)) * (1 + 1e-4) + 1e-300).log()
    assert bool((held <= below).all())


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
    logits = logits_of(upper)
    for level in range(len(upper.screen.widths)):
        tiles = tiles_of(upper, level)
        for below in (0.0, 300.0):
            assert_bounded(tiles, logits, (logits.amax(0).clamp_min(-1e30) - below).float())


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
    assert torch.equal(tiles.largest > -torch.inf, some)
    # codes of other kinds are multiplied with one digit of two
    if kind in ("pca", "int8"):
        assert_close(tiles.largest[some], portable[some], "rounded upper logits")


@pytest.mark.parametrize(("kind", "dtype", "weighted"), CASES, ids=str)
def test_the_most_promising_rows_are_named(
    kind: str, dtype: torch.dtype, weighted: bool, generator: torch.Generator
) -> None:
    upper = upper_of(kind, dtype, generator, weighted=weighted, count=600)
    level = len(upper.screen.widths) - 1
    tiles, values = tiles_of(upper, level), upper.for_level(level).at(level)
    # of every fourth tile the best
    best = torch.stack([tiles.largest[part::FIRST_ROWS].amax(0) for part in range(FIRST_ROWS)])
    named = tiles.first > 0
    assert torch.equal(named, best > -torch.inf)
    place = tiles.first & (2**31 - 1)
    assert torch.equal(tiles.largest.gather(0, place // SCREEN_ROWS)[named], best[named])
    if kind in ("pca", "int8"):
        assert_close(values.gather(0, place)[named], best[named], "rounded upper logits")


def test_tiles_of_which_no_row_counts_are_closed(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(300, 48, generator).float(), None)
    query = make_query(rows, generator, 20, (0.8,))
    # rows of a class, which others do not use
    own = torch.tensor([[[0, 70], [200, 300]], [[0, 0], [300, 300]], [[0, 64], [128, 300]], [[0, 300], [0, 0]]])
    upper = upper_without(rows, query, own.repeat(5, 1, 1))
    tiles = tiles_of(upper, 0)
    open_to = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool().repeat(5, 1)
    assert torch.equal(tiles.largest > -torch.inf, open_to.T)
    logits = logits_of(upper)
    assert_bounded(tiles, logits, (logits.amax(0).clamp_min(-1e30) - 3.0).float())


def upper_without(rows: Rows, query: Query, excluded: Tensor) -> UpperLogits:
    """Return upper logits of queries without some ranges of rows."""
    work = Work(rows, query.excluding(excluded), whole(rows))
    return UpperLogits.of(work, made("pca8", rows), SideInformation())


def test_shared_products_narrow_the_bounds(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(130, 48, generator).float(), None)
    query = make_query(rows, generator, 20, (0.3, 0.6, 0.9))
    side = SideInformation(None, SharedProducts.of(rows, 0.9 * query.point + 0.1 * normal(20, 48, generator)))
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made("pca8", rows), side)
    part = upper.take(torch.tensor([1, 2, 7, 19]))
    logits = logits_of(part)
    assert_bounded(tiles_of(part, 1), logits, (logits.amax(0) - 3.0).float())


def test_a_level_looks_at_the_tiles_that_are_left_to_it(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(600, 48, generator).float(), None)
    query = make_query(rows, generator, 20, (0.8,))
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made("pca", rows), SideInformation())
    first, everything = tiles_of(upper, 0), tiles_of(upper, 1).largest
    floor = (logits_of(upper).amax(0) - 4.0).float()
    # nothing is left of one, and all of others, as of those that enter here
    floor[3], floor[4] = torch.inf, -torch.inf
    deeper = tiles_of(upper, 1, (first.largest, floor)).largest
    closed = first.largest < floor
    assert 0.1 < float(closed.double().mean()) < 1.0
    assert bool((deeper[closed] == -torch.inf).all())
    assert torch.equal(deeper[~closed], everything[~closed])
    assert bool(closed[:, 3].all())
    assert torch.equal(deeper[:, 4], everything[:, 4])
    # a number for all tiles of a query
    begun = tiles_of(upper, 0, (torch.tensor([[0.0, -1.0]]).repeat(1, 10), torch.zeros(20))).largest
    assert torch.equal(begun[:, ::2], first.largest[:, ::2])
    assert bool((begun[:, 1::2] == -torch.inf).all())
