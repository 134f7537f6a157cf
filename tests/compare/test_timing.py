"""Sides take turns, short ones several times, and wait for the threads of the one before."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from oracle_engine.compare import timing
from oracle_engine.compare.timing import LEAST_ROUNDS, interleave, settle


def test_a_short_side_is_asked_again_within_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"a": 0, "b": 0}
    # every look at the clock is 2 ms later
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) / 512)
    monkeypatch.setattr(timing, "settle", lambda: None)

    def side(name: str) -> None:
        asked[name] += 1

    sides = {name: (lambda name=name: side(name)) for name in asked}
    found = interleave(sides, 0.0, torch.device("cpu"), always=sides)
    # six calls in 10 ms wake the threads of a side, three fill a turn
    assert asked == {"a": 9 * LEAST_ROUNDS, "b": 9 * LEAST_ROUNDS}
    assert found["a"].median == 1 / 512
    assert found["a"].paired_ratio(found["b"]) == 1.0


def test_a_turn_begins_when_all_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 0.0, "used": 0.0}

    def sleep(seconds: float) -> None:
        # one other thread spins for 50 ms
        clock["used"] += max(0.0, min(seconds, 0.05 - clock["wall"]))
        clock["wall"] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(time, "process_time", lambda: clock["used"])
    monkeypatch.setattr(time, "sleep", sleep)
    settle()
    assert 0.05 < clock["wall"] < 0.05 + 2 * timing.LOOK
    before = clock["wall"]
    settle()
    assert clock["wall"] == pytest.approx(before + timing.LOOK)


def test_threads_that_never_sleep_are_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(time, "process_time", lambda: clock["wall"])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.update(wall=clock["wall"] + seconds))
    settle()
    assert clock["wall"] >= timing.PATIENCE
