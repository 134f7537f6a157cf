"""8-bit rows through the int8 matrix unit: digits hold queries, sums are exact, scans meet the bar at any mean."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from kernel_problems import (
    SMALL_BLOCKS,
    all_times,
    compare,
    make_query,
    make_rows,
    scanned,
    two_phase_scan,
    velocity_error,
)
from recording import Waiting
from tolerances import assert_within

from oracle_engine.base.errors import InputError
from oracle_engine.kernels import Query, Rows, Span, Wanted, prepare_rows, reference_state
from oracle_engine.kernels.common.accumulate import dropped_constant
from oracle_engine.kernels.common.rounding import unit_error, windows
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core import configs, tiles
from oracle_engine.kernels.gpu.core.configs import scored_with
from oracle_engine.kernels.gpu.core.devices import Device
from oracle_engine.kernels.gpu.core.tiles import DigitConfig
from oracle_engine.kernels.gpu.operands.digits import DigitOperand, digit_rounding
from oracle_engine.kernels.gpu.operands.parts import QueryOperand
from oracle_engine.kernels.gpu.operands.queries import query_digits
from oracle_engine.kernels.gpu.operands.rows import BlockOperand, operand_rows
from oracle_engine.kernels.gpu.operands.splits import HALF
from oracle_engine.kernels.gpu.products.logits_int8 import score_digits
from oracle_engine.kernels.gpu.scans import launch_checks
from oracle_engine.kernels.gpu.scans.memory import triton_memory
from oracle_engine.kernels.reference import reference_logits

BYTES = (torch.uint8, torch.int8)

# levels of data whose mean is far larger than their spread, and the two ends that a byte has
NARROW, ENDS = (40, 4), (0, 255)


def make_bytes(
    dtype: torch.dtype, count: int, dim: int, generator: torch.Generator, levels: str, weighted: bool = False
) -> Rows:
    """Rows of bytes: of `all` levels, from a `narrow` range far from zero, or at the two `ends` of the range."""
    if levels == "all":
        return make_rows(dtype, count, dim, generator, weighted)
    first, size = NARROW if levels == "narrow" else (0, 2)
    drawn = torch.randint(first, first + size, (count, dim), generator=generator)
    if levels == "ends":
        drawn = torch.tensor(ENDS)[drawn]
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01 if weighted else None
    return prepare_rows((drawn + torch.iinfo(dtype).min).to(dtype) if levels == "ends" else drawn.to(dtype), weights)


def values_of(operand: DigitOperand, query: Query) -> torch.Tensor:
    """Return the points that the digits stand for."""
    scale = operand.gain.double() / query.gain
    radix = 256.0 ** torch.arange(len(operand.parts) - 1, -1, -1, dtype=torch.float64)
    return torch.einsum("pbd,p,b->bd", operand.parts.double(), radix, scale)


@pytest.mark.parametrize("count", [2, 3])
def test_digits_make_up_the_number(count: int, generator: torch.Generator) -> None:
    largest = 127 * 256 ** (count - 1)
    drawn = (2 * torch.rand(7, 50, generator=generator, dtype=torch.float64) - 1) * largest
    ends = torch.tensor([0, 1, -1, 127, 128, -128, -129, largest, largest - 1, -largest, 32896, -32897]).double()
    # where the largest number is the largest that digits hold, they are whole numbers of it
    drawn[:, 0] = largest
    for numbers in (drawn, ends[None].clamp(-largest, largest)):
        ones, centre = torch.ones(len(numbers)).double(), torch.arange(-3.0, numbers.shape[1] - 3).double()
        query = Query(numbers, ones, ones, torch.zeros(len(numbers), 0, 2, dtype=torch.int64))
        digits, sums, measures = query_digits(query, centre, 7, digits=count, unit=16)
        assert digits.dtype == torch.int8
        assert measures.gain.tolist() == [1.0] * len(numbers)
        products = torch.nn.functional.pad(digits.double() * (centre - 7), (0, -len(centre) % 16))
        assert torch.equal(sums.double(), products.unflatten(2, (-1, 16)).sum(3).transpose(1, 2))
        made = sum(digit.double() * 256.0 ** (count - 1 - place) for place, digit in enumerate(digits))
        assert torch.equal(made, numbers.round())


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_digits_hold_queries_of_every_size(dtype: torch.dtype, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 20, 33, generator)
    query = make_query(rows, all_times(6), generator)
    point = query.point * torch.tensor([1.0, 1e-12, 1e9, 1.0, 0.0, 1.0]).double()[:, None]
    # an outlier, and a query so small that its reciprocal overflows
    point[3, 5], point[5] = 1e6, 1e-300
    query = replace(query, point=point)
    operand = DigitOperand.of(query, rows, 32)
    error, largest = (values_of(operand, query) - point).abs(), point.abs().amax(1)
    # half a unit of the last digit, and the scale rounded to float32
    assert (error.amax(1) <= (0.5 / (127 * 256**2) + 2.0**-24) * largest + 1e-290).all()
    assert not operand.parts[:, 4:].any()
    # in float64 the scale is the one that fits best, and what is left is what the accuracy law counts with
    made = values_of(operand, query)[:3]
    made *= ((made * point[:3]).sum(1) / made.square().sum(1))[:, None]
    root = ((made - point[:3]).square().mean(1).sqrt() / largest[:3]).mean()
    assert 0.7 < float(root) / digit_rounding().query < 1.3


@pytest.mark.parametrize("dtype", BYTES, ids=str)
@pytest.mark.parametrize("levels", ["all", "narrow", "ends"])
@pytest.mark.parametrize(("count", "dim", "batch", "slices"), [(1, 1, 1, 1), (33, 65, 17, 1), (70, 100, 5, 3)])
def test_products_are_exact_but_for_the_query(
    dtype: torch.dtype, levels: str, count: int, dim: int, batch: int, slices: int, generator: torch.Generator
) -> None:
    rows = make_bytes(dtype, count, dim, generator, levels)
    query = make_query(rows, torch.full((batch,), 0.3, dtype=torch.float64), generator)
    operand = DigitOperand.of(query, rows, 32)
    block = BlockOperand.of(operand_rows(rows), Span(count // 3, count))
    found = score_digits(operand, block, DigitConfig(32, 16, 32, 4, 2), slices).logits[:, :batch].double()
    values = (rows.stored.double() - rows.centre)[count // 3 :]
    held = values @ (query.gain[:, None] * values_of(operand, query)).T
    norms = (query.gain * query.alpha) * rows.half_norms[count // 3 :, None]
    # rounded to float32: each slice, their sum, the norm and the logit
    size = query.gain * query.norm * rows.radius + norms
    assert float(((found - (held - norms)).abs() / size.clamp_min(1e-30)).max()) < 6 * 2.0**-24


def test_long_sums_are_cut_before_they_overflow(generator: torch.Generator) -> None:
    dim = 131_075
    # the largest products there are: every coordinate of the query and every difference from the centre at its end
    rows = prepare_rows(torch.tensor([[0]] * 3 + [[255]], dtype=torch.uint8).expand(-1, dim).contiguous(), None)
    rows = replace(rows, centre=torch.zeros_like(rows.centre), half_norms=torch.zeros_like(rows.half_norms))
    ones = torch.ones(1, dtype=torch.float64)
    query = Query(-ones[:, None].expand(1, dim), ones, ones, torch.zeros(1, 0, 2, dtype=torch.int64))
    config = DigitConfig(16, 16, 4096, 4, 2)
    operand, block = DigitOperand.of(query, rows, 4096), BlockOperand.of(operand_rows(rows), Span(0, 4))
    device = Device("any", "sm_90", 1, 1 << 20)
    others = (tiles.WeighConfig(16, 16, 32, 4, 2), None, tiles.ScoreConfig(16, 16, 32, 4, 2))
    slices = configs.LaunchConfig(config, *others, device).score_slices(4, 1, dim)
    assert slices == 3
    found = score_digits(operand, block, config, slices).logits[:, 0]
    assert found[:3].tolist() == [0.0] * 3
    torch.testing.assert_close(found[3].double(), torch.tensor(-255.0 * dim).double(), rtol=1e-6, atol=0.0)
    # what the slices are for
    assert abs(float(score_digits(operand, block, config, 1).logits[3, 0])) < 0.9 * 255 * dim


@pytest.mark.parametrize("dtype", BYTES, ids=str)
@pytest.mark.parametrize(("levels", "dim"), [("narrow", 20), ("narrow", 77), ("ends", 77)])
def test_no_mean_is_too_large(
    dtype: torch.dtype, levels: str, dim: int, counted: Counter[str], generator: torch.Generator
) -> None:
    rows = make_bytes(dtype, 140, dim, generator, levels, weighted=True)
    assert rows.raw_operand == (levels == "ends")
    query = make_query(rows, all_times(9), generator, excluded=2)
    compare(rows, query, Wanted(), Span(5, 139))
    compare(rows, query, Wanted(moments=True, top_k=3))
    assert counted["score_digits"] > 0
    # a fused scan takes the statistics of its logits from parts
    assert (counted["score"] > 0) == (counted["fused"] > 0) == (dim == 20)
    # no copy, whose four bytes a value would make blocks of data smaller
    needed = [triton_memory(some, 17, limits=SMALL_BLOCKS) for some in (rows, replace(rows, stored_radius=0.0))]
    assert needed[0] == needed[1]


@pytest.mark.parametrize(("dtype", "levels"), [(torch.uint8, "narrow"), (torch.int8, "all")], ids=str)
@pytest.mark.parametrize("stray", [0.0, 3.0, 300.0])
def test_queries_anywhere_meet_the_bar(
    dtype: torch.dtype, levels: str, stray: float, generator: torch.Generator
) -> None:
    rows = make_bytes(dtype, 130, 77, generator, levels)
    query = make_query(rows, all_times(11), generator, stray=stray)
    query.point[3] = 0.0
    compare(rows, query, Wanted())


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_products_cut_over_the_dimension_meet_the_bar(dtype: torch.dtype, generator: torch.Generator) -> None:
    rows = make_bytes(dtype, 70, 523, generator, "narrow")
    query = make_query(rows, all_times(9), generator, excluded=1)
    config = launch_checks.checked_config(Work(rows, query, Span(0, 64)))
    assert config.score_slices(64, 9, 523) == 2
    compare(rows, query, Wanted())


@pytest.mark.parametrize(("dtype", "levels"), [(torch.int8, "narrow"), (torch.uint8, "all")], ids=str)
def test_parts_answer_where_they_are_asked_for(
    dtype: torch.dtype, levels: str, counted: Counter[str], generator: torch.Generator
) -> None:
    rows = make_bytes(dtype, 140, 77, generator, levels)
    query = make_query(rows, all_times(9), generator)
    with scored_with("parts"):
        compare(rows, query, Wanted(moments=True))
    assert counted["score"] > 0
    assert counted["score_digits"] == 0
    with scored_with("digits"):
        compare(rows, query, Wanted(moments=True))
    assert counted["score_digits"] > 0
    with pytest.raises(InputError, match="`operand` must be digits or parts"), scored_with("bytes"):
        pass


@pytest.mark.parametrize("levels", ["all", "narrow"])
@pytest.mark.parametrize("dim", [20, 77])
def test_half_precision_keeps_its_promise_wherever_the_mean_is(
    levels: str, dim: int, generator: torch.Generator
) -> None:
    rows = make_bytes(torch.uint8, 140, dim, generator, levels)
    query = make_query(rows, all_times(17), generator)
    work = Work(rows, query, Span(0, 140))
    found, true = scanned(work, HALF), reference_state(work)
    assert_within(velocity_error(rows, query, found, true), "half precision")


def test_digits_wait_for_nothing(generator: torch.Generator) -> None:
    rows = make_bytes(torch.uint8, 130, 523, generator, "narrow")
    query = make_query(rows, all_times(5), generator)
    with Waiting() as waiting:
        scanned(Work(rows, query, Span(0, 130)))
    assert waiting.found == []


@pytest.mark.parametrize("levels", ["all", "narrow"])
def test_errors_stay_below_a_law_that_leaves_less_to_score_again(levels: str, generator: torch.Generator) -> None:
    rows = make_bytes(torch.uint8, 64, 300, generator, levels)
    query = make_query(rows, all_times(9), generator)
    scans = []
    for asked, kind in (("digits", DigitOperand), ("parts", QueryOperand)):
        with scored_with(asked):
            scans.append(two_phase_scan(Work(rows, query, Span(0, 64))))
        assert isinstance(scans[-1].operand, kind)
    digits, _ = scans
    few, more = (windows(made.rows, query, 64, unit_error(made.rows, query, made.rounding)) for made in scans)
    assert (few.weight < more.weight).all()
    assert (few.rescore <= more.rescore).all()
    rounding = digit_rounding()
    law = unit_error(digits.rows, query, rounding) - rounding.weight
    found = digits._score(BlockOperand.of(digits.rows, Span(0, 64))).logits[:, :9].double()
    error = found - reference_logits(rows, query, Span(0, 64)).T - dropped_constant(digits.rows, query)
    assert (error.square().mean(0).sqrt() < law).all()
    # what a scan finds out about the size of products narrows the law
    assert (unit_error(digits.rows, query, rounding, found.logsumexp(0)) <= law + rounding.weight).all()
    # sums do not grow less exact with their length
    wide = replace(rows, stored=rows.stored.repeat(1, 1000), centre=rows.centre.repeat(1000))
    assert torch.equal(unit_error(wide, query, rounding), unit_error(rows, query, rounding))
