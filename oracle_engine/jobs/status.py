"""How far a job is: what is done, how fast it goes, and how long it will take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from .folder import JobFolder
from .records import units_a_second


@dataclass(frozen=True)
class Status:
    """How far a job is.

    queries, answered: how many there are, and of how many the answers are there. units, units_done: likewise of units.
    workers: how many processes work on it now. rate: queries a second of all of them. seconds_left: at this rate, None
    where nobody works or none has done anything yet. result: the file of all answers, None until it is there.
    """

    queries: int
    answered: int
    units: int
    units_done: int
    workers: int
    rate: float
    seconds_left: float | None
    result: str | None

    @classmethod
    def of(cls, folder: JobFolder) -> Status:
        """Return how far the job in `folder` is; costs a look at each of its files but into few."""
        spec, pending, rates = folder.spec, folder.pending(), units_a_second(folder.path)
        units, queries = spec.blocks * spec.shards, spec.shape[0]
        done = folder.units_done()
        # the last block may be a short one
        short = sum(min(spec.batch, queries - block * spec.batch) for block in pending)
        left = (units - done) / sum(rates) if any(rates) else None
        return cls(
            queries=queries,
            answered=queries - short,
            units=units,
            units_done=done,
            workers=len(rates),
            rate=sum(rates) * spec.batch / spec.shards,
            seconds_left=left if pending else 0.0,
            result=str(folder.result) if folder.result.exists() else None,
        )

    def facts(self) -> dict[str, Any]:
        """Return the fields by name, as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return it in words, on one line."""
        if self.result is not None:
            return f"done: {self.result}, {self.queries:,} queries"
        share = f"{self.answered:,} of {self.queries:,} queries, {self.units_done:,} of {self.units:,} units"
        if not self.workers:
            return f"{share}; nobody works on it"
        pace = f"{share}; {self.workers} at work, {self.rate:,.1f} queries/s"
        return pace if self.seconds_left is None else f"{pace}, {timedelta(seconds=round(self.seconds_left))} left"
