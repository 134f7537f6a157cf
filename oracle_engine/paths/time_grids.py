"""Time grids for samplers: increasing times from noise to data, with the timestep shift."""

from __future__ import annotations

import math

import torch

from ..base.arrays import Float64, Numbers, Tensor, check_floating, reals
from ..base.errors import invalid


def sampling_times(steps: int, *, shift: float = 1.0, start: float = 0.0, stop: float = 1.0) -> Float64[Tensor, "T"]:
    """Return increasing times from `start` to `stop`, [steps + 1] float64 on the CPU, equally spaced before the shift.

    steps: number of steps, >= 1.
    shift: s of t_m = s t_n / (1 + (s - 1) t_n) (Esser et al. 2024, eq. 23), finite and > 0; below 1 the steps gather
        near t = 0, the noise, above 1 near the data. Tools whose time runs from data to noise name 1 / s.
    start, stop: the first and the last time, after the shift, 0 <= start < stop <= 1.

    Raises InputError for values outside these ranges.

    >>> from oracle_engine.paths.time_grids import sampling_times
    >>> sampling_times(4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    >>> sampling_times(2, shift=3.0).round(decimals=3).tolist()
    [0.0, 0.75, 1.0]
    """
    if steps < 1:
        raise invalid("steps", "must be at least 1", steps, "pass 50")
    if not (0.0 < shift < math.inf):
        raise invalid("shift", "must be positive and finite", shift, "pass 1.0 for equal steps")
    if not 0.0 <= start < stop <= 1.0:
        raise invalid("start, stop", "must satisfy 0 <= start < stop <= 1", (start, stop), "pass 0.0 and 1.0")
    first, last = shifted(torch.tensor([start, stop], dtype=torch.float64), 1.0 / shift)
    times = shifted(torch.linspace(first.item(), last.item(), steps + 1, dtype=torch.float64), shift)
    # the ends are those given, without the rounding of two shifts
    times[0], times[-1] = start, stop
    return times


def shifted(t: Float64[Tensor, "..."], shift: float) -> Float64[Tensor, "..."]:
    """Return s t / (1 + (s - 1) t), in the shape of `t`; its inverse is the shift by 1 / s.

    t: times in [0, 1], any shape, float64. shift: s, finite and > 0.
    """
    return shift * t / (1.0 + (shift - 1.0) * t)


def shift_for(share: float, before: float) -> float:
    """Return the shift that puts a share f of the steps before the time b: b (1 - f) / (f (1 - b)).

    share: f, strictly between 0 and 1. before: b, strictly between 0 and 1; where b is the end of navigation, the share
        f of the steps is spent on navigation.

    Raises InputError for values outside (0, 1).
    """
    for name, value in (("share", share), ("before", before)):
        if not 0.0 < value < 1.0:
            raise invalid(name, "must lie strictly between 0 and 1", value, "pass 0.5")
    return before * (1.0 - share) / (share * (1.0 - before))


def check_times(times: Numbers) -> Float64[Tensor, "T"]:
    """Return `times` as float64 on the CPU, [T].

    times: [T], T >= 2, strictly increasing within [0, 1]: a floating tensor, an array or a sequence of numbers.
    Raises InputError for another dtype, shape or order and for times outside [0, 1].
    """
    if isinstance(times, Tensor):
        check_floating("times", times)
    grid = reals("times", times, torch.device("cpu")).detach()
    if grid.ndim != 1 or len(grid) < 2:
        raise invalid(
            "times", "must be one-dimensional, with two or more times", list(grid.shape), "use sampling_times(50)"
        )
    if not bool((grid[1:] > grid[:-1]).all()):
        remedy = "pass times.flip(0)" if bool((grid[1:] < grid[:-1]).all()) else "sort them, each once"
        ends = f"{float(grid[0])} .. {float(grid[-1])}"
        raise invalid("times", "must increase strictly, from 0 noise to 1 data", ends, remedy)
    if float(grid[0]) < 0.0 or float(grid[-1]) > 1.0:
        raise invalid("times", "must lie in [0, 1]", f"{float(grid[0])} .. {float(grid[-1])}", "rescale them")
    return grid
