"""The README's words and table on the Triton kernels, from the rows of a results file of a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oracle_engine.compare.floors import Rates
from oracle_engine.compare.record import OURS, OURS_RECORDED, Row
from oracle_engine.compare.tables import NOTHING, Lines, as_markdown, milliseconds, percent

from .passages import grouped, machine_words, span, time_words, wrapped
from .record import rows_of

# the largest batches and data say what kernels do, the smallest what a call costs
SHOWN = (1, 64, 256)

# names of storage dtypes, shorter
SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def gpu_passage(document: Mapping[str, Any], file: Path) -> str:
    """Return what was measured and where, the table, and what its cells come to."""
    rows = [row for row in rows_of(document) if OURS_RECORDED in row.sides]
    floors = {_key(row): floor for row, floor in zip(rows_of(document), document["floors"], strict=True)}
    rates = Rates(**document["rates"])
    words = (
        f"{machine_words(document, file)}, one velocity for each query, random samples, sides interleaved.",
        "A cell is the time of the engine replayed from a CUDA graph, its factor over the fastest peer within the"
        " accuracy bar, and in brackets the time of a plain call, which the host bounds.",
        f"Where all rows weigh (t = {rows[0].t}), the share of the floor follows: one read at"
        f" {rates.read / 1e12:.2f} TB/s, or the products of an exact answer at {rates.product / 1e12:.0f} TFLOP/s in"
        " 16 bits, whichever takes longer, both rates of the same run.",
    )
    return "\n\n".join([wrapped(*words), as_markdown(*_table(rows, floors)), wrapped(*_summary(rows))])


def gpu_summary(document: Mapping[str, Any], file: Path) -> str:
    """Return what was measured and where, and what the cells of the table come to."""
    rows = [row for row in rows_of(document) if OURS_RECORDED in row.sides]
    largest = max(rows, key=lambda row: (row.count * row.dim * row.batch, -float(row.t)))
    example = (
        f"{largest.count:,} x {largest.dim:,} {SHORT.get(largest.storage, largest.storage)}, B = {largest.batch}:"
        f" {milliseconds(largest.sides[OURS_RECORDED].median_ms)} ms at t = {largest.t}."
    )
    return wrapped(f"{machine_words(document, file)}.", example, *_summary(rows))


def _key(row: Row) -> tuple[str, int, str]:
    return row.data, row.batch, str(row.t)


def _table(rows: Sequence[Row], floors: Mapping[Any, Mapping[str, float]]) -> tuple[list[str], Lines]:
    times = list(dict.fromkeys(str(row.t) for row in rows))
    groups: dict[str, dict[int, dict[str, Row]]] = {}
    for row in rows:
        if row.batch in SHOWN:
            name = f"{row.count:,} x {row.dim:,} {SHORT.get(row.storage, row.storage)}"
            groups.setdefault(name, {}).setdefault(row.batch, {})[str(row.t)] = row

    def line(batch: int, found: Mapping[str, Row]) -> list[str]:
        return [str(batch), *(_cell(found.get(t), floors, t == times[0]) for t in times)]

    lines = {name: [line(*entry) for entry in batches.items()] for name, batches in groups.items()}
    return ["data", "B", *map(time_words, times)], grouped(lines)


def _cell(row: Row | None, floors: Mapping[Any, Mapping[str, float]], early: bool) -> str:
    if row is None:
        return NOTHING
    recorded, ratio, floor = row.sides[OURS_RECORDED].median_ms, _ratio(row), floors[_key(row)]
    words = [f"{milliseconds(recorded)} ms", *([] if ratio is None else [f"{ratio:.2f}x"])]
    if early:
        words.append(percent(max(floor["read_ms"], floor["products_ms"]) / recorded))
    return f"{', '.join(words)} ({milliseconds(row.sides[OURS].median_ms)})"


def _ratio(row: Row) -> float | None:
    best = row.best_peer(exact=True)
    return None if best is None else row.sides[best].median_ms / row.sides[OURS_RECORDED].median_ms


def _summary(rows: Sequence[Row]) -> list[str]:
    ratios = [ratio for row in rows if (ratio := _ratio(row)) is not None]
    rough = [row.sides["bf16"].median_ms / row.sides[OURS_RECORDED].median_ms for row in rows if "bf16" in row.sides]
    worst = max(side.error for row in rows for name, side in row.sides.items() if name in (OURS, OURS_RECORDED))
    return [
        f"Replayed, the engine is {span(ratios)} as fast as the fastest exact peer (torch's float32 products, and TF32"
        f" where that meets the bar), and {span(rough)} as fast as products in bfloat16, which miss the bar.",
        f"Largest relative error: {worst:.1e}.",
    ]
