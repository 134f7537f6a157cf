"""Interleaved timing: all sides take turns in one process, so that a disturbance of the machine affects all."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch

Call = Callable[[], object]

# rounds that are run even where the budget is used up
LEAST_ROUNDS = 3

# seconds that a turn lasts at least: a side that answers sooner is asked again, and the median counts; and before that,
# uncounted, until threads that slept have been woken, which takes a virtual machine up to 6 ms
TURN, WARM = 0.005, 0.01

# threads sleep where the process used less than this share of a processor for so many seconds; no longer is waited
ASLEEP, LOOK, PATIENCE = 0.2, 0.012, 0.5

# a peer that is slower than the fastest one by this factor is skipped: after the second round, and in later rounds
HOPELESS, FAR_BEHIND = 8.0, 3.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one side in each round it took part in, by the number of the round."""

    seconds: Mapping[int, float]

    @property
    def median(self) -> float:
        """Median over the rounds, in seconds."""
        return median(self.seconds.values())

    @property
    def minimum(self) -> float:
        """Fastest round, in seconds."""
        return min(self.seconds.values())

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile over the rounds, in seconds."""
        values = list(self.seconds.values())
        if len(values) == 1:
            return values[0], values[0]
        first, _, third = quantiles(values, n=4, method="inclusive")
        return first, third

    def paired_ratio(self, other: Timing) -> float:
        """Return the median over common rounds of own time / time of `other`, in which slow drifts cancel."""
        common = self.seconds.keys() & other.seconds.keys()
        return median(self.seconds[number] / other.seconds[number] for number in common)


def interleave(
    sides: Mapping[str, Call], budget: float, device: torch.device, always: Container[str]
) -> dict[str, Timing]:
    """Time the sides in rounds in which each runs once, the order rotated, for about `budget` seconds.

    Every side must have been called before. The sides in `always` run in every round; a peer that is much slower than
    the fastest peer is skipped in later rounds.
    """
    clock = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    seconds: dict[str, dict[int, float]] = {name: {} for name in sides}
    number, left = 0, budget
    while number < LEAST_ROUNDS or left > 0:
        began = time.perf_counter()
        racing = _racing(seconds, HOPELESS if number == 2 else FAR_BEHIND, always) if number >= 2 else list(sides)
        turn = number % len(racing)
        for name in racing[turn:] + racing[:turn]:
            seconds[name][number] = clock(sides[name])
        # the slow peers take part in the first rounds, which do not count against the budget
        left -= time.perf_counter() - began if number >= LEAST_ROUNDS else 0.0
        number += 1
    return {name: Timing(values) for name, values in seconds.items()}


def timed_once(call: Call, device: torch.device) -> float:
    """Return the seconds of one call, from when the device is idle to when it is idle again."""
    if device.type == "cuda":
        return _cuda_seconds(call)
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def settle() -> None:
    """Wait until the threads of this process sleep.

    A library keeps its threads spinning after a call, OpenBLAS for a tenth of a second, and the next side would share
    the processors with them.
    """
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE:
        used, since = time.process_time(), time.perf_counter()
        time.sleep(LOOK)
        if time.process_time() - used < ASLEEP * (time.perf_counter() - since):
            return


def _racing(seconds: Mapping[str, Mapping[int, float]], factor: float, always: Container[str]) -> list[str]:
    # the fastest round decides, because a disturbance cannot make it slower
    fastest = {name: min(values.values()) for name, values in seconds.items()}
    limit = factor * min((value for name, value in fastest.items() if name not in always), default=0.0)
    return [name for name, value in fastest.items() if name in always or value <= limit]


def _cpu_seconds(call: Call) -> float:
    """Return the median seconds of the calls of one turn on the CPU."""
    settle()
    warm = time.perf_counter() + WARM
    call()
    while time.perf_counter() < warm:
        call()
    turn: list[float] = []
    while sum(turn) < TURN:
        began = time.perf_counter()
        call()
        turn.append(time.perf_counter() - began)
    return median(turn)


def _cuda_seconds(call: Call) -> float:
    """Return the seconds of one call on the CUDA device."""
    # no flush of the L2 cache: the sides take turns over data several times its size
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
