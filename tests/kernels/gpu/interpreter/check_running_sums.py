"""The kernels around the products: operands, log-partition and windows, running sums and answers, as torch has them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_problems import all_times, make_query, make_rows
from torch import Tensor

from oracle_engine.kernels import Combination, Query, Rows, Span, Wanted, combined, gpu_combined
from oracle_engine.kernels.common.accumulate import BlockSums
from oracle_engine.kernels.common.accumulate import RunningSums as TorchSums
from oracle_engine.kernels.common.rounding import Rounding, Windows, unit_error, windows
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.operands.parts import QueryOperand
from oracle_engine.kernels.gpu.operands.splits import EXACT, HALF, Split
from oracle_engine.kernels.gpu.sums.law import Law
from oracle_engine.kernels.gpu.sums.partition import Meeting
from oracle_engine.kernels.gpu.sums.running_sums import RunningSums

# sums that are cut to float32 often, and exact ones
ROUNDINGS = (Rounding(12, 2.0**-23, 2.0**-17), Rounding(0, 1e-7, 2.0**-22))


def meeting_of(work: Work, rounding: Rounding, split: Split = EXACT) -> Meeting:
    """Return what meets the first block of a scan of `work`."""
    centre = work.rows.centre if work.rows.raw_operand else None
    measures = QueryOperand.of(work.query, torch.float16, centre=centre).measures
    return Meeting.of(work, Law.of(work, rounding, split), measures)


def windows_of(work: Work, rounding: Rounding, split: Split, partition: Tensor) -> Windows:
    """Return the windows of the law in torch."""
    error = unit_error(work.rows, work.query, rounding, partition)
    return windows(work.rows, work.query, len(work.span), error, budget=split.budget, limit=split.limit)


def problem(generator: torch.Generator, batch: int = 11) -> tuple[Rows, Query]:
    """Return rows of which some nearly equal each other, and queries at all times."""
    rows = replace(make_rows(torch.float16, 90, 37, generator, offset=0.5), copies=3)
    return rows, make_query(rows, all_times(batch), generator)


def stats_of(tiles: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return the statistics of some tiles, of which the second query has none and the padding holds nothing."""
    stats = torch.full((tiles, 2, 16), torch.nan)
    stats[:, 0, :batch] = 30.0 * torch.randn(tiles, batch, generator=generator)
    stats[:, 1, :batch] = 1.0 + 20.0 * torch.rand(tiles, batch, generator=generator)
    stats[:, 0, 1], stats[:, 1, 1] = -torch.inf, 0.0
    return stats


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [1, 33, 5000])
def test_parts_make_up_the_query(dtype: torch.dtype, dim: int, generator: torch.Generator) -> None:
    sizes = torch.tensor([1.0, 1e-30, 1e30, 0.0, 3.0, 1e-310], dtype=torch.float64)
    point = sizes[:, None] * torch.randn(6, dim, generator=generator, dtype=torch.float64)
    point[4], centre = 4.0, torch.randn(dim, generator=generator, dtype=torch.float64)
    alpha, precision = (torch.rand(6, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    query = Query(point, alpha, precision, torch.zeros(6, 0, 2, dtype=torch.int64))
    operand = QueryOperand.of(query, dtype, centre=centre)
    bits = {torch.float16: 20, torch.bfloat16: 21}[dtype]
    made = operand.parts.double().sum(0)
    scale = torch.ldexp(torch.ones(6).double(), torch.frexp(point.abs().amax(1)).exponent)
    scale[5] = 1.0
    error = (made * scale[:, None] - point).abs().amax(1)
    assert (error <= 2.0**-bits * scale).all()
    assert (operand.parts[0].double().abs().amax(1) <= 1.0).all()
    torch.testing.assert_close(operand.gain, (query.gain * scale).float())
    torch.testing.assert_close(operand.slope, (-query.gain * alpha).float())
    square, size, product = operand.measures.facts
    torch.testing.assert_close(square.sqrt(), query.norm)
    assert torch.equal(size, point.abs().amax(1))
    # relative to what is added
    assert ((product - point @ centre).abs() <= 1e-14 * (point.abs() @ centre.abs())).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("split", [EXACT, HALF])
def test_partition_and_floors_are_those_of_the_law(
    rounding: Rounding, split: Split, generator: torch.Generator
) -> None:
    rows, query = problem(generator)
    work = Work(rows, query, Span(0, 90))
    meeting, sums, met = meeting_of(work, rounding, split), RunningSums.empty(11, 37, rows.device), []
    for tiles in (1, 300, 5):
        met.append(stats_of(tiles, 11, generator))
        meeting.meet(met[-1], sums)
        sums.add(torch.zeros(tiles, 4, 16), torch.zeros(1, 11, 37))
        top, mass = torch.cat(met)[:, :, :11].double().unbind(1)
        partition = (top + mass.log()).logsumexp(0)
        torch.testing.assert_close(meeting.partition(sums), partition, rtol=1e-12, atol=1e-12)
        window = windows_of(work, rounding, split, partition)
        weight, rescore = partition - window.weight, partition - window.rescore
        rescore[window.rescore == -torch.inf] = torch.inf
        origin = torch.where(partition == -torch.inf, 0.0, partition)
        for found, true in zip(meeting.reference, (origin, weight, rescore), strict=True):
            torch.testing.assert_close(found, true.float(), rtol=2e-6, atol=2e-5)
    assert meeting.counts.tolist() == [[0] * 11] * 2


@pytest.mark.parametrize("mean", [True, False])
def test_sums_move_with_the_partition(mean: bool, generator: torch.Generator) -> None:
    rows, query = problem(generator)
    work = Work(rows, query, Span(0, 90), Wanted(mean=mean))
    width = 37 if mean else 0
    meeting, sums = meeting_of(work, ROUNDINGS[0]), RunningSums.empty(11, width, rows.device)
    truth = TorchSums(work)
    for tiles, shares in ((3, 1), (700, 3), (17, 2)):
        stats, added = stats_of(tiles, 11, generator), torch.rand(tiles, 4, 16, generator=generator)
        # nothing is added for a query without samples, as for one whose samples are all rescored
        added[:, :, 1:3] = 0.0
        parts = torch.randn(shares, 11, width, generator=generator)
        parts[:, 1:3] = 0.0
        meeting.meet(stats, sums)
        sums.add(added, parts)
        top, mass = stats[:, :, :11].double().unbind(1)
        origin = truth.meet((top + mass.log()).logsumexp(0))
        assert torch.allclose(origin, meeting.reference[0], rtol=1e-7, atol=0.0)
        truth.add(BlockSums(meeting.reference[0], added[:, :, :11].double().sum(0), parts.double().sum(0)))
    kept = sums.scalars[2:] + sums.partials[: sums.parts].sum(0)
    # torch takes the difference of two origins in float32
    for found, true in zip(kept, (truth.mass, truth.squares, truth.first_logit, truth.half_norm), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-10)
    torch.testing.assert_close(sums.total, truth.total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_an_answer_is_rounded_once(dtype: torch.dtype, generator: torch.Generator) -> None:
    x, mean = (torch.randn(5, 1100, generator=generator, dtype=torch.float64) for _ in range(2))
    alpha, direct, gap = torch.randn(3, 5, generator=generator, dtype=torch.float64).unbind(0)
    combination = Combination(x, alpha, direct, gap, 2.0 / 255.0, torch.randn(1100, generator=generator).double())
    found, true = (function(combination, mean, dtype) for function in (gpu_combined, combined))
    exact = combined(combination, mean, torch.float64)
    assert found.dtype == true.dtype == dtype
    assert float((found.double() - exact).abs().max()) <= 1.01 * float((true.double() - exact).abs().max()) + 1e-12
