"""What a measured side comes to: queries, bytes and operations a second, the share of the floor; cells of a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from .floors import Rates
from .record import Row, Side
from .tables import NOTHING, Lines, as_text, milliseconds, percent

COLUMNS = [
    *("B", "t", "side", "median ms", "quartiles", "queries/s", "GB/s", "GFLOP/s", "of floor", "peak MiB"),
    *("error", "stated", "tolerance", "missed mass"),
]

# marks an error above the tolerance
MISSED = "!"


def quantities(row: Row, name: str, rates: Rates) -> dict[str, float | None]:
    """Return what a side did, in SI units, from its median; None each where it was not timed.

    queries_per_second: answers. bytes_per_second: of the stored samples, once for the batch. operations_per_second: of
    the products that an exact answer needs, whatever the side computed. of_floor: the share of the floor in its time.
    """
    side, floor = row.sides[name], row.floor
    names = ("queries_per_second", "bytes_per_second", "operations_per_second", "of_floor")
    if side.rounds == 0 or floor is None:
        return dict.fromkeys(names)
    read, operations = floor.read_ms * rates.read, floor.products_ms * rates.product
    return dict(
        zip(
            names,
            (
                1e3 * row.batch / side.median_ms,
                read / side.median_ms,
                operations / side.median_ms,
                floor.reached(side.median_ms),
            ),
            strict=True,
        )
    )


def plain_row(row: Row, rates: Rates) -> dict[str, Any]:
    """Return a row as plain values, each side with its :func:`quantities`."""
    facts = asdict(row)
    for name, side in facts["sides"].items():
        side.update(quantities(row, name, rates), within=row.sides[name].within)
    return facts


def table(rows: Iterable[Row], rates: Rates) -> str:
    """Return a table with a line for each side of each row; no speed where an error is above the tolerance."""
    return as_text(COLUMNS, _lines(rows, rates))


def _lines(rows: Iterable[Row], rates: Rates) -> Lines:
    """Return a line of the table for each side of each row."""
    return [
        [
            str(row.batch),
            row.t,
            name,
            *_speed(row, name, rates),
            f"{side.error:.1e}{'' if side.within else MISSED}",
            NOTHING if side.stated is None else f"{side.stated:.1e}",
            f"{side.tolerance:.0e}",
            NOTHING if side.missed is None else f"{side.missed:.1e}",
        ]
        for row in rows
        for name, side in row.sides.items()
    ]


def _speed(row: Row, name: str, rates: Rates) -> list[str]:
    """Return the cells about speed, which are empty for a side that missed its tolerance."""
    side = row.sides[name]
    if not _shown(side):
        return [NOTHING] * 7
    found = quantities(row, name, rates)
    quartiles = f"{milliseconds(side.first_quartile_ms)} .. {milliseconds(side.third_quartile_ms)}"
    numbers = (found["queries_per_second"], found["bytes_per_second"], found["operations_per_second"])
    units = zip(numbers, (1, 1e9, 1e9), strict=True)
    scaled = [NOTHING if value is None else f"{value / unit:.3g}" for value, unit in units]
    share = NOTHING if found["of_floor"] is None else percent(found["of_floor"])
    peak = NOTHING if side.peak_mib is None else f"{side.peak_mib:.1f}"
    return [milliseconds(side.median_ms), quartiles if side.rounds > 1 else "once", *scaled, share, peak]


def _shown(side: Side) -> bool:
    return side.within and side.rounds > 0
