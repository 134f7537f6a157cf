"""Rows of the late route as a table, and as the passage of the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .late_data import HELD, TRAINING
from .late_peers import peer_names
from .late_record import EXACT, LateRow, LateSide
from .report import NOTHING, Lines, as_markdown

COLUMNS = [
    *("data", "B", "queries", "t", "side", "median ms", "rounds", "ratio", "quartiles", "routes", "survivors", "90 %"),
    *("recall", "5 %", "stated", "true", "peak MiB", "others"),
]


def late_lines(rows: Iterable[LateRow]) -> Lines:
    """Return one line for each side of each row, under COLUMNS; ratio: time of the exact route / its own."""
    return [_line(row, name, side) for row in rows for name, side in row.sides.items()]


def readme_passage(rows: Sequence[LateRow]) -> str:
    """Return the README's tables: speed against the exact route by time, then training batches and ODE runs."""
    size = max(row.batch for row in rows if row.queries == HELD)
    times = list(dict.fromkeys(row.t for row in rows if row.queries == HELD))
    lines = [line for data in dict.fromkeys(row.data for row in rows) for line in _lines_of(rows, data, size, times)]
    table = as_markdown(["data", f"B = {size}, held-out queries unless said", *(f"t = {t}" for t in times)], lines)
    whole = as_markdown(["data", "B", "work", "exact", "engine", "factor"], _whole_lines(rows))
    return f"{table}\n\n{whole}"


def _lines_of(rows: Sequence[LateRow], data: str, size: int, times: Sequence[str]) -> Lines:
    found = {(row.queries, row.t): row for row in rows if (row.data, row.batch) == (data, size)}
    one = next(row for row in rows if row.data == data)
    name = f"{data}, {one.count:,} x {one.dim:,}"
    tightest = [side for side in one.sides if side.startswith("auto") and side.count(" ") == 1]
    wanted = [
        *((HELD, side, f"engine, tolerance {side.split()[1]}") for side in tightest),
        *((TRAINING, f"{side} source", f"engine, `source=`, tolerance {side.split()[1]}") for side in tightest),
        *((HELD, side, f"{side}: not certified") for side in peer_names()),
    ]
    lines = [[name, "exact route, ms", *(_ms_cell(found.get((HELD, t))) for t in times)]]
    for kind, side, words in wanted:
        cells = [_ratio_cell(found.get((kind, t)), side) for t in times]
        if any(cell != NOTHING for cell in cells):
            lines.append(["", words, *cells])
    return lines


def _whole_lines(rows: Sequence[LateRow]) -> Lines:
    lines = []
    for row in rows:
        if row.queries == HELD or (row.queries == TRAINING and row.t != "mixed"):
            continue
        words = "training batch, t uniform" if row.t == "mixed" else f"ODE from noise, {row.t}"
        for name, side in row.sides.items():
            if name != EXACT:
                times = [_seconds(row.sides[EXACT].median_ms), _seconds(side.median_ms)]
                lines.append([row.data, str(row.batch), f"{words}, {name}", *times, f"{side.ratio:.1f}x"])
    return lines


def _ms_cell(row: LateRow | None) -> str:
    return NOTHING if row is None else f"{row.sides[EXACT].median_ms:,.0f}"


def _ratio_cell(row: LateRow | None, name: str) -> str:
    if row is None or name not in row.sides:
        return NOTHING
    side = row.sides[name]
    found = f", {100 * side.recall:.3g} % of mass" if side.recall is not None and name in peer_names() else ""
    return f"{_factor(side.ratio)}x{found}"


def _factor(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.3g} s"


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
    ]


def _cell(value: float | None, style: str) -> str:
    return NOTHING if value is None else format(value, style)
