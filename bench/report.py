"""Rows as tables: every side, and the summary against the best peer."""

from __future__ import annotations

from collections.abc import Iterable

from oracle_engine.compare.quantities import MISSED
from oracle_engine.compare.record import Row, Side
from oracle_engine.compare.tables import NOTHING, Lines, milliseconds, percent

SIDE_COLUMNS = ["data", "B", "t", "side", "median ms", "fastest", "quartiles", "rounds", "paired", "error", "peak MiB"]
SUMMARY_COLUMNS = [
    "data",
    "B",
    "t",
    "ours ms",
    "of floor",
    "best peer",
    "ms",
    "ratio",
    "paired",
    "fastest peer",
    "ratio",
    "error",
    "others",
]


def side_lines(rows: Iterable[Row]) -> Lines:
    """Return one line for each side of each row, under SIDE_COLUMNS."""
    return [_side_line(row, name, side) for row in rows for name, side in row.sides.items()]


def summary_lines(rows: Iterable[Row]) -> Lines:
    """Return one line for each row that has ours, under SUMMARY_COLUMNS.

    best peer: of those that meet the accuracy bar; ratio: its median / ours, above one where ours is faster; paired:
    the same, round by round. fastest peer: whatever its error. of floor: the floor / our median.
    """
    return [_summary_line(row, row.ours) for row in rows if row.ours is not None]


def _side_line(row: Row, name: str, side: Side) -> list[str]:
    quartiles = f"{milliseconds(side.first_quartile_ms)} .. {milliseconds(side.third_quartile_ms)}"
    paired = NOTHING if side.paired is None else _ratio(side.paired)
    times = [milliseconds(side.median_ms), milliseconds(side.fastest_ms), quartiles, str(side.rounds), paired]
    return [row.data, str(row.batch), row.t, name, *times, _error(side), _mib(side)]


def _summary_line(row: Row, ours: Side) -> list[str]:
    best, fastest = row.best_peer(exact=True), row.best_peer(exact=False)
    cells = [row.data, str(row.batch), row.t, f"{milliseconds(ours.median_ms)}{'' if ours.within else MISSED}"]
    cells.append(NOTHING if row.floor is None else percent(row.floor.reached(ours.median_ms)))
    if best is None:
        cells += [NOTHING] * 4
    else:
        side = row.sides[best]
        cells += [
            best,
            milliseconds(side.median_ms),
            _ratio(side.median_ms / ours.median_ms),
            _ratio(side.paired or 0.0),
        ]
    if fastest is None:
        cells += [NOTHING] * 3
    else:
        side = row.sides[fastest]
        cells += [fastest, _ratio(side.median_ms / ours.median_ms), _error(side)]
    return [*cells, NOTHING if row.others is None else f"{row.others:.2f}"]


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _error(side: Side) -> str:
    return f"{side.error:.1e}{'' if side.within else MISSED}"


def _mib(side: Side) -> str:
    return NOTHING if side.peak_mib is None else f"{side.peak_mib:.1f}"
