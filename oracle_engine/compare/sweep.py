"""How time grows along one size of the problem while the others stay: N, D, B and t, with fitted exponents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

from ..base.outside.rows import in_memory
from ..data.dataset import OracleDataset
from .measure import Watch, measured_row
from .record import OURS
from .sides import Sides
from .tables import NOTHING, as_text, milliseconds
from .workloads import Workload

# what runs: the engine, and the plainest way to the same
SWEPT_SIDES = (OURS, "eager")

# shares of N and of D, batch sizes and times
SWEPT_SHARES = (0.125, 0.25, 0.5, 1.0)
SWEPT_BATCHES = (1, 4, 16, 64, 256)
SWEPT_TIMES = (0.05, 0.2, 0.5, 0.8, 0.95)

# seconds of timing of a point
BUDGET = 0.5


@dataclass(frozen=True)
class Sweep:
    """Medians of one side along one axis: N, D, B or t.

    exponent: a of time ~ size^a, by least squares of the logarithms; None along t.
    """

    axis: str
    side: str
    sizes: Sequence[float]
    milliseconds: Sequence[float]
    exponent: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def sweeps(data: OracleDataset, work: Workload, watch: Watch) -> list[Sweep]:
    """Return the sweeps of both sides along every axis, through the workload `work` over the data."""
    found = []
    for axis, points in _axes(data, work).items():
        rows = [(size, _medians(point(), replace(watch, budget=BUDGET))) for size, point in points]
        for side in SWEPT_SIDES:
            sizes = [float(size) for size, medians in rows if side in medians]
            times = [medians[side] for _, medians in rows if side in medians]
            found.append(Sweep(axis, side, sizes, times, None if axis == "t" else exponent(sizes, times)))
    return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the slope of log(value) over log(size) by least squares; None for fewer than two sizes."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    spread = sum((one - mean(x)) ** 2 for one in x) if len(x) > 1 else 0.0
    if spread == 0.0:
        return None
    return sum((one - mean(x)) * (other - mean(y)) for one, other in zip(x, y, strict=True)) / spread


def sweep_table(found: Sequence[Sweep]) -> str:
    """Return a line for each sweep."""
    lines = [
        [
            sweep.axis,
            sweep.side,
            ", ".join(f"{size:g}" for size in sweep.sizes),
            ", ".join(map(milliseconds, sweep.milliseconds)),
            NOTHING if sweep.exponent is None else f"{sweep.exponent:.2f}",
        ]
        for sweep in found
    ]
    return as_text(["along", "side", "sizes", "median ms", "exponent"], lines)


def _axes(data: OracleDataset, work: Workload) -> Mapping[str, Iterator[tuple[float, Callable[[], Workload]]]]:
    """Return the sizes along each axis, with what makes the workload of each."""
    counts = sorted({max(2, int(share * len(data))) for share in SWEPT_SHARES})
    dims = sorted({max(1, int(share * data.dim)) for share in SWEPT_SHARES})
    return {
        "N": ((count, lambda count=count: replace(work, data=_part(data, count, data.dim))) for count in counts),
        "D": ((dim, lambda dim=dim: replace(work, data=_part(data, len(data), dim))) for dim in dims),
        "B": ((batch, lambda batch=batch: replace(work, batch=batch)) for batch in SWEPT_BATCHES),
        "t": ((t, lambda t=t: replace(work, t=t)) for t in SWEPT_TIMES),
    }


def _part(data: OracleDataset, count: int, dim: int) -> OracleDataset:
    """Return the first rows and values of the samples, as samples of one axis."""
    if (count, dim) == (len(data), data.dim):
        return data
    stored = in_memory(data.rows.stored[:count])[:, :dim].contiguous()
    return OracleDataset(stored, value_map=data.value_map, name=data.name)


def _medians(work: Workload, watch: Watch) -> dict[str, float]:
    sides = Sides(work.data, 1e-3).velocities(SWEPT_SIDES)
    row = measured_row(work.data, sides, work, watch)
    return {name: side.median_ms for name, side in row.sides.items() if side.rounds > 0}
