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
from oracle_engine.kernels.common.search import ProjectedTerms, SearchLimits
from oracle_engine.kernels.gpu.projection import projected_coefficients
from oracle_engine.kernels.gpu.screen_logits import Coefficients, ScreenOperand
from oracle_engine.kernels.gpu.screen_tiles import FIRST_ROWS, TileMaxima
from oracle_engine.kernels.screens import SharedProducts, SideInformation, UpperLogits
from oracle_engine.kernels.screens.card_call import levels_of
from oracle_engine.kernels.screens.int8_products import BASE, LARGEST
from oracle_engine.kernels.screens.pca8 import LEADING, LeadingCodeScreen

TIMES = (0.0, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)

CASES = [("pca", torch.float16, True), ("pca8", torch.float32, True), ("pca8", torch.uint8, False)]

KNOWLEDGE = ["nothing", "source", "trajectory"]


@pytest.fixture(autouse=True)
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are on a card whose kernels have been proven."""
    monkeypatch.setattr(gpu, "proven_card", lambda device, task: True)


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


def made_on_card(upper: UpperLogits) -> list[Coefficients]:
    """Return the coefficients of every level."""
    levels = levels_of(upper, dict.fromkeys(range(len(upper.screen.widths)), SearchLimits()))
    terms = [one.terms for one in levels]
    return [projected_coefficients(upper.work, one) for one in terms if isinstance(one, ProjectedTerms)]


def least_slack(found: Coefficients, upper: UpperLogits, level: int) -> Tensor:
    """Return what rounding and the digits of factors may hide, by the formulas in torch."""
    work, screen = upper.work, upper.screen
    if not isinstance(screen, LeadingCodeScreen) or found.codes is None:
        return screen.query_bound(work.rows, work.query, upper.side, level).slack
    # factors as they are, of which nothing is left
    bound = replace(screen, product_cost=1.0).query_bound(work.rows, work.query, upper.side, level)
    factors = bound.projection[:, LEADING:]
    step = factors.abs().amax(1, keepdim=True) / LARGEST
    left = factors - BASE * step * found.codes[1][0].double()
    slack: Tensor = bound.slack + left.norm(dim=1) * screen.radii[level]
    return slack


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
        at = upper.for_level(level)
        terms = at.terms(level)
        assert terms is not None
        assert one.gains is not None
        formula = Coefficients.of(terms, at.kernel_shared)
        assert formula.gains is not None
        leading = LEADING if kind == "pca8" else upper.screen.widths[level]
        assert_close(one.gains[:, :leading], formula.gains[:, :leading], "float32 sums")
        # a level chooses by its own blocks which bound of a source is the smaller
        same = (one.gains[:, -2 - weighted] > 0) == (formula.gains[:, -2 - weighted] > 0)
        assert float(same.double().mean()) > 0.8
        narrowed = narrowed or bool((one.gains[same, -2 - weighted] > 0).any())
        norms, expected = (part[same, leading : -1 - weighted] for part in (one.gains, formula.gains))
        assert bool((norms >= expected).all())
        assert bool((norms <= expected * (1 + 1e-5)).all())
        assert torch.equal(one.gains[:, leading + norms.shape[1] :], formula.gains[:, leading + norms.shape[1] :])
        if one.shared is not None and formula.shared is not None:
            assert_close(one.shared[2], formula.shared[2], "float32 sums")
        slack = least_slack(one, upper, level)
        assert bool((one.slack >= slack).all())
        assert bool((one.slack <= slack * (1 + 1e-5)).all())
    # noise of unit size is next to nothing beside levels of pixels
    assert narrowed == (knowledge == "source" and dtype != torch.uint8)


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize(("kind", "dtype", "weighted"), CASES, ids=str)
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
