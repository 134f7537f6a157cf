"""The predicted time of a launch, from counted instructions and bytes and the rates of a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oracle_engine.kernels.gpu.core.tiles import DigitConfig, ScoreTile, ceil_div
from oracle_engine.kernels.gpu.operands.splits import operand_dtype
from oracle_engine.kernels.gpu.tools.figures import Number
from oracle_engine.kernels.gpu.tools.jobs import Job
from oracle_engine.kernels.gpu.tools.machines import Machine

# cycles that the warps of a program wait for each other at a barrier
BARRIER = 40.0

# seconds from the start of a program until its first rows are there
FILL = 1.5e-6

# bytes a second that all multiprocessors together read of the cache of an H100
CACHE = 7.5e12


# exponent of the norm that joins the seconds of resources: infinite where they overlapped wholly, 1 where they did not
SHARPNESS = 4.0


@dataclass(frozen=True)
class Card:
    """What a model knows of a card.

    machine: a multiprocessor of it. read: bytes of memory a second. product: operations a second of 16-bit products, of
    8-bit ones twice as many; both as they were measured, under the power that the card is given.
    """

    machine: Machine
    read: float
    product: float


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel with products.

    job: the kernel and its tile. programs: how many. steps: of the loop of each. memory: bytes that all read and write
    there.
    """

    job: Job
    programs: int
    steps: int
    memory: float

    @property
    def operations(self) -> float:
        """Operations of a step."""
        job, (queries, weights) = self.job, self.job.parts
        halves = 2 if job.stored.itemsize == 4 else 1
        parts = queries if isinstance(job.config, ScoreTile) else weights
        return 2.0 * halves * parts * job.config.block_n * job.config.block_b * job.config.block_d

    @property
    def cached(self) -> float:
        """Bytes of a step, most of which come from the cache."""
        job, config, (queries, weights) = self.job, self.job.config, self.job.parts
        size = 1 if isinstance(config, DigitConfig) else operand_dtype(job.stored).itemsize
        rows = config.block_n * config.block_d * job.stored.itemsize
        if isinstance(config, ScoreTile):
            return rows + queries * config.block_b * config.block_d * size
        return rows + weights * config.block_b * config.block_n * size

    def bounds(self, figures: Mapping[str, Number], card: Card) -> dict[str, float]:
        """Return the seconds that each of the resources takes.

        figures: of the compiled kernel. card: whose rates are taken.
        """
        machine, warps = card.machine, self.job.config.warps / 4
        rate = card.product / machine.multiprocessors * (2 if isinstance(self.job.config, DigitConfig) else 1)
        unit = self.operations / rate
        issue = figures["instructions"] * warps / machine.clock
        waits = (figures["emptying"] * warps + figures["barriers"] * BARRIER) / machine.clock
        overlapped = figures.get("flying", 1) >= 1
        step = (max(unit, issue) if overlapped else unit + issue) + waits
        ends = FILL + figures["ends"] * warps / machine.clock
        turns = ceil_div(self.programs, machine.multiprocessors * int(figures["programs"]))
        each = ceil_div(self.programs, machine.multiprocessors) * self.steps
        return {
            "unit": each * unit,
            "issue": each * issue,
            "waits": turns * (self.steps * step + ends),
            "memory": self.memory / card.read,
            "cache": self.programs * self.steps * self.cached / CACHE,
        }


def together(bounds: Mapping[str, float]) -> tuple[float, str]:
    """Return the predicted seconds of a launch, and what takes most of them.

    bounds: the seconds of each resource. No launch overlaps them wholly: two that are equally busy add about a fifth.
    """
    return sum(seconds**SHARPNESS for seconds in bounds.values()) ** (1 / SHARPNESS), max(
        bounds, key=bounds.__getitem__
    )
