"""A model of the Triton kernels that can be wrong: `python -m bench.model`.

Times on an H100 are predicted from the instructions and bytes that the gate has counted, and from the rates of memory
and matrix unit, and set beside those that were measured where a results file has them. What is predicted is an answer
replayed from a graph: a plain call is bound by the host.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from oracle_engine.compare.record import OURS_RECORDED
from oracle_engine.compare.tables import NOTHING, Lines, as_text, milliseconds, percent
from oracle_engine.kernels.gpu.core.configs import choose
from oracle_engine.kernels.gpu.tools.machines import MACHINES
from oracle_engine.kernels.gpu.tools.pretended_card import H100

from ..__main__ import RESULTS
from ..gate.kept import Kept, read
from ..gpu_cases import CASES, Case
from ..record import read_json, rows_of
from .from_cache import BLOCK_BYTES, early_cases, from_cache
from .launches import Card
from .prediction import Prediction, predicted, predicted_once

MEASURED = RESULTS / "nvidia-h100-80gb-hbm3.json"

# times at which all rows of random samples have weight, and next to none
EARLY, LATE = 0.05, 0.8

COLUMNS = [
    "data",
    "B",
    "t",
    "predicted ms",
    "measured ms",
    "ratio",
    "floor ms",
    "of floor",
    "what takes it",
]


# of the second table, about a kernel that there is not
ONCE_COLUMNS = ["data", "B", "predicted ms", "in one read", "ratio", "us a block", "at most"]


def card_of(document: Mapping[str, Any] | None) -> Card:
    """Return the card with the rates of a results file, those of :data:`.machines.MACHINES` without one."""
    machine = MACHINES["sm_90"]
    if document is None:
        # what a long product reached under the power that the card is given, a fifth below the data sheet
        return Card(machine, machine.read, 0.8e15)
    return Card(machine, document["rates"]["read"], document["rates"]["product"])


def measured_times(document: Mapping[str, Any] | None) -> dict[tuple[str, int, float], float]:
    """Return the milliseconds of the recorded engine by data, batch and time; empty without a results file."""
    rows = [] if document is None else rows_of(document)
    return {
        (row.data, row.batch, float(row.t)): row.sides[OURS_RECORDED].median_ms
        for row in rows
        if OURS_RECORDED in row.sides
    }


def modelled(case: Case, batch: int) -> bool:
    """Return whether the model knows the kernels of a case: not where one program holds all of D."""
    return choose(H100, case.storage, batch, case.dim).fused is None and case.dim > 16


def lines(kept: Kept, document: Mapping[str, Any] | None) -> Iterator[list[str]]:
    """Yield a line of the table for every case, batch and time; kept: figures of the gate."""
    card, times = card_of(document), measured_times(document)
    for case in CASES:
        for batch, t in product(case.batches, (EARLY, LATE)):
            if modelled(case, batch):
                found = predicted(case, batch, kept, card, early=t == EARLY)
                yield line(case, batch, f"{t:g}", found, times.get((case.name, batch, t)))
        once = predicted_once(case, kept, card) if 1 in case.batches else None
        if once is not None:
            yield line(case, 1, "any, one read", once, None)


def data_of(case: Case) -> str:
    """Return what the data of a case are called in the tables."""
    return f"{case.count:,} x {case.dim:,} {str(case.storage).removeprefix('torch.')}"


def line(case: Case, batch: int, t: str, found: Prediction, measured: float | None) -> list[str]:
    """Return the cells of a prediction, beside the milliseconds that were measured or None."""
    best = 1e3 * found.seconds if measured is None else measured
    parts = [f"{name} {milliseconds(1e3 * seconds)} {bound}" for name, (seconds, bound) in found.kernels.items()]
    return [
        data_of(case),
        str(batch),
        t,
        milliseconds(1e3 * found.seconds),
        NOTHING if measured is None else milliseconds(measured),
        NOTHING if measured is None else f"{1e3 * found.seconds / measured:.2f}",
        milliseconds(1e3 * found.floor),
        percent(1e3 * found.floor / best),
        ", ".join([*parts, f"calls {milliseconds(1e3 * found.calls)}"]),
    ]


def once_lines(kept: Kept, document: Mapping[str, Any] | None) -> Iterator[list[str]]:
    """Yield a line for what one read of the rows would save early, for every case and small batch."""
    card = card_of(document)
    for case, batch in early_cases(CASES):
        found = from_cache(case, batch, kept, card)
        yield [
            data_of(case),
            str(batch),
            milliseconds(1e3 * found.today),
            milliseconds(1e3 * found.once),
            f"{found.today / found.once:.2f}",
            f"{1e6 * found.block:.1f}",
            f"{1e6 * found.allowed:.1f}",
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and how far predictions are off; arguments: those of the command line where None."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=MEASURED, help=f"of bench.gpu on an H100, default: {MEASURED.name}"
    )
    options = parser.parse_args(arguments)
    document = read_json(options.results) if options.results.exists() else None
    table: Lines = list(lines(read(), document))
    print(as_text(COLUMNS, table))
    ratios = sorted(float(cells[5]) for cells in table if cells[5] != NOTHING)
    if ratios:
        print(f"predicted / measured: {ratios[0]:.2f} to {ratios[-1]:.2f}, median {ratios[len(ratios) // 2]:.2f}")
    else:
        print(f"nothing was measured: {options.results} is not there; all times are predictions")
    size = BLOCK_BYTES >> 20
    print(
        f"\nwere rows read once where all have weight, by a persistent kernel over blocks of {size} MiB in the cache:"
    )
    print(as_text(ONCE_COLUMNS, list(once_lines(read(), document))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
