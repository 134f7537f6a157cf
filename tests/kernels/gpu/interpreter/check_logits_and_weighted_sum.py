"""Each Triton kernel alone gives what float64 gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_problems import DTYPES, make_query, make_rows

from oracle_engine.kernels import Span, Wanted
from oracle_engine.kernels.gpu.core import tiles
from oracle_engine.kernels.gpu.jit.interpreter import INTERPRET
from oracle_engine.kernels.gpu.operands.parts import QueryOperand
from oracle_engine.kernels.gpu.operands.rows import BlockOperand, operand_rows
from oracle_engine.kernels.gpu.operands.splits import operand_dtype
from oracle_engine.kernels.gpu.products.descriptors import reads_descriptors
from oracle_engine.kernels.gpu.products.live_rows import DENSE_SHARE, live_rows
from oracle_engine.kernels.gpu.products.logits import Scores, score
from oracle_engine.kernels.gpu.products.weighted_sum import weigh
from oracle_engine.kernels.gpu.products.weights import Reference, weights_of
from oracle_engine.kernels.gpu.rescore.listed_pairs import ListedPairs
from oracle_engine.kernels.reference import reference_logits


def test_the_interpreter_is_on() -> None:
    assert INTERPRET


def scored(operand: QueryOperand, block: BlockOperand, slices: int = 1) -> Scores:
    """Return the logits of a block in small tiles, whose sums are emptied after every other step."""
    return score(operand, block, tiles.ScoreConfig(32, 16, 32, 4, 2), slices)


# rows of a whole number of 16 bytes are read through descriptors
SHAPES = [(1, 1, 1, 1), (33, 65, 17, 1), (70, 100, 5, 3), (33, 112, 17, 1), (70, 320, 5, 3)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "dim", "batch", "slices"), SHAPES)
def test_score_gives_logits_and_tile_statistics(
    dtype: torch.dtype, count: int, dim: int, batch: int, slices: int, generator: torch.Generator
) -> None:
    rows = make_rows(dtype, count, dim, generator, weighted=True)
    # floating point rows are read as they are stored, wherever the centre is
    rows = operand_rows(replace(rows, radius=rows.stored_radius))
    query = make_query(rows, torch.full((batch,), 0.3, dtype=torch.float64), generator, excluded=2 if count > 1 else 0)
    span = Span(count // 3, count)
    block = BlockOperand.of(rows, span)
    assert reads_descriptors(block.rows) == (dim * dtype.itemsize % 16 == 0)
    operand = QueryOperand.of(query, operand_dtype(dtype))
    found = scored(operand, block, slices)
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
@pytest.mark.parametrize("dim", [45, 48])
# most rows have weight, or few
@pytest.mark.parametrize("live", [120, 6])
def test_weigh_sums_the_rows_with_weight_and_no_other(
    dtype: torch.dtype, dim: int, live: int, generator: torch.Generator
) -> None:
    rows = operand_rows(make_rows(dtype, 150, dim, generator))
    query = make_query(rows, torch.full((19,), 0.2, dtype=torch.float64), generator, excluded=1)
    block = BlockOperand.of(rows, Span(0, 150))
    operand = QueryOperand.of(query, operand_dtype(dtype))
    scores = scored(operand, block)
    logits = scores.logits[:, :19].double()
    origin = logits.amax(0)
    ordered = logits.sort(0, descending=True).values
    # the heaviest 2 are to be rescored, the next have weight, the others have none
    weight_floor, rescore_floor = ordered[live + 1], ordered[1]
    listed = ListedPairs.empty(torch.zeros(19, dtype=torch.int32), 8)
    reference = Reference(*(value.float() for value in (origin, weight_floor, rescore_floor)))
    config = tiles.WeighConfig(32, 16, 32, 4, 2)
    weights = weights_of(scores, block, reference, listed, config=config, wanted=Wanted(moments=True))
    kept = torch.where((logits >= weight_floor) & (logits < rescore_floor), (logits - origin).exp(), 0.0)
    # two bf16 parts hold 16 bits, of which the interpreter truncates the last
    expected = torch.stack([kept.sum(0), kept.square().sum(0), torch.xlogy(kept, kept).sum(0), rows.half_norms @ kept])
    torch.testing.assert_close(weights.sums[:, :, :19].double().sum(0), expected, rtol=5e-5, atol=1e-5)
    assert listed.count.tolist() == [2] * 19
    assert torch.equal(listed.row[:, :2].sort(1).values, logits.topk(2, dim=0).indices.T.sort(1).values)
    found = weigh(weights, block, config, shares=3).double().sum(0)
    values = rows.stored.double() - (rows.centre - rows.operand_centre)
    assert float(((found - kept.T @ values).abs() / (kept.T @ values.abs())).max()) < 5e-5


@pytest.mark.parametrize("dim", [45, 48])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_few_rows_are_listed_in_order_and_most_are_filled_in(
    dim: int, share: float, generator: torch.Generator
) -> None:
    rows = make_rows(torch.float16, 600, dim, generator)
    block = BlockOperand.of(rows, Span(0, 600))
    logits = torch.where(torch.rand(600, 16, generator=generator) < share / 16, 0.0, -100.0)
    logits[200:400] = -100.0
    scores, one = Scores(logits, logits.new_zeros(1, 2, 16), 600), torch.ones(16)
    listed = ListedPairs.empty(torch.zeros(16, dtype=torch.int32), 1)
    config = tiles.WeighConfig(32, 16, 32, 4, 2)
    weights = weights_of(
        scores, block, Reference(0 * one, -one, torch.inf * one), listed, config=config, wanted=Wanted()
    )
    found = live_rows(weights, block, 32)
    live = (logits == 0).any(1).nonzero()[:, 0]
    assert int(found.total[0]) == len(live)
    if reads_descriptors(block.rows) and len(live) * DENSE_SHARE > 600:
        # weights of tiles without weight were not written before
        expected = (logits == 0)[:, None] * torch.tensor([16384.0, 0.0])[:, None]
        assert torch.equal(weights.values[:, 0].float(), expected)
        return
    assert torch.equal(found.rows[0, : len(live)].long(), live)
    assert torch.equal(found.gathered[: len(live)], weights.values[live])
    assert not found.gathered[len(live) : len(live) + 32].any()
