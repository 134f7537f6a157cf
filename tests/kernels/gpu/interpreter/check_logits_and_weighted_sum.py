"""Each Triton kernel alone gives what float64 gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_problems import DTYPES, make_query, make_rows

from oracle_engine.kernels import Span
from oracle_engine.kernels.gpu import configs
from oracle_engine.kernels.gpu.jit import INTERPRET
from oracle_engine.kernels.gpu.logits import score
from oracle_engine.kernels.gpu.operands import BlockOperand, QueryOperand, operand_rows
from oracle_engine.kernels.gpu.weighted_sum import ListedPairs, Reference, marked_rows, weigh, weights_of
from oracle_engine.kernels.reference import reference_logits


def test_the_interpreter_is_on() -> None:
    assert INTERPRET


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "dim", "batch", "slices"), [(1, 1, 1, 1), (33, 65, 17, 1), (70, 100, 5, 3)])
def test_score_gives_logits_and_tile_statistics(
    dtype: torch.dtype, count: int, dim: int, batch: int, slices: int, generator: torch.Generator
) -> None:
    rows = make_rows(dtype, count, dim, generator, weighted=True)
    # floating point rows are read as they are stored, wherever the centre is
    rows = operand_rows(replace(rows, radius=rows.stored_radius))
    query = make_query(rows, torch.full((batch,), 0.3, dtype=torch.float64), generator, excluded=2 if count > 1 else 0)
    span = Span(count // 3, count)
    block = BlockOperand.of(rows, span)
    operand = QueryOperand.of(query, torch.float16 if dtype in DTYPES[:2] else dtype, "ieee")
    found = score(operand, block, configs.ScoreConfig(32, 16, 32, 4, 2), slices)
    # the coarse logit drops terms that do not depend on the row
    dropped = 0.5 * query.inverse_variance * query.norm**2 + query.gain * (query.point @ rows.operand_centre)
    true = (reference_logits(rows, query, span) + dropped[:, None]).T
    logits = found.logits[:, :batch].double()
    torch.testing.assert_close(logits, true, rtol=1e-5, atol=1e-3 if dtype == torch.bfloat16 else 1e-4)
    top, mass = found.stats[:, :, :batch].double().unbind(1)
    torch.testing.assert_close((top + mass.log()).logsumexp(0), logits.logsumexp(0), rtol=2e-6, atol=1e-6)
    tiles = [part.amax(0) for part in logits.split(found.tile)]
    assert torch.equal(top, torch.stack(tiles))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weigh_sums_the_rows_with_weight_and_no_other(dtype: torch.dtype, generator: torch.Generator) -> None:
    rows = operand_rows(make_rows(dtype, 150, 45, generator))
    query = make_query(rows, torch.full((19,), 0.2, dtype=torch.float64), generator, excluded=1)
    block = BlockOperand.of(rows, Span(0, 150))
    operand = QueryOperand.of(query, torch.float16 if dtype in DTYPES[:2] else dtype, "ieee")
    scores = score(operand, block, configs.ScoreConfig(32, 16, 32, 4, 2), 1)
    logits = scores.logits[:, :19].double()
    origin = logits.amax(0)
    ordered = logits.sort(0, descending=True).values
    # the heaviest 2 are to be rescored, the next 20 have weight, the others have none
    weight_floor, rescore_floor = ordered[21], ordered[1]
    listed = ListedPairs.empty(torch.zeros(19, dtype=torch.int32), 8)
    reference = Reference(*(value.float() for value in (origin, weight_floor, rescore_floor)))
    config = configs.WeighConfig(32, 16, 32, 4, 2)
    weights = weights_of(scores, block, reference, listed, config=config, mean=True)
    kept = torch.where((logits >= weight_floor) & (logits < rescore_floor), (logits - origin).exp(), 0.0)
    # two bf16 parts hold 16 bits, of which the interpreter truncates the last
    expected = torch.stack([kept.sum(0), kept.square().sum(0), torch.xlogy(kept, kept).sum(0), rows.half_norms @ kept])
    torch.testing.assert_close(weights.sums[:, :, :19].double().sum(0), expected, rtol=5e-5, atol=1e-5)
    assert listed.count.tolist() == [2] * 19
    assert torch.equal(listed.row[:, :2].sort(1).values, logits.topk(2, dim=0).indices.T.sort(1).values)
    found = weigh(weights, block, config, precision="ieee", shares=3).double().sum(0)
    values = rows.stored.double() - (rows.centre - rows.operand_centre)
    assert float(((found - kept.T @ values).abs() / (kept.T @ values.abs())).max()) < 5e-5


def test_marked_rows_are_listed_in_order(generator: torch.Generator) -> None:
    marks = (torch.rand(3, 50, generator=generator) < 0.3).int()
    marks[1] = 0
    rows, count = marked_rows(marks)
    assert count.tolist() == marks.sum(1).tolist()
    for line, marked, found in zip(rows, marks, count, strict=True):
        assert torch.equal(line[: int(found)].long(), marked.nonzero()[:, 0])
