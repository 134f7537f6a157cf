"""The comparison on a user's data: sides are built, every workload is measured, and what follows is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ..base.errors import invalid
from ..base.machine.environment import environment_report
from ..base.progress import Progress
from ..data.dataset import OracleDataset
from .floors import Rates, rates_of
from .measure import Watch, measured_row
from .quantities import MISSED, plain_row, table
from .record import Row
from .sides import Sides
from .sweep import Sweep, sweep_table, sweeps
from .verdict import verdict
from .workloads import Workload

# a call that takes longer is timed once
SLOW = 1.0

# t = 0 is noise and t = 1 is data; beyond these ends the float64 reference loses digits
FIRST_TIME, LAST_TIME = 1e-3, 0.999


@dataclass(frozen=True)
class Comparison:
    """What was measured: rows of the velocity and of the log-density, sweeps, and why sides were left out.

    tolerance: of estimates. rates: of the machine, measured in the same run.
    """

    rows: Sequence[Row]
    densities: Sequence[Row]
    sweeps: Sequence[Sweep]
    left_out: dict[str, str]
    tolerance: float
    rates: Rates

    @property
    def advice(self) -> str:
        """Which side to use when, in one sentence."""
        return verdict(self.rows, self.tolerance)

    def format_table(self) -> str:
        """Return everything as text."""
        first = self.rows[0]
        words = "queries t X + (1 - t) eps of its samples, sides interleaved in one process"
        parts = [
            f"velocities over {first.label}; {words}",
            table(self.rows, self.rates),
            f"{MISSED} error above the tolerance: no speed is shown. Of floor: {self._floor_words()}.",
        ]
        if self.densities:
            parts += ["log-densities", table(self.densities, self.rates)]
        if self.sweeps:
            parts += ["time along one size, the others fixed", sweep_table(self.sweeps)]
        parts += [f"{name} left out: {reason}" for name, reason in self.left_out.items()]
        return "\n\n".join([*parts, self.advice])

    def _floor_words(self) -> str:
        rates = self.rates
        read = f"one read of the samples at {rates.read / 1e9:.3g} GB/s ({rates.read_by})"
        products = f"the products of an exact answer at {rates.product / 1e9:.4g} GFLOP/s ({rates.product_by})"
        return f"{read}, or {products}, whichever takes longer"

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "rows": [plain_row(row, self.rates) for row in self.rows],
            "densities": [plain_row(row, self.rates) for row in self.densities],
            "sweeps": [sweep.to_json() for sweep in self.sweeps],
            "left_out": self.left_out,
            "tolerance": self.tolerance,
            "rates": vars(self.rates),
            "advice": self.advice,
            "environment": environment_report(),
        }


@dataclass(frozen=True)
class BenchPlan:
    """What is to be measured: batch sizes, times, names of sides, seconds of timing for a workload, and the seed.

    tolerance: of estimates and of the prepared engine. sweep: also along N, D, B and t.
    """

    batches: Sequence[int]
    times: Sequence[float]
    names: Sequence[str]
    budget: float = 3.0
    seed: int = 0
    tolerance: float = 1e-3
    sweep: bool = False

    def checked(self) -> BenchPlan:
        """Return the plan. Raises InputError for what cannot be measured."""
        if not self.batches or min(self.batches) < 1:
            raise invalid("batch", "must be whole numbers of at least 1", list(self.batches), "leave it out for 64")
        if not self.times or not all(FIRST_TIME <= t <= LAST_TIME for t in self.times):
            remedy = "pass times such as .1,.5,.9"
            raise invalid("t", f"must lie in [{FIRST_TIME}, {LAST_TIME}]", list(self.times), remedy)
        if not 1e-5 <= self.tolerance <= 1:
            raise invalid("tolerance", "must lie in [1e-5, 1]", self.tolerance, "leave it out for 1e-3")
        if not 0 <= self.budget < float("inf"):
            raise invalid("budget", "must be seconds, 0 or more", self.budget, "leave it out for 3")
        return self


def compare(data: OracleDataset, plan: BenchPlan, progress: Progress) -> Comparison:
    """Measure the sides over the data, on whose device they run.

    data: samples of equal weights. plan: what is measured, checked. progress: called with steps done and all steps.

    Raises InputError for weighted data.
    """
    if data.rows.log_weights is not None:
        raise invalid("data", "must have samples of equal weights", "weights", "leave the weights out")
    works = [Workload(data, batch, t, seed=plan.seed) for batch, t in product(plan.batches, plan.times)]
    # building, float64, the first call and the timing of every side; two sides of the log-density
    tick = _counter(progress, len(plan.names) + len(works) * (len(plan.names) + 2) + len(works) * 4)
    sides = Sides(data, plan.tolerance)
    contenders, densities = sides.velocities(plan.names, tick), sides.densities()
    rates = rates_of(data.device)
    watch = Watch(plan.budget, rates, slow=SLOW, usable=True, tick=tick)
    rows = [measured_row(data, contenders, work, watch) for work in works]
    dense = replace(watch, density=True)
    return Comparison(
        rows,
        [measured_row(data, densities, work, dense) for work in works],
        sweeps(data, works[len(works) // 2], replace(watch, tick=lambda what: None)) if plan.sweep else [],
        sides.left_out,
        plan.tolerance,
        rates,
    )


def _counter(progress: Progress, total: int) -> Callable[[str], None]:
    """Return what counts the steps that are done, by whatever name."""
    done = 0

    def tick(what: str) -> None:
        """Count one step."""
        nonlocal done
        done = min(done + 1, total)
        progress(done, total)

    return tick
