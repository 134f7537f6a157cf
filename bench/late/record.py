"""The rows that a run of bench.late writes: measured sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oracle_engine.compare.record import MeasuredWorkload

from ..record import measured_fields

# the side that the others are compared with
EXACT = "exact"


@dataclass(frozen=True)
class LateSide:
    """The measurements of one side.

    *_ms: over the rounds, for the whole batch. ratio: median over the rounds of the time of the exact route / its own;
    ratio_low, ratio_high: quartiles of that.
    routes: share of the queries that took each. survivors, survivors_90: samples rescored, median and 90 % quantile.
    recall, recall_5: share of the exact posterior mass that was found, mean and 5 % quantile.
    stated_error: largest bound on the relative velocity error that came with the answers, None where none comes.
    true_error: largest relative distance to the velocity of the exact route; of the end points for a run of an ODE.
    peak_mib: extra memory during a call.
    """

    median_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    rounds: int
    ratio: float
    ratio_low: float
    ratio_high: float
    routes: Mapping[str, float]
    survivors: float | None
    survivors_90: float | None
    recall: float | None
    recall_5: float | None
    stated_error: float | None
    true_error: float
    peak_mib: float | None


class LateRow(MeasuredWorkload[LateSide]):
    """One batch and the sides that answered it; the floor is that of the exact route."""


def late_rows(document: Mapping[str, Any]) -> list[LateRow]:
    """Return the rows of a JSON document."""
    return [LateRow(**measured_fields(entry, LateSide)) for entry in document["rows"]]
