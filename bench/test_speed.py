"""The small suite: `python -m pytest bench --benchmark-only`; it reports speed and asserts none."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from oracle_engine.compare.workloads import Workload

from .conftest import SIDES, Measure


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("t", [0.05, 0.5])
@pytest.mark.parametrize("batch", [1, 64])
# the storage dtype is that of the peers
@pytest.mark.parametrize("data", ["fashion-mnist-fp32", "patches-fp32"])
def test_velocity(benchmark: Any, measured: Measure, *, data: str, batch: int, t: float, side: str) -> None:
    """Time one side; its error, peak memory and interleaved times go into extra_info."""
    contest, row = measured(data, batch, t)
    if side not in row.sides:
        pytest.skip(f"{side} cannot run here")
    benchmark.group = f"{row.data} B={batch} t={t}"
    benchmark.extra_info.update(asdict(row.sides[side]))
    drawn = Workload(contest.data, batch, t).draw()
    benchmark.pedantic(contest.velocities[side], args=(drawn.x, drawn.t), rounds=5, warmup_rounds=1)
