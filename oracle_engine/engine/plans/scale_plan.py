"""What the oracle of a data set needs on many ranks, from its sizes alone: no data, no cards, arithmetic.

With N samples of D values of s bytes on S ranks and B queries, F operations and W bytes a second: memory N D s / S,
a read N D s / (S W), products 4 B N D / (S F), a merge of 2 (S - 1) / S B (D + 5) 8 bytes a rank, and a pass of
max(read, products) + merge seconds. Both products and the read take as long at B = s F / (4 W).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...base.arrays import STORAGE_DTYPES
from ...base.errors import invalid
from .cards import Card

# half of the squared norm of each row, in float64, and sums beside the mean in a state
_NORM_BYTES, _STATE_SUMS, _STATE_BYTES = 8, 5, 8

_STORAGE = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGE_DTYPES}


@dataclass(frozen=True)
class ScaleProblem:
    """A data set by its sizes, and what is asked of it.

    samples: N, at least 1. dim: D, values of a sample, at least 1. storage: their dtype as torch calls it, such as
    "float16". batch: B, queries of a call, at least 1. queries: how many are asked in all, or None.

    Raises InputError for others.
    """

    samples: int
    dim: int
    storage: str = "float16"
    batch: int = 256
    queries: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "dim", "batch", "queries"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 2**62:
                raise invalid(name, "must be a whole number from 1 to 2^62", value, f"pass {name}=1 or more")
        if self.storage not in _STORAGE:
            raise invalid("storage", f"must be one of {', '.join(_STORAGE)}", repr(self.storage), "name the dtype")

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return _STORAGE[self.storage].itemsize

    @property
    def held(self) -> int:
        """Bytes that all ranks hold together: the samples, and the norm of each."""
        return self.samples * (self.dim * self.itemsize + _NORM_BYTES)

    @property
    def operations(self) -> float:
        """Operations of both products of a call: every query with every sample, and every sample with its weight."""
        return 4.0 * self.batch * self.samples * self.dim


@dataclass(frozen=True)
class ScalePlan:
    """What `ranks` of a card need for a problem; seconds are floors by arithmetic, not measurements.

    fits: whether the samples fit into `ranks` cards; least_ranks: the smallest number they fit into.
    memory: bytes a rank holds. read: seconds of one read from its memory; host: from the host's, None where that is the
    same; network: over the network. products: seconds of a call's products where every sample has weight.
    merge_bytes, merge: what a rank sends to merge the answers of a call, and the seconds of it. call: seconds of a call
    with the samples in place. streamed: the same with samples that come from the host, None where they cannot.
    even_batch: the batch at which products take as long as the read. hours: of all queries, with the samples in place
    where they fit and streamed otherwise; None where no number of queries was given or no way is open.
    card_hours: of all cards together.
    """

    problem: ScaleProblem
    card: Card
    ranks: int
    fits: bool
    least_ranks: int
    memory: float
    read: float
    host: float | None
    network: float
    products: float
    merge_bytes: float
    merge: float
    call: float
    streamed: float | None
    even_batch: float
    hours: float | None
    card_hours: float | None

    def facts(self) -> dict[str, Any]:
        """Return the plan as plain values that json can write."""
        return asdict(self)

    def __str__(self) -> str:
        lines = {
            "data": f"{self.problem.samples:,} samples of {self.problem.dim:,} {self.problem.storage} values",
            "ranks": f"{self.ranks:,} x {self.card.name}, {self._room()}",
            "memory": f"{_bytes(self.memory)} a rank",
            "read": f"{_seconds(self.read)} from memory" + self._slower(),
            "products": f"{_seconds(self.products)} for {self.problem.batch:,} queries, early in t; half of it late",
            "merge": f"{_bytes(self.merge_bytes)} a rank, {_seconds(self.merge)}",
            "call": f"at least {_seconds(self.call)}" + self._streamed(),
            "batch": f"reads and products take as long at {self.even_batch:,.0f} queries",
            "offline": self._offline(),
        }
        return "\n".join(f"{name:<9} {text}" for name, text in lines.items() if text)

    def _room(self) -> str:
        if self.fits:
            return f"in which they fit; {self.least_ranks:,} would do"
        return f"in which they do not fit: {self.least_ranks:,} would do"

    def _slower(self) -> str:
        host = "" if self.host is None else f", {_seconds(self.host)} from the host's"
        return f"{host}, {_seconds(self.network)} over the network"

    def _streamed(self) -> str:
        return "" if self.streamed is None else f"; {_seconds(self.streamed)} where samples come from the host"

    def _offline(self) -> str:
        if self.hours is None or self.card_hours is None:
            return ""
        way = "" if self.fits else ", samples streamed from the host"
        return f"{self.problem.queries:,} queries in {self.hours:,.2f} hours, {self.card_hours:,.1f} card hours{way}"


def plan_scale(problem: ScaleProblem, card: Card, ranks: int) -> ScalePlan:
    """Return what `ranks` ranks, at least 1, of `card` need for `problem`; raises InputError for fewer.

    The formulas are those at the head of this module. Costs nothing.
    """
    if not 1 <= ranks <= 2**31:
        raise invalid("ranks", "must be a whole number from 1 to 2^31", ranks, "pass ranks=1 for one machine")
    memory = problem.held / ranks
    read, products = memory / card.read, problem.operations / (ranks * card.matrix)
    merge_bytes = 2.0 * (ranks - 1) / ranks * problem.batch * (problem.dim + _STATE_SUMS) * _STATE_BYTES
    merge, host = merge_bytes / card.network, None if card.host is None else memory / card.host
    fits, call = memory <= card.usable, max(read, products) + merge
    streamed = None if host is None else max(host, products) + merge
    hours = _hours(problem, call if fits else streamed)
    return ScalePlan(
        problem=problem,
        card=card,
        ranks=ranks,
        fits=fits,
        least_ranks=max(1, math.ceil(problem.held / card.usable)) if card.usable else 0,
        memory=memory,
        read=read,
        host=host,
        network=memory / card.network,
        products=products,
        merge_bytes=merge_bytes,
        merge=merge,
        call=call,
        streamed=streamed,
        even_batch=problem.itemsize * card.matrix / (4.0 * card.read),
        hours=hours,
        card_hours=None if hours is None else hours * ranks,
    )


def _hours(problem: ScaleProblem, call: float | None) -> float | None:
    if problem.queries is None or call is None:
        return None
    return math.ceil(problem.queries / problem.batch) * call / 3600.0


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1.0 else f"{seconds * 1e3:,.3g} ms"
