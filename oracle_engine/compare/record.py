"""What a comparison measures: a workload, and the sides that ran on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..data.dataset import OracleDataset
from .floors import Floor
from .truth import BAR
from .workloads import TRAINING

# ends the name of a data set that is stored as float32
FLOAT32 = "-fp32"

# the engine, the engine without rescoring, and the engine replayed from a CUDA graph
OURS, OURS_COARSE, OURS_RECORDED = "ours", "ours-coarse", "ours-recorded"


@dataclass(frozen=True)
class Side:
    """The measurements of one side.

    *_ms: over the rounds, milliseconds for the whole batch; error: largest relative velocity error against float64;
    peak_mib: peak of extra memory during a call; paired: median over rounds of its time / ours. tolerance: the largest
    error of an answer that can be used. stated: the largest error that came with the answers, None where none does.
    missed: the largest part of a posterior that an answer leaves out, None where it leaves out nothing.
    """

    median_ms: float
    fastest_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    rounds: int
    error: float
    peak_mib: float | None
    paired: float | None
    tolerance: float = BAR
    stated: float | None = None
    missed: float | None = None

    @classmethod
    def untimed(cls, error: float) -> Side:
        """Return a side of which only the error is known: its times are NaN, and it ran in no round."""
        return cls(math.nan, math.nan, math.nan, math.nan, rounds=0, error=error, peak_mib=None, paired=None)

    @property
    def within(self) -> bool:
        """Whether the error is within the tolerance; false for NaN."""
        return self.error <= self.tolerance


S = TypeVar("S")


@dataclass(frozen=True)
class MeasuredWorkload(Generic[S]):
    """One workload and the sides that ran on it.

    t: the time, "mixed", or the number of steps of a run. others: number of processors that other programs kept busy.
    queries: what they were made from, see `Workload`, or "ode" for a run from noise. floor: of an exact answer, where
    the rates of the machine were measured.
    """

    data: str
    count: int
    dim: int
    storage: str
    batch: int
    t: str
    others: float | None
    sides: Mapping[str, S]
    queries: str = TRAINING
    floor: Floor | None = None

    @property
    def label(self) -> str:
        """The data set and its size, as tables write it."""
        return f"{self.data.removesuffix(FLOAT32)}, {self.count:,} x {self.dim:,} {self.storage}"


class Row(MeasuredWorkload[Side]):
    """A workload of the engine and its peers."""

    @property
    def ours(self) -> Side | None:
        """The engine, if it ran."""
        return self.sides.get(OURS)

    def best_peer(self, *, exact: bool) -> str | None:
        """Return the name of the fastest peer; with `exact`, of those within their tolerance."""
        own = (OURS, OURS_COARSE, OURS_RECORDED)
        peers = {name: side for name, side in self.sides.items() if name not in own and (side.within or not exact)}
        return min(peers, key=lambda name: peers[name].median_ms, default=None)


def sizes_of(data: OracleDataset) -> tuple[str, int, int, str]:
    """Return the first fields of a row: name, samples, values of a sample, storage dtype."""
    return data.name, len(data), data.dim, str(data.storage).removeprefix("torch.")
