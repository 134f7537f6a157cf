"""From a workload to a row: errors, interleaved times, peak memory, and what was stated and left out, of all sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..data.dataset import OracleDataset
from .contender import Contender
from .floors import Need, Rates
from .load import watch_others
from .memory import peak_extra_bytes
from .record import OURS, Row, Side, sizes_of
from .timing import Call, Timing, interleave, timed_once
from .truth import log_density_of, posterior_weights, relative_error, velocity_of
from .workloads import Batch, Workload

# queries whose error is computed: the float64 velocity costs more than any side
ERROR_QUERIES = 64


@dataclass(frozen=True)
class Watch:
    """How sides are watched.

    budget: seconds of interleaved timing. rates: of this machine, for floors; None without. always: sides that run in
    every round; None: all. slow: seconds from which on a call is timed once, alone. usable: sides above their tolerance
    are not timed. density: the answers are log-densities. tick: called with the name of what begins.
    """

    budget: float
    rates: Rates | None = None
    always: Container[str] | None = None
    slow: float = math.inf
    usable: bool = False
    density: bool = False
    tick: Callable[[str], None] = field(default=lambda what: None)


def measured_row(data: OracleDataset, sides: Mapping[str, Contender], work: Workload, watch: Watch) -> Row:
    """Measure all sides on one workload over the data, on whose device they run."""
    batch = work.draw()
    few = batch[:ERROR_QUERIES]
    watch.tick("float64")
    weights = posterior_weights(data, few)
    truth = log_density_of(data, few)[:, None] if watch.density else velocity_of(data, few, weights)
    floor = None if watch.rates is None else watch.rates.floor(_need(data, batch, weights, density=watch.density))
    missed = {name: _missed(side, few, weights) for name, side in sides.items()}
    del weights
    errors: dict[str, float] = {}
    for name, side in sides.items():
        # these first calls also warm all sides up
        watch.tick(name)
        errors[name] = relative_error(side.answer(batch)[:ERROR_QUERIES], truth)
    stated = {name: None if side.stated is None else side.stated(batch) for name, side in sides.items()}
    timed = {name for name, side in sides.items() if not watch.usable or errors[name] <= side.tolerance}
    calls = {name: partial(side.answer, batch) for name, side in sides.items() if name in timed}
    watch.tick("timing")
    measured, busy = _timed(calls, errors, data.device, watch)
    found = {
        name: replace(
            measured.get(name, Side.untimed(errors[name])),
            tolerance=side.tolerance,
            stated=stated[name],
            missed=missed[name],
        )
        for name, side in sides.items()
    }
    return Row(*sizes_of(data), work.batch, work.time_label, busy, found, work.kind, floor)


def _need(data: OracleDataset, batch: Batch, weights: Tensor, *, density: bool) -> Need:
    need = Need.of(data, batch, weights)
    # a log-density sums no rows
    return replace(need, operations=2.0 * data.dim * len(batch.x) * len(data)) if density else need


def _missed(side: Contender, batch: Batch, weights: Tensor) -> float | None:
    """Return the largest posterior mass outside of the rows that a side looks at, or None where it looks at all."""
    if side.candidates is None:
        return None
    place = side.candidates(batch)
    # a row may be named twice, and unused places name none
    named = torch.zeros_like(weights).scatter_add_(1, place.clamp_min(0), (place >= 0).double())
    return float((1 - (weights * (named > 0)).sum(1)).max().clamp_min(0))


def _timed(
    calls: Mapping[str, Callable[[], Tensor]], errors: Mapping[str, float], device: torch.device, watch: Watch
) -> tuple[dict[str, Side], float | None]:
    """Return the timing of every side, interleaved, and how busy other processes were."""
    peaks: dict[str, int | None] = {}
    once: dict[str, float] = {}
    for name, call in calls.items():
        held: list[float] = []
        peaks[name] = peak_extra_bytes(partial(_keep_seconds, held, call, device), device)
        once[name] = held[0]
    others = watch_others()
    quick = {name: call for name, call in calls.items() if once[name] < watch.slow}
    timings = {name: Timing({0: seconds}) for name, seconds in once.items() if name not in quick}
    always = quick if watch.always is None else watch.always
    timings |= interleave(quick, watch.budget, device, always=always) if quick else {}
    busy = others()
    ours = timings.get(OURS)
    return {name: _side(timings[name], ours, errors[name], peaks[name]) for name in calls}, busy


def _keep_seconds(held: list[float], call: Call, device: torch.device) -> object:
    # the answer is part of the peak
    kept: list[object] = []
    held.append(timed_once(lambda: kept.append(call()), device))
    return kept


def _side(timing: Timing, ours: Timing | None, error: float, peak: int | None) -> Side:
    """Return what a row says of one side."""
    first, third = timing.quartiles
    return Side(
        median_ms=1e3 * timing.median,
        fastest_ms=1e3 * timing.minimum,
        first_quartile_ms=1e3 * first,
        third_quartile_ms=1e3 * third,
        rounds=len(timing.seconds),
        error=error,
        peak_mib=None if peak is None else peak / 2**20,
        paired=None if ours is None else timing.paired_ratio(ours),
    )
