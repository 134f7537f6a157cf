"""Costs are timed on the rows themselves, and told from what a batch costs whatever it holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from closed_form import normal, stored_as

from oracle_engine.kernels import Rows, prepare_rows
from oracle_engine.kernels.screens.bounds.costs import FIRST_ROWS
from oracle_engine.kernels.screens.bounds.screen import Screen
from oracle_engine.kernels.screens.choice.timed_costs import FEW, stopwatch, timed_costs
from oracle_engine.kernels.screens.choice.trials import TRIALS
from oracle_engine.kernels.screens.kinds.exact8 import stored_screen
from oracle_engine.kernels.screens.kinds.pca import principal_screen

COUNT = 500


def screens(generator: torch.Generator) -> list[tuple[Rows, Screen]]:
    points = normal(COUNT, 64, generator)
    floats, bytes_ = (prepare_rows(stored_as(points, dtype), None) for dtype in (torch.float32, torch.uint8))
    return [(floats, principal_screen(floats, (8, 32))), (bytes_, stored_screen(bytes_, 0.5))]


def test_what_is_timed_becomes_costs_of_its_unit(generator: torch.Generator) -> None:
    rows, screen = screens(generator)[0]
    # a scan of the large and the small batch, a search of both at two levels, for both these over all rows and few, and
    # open tiles
    scans, searches = [9000.0 + 5.0 * batch for batch in (TRIALS, FEW)], [70.0 + batch for batch in (TRIALS, FEW)]
    levels = [4800.0, 0.0, 600.0, 0.0, 9600.0, 0.0, 150.0, 0.0]
    taken = iter([*scans, *searches, *searches, *levels, 30.0, 50.0, 2000.0])

    def watch(run: Callable[[], object]) -> float:
        run()
        return next(taken, 0.0)

    costs, rows_timed = timed_costs(rows, screen, watch), COUNT - FIRST_ROWS
    assert costs.scan_start == pytest.approx(9000.0 / COUNT)
    assert costs.scan == pytest.approx(5.0 / COUNT)
    assert costs.call == pytest.approx(70.0)
    assert costs.queries == pytest.approx((1.0, 1.0))
    each = 4200.0 / (TRIALS - FEW), 9450.0 / (TRIALS - FEW)
    assert costs.levels == pytest.approx([one / rows_timed for one in each])
    assert costs.starts == pytest.approx([(600.0 - each[0]) / rows_timed, (150.0 - each[1]) / rows_timed])
    # a difference that a busy machine turns around is no cost
    assert 0.0 < costs.tile <= 20.0
    assert 0.0 < costs.row <= 1970.0


@pytest.mark.parametrize("count", [1, 3, 500])
def test_costs_are_positive_however_few_rows_there_are(generator: torch.Generator, count: int) -> None:
    rows = prepare_rows(normal(count, 64, generator).float(), None)
    costs = timed_costs(rows, principal_screen(rows, (1,)))
    assert min(costs.scan, *costs.levels, costs.tile, costs.row) > 0.0
    assert min(costs.scan_start, costs.call, *costs.starts, *costs.queries) >= 0.0


@pytest.mark.parametrize("portable", [False, True])
def test_every_kind_is_timed(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, portable: bool) -> None:
    if portable:
        monkeypatch.setenv("ORACLE_NATIVE", "off")
    for rows, screen in screens(generator):
        assert len(timed_costs(rows, screen).levels) == len(screen.widths)


def test_a_stopwatch_tells_the_quickest_run() -> None:
    runs: list[int] = []
    assert stopwatch(torch.device("cpu"))(lambda: runs.append(1)) > 0.0
    assert len(runs) > 1
