"""On matrix units that round as hardware does, kernels with the tables of that hardware hold the bar and their law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kernel_problems import all_times, compare, make_query, two_phase_scan
from matrix_unit import UNITS, imitate, tf32_parts
from tolerances import assert_within

from oracle_engine import load_dataset
from oracle_engine.kernels import Rows, Span, Wanted, prepare_rows
from oracle_engine.kernels.common.accumulate import dropped_constant
from oracle_engine.kernels.common.rounding import unit_error
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core.configs import scored_with
from oracle_engine.kernels.gpu.core.devices import Device
from oracle_engine.kernels.gpu.operands.rows import BlockOperand
from oracle_engine.kernels.gpu.scans import launch_checks
from oracle_engine.kernels.reference import reference_logits

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


@pytest.fixture(params=sorted(UNITS))
def architecture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kernels launched as on this architecture, few multiprocessors aside, and its matrix unit."""
    name = str(request.param)
    device = Device("imitated", name, 2, 227 << 10)
    monkeypatch.setattr(launch_checks, "device_of", lambda _: device)
    imitate(UNITS[name], monkeypatch)
    return name


def overlapping(dtype: torch.dtype, count: int, dim: int, offset: float, generator: torch.Generator) -> Rows:
    """Rows of six degrees of freedom, so that many share the weight well into the run."""
    inner, outer = (torch.randn(size, generator=generator) for size in ((count, 6), (6, dim)))
    values = inner @ outer / 6**0.5 + offset
    if dtype == torch.uint8:
        values = (25.0 * values + 128.0).clamp(0, 255).round()
    return prepare_rows(values.to(dtype), None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
# one fused launch, and three tiles of D with a centre that is left in raw operands
@pytest.mark.parametrize(("dim", "offset"), [(50, 0.0), (300, 2.0)])
def test_the_bar_holds(
    dtype: torch.dtype, dim: int, offset: float, architecture: str, generator: torch.Generator
) -> None:
    rows = overlapping(dtype, 140, dim, offset, generator)
    for stray in (1.0, 4.0):
        query = make_query(rows, all_times(9), generator, stray=stray)
        with scored_with("parts" if dtype == torch.uint8 else None):
            compare(rows, query, Wanted(moments=stray > 1.0))


@pytest.mark.parametrize(
    ("dtype", "operand"), [*((dtype, "parts") for dtype in DTYPES), (torch.uint8, "digits")], ids=str
)
@pytest.mark.parametrize("batch", [3, 17])
def test_errors_of_logits_stay_below_their_law(
    dtype: torch.dtype, operand: str, batch: int, architecture: str, generator: torch.Generator
) -> None:
    photographs = load_dataset("patches", count=400)
    values = photographs[torch.arange(0, 400, 16)].flatten(1)
    if dtype == torch.uint8:
        values = (127.5 * values + 127.5).round()
    rows, span = prepare_rows(values.to(dtype), None), Span(0, 25)
    times = torch.tensor([0.1, 0.4, 0.95]).double().repeat(6)[:batch]
    query = make_query(rows, times, generator)
    with scored_with(operand if dtype == torch.uint8 else None):
        made = two_phase_scan(Work(rows, query, span))
    found = made._score(BlockOperand.of(made.rows, span)).logits[:, :batch].double().T
    true = reference_logits(rows, query, span) + dropped_constant(made.rows, query)[:, None]
    partition = found.logsumexp(1)
    # what holds less than e^-20 of the posterior may err by more
    error = torch.where(found > partition[:, None] - 20.0, found - true, 0.0)
    count = (error != 0.0).sum(1)
    law = unit_error(made.rows, query, made.rounding, partition)
    root = error.square().sum(1).div(count).sqrt()
    assert_within(root / law, "rounding law")
    # a law far above them would have samples rescored for nothing. Short products fit: less of them is cut than counted
    assert float((root / law).max()) > (0.01 if dtype in (torch.uint8, torch.bfloat16) else 0.05)


def test_units_cut_what_does_not_fit() -> None:
    one = np.ones((1, 1))

    def summed(unit: str, *products: float) -> float:
        left = np.array([products])
        return float(UNITS[unit].dot(left, np.ones_like(left.T), one, "IEEE")[0, 0])

    # 25 bits below the largest are kept, or 24, and then 23 of the sum
    assert summed("sm_90", *[2.0**-25] * 4) == 1.0 + 2.0**-23
    assert summed("sm_80", *[2.0**-25] * 4) == 1.0
    assert summed("sm_80", *[2.0**-24] * 2) == 1.0 + 2.0**-23
    assert summed("sm_90", 2.0**-23, -(2.0**-24)) == 1.0
    # the second half of an instruction meets a sum that was cut
    assert summed("sm_90", *[2.0**-24] * 9) == 1.0 + 4 * 2.0**-23
    assert summed("sm_80", *[2.0**-25] * 16) == 1.0


def test_three_tf32_products_keep_22_bits(generator: torch.Generator) -> None:
    values: Any = torch.randn(2000, generator=generator).double().float().double().numpy()
    large, small = tf32_parts(values)
    assert float(np.abs((large + small - values) / values).max()) < 2.0**-22
    assert float(np.abs((large - values) / values).max()) > 2.0**-12.1
