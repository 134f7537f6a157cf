"""A run of the oracle ODE from noise to data, timed step by step: exact, with an index, and as a trajectory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from oracle_engine.compare.load import watch_others

from .record import EXACT, LateRow, LateSide
from .sides import Sides

Velocity = Callable[[Tensor, float], Tensor]

# queries of a run from noise
ODE = "ode"


def ode_row(sides: Sides, size: int, steps: int) -> LateRow:
    """Return the times of Euler runs with equal steps; every side follows its own velocity from the same noise.

    The sides take turns at every step, so that a disturbance of the machine affects all; one run is enough.
    """
    generator = torch.Generator().manual_seed(0)
    shape = sides.split.data.sample_shape
    start = torch.randn(size, *shape, dtype=torch.float64, generator=generator)
    # the first products of a size are slower
    sides.exact.velocity(start, 0.0)
    others = watch_others()
    velocities, seconds = _begun(sides, start)
    state = dict.fromkeys(velocities, start)
    for step in range(steps):
        for name in _turned(list(velocities), step):
            began = time.perf_counter()
            state[name] = state[name] + velocities[name](state[name], step / steps) / steps
            seconds[name].append(time.perf_counter() - began)
    busy = others()
    measured = {name: _side(seconds[name], seconds[EXACT], state[name], state[EXACT]) for name in velocities}
    return sides.row(measured, (size, ODE, f"{steps} steps"), busy, None)


def _begun(sides: Sides, start: Tensor) -> tuple[dict[str, Velocity], dict[str, list[float]]]:
    """Return the sides and the seconds of their preparation: a trajectory computes its products once."""
    velocities: dict[str, Velocity] = {EXACT: sides.exact.velocity}
    seconds: dict[str, list[float]] = {EXACT: []}
    # only the first tolerance runs: all of them would take minutes
    name, engine = next(iter(sides.auto.items()))
    velocities[name], seconds[name] = engine.velocity, []
    began = time.perf_counter()
    velocities[f"{name} trajectory"] = engine.trajectory(start).velocity
    seconds[f"{name} trajectory"] = [time.perf_counter() - began]
    return velocities, seconds


def _turned(names: list[str], step: int) -> list[str]:
    turn = step % len(names)
    return names[turn:] + names[:turn]


def _side(seconds: list[float], exact: list[float], end: Tensor, truth: Tensor) -> LateSide:
    total, ratio = sum(seconds), sum(exact) / sum(seconds)
    distance = (end - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    return LateSide(
        median_ms=1e3 * total,
        first_quartile_ms=1e3 * total,
        third_quartile_ms=1e3 * total,
        rounds=1,
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        routes={},
        survivors=None,
        survivors_90=None,
        recall=None,
        recall_5=None,
        stated_error=None,
        true_error=float(distance.max()),
        peak_mib=None,
    )
