"""Rows of the late route as a table."""

from __future__ import annotations

from collections.abc import Iterable

from oracle_engine.compare.tables import NOTHING, Lines, percent

from .record import EXACT, LateRow, LateSide

COLUMNS = [
    *("data", "B", "queries", "t", "side", "median ms", "rounds", "ratio", "quartiles", "routes", "survivors", "90 %"),
    *("recall", "5 %", "stated", "true", "peak MiB", "others", "of floor"),
]


def late_lines(rows: Iterable[LateRow]) -> Lines:
    """Return one line for each side of each row, under COLUMNS; ratio: time of the exact route / its own.

    of floor: the floor of an exact answer / the time of the exact route.
    """
    return [_line(row, name, side) for row in rows for name, side in row.sides.items()]


def _line(row: LateRow, name: str, side: LateSide) -> list[str]:
    where = [row.data, str(row.batch), row.queries, row.t, name, f"{side.median_ms:.4g}", str(side.rounds)]
    routes = ", ".join(f"{route} {100 * share:.0f} %" for route, share in side.routes.items()) or NOTHING
    return [
        *where,
        f"{side.ratio:.2f}",
        f"{side.ratio_low:.2f} .. {side.ratio_high:.2f}",
        routes,
        _cell(side.survivors, ".0f"),
        _cell(side.survivors_90, ".0f"),
        _cell(side.recall, ".4f"),
        _cell(side.recall_5, ".4f"),
        _cell(side.stated_error, ".1e"),
        _cell(side.true_error, ".1e"),
        _cell(side.peak_mib, ".1f"),
        _cell(row.others, ".2f"),
        NOTHING if row.floor is None or name != EXACT else percent(row.floor.reached(side.median_ms)),
    ]


def _cell(value: float | None, style: str) -> str:
    return NOTHING if value is None else format(value, style)
