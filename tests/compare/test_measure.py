"""Rows: errors against float64, what was missed, no speed above a tolerance, and the sentence that follows."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.compare.contender import Contender
from oracle_engine.compare.floors import Floor, Rates
from oracle_engine.compare.measure import Watch, measured_row
from oracle_engine.compare.quantities import quantities, table
from oracle_engine.compare.record import Row, Side
from oracle_engine.compare.sweep import exponent
from oracle_engine.compare.truth import BAR
from oracle_engine.compare.verdict import fastest, verdict
from oracle_engine.compare.workloads import Batch, Workload

RATES = Rates(1e10, 1e11, "torch copy", "NumPy 64 x 64")


@pytest.fixture(scope="module")
def data() -> OracleDataset:
    return OracleDataset(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))


def test_a_side_above_its_tolerance_is_not_timed(data: OracleDataset) -> None:
    engine, asked = OracleEngine(data), list[str]()

    def answer(name: str, factor: float, batch: Batch) -> torch.Tensor:
        asked.append(name)
        return factor * engine.velocity(batch.x, batch.t)

    sides = {"right": Contender(partial(answer, "right", 1.0)), "off": Contender(partial(answer, "off", 1.01), 1e-3)}
    row = measured_row(data, sides, Workload(data, 4, 0.5), Watch(0.0, RATES, usable=True))
    right, off = row.sides["right"], row.sides["off"]
    assert right.within
    assert right.rounds >= 3
    assert not off.within
    assert off.error == pytest.approx(0.01, rel=1e-3)
    # one call for the error
    assert (off.rounds, asked.count("off")) == (0, 1)
    assert math.isnan(off.median_ms)
    line = next(line for line in table([row], RATES).splitlines() if " off " in line)
    assert line.split()[3:10] == ["-"] * 7
    assert quantities(row, "off", RATES)["queries_per_second"] is None


def test_what_is_missed_and_stated_is_part_of_the_row(data: OracleDataset) -> None:
    engine = OracleEngine(data)

    def answer(batch: Batch) -> torch.Tensor:
        return engine.velocity(batch.x, batch.t)

    # early every sample has about the same weight: half of them miss half of it
    half = torch.arange(60)[::2].expand(3, -1)
    gaps = torch.cat([half, torch.full_like(half, -1)], 1)
    sides = {
        "half": Contender(answer, stated=lambda batch: 0.25, candidates=lambda batch: gaps),
        "all": Contender(answer),
    }
    row = measured_row(data, sides, Workload(data, 3, 0.001), Watch(0.0, RATES, slow=0.0))
    assert row.sides["half"].missed == pytest.approx(0.5, abs=0.01)
    assert row.sides["half"].stated == 0.25
    assert row.sides["all"].missed is None
    # every call is slow here, and timed once
    assert [side.rounds for side in row.sides.values()] == [1, 1]


def test_log_densities_are_held_to_float64(data: OracleDataset) -> None:
    engine = OracleEngine(data)
    sides = {"ours": Contender(lambda batch: engine.log_density(batch.x, batch.t))}
    row = measured_row(data, sides, Workload(data, 4, 0.6), Watch(0.0, RATES, density=True))
    assert row.sides["ours"].error <= BAR


def test_quantities_follow_from_the_median() -> None:
    row = rows(a=side(2.0, 1e-7))[0]
    assert quantities(row, "a", RATES) == pytest.approx(
        {"queries_per_second": 8000.0, "bytes_per_second": 2.5e9, "operations_per_second": 5e10, "of_floor": 0.5}
    )


def side(median_ms: float, error: float, *, tolerance: float = BAR, stated: float | None = None) -> Side:
    low, high = 0.9 * median_ms, 1.1 * median_ms
    return Side(median_ms, low, low, high, 5, error, 1.0, 1.0, tolerance=tolerance, stated=stated)


def rows(t: str = "0.5", **sides: Side) -> list[Row]:
    return [Row("noise", 10, 2, "float32", 16, t, None, sides, floor=Floor(0.5, 1.0))]


def test_the_verdict_is_that_of_the_rows() -> None:
    early = rows(
        ours=side(4.0, 1e-7, stated=1e-5),
        eager=side(5.0, 1e-6),
        near=replace(Side.untimed(0.3), tolerance=1e-3),
        screen=side(3.0, 1e-6, tolerance=1e-3, stated=4e-4),
        never=replace(Side.untimed(2.0), tolerance=1e-3),
    )
    later: dict[str, Side] = {**early[0].sides, "near": side(1.0, 1e-7, tolerance=1e-3)}
    late = rows("0.9", **later)
    text = verdict([*early, *late], 1e-3)
    assert "below 1e-05 take ours at B = 16, t = 0.5, near at B = 16, t = 0.9" in text
    assert "below 1e-03 take screen at B = 16, t = 0.5, near at B = 16, t = 0.9" in text
    assert "of these near cannot say by how much" in text
    assert "never within their tolerance were never, with errors up to 2" in text
    assert text.count(".") >= 1
    assert text.endswith(".")


def test_sides_whose_quartiles_overlap_are_alike() -> None:
    row = rows(a=side(1.0, 1e-7), b=side(1.1, 1e-7), c=side(2.0, 1e-7), off=side(0.1, 1e-4))[0]
    assert fastest(row, BAR) == ["a", "b"]
    assert fastest(row, 1e-9) == []
    assert "take nothing here everywhere" not in verdict([row], 1e-3)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_a_power(power: float) -> None:
    sizes = (10.0, 20.0, 80.0)
    assert exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)
    assert exponent((5.0,), (1.0,)) is None
