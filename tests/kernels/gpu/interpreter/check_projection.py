"""What a card multiplies leading coordinates with bounds no less than the formulas in torch, and hardly more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_form import normal, stored_as
from row_cases import make_query, whole
from screen_cases import made, noised, whole_logits
from tolerances import assert_close
from torch import Tensor

from oracle_engine.kernels import Query, Rows, Work, gpu, prepare_rows
from oracle_engine.kernels.common.search import SearchLimits
from oracle_engine.kernels.gpu.late.projection import projected_coefficients
from oracle_engine.kernels.gpu.late.screen_logits import LevelCoefficients, ScreenOperand
from oracle_engine.kernels.gpu.late.screen_tiles import FIRST_ROWS, TileMaxima
from oracle_engine.kernels.screens import SharedProducts, SideInformation, UpperLogits
from oracle_engine.kernels.screens.kinds import int8
from oracle_engine.kernels.screens.kinds.int8 import CodeScreen, EightBitScreen
from oracle_engine.kernels.screens.kinds.int8_products import BASE, LARGEST
from oracle_engine.kernels.screens.kinds.pca8 import LEADING, LeadingCodeScreen
from oracle_engine.kernels.screens.searches.card_call import levels_of

TIMES = (0.0, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)

CASES = [
    ("pca", torch.float16, True),
    ("pca8", torch.float32, True),
    ("pca8", torch.uint8, False),
    ("int8", torch.float32, True),
]

KNOWLEDGE = ["nothing", "source", "trajectory"]


@pytest.fixture(autouse=True)
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are on a card whose kernels have been proven, and their codes have several blocks."""
    monkeypatch.setattr(gpu, "proven_card", lambda device, task: True)
    monkeypatch.setattr(int8, "CODE_BLOCK", 20)


def rows_of(dtype: torch.dtype, generator: torch.Generator, *, weighted: bool) -> Rows:
    weights = torch.rand(150, generator=generator).double() + 1e-9 if weighted else None
    # directions of large variance, as those of data are
    points = normal(150, 48, generator) * torch.linspace(3.0, 0.1, 48).double()
    return prepare_rows(stored_as(points, dtype), weights)


def asked(
    rows: Rows, knowledge: str, generator: torch.Generator, failure: float = 1e-6
) -> tuple[Query, SideInformation]:
    """Return queries, and what is known of them: of the sources of some, or of the starting points of all.

    failure: probability that a bound by a source fails.
    """
    if knowledge == "nothing":
        return make_query(rows, generator, 21, TIMES), SideInformation()
    if knowledge == "trajectory":
        query = make_query(rows, generator, 21, TIMES)
        return query, SideInformation(None, SharedProducts.of(rows, query.point + normal(21, 48, generator)))
    query, source, blur = noised(rows, 0.2, 21, generator, torch.float32)
    known = torch.where(torch.arange(21) % 3 == 0, -1, source.row)
    return query, SideInformation(replace(source, row=known, blur=blur, failure=failure))


def made_on_card(upper: UpperLogits) -> list[LevelCoefficients]:
    """Return the coefficients of every level."""
    levels = levels_of(upper, dict.fromkeys(range(len(upper.screen.widths)), SearchLimits()))
    return [projected_coefficients(upper.work, one.terms) for one in levels]


def formula_of(upper: UpperLogits, level: int) -> tuple[Tensor, Tensor | None]:
    """Return the factors of features by the formulas in torch, [B, e], and those of shared products, [B], or None."""
    terms, shared = upper.screen.terms(upper.work.rows, level, upper.query_bound), upper.kernel_shared
    assert terms is not None
    gains = terms.factors if terms.gains is None else terms.gains
    return gains.float(), None if shared is None else shared.gain.float()


def least_slack(found: LevelCoefficients, upper: UpperLogits, level: int) -> Tensor:
    """Return what rounding and the digits of factors may hide, by the formulas in torch."""
    work, screen = upper.work, upper.screen
    if not isinstance(screen, EightBitScreen) or found.codes is None:
        return screen.query_bound(work.rows, work.query, upper.side, level).slack
    # factors as they are, of which nothing is left
    bound = replace(screen, product_cost=1.0).query_bound(work.rows, work.query, upper.side, level)
    factors = bound.projection[:, LEADING if screen.kind == "pca8" else 0 :]
    step = factors.abs().amax(1, keepdim=True) / LARGEST
    left = factors - BASE * step * found.codes[1][0].double()
    if found.digits == 2:
        left = left - step * found.codes[1][1].double()
    slack: Tensor = bound.slack + left.norm(dim=1) * longest(screen, work.rows, level)
    return slack


