"""The README's words and tables on the late route, from the rows of a results file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oracle_engine.compare.floors import Rates
from oracle_engine.compare.peers.nearest import peer_names
from oracle_engine.compare.tables import NOTHING, Lines, as_markdown, milliseconds, percent
from oracle_engine.compare.workloads import HELD, TRAINING

from ..passages import factor, grouped, machine_words, rate_words, span, wrapped
from .ode import ODE
from .record import EXACT, LateRow, LateSide, late_rows


def late_passage(document: Mapping[str, Any], file: Path) -> str:
    """Return the factors over the exact route by time, then those of training batches and runs, and of FAISS.

    Only the first tolerance of the file is shown, and its largest batch.
    """
    rows = late_rows(document)
    size, tolerance = max(row.batch for row in rows), f"{document['options']['tolerance'][0]:.0e}".replace("e-0", "e-")
    rows = [row for row in rows if row.batch == size]
    words = f"Factors over the exact route, B = {size}, tolerance {tolerance}, sides interleaved."
    auto = f"auto {tolerance}"
    parts = [wrapped(f"{machine_words(document, file)}.", words), as_markdown(*_by_time(rows, auto))]
    whole = _whole(rows, auto)
    if whole:
        parts.append(as_markdown(["data", "work", "exact route", "engine", "factor"], whole))
    return "\n\n".join([*parts, *_floors(rows, document), *_faiss(rows)])


def range_passage(document: Mapping[str, Any], file: Path) -> str:
    """Return the range of the factors over everything that a file holds."""
    rows = [row for row in late_rows(document) if row.queries in (HELD, TRAINING)]
    ratios = [side.ratio for row in rows for name, side in row.sides.items() if name.startswith("auto")]
    batches = " and ".join(str(size) for size in sorted({row.batch for row in rows}))
    times = sorted({row.t for row in rows} - {"mixed"}, key=float)
    tolerances = " and ".join(f"{one:g}" for one in document["options"]["tolerance"])
    return wrapped(
        f"Over B = {batches}, t = {times[0]} to {times[-1]} and mixed, tolerances {tolerances}",
        f"(`bench/results/{file.name}`), the factors are {span(ratios)}.",
    )


def _by_time(rows: Sequence[LateRow], auto: str) -> tuple[list[str], Lines]:
    times = list(dict.fromkeys(row.t for row in rows if row.queries == HELD))
    sides = {"held out": (HELD, auto), "with `source=`": (TRAINING, f"{auto} source")}
    groups: dict[str, Lines] = {}
    for label in dict.fromkeys(row.label for row in rows):
        found = {(row.queries, row.t): row for row in rows if row.label == label}
        groups[label] = [
            [words, *(_cell(found.get((kind, t)), side) for t in times)] for words, (kind, side) in sides.items()
        ]
    return ["data", "queries", *(f"t = {t}" for t in times)], grouped(groups)


def _cell(row: LateRow | None, side: str) -> str:
    return NOTHING if row is None or side not in row.sides else f"{factor(row.sides[side].ratio)}x"


def _whole(rows: Sequence[LateRow], auto: str) -> Lines:
    groups: dict[str, Lines] = {}
    for row in rows:
        side = row.sides.get(f"{auto} trajectory" if row.queries == ODE else f"{auto} source")
        if side is None or (row.queries != ODE and row.t != "mixed"):
            continue
        words = f"ODE of {row.t} through `trajectory`" if row.queries == ODE else "t uniform, with `source=`"
        times = [f"{milliseconds(one.median_ms)} ms" for one in (row.sides[EXACT], side)]
        groups.setdefault(row.label, []).append([words, *times, f"{factor(side.ratio)}x"])
    return grouped(groups)


def _floors(rows: Sequence[LateRow], document: Mapping[str, Any]) -> list[str]:
    reached = [row.floor.reached(row.sides[EXACT].median_ms) for row in rows if row.floor is not None]
    if not reached:
        return []
    words = f"The exact route has {percent(min(reached))} to {percent(max(reached))} of its floor in its time."
    return [wrapped(words, rate_words(Rates(**document["rates"])))]


def _faiss(rows: Sequence[LateRow]) -> list[str]:
    words = []
    for name in peer_names():
        found: list[LateSide] = [row.sides[name] for row in rows if name in row.sides]
        if found:
            worst = max(side.true_error for side in found)
            words.append(f"{name} {span(side.ratio for side in found)}, velocities off by up to {100 * worst:.0f} %")
    return [wrapped(f"Nearest neighbours alone, not certified: {'; '.join(words)}.")] if words else []
