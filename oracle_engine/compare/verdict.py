"""Which side to use when, in one sentence that follows from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from .record import Row, Side
from .truth import BAR


def verdict(rows: Sequence[Row], tolerance: float) -> str:
    """Return which sides were fastest within the accuracy bar and within the tolerance, and which never were usable.

    rows: of the velocity. tolerance: of estimates, at least the bar.
    """
    bars = dict.fromkeys((BAR, tolerance))
    parts = [f"for a relative error below {bar:.0e} take {_winners(rows, bar)}" for bar in bars]
    names = dict.fromkeys(name for row in rows for name in row.sides)
    used = {name: row for row in rows for bar in bars for name in fastest(row, bar)}
    silent = [name for name, row in used.items() if row.sides[name].stated is None]
    if silent:
        parts.append(f"of these {', '.join(silent)} cannot say by how much an answer is off")
    lost = [name for name in names if not any(name in row.sides and row.sides[name].within for row in rows)]
    if lost:
        worst = max(row.sides[name].error for row in rows for name in lost if name in row.sides)
        parts.append(f"never within their tolerance were {', '.join(lost)}, with errors up to {worst:.1g}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def fastest(row: Row, bar: float) -> list[str]:
    """Return the names of the fastest side whose error is below the bar, and of those that are as fast.

    Two sides are as fast where their times overlap from first to third quartile.
    """
    usable = {name: side for name, side in row.sides.items() if side.rounds > 0 and _below(side, bar)}
    if not usable:
        return []
    ordered = sorted(usable, key=lambda name: usable[name].median_ms)
    limit = usable[ordered[0]].third_quartile_ms
    return [name for name in ordered if usable[name].first_quartile_ms <= limit]


def _below(side: Side, bar: float) -> bool:
    # a side that states an error of its own is taken at its word
    return side.error <= bar and (side.stated is None or side.stated <= bar)


def _winners(rows: Sequence[Row], bar: float) -> str:
    """Return which sides were fastest, and where."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(" or ".join(fastest(row, bar)) or "nothing here", []).append(row)
    if len(found) == 1:
        return f"{next(iter(found))} everywhere"
    return ", ".join(f"{names} at {_where(won)}" for names, won in found.items())


def _where(rows: Sequence[Row]) -> str:
    times = {row.batch: [other.t for other in rows if other.batch == row.batch] for row in rows}
    return " and ".join(f"B = {batch}, t = {', '.join(found)}" for batch, found in times.items())