def longest(screen: EightBitScreen, rows: Rows, level: int) -> float:
    """Return the norm of the longest row of codes."""
    if isinstance(screen, LeadingCodeScreen):
        return screen.radii[level]
    return screen.radius if isinstance(screen, CodeScreen) else rows.radius


def assert_hardly_more(found: LevelCoefficients, upper: UpperLogits, level: int) -> None:
    """Compare the slack with the least one, beside which values that are rounded to float32 add a part in a hundred."""
    slack = least_slack(found, upper, level)
    assert bool((found.slack >= slack).all())
    rounded = upper.screen.narrow_basis is None
    assert bool((found.slack <= slack * (1.03 if rounded else 1 + 1e-5)).all())


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize(("kind", "dtype", "weighted"), CASES, ids=str)
def test_no_bound_is_below_that_of_the_formula(
    kind: str, dtype: torch.dtype, weighted: bool, knowledge: str, generator: torch.Generator
) -> None:
    rows = rows_of(dtype, generator, weighted=weighted)
    # sources narrow the bounds of so few values only where these are allowed to fail
    query, side = asked(rows, knowledge, generator, failure=0.9)
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made(kind, rows), side)
    found, narrowed = made_on_card(upper), False
    assert len(found) == len(upper.screen.widths)
    for level, one in enumerate(found):
        gains, shared = formula_of(upper.for_level(level), level)
        assert one.gains is not None
        leading = {"pca": upper.screen.widths[level], "pca8": LEADING, "int8": 0}[kind]
        assert_close(one.gains[:, :leading], gains[:, :leading], "float32 sums")
        # a level chooses by its own blocks which bound of a source is the smaller
        same = (one.gains[:, -2 - weighted] > 0) == (gains[:, -2 - weighted] > 0)
        assert float(same.double().mean()) > 0.8
        narrowed = narrowed or bool((one.gains[same, -2 - weighted] > 0).any())
        norms, expected = (part[same, leading : -1 - weighted] for part in (one.gains, gains))
        assert bool((norms >= expected).all())
        # codes of a source and what they leave are a little longer than it is
        assert bool((norms <= expected * (1.1 if kind == "int8" and knowledge == "source" else 1 + 1e-5)).all())
        assert torch.equal(one.gains[:, leading + norms.shape[1] :], gains[:, leading + norms.shape[1] :])
        if one.shared is not None and shared is not None:
            assert_close(one.shared[2], shared, "float32 sums")
        assert_hardly_more(one, upper, level)
    # noise of unit size is next to nothing beside levels of pixels
    assert narrowed == (knowledge == "source" and dtype != torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
def test_rows_in_eight_bits_are_multiplied_as_they_are(dtype: torch.dtype, generator: torch.Generator) -> None:
    rows = rows_of(dtype, generator, weighted=True)
    query, side = asked(rows, "nothing", generator)
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made("exact8", rows), side)
    (found,) = made_on_card(upper)
    assert found.codes is not None
    assert found.codes[0] is rows.stored
    # sums with the first digit are those with rows about their centre
    _, digits, _, origin = found.codes
    lower = 128 if dtype == torch.uint8 else 0
    read = rows.stored.long() - lower
    expected = (rows.stored.long() - rows.centre.long()) @ digits[0].long().T
    assert torch.equal(read @ digits[0].long().T + origin[0], expected)
    assert found.norm_gain is not None
    assert_close(found.norm_gain, upper.query_bound.norm_gain.float(), "float32 sums")
    assert_hardly_more(found, upper, 0)


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize(("kind", "dtype", "weighted"), [*CASES, ("exact8", torch.uint8, True)], ids=str)
def test_logits_are_bounded(
    kind: str, dtype: torch.dtype, weighted: bool, knowledge: str, generator: torch.Generator
) -> None:
    rows = rows_of(dtype, generator, weighted=weighted)
    query, side = asked(rows, knowledge, generator)
    upper = UpperLogits.of(Work(rows, query, whole(rows)), made(kind, rows), side)
    logits = torch.nn.functional.pad(whole_logits(rows, query), (0, 0, 0, 42), value=-torch.inf).unflatten(0, (3, 64))
    nothing = torch.zeros(len(query))
    for one in made_on_card(upper):
        first = torch.zeros(FIRST_ROWS, len(query), dtype=torch.int64)
        tiles = TileMaxima.of(ScreenOperand.of(upper.work, one), (nothing[None], nothing), first)
        assert bool((tiles.largest >= logits.amax(1)).all())
