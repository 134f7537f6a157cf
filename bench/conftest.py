"""Fixtures of the suite: data sets and sides prepared once, and the interleaved table at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from oracle_engine.compare.record import OURS, Row
from oracle_engine.compare.tables import as_text
from oracle_engine.compare.workloads import Workload

from .comparison import Comparison
from .data import load_data
from .report import SUMMARY_COLUMNS, summary_lines

SIDES = (OURS, "eager", "eager-columns", "compiled", "sdpa")

# seconds of interleaved timing for each workload
BUDGET = 3.0

Measure = Callable[[str, int, float], tuple[Comparison, Row]]

_rows: list[Row] = []


@pytest.fixture(scope="session")
def measured() -> Measure:
    """Return the comparison of a data set and the row of a workload over it, measured at the first request."""

    @cache
    def comparison(data: str) -> Comparison:
        return Comparison(load_data(data), SIDES, print)

    @cache
    def measure(data: str, batch: int, t: float) -> tuple[Comparison, Row]:
        contest = comparison(data)
        _rows.append(contest.row(Workload(contest.data, batch, t), BUDGET))
        return contest, _rows[-1]

    return measure


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the rows measured side by side; the tables above time one side after the other."""
    if _rows:
        terminalreporter.section("interleaved: ratio above 1 means the engine is faster")
        terminalreporter.write_line(as_text(SUMMARY_COLUMNS, summary_lines(_rows)))
