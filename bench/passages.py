"""The README's words and table on the engine beside its peers, from the rows of a results file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from oracle_engine.base.machine.environment import units_of
from oracle_engine.compare.floors import Rates
from oracle_engine.compare.record import OURS_COARSE, OURS_RECORDED, Row, Side
from oracle_engine.compare.tables import NOTHING, Lines, as_markdown, milliseconds, percent
from oracle_engine.compare.workloads import LABELLED

from .record import rows_of

# processors that other programs kept busy, from which on a row is said to be disturbed
BUSY = 0.5

# characters of a line of the README
WIDTH = 128

# batch sizes that the README shows, of those that the page of benchmarks has
BRIEF = (1, 64)


def brief_passage(document: Mapping[str, Any], file: Path) -> str:
    """Return the table of BRIEF batch sizes, in few words; what it says of all cells it says of those of all sizes."""
    compared = [row for row in rows_of(document) if row.ours is not None]
    words = (
        f"{machine_words(document, file)}: time of the engine, factor over its fastest peer within the accuracy bar,"
        " share of the floor in it; sides interleaved in one process."
    )
    table = as_markdown(*_table([row for row in compared if row.batch in BRIEF]))
    return "\n\n".join([wrapped(words), table, wrapped(*_headline(compared))])


def speed_passage(document: Mapping[str, Any], file: Path) -> str:
    """Return what was measured and where, the table, and what its cells come to."""
    rows = rows_of(document)
    compared = [row for row in rows if row.ours is not None]
    asked = "every query about its own class" if rows[0].queries == LABELLED else "one velocity for each query"
    has_floor = any(row.floor for row in compared)
    words = [
        f"{machine_words(document, file)}, {asked}, sides interleaved in one process.",
        "A cell is the time of the engine, the factor over its fastest peer within the accuracy bar (above 1 the engine"
        f" is faster){', and the share of the floor in its time' if has_floor else ''}. Mixed: t uniform, as in"
        " training.",
    ]
    table = as_markdown(*_table(compared))
    return "\n\n".join([wrapped(*words), table, wrapped(*_summary(compared, document))])


def machine_words(document: Mapping[str, Any], file: Path) -> str:
    """Return which medians these are: processor, threads, date, commit and file."""
    environment, date = document["environment"], document["date"].split("T")[0]
    cpu, devices = environment["cpu"], environment["cuda"]["devices"]
    where = devices[0]["name"] if devices else f"{cpu['model']}, {cpu['threads']} threads, {units_of(cpu)}"
    return f"Medians on {where} ({date}, commit {document['commit']}, `bench/results/{file.name}`)"


def wrapped(*sentences: str) -> str:
    """Return sentences as one paragraph in lines of the README's width."""
    return fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False)


def span(values: Iterable[float], unit: str = "x") -> str:
    """Return the smallest and the largest of some factors."""
    low, *_, high = sorted([*values] * 2)
    return f"{factor(low)}{unit} to {factor(high)}{unit}"


def factor(value: float) -> str:
    """Return a factor in two or three digits."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def time_words(t: str) -> str:
    """Return the time of a row in words."""
    return t if t == "mixed" else f"t = {t}"


def grouped(groups: Mapping[str, Lines]) -> Lines:
    """Return lines with the name of their group before the first of each."""
    return [[name if place == 0 else "", *line] for name, lines in groups.items() for place, line in enumerate(lines)]


def _table(rows: Sequence[Row]) -> tuple[list[str], Lines]:
    times = list(dict.fromkeys(row.t for row in rows))
    groups: dict[str, dict[int, dict[str, Row]]] = {}
    for row in rows:
        groups.setdefault(row.label, {}).setdefault(row.batch, {})[row.t] = row
    lines = {
        name: [[str(batch), *(_cell(found.get(t)) for t in times)] for batch, found in batches.items()]
        for name, batches in groups.items()
    }
    return ["data", "B", *map(time_words, times)], grouped(lines)


def _cell(row: Row | None) -> str:
    if row is None or row.ours is None:
        return NOTHING
    ratio = _ratio(row)
    words = [f"{milliseconds(row.ours.median_ms)} ms", "no peer meets the bar" if ratio is None else f"{ratio:.2f}x"]
    if row.floor is not None:
        words.append(percent(row.floor.reached(row.ours.median_ms)))
    return ", ".join(words) + ("" if row.ours.within else " (misses the bar)")


def _ratio(row: Row) -> float | None:
    best = row.best_peer(exact=True)
    return None if best is None or row.ours is None else row.sides[best].median_ms / row.ours.median_ms


def _headline(rows: Sequence[Row]) -> list[str]:
    """Return in how many of the cells the engine is ahead, and its largest error."""
    ratios = [(ratio, row) for row in rows if (ratio := _ratio(row)) is not None]
    words = [f"Largest relative error: {max(row.ours.error for row in rows if row.ours is not None):.1e}."]
    if not ratios:
        return words
    ahead, (low, slowest) = sum(ratio >= 1 for ratio, _ in ratios), min(ratios, key=lambda pair: pair[0])
    where = f"{slowest.data}, B = {slowest.batch}, {time_words(slowest.t)}"
    return [f"The engine is ahead in {ahead} of {len(ratios)} cells, at the lowest {low:.2f}x ({where}).", *words]


def _summary(rows: Sequence[Row], document: Mapping[str, Any]) -> list[str]:
    ours = [row.ours for row in rows if row.ours is not None]
    words = _headline(rows)
    if any(_ratio(row) is not None for row in rows):
        words.append(f"Peers took, in times of the engine: {_peers(rows)}.")
    peaks = [side.peak_mib for side in ours if side.peak_mib is not None]
    words += [f"Extra memory was at most {max(peaks):.0f} MiB."] if peaks else []
    words += [] if document.get("rates") is None else [rate_words(Rates(**document["rates"]))]
    busy = sum((row.others or 0.0) > BUSY for row in rows)
    return [*words, f"Other programs disturbed {busy} of the {len(rows)} rows."] if busy else words


def rate_words(rates: Rates) -> str:
    """Return what a floor is, and the rates behind it."""
    return (
        f"The floor is one read of the stored samples at {rates.read / 1e9:.0f} GB/s ({rates.read_by}), or the products"
        f" that the posterior needs at {rates.product / 1e9:.0f} GFLOP/s ({rates.product_by}), whichever takes longer;"
        " both rates are those of the same run, the best of any library call. Samples that stay in a cache, and"
        " products of integers, can pass it."
    )


def _peers(rows: Sequence[Row]) -> str:
    times: dict[str, list[float]] = {}
    for row in rows:
        for name, side in row.sides.items():
            if row.ours is not None and side is not row.ours and name not in (OURS_COARSE, OURS_RECORDED):
                _add(times, name, side, row.ours)
    ordered = sorted(times, key=lambda name: median(times[name]))
    return ", ".join(f"{name} {span(times[name])}" for name in ordered)


def _add(times: dict[str, list[float]], name: str, side: Side, ours: Side) -> None:
    if side.within:
        times.setdefault(name, []).append(side.median_ms / ours.median_ms)
