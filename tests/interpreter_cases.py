"""Every Triton kernel against float64, in Triton's interpreter; test_triton_interpreter.py starts a process for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tolerances import assert_within
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from oracle_engine import OracleDataset, OracleEngine, backends
from oracle_engine.errors import InputError
from oracle_engine.kernels import Query, Rows, Span, Wanted, chunked, configs, prepare_rows, reference_state
from oracle_engine.kernels import triton_scan as scan
from oracle_engine.kernels.operands import EXACT, HALF, BlockOperand, QueryOperand
from oracle_engine.kernels.reference import reference_logits
from oracle_engine.kernels.rescore import GATHER_VALUES
from oracle_engine.kernels.score import score
from oracle_engine.kernels.state import PosteriorState
from oracle_engine.kernels.steps import INTERPRET
from oracle_engine.kernels.weigh import HeadList, Reference, live_rows, weigh, weights_of

DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)

# accuracy bar on the relative velocity error
BAR = 1e-5

# the ends of [0, 1] that the bar holds up to
EDGE = 1e-4


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernels allocate with values that show up in any result they reach."""
    allocate = torch.Tensor.new_empty

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        fresh = allocate(self, *size, **options)
        if fresh.is_floating_point():
            return fresh.fill_(torch.nan)
        return fresh.fill_(torch.iinfo(fresh.dtype).max // 2)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut spans into blocks of 64 rows, as a large data set would be."""
    monkeypatch.setattr(scan, "BLOCK_UNIT", 64)
    monkeypatch.setattr(scan, "SCORE_BYTES", 1)


def make_rows(
    dtype: torch.dtype, count: int, dim: int, generator: torch.Generator, weighted: bool = False, offset: float = 0.0
) -> Rows:
    """Rows with unit-like spread in their own units."""
    if dtype in (torch.uint8, torch.int8):
        low = 0 if dtype == torch.uint8 else -128
        stored = torch.randint(low, low + 256, (count, dim), generator=generator).to(dtype)
    else:
        stored = (torch.randn(count, dim, generator=generator) + offset).to(dtype)
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01 if weighted else None
    return prepare_rows(stored, weights)


def make_query(rows: Rows, times: Tensor, generator: torch.Generator, holes: int = 0, stray: float = 1.0) -> Query:
    """Queries x_t = t r + (1 - t) eps in the units of the rows; with `stray` above one, off the path."""
    batch = len(times)
    spread = max(rows.radius / rows.dim**0.5, 1e-3)
    source = torch.randint(len(rows), (batch,), generator=generator)
    noise = torch.randn(batch, rows.dim, generator=generator, dtype=torch.float64)
    point = times[:, None] * rows.gather(source) + stray * spread * (1 - times)[:, None] * noise
    start = torch.randint(len(rows), (batch, holes), generator=generator)
    ranges = torch.stack([start, start + 3], dim=2)
    return Query(point, times, 1 / ((1 - times) * spread) ** 2, ranges)


def velocity_error(rows: Rows, query: Query, found: PosteriorState, true: PosteriorState) -> float:
    """Largest relative error of (mean + c - x) / (1 - t) against float64."""
    values = [(state.mean - query.point) / (1 - query.alpha)[:, None] + rows.centre for state in (found, true)]
    return float(((values[0] - values[1]).norm(dim=1) / values[1].norm(dim=1)).max())


def compare(rows: Rows, query: Query, wanted: Wanted, span: Span | None = None) -> PosteriorState:
    """Check one call against the reference and return it."""
    span = span or Span(0, len(rows))
    found = scan.triton_state(rows, query, span, wanted)
    true = reference_state(rows, query, span, wanted)
    torch.testing.assert_close(found.lse, true.lse, rtol=2e-6, atol=1e-5)
    if wanted.mean:
        assert velocity_error(rows, query, found, true) < BAR
    if wanted.moments:
        torch.testing.assert_close(found.concentration, true.concentration, rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(found.entropy, true.entropy, rtol=1e-4, atol=1e-4)
    if wanted.moments and wanted.mean:
        torch.testing.assert_close(found.variance, true.variance, rtol=1e-4, atol=2e-5 * rows.radius**2)
    torch.testing.assert_close(found.top_logits, true.top_logits)
    assert torch.equal(found.top_rows, true.top_rows)
    return found


def all_times(batch: int) -> Tensor:
    """Times from one end to the other."""
    return torch.linspace(EDGE, 1 - EDGE, batch, dtype=torch.float64)


def test_the_interpreter_is_on() -> None:
    assert INTERPRET


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "dim", "batch", "slices"), [(1, 1, 1, 1), (33, 65, 17, 1), (70, 100, 5, 3)])
def test_score_gives_logits_and_tile_statistics(
    dtype: torch.dtype, count: int, dim: int, batch: int, slices: int, generator: torch.Generator
) -> None:
    rows = make_rows(dtype, count, dim, generator, weighted=True)
    # read as they are stored, wherever the centre is
    rows = replace(rows, radius=rows.stored_radius)
    query = make_query(rows, torch.full((batch,), 0.3, dtype=torch.float64), generator, holes=2 if count > 1 else 0)
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
def test_weigh_sums_the_live_rows_and_no_other(dtype: torch.dtype, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 150, 45, generator)
    query = make_query(rows, torch.full((19,), 0.2, dtype=torch.float64), generator, holes=1)
    block = BlockOperand.of(rows, Span(0, 150))
    operand = QueryOperand.of(query, torch.float16 if dtype in DTYPES[:2] else dtype, "ieee")
    scores = score(operand, block, configs.ScoreConfig(32, 16, 32, 4, 2), 1)
    logits = scores.logits[:, :19].double()
    origin = logits.amax(0)
    ordered = logits.sort(0, descending=True).values
    # the heaviest 2 are set aside, the next 20 are live, the others are not
    live_floor, head_floor = ordered[21], ordered[1]
    heads = HeadList.empty(19, 8, rows.device)
    reference = Reference(*(value.float() for value in (origin, live_floor, head_floor)))
    config = configs.WeighConfig(32, 16, 32, 4, 2)
    weights = weights_of(scores, block, reference, heads, config, mean=True)
    kept = torch.where((logits >= live_floor) & (logits < head_floor), (logits - origin).exp(), 0.0)
    # two bf16 parts hold 16 bits, of which the interpreter truncates the last
    expected = torch.stack([kept.sum(0), kept.square().sum(0), torch.xlogy(kept, kept).sum(0), rows.half_norms @ kept])
    torch.testing.assert_close(weights.sums, expected, rtol=5e-5, atol=1e-5)
    assert heads.count.tolist() == [2] * 19
    assert torch.equal(heads.row[:, :2].sort(1).values, logits.topk(2, dim=0).indices.T.sort(1).values)
    found = weigh(weights, block, 19, "ieee", config, 3)
    scale = kept.T @ rows.stored.double().abs()
    assert float(((found - kept.T @ rows.stored.double()).abs() / scale).max()) < 5e-5


def test_live_rows_lists_the_marked_rows_in_order(generator: torch.Generator) -> None:
    live = (torch.rand(3, 50, generator=generator) < 0.3).int()
    live[1] = 0
    rows, count = live_rows(live)
    assert count.tolist() == live.sum(1).tolist()
    for line, marks, found in zip(rows, live, count, strict=True):
        assert torch.equal(line[: int(found)].long(), marks.nonzero()[:, 0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [2, 20, 77])
@pytest.mark.parametrize("moments", [False, True])
def test_every_time_and_dtype(dtype: torch.dtype, dim: int, moments: bool, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 140, dim, generator)
    compare(rows, make_query(rows, all_times(17), generator), Wanted(moments=moments))


@pytest.mark.parametrize("stray", [0.0, 3.0])
@pytest.mark.parametrize("dim", [20, 77])
def test_off_the_path(stray: float, dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 140, dim, generator)
    compare(rows, make_query(rows, all_times(17), generator, stray=stray), Wanted())


@pytest.mark.parametrize("dim", [20, 77])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(mean=False), Wanted(moments=True, top_k=3)], ids=str)
def test_holes_weights_and_spans(dim: int, wanted: Wanted, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 150, dim, generator, weighted=True)
    query = make_query(rows, all_times(9), generator, holes=2)
    compare(rows, query, wanted, Span(13, 149))


@pytest.mark.parametrize("dim", [20, 77])
def test_data_far_from_the_origin(dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 140, dim, generator, offset=30.0)
    assert not rows.raw_operand
    compare(rows, make_query(rows, all_times(9), generator), Wanted())


@pytest.mark.parametrize("dim", [20, 77])
def test_a_query_without_a_sample_has_none(dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 70, dim, generator)
    query = make_query(rows, all_times(3), generator, holes=1)
    holes = query.holes.clone()
    holes[1] = torch.tensor([0, 70])
    state = scan.triton_state(rows, replace(query, holes=holes), Span(0, 70), Wanted(moments=dim > 50))
    assert state.lse[1] == -torch.inf
    assert state.mean.isfinite().all()
    assert state.lse[[0, 2]].isfinite().all()


@pytest.mark.parametrize("top_k", [1, 5, 140])
def test_top_k_names_the_heaviest(top_k: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.bfloat16, 140, 77, generator)
    compare(rows, make_query(rows, all_times(5), generator, holes=1), Wanted(top_k=top_k))


@pytest.mark.parametrize("dim", [20, 77])
def test_crowded_queries_are_scanned_in_float64(
    dim: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "LEAST_HEADS", 32)
    counter = Recorder(chunked.Scan)
    monkeypatch.setattr(scan, "Scan", counter)
    rows = make_rows(torch.float16, 20, dim, generator)
    # every sample 40 times: late in time the copies of the nearest share the weight
    copies = prepare_rows(rows.stored.repeat(40, 1), None)
    compare(copies, make_query(copies, torch.tensor([0.1, 0.99]).double(), generator), Wanted(), Span(0, 800))
    assert counter.calls == 1


class Recorder:
    """Stands before a callable and counts its calls."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.calls = call, 0

    def __call__(self, *values: Any, **options: Any) -> Any:
        self.calls += 1
        return self.call(*values, **options)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    """The launches of this scan, counted."""
    counters = {name: Recorder(getattr(scan, name)) for name in ("score", "weigh", "fused")}
    for name, counter in counters.items():
        monkeypatch.setattr(scan, name, counter)
    return counters


def test_what_is_wanted_decides_the_kernels(counted: dict[str, Recorder], generator: torch.Generator) -> None:
    for dim, wanted, expected in [
        (20, Wanted(), (0, 0, 2)),
        (20, Wanted(moments=True), (2, 2, 2)),
        (77, Wanted(), (4, 4, 2)),
        (77, Wanted(mean=False), (6, 4, 2)),
    ]:
        rows = make_rows(torch.float16, 100, dim, generator)
        scan.triton_state(rows, make_query(rows, all_times(2), generator), Span(0, 100), wanted)
        assert tuple(counted[name].calls for name in ("score", "weigh", "fused")) == expected


def test_the_engine_runs_on_the_kernels(
    counted: dict[str, Recorder], monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    triton = replace(backends.BACKENDS["triton"], state=scan.triton_state)
    monkeypatch.setitem(backends.BACKENDS, "triton", triton)
    points = torch.randint(0, 256, (120, 3, 5, 5), generator=generator).to(torch.uint8)
    data = OracleDataset(points, labels=torch.arange(120) % 3)
    ours, truth = (OracleEngine(data, backend=name) for name in ("triton", "reference"))
    x, t = torch.randn(6, 3, 5, 5, generator=generator, dtype=torch.float64), all_times(6)
    for options in ({}, {"labels": 1}, {"labels": 1, "guidance": 2.0}, {"exclude": 7}):
        found, true = (side.velocity(x, t, **options) for side in (ours, truth))
        assert float(((found - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).max()) < BAR
    torch.testing.assert_close(ours.log_density(x, t), truth.log_density(x, t), rtol=1e-5, atol=1e-5)
    posterior, expected = (side.posterior(x, t, top_k=4) for side in (ours, truth))
    assert torch.equal(posterior.top_indices, expected.top_indices)
    torch.testing.assert_close(posterior.ess, expected.ess, rtol=1e-4, atol=0.0)
    assert counted["score"].calls > 0
    assert counted["weigh"].calls > 0


@pytest.mark.parametrize("dim", [20, 77])
def test_equal_calls_give_equal_bits(dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 140, dim, generator)
    query = make_query(rows, all_times(9), generator)
    first, second = (scan.triton_state(rows, query, Span(0, 140), Wanted()) for _ in range(2))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.lse, second.lse)


def test_what_cannot_run_is_refused_in_words(generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 10, 8, generator)
    query = make_query(rows, all_times(2), generator)
    wide = prepare_rows(rows.stored.double(), None)
    with pytest.raises(InputError, match="float64"):
        scan.triton_state(wide, query, Span(0, 10), Wanted())
    with pytest.raises(InputError, match="at least one value"):
        scan.triton_state(rows, query, Span(3, 3), Wanted())
    turned = replace(rows, stored=rows.stored.T.contiguous().T)
    with pytest.raises(InputError, match="contiguous"):
        scan.triton_state(turned, query, Span(0, 10), Wanted())
    tiny = configs.Device("tiny", "sm_90", 1, 1024)
    with pytest.raises(InputError, match="1024 bytes of shared memory"):
        scan.check_shared_memory(configs.choose(tiny, torch.float16, 64, 4096), torch.float16)


@pytest.mark.parametrize("dim", [20, 77])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_block_takes_no_more_memory_than_planned(
    dim: int, offset: float, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(torch.float32, 140, dim, generator, offset=offset)
    query = make_query(rows, all_times(40), generator)
    allocate, taken = torch.Tensor.new_empty, []

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        fresh = allocate(self, *size, **options)
        taken.append(fresh.nbytes)
        return fresh

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    state = scan.triton_state(rows, query, Span(0, 64), Wanted())
    planned = scan.triton_memory(rows, 40)
    assert sum(taken) + state.mean.nbytes < planned - 3 * 8 * GATHER_VALUES
    # twice the queries need more, but less than twice: blocks shrink with them
    assert planned < scan.triton_memory(rows, 80) < 2 * planned


def test_the_plan_of_the_engine_is_that_of_the_kernels(generator: torch.Generator) -> None:
    data = OracleDataset(torch.randn(150, 77, generator=generator))
    plans = {name: OracleEngine(data, backend=name).plan(40) for name in backends.BACKENDS}
    assert plans["triton"].memory == scan.triton_memory(data.rows, 40)
    assert len({plan.memory for plan in plans.values()}) == len(plans)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [20, 150])
def test_half_precision_keeps_its_promise_with_half_the_products(
    dtype: torch.dtype, dim: int, generator: torch.Generator
) -> None:
    rows = make_rows(dtype, 140, dim, generator)
    query, span = make_query(rows, all_times(17), generator), Span(0, 140)
    found = scan.triton_state(rows, query, span, Wanted(), HALF)
    true = reference_state(rows, query, span, Wanted())
    assert_within(velocity_error(rows, query, found, true), "half precision")
    config = scan.checked_config(rows, query, span, HALF)
    exact, half = (
        scan.TwoPhaseScan(rows, query, 140, Wanted(), config, split).operand.parts for split in (EXACT, HALF)
    )
    assert len(half) == len(exact) - 1


def test_half_precision_reaches_the_engine(counted: dict[str, Recorder], generator: torch.Generator) -> None:
    data = OracleDataset((60 * torch.randn(200, 77, generator=generator) + 128).clamp(0, 255).to(torch.uint8))
    x, t = torch.randn(9, 77, generator=generator), all_times(9)
    ours, truth = OracleEngine(data, backend="triton", precision="half"), OracleEngine(data, backend="reference")
    found, true = (side.velocity(x.double(), t) for side in (ours, truth))
    error = (found - true).norm(dim=1) / true.norm(dim=1)
    assert_within(error, "half precision")
    assert float(error.max()) > BAR / 10
    assert counted["score"].calls > 0
    assert "1e-3" in ours.plan(9).reason


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_samples_that_half_precision_cannot_read_are_refused(offset: float, generator: torch.Generator) -> None:
    dtype = torch.float16 if offset else torch.float32
    data = OracleDataset((torch.randn(20, 77, generator=generator) + offset).to(dtype))
    with pytest.raises(InputError, match=r"`precision` must be full .*read as torch.float32. Remedy: pass prec"):
        OracleEngine(data, backend="triton", precision="half")(torch.zeros(2, 77), 0.5)


class Waiting(TorchDispatchMode):
    """Notes what would have to wait for a device: sizes and values that the host learns from tensors."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_consecutive")

    found: list[str]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        marked = name == "index" and any(part is not None and part.dtype == torch.bool for part in args[1])
        if name in self.WAITS or marked:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dim", [20, 77])
def test_nothing_waits_for_the_device_until_all_blocks_are_met(dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 140, dim, generator, weighted=True)
    query, span = make_query(rows, all_times(9), generator, holes=1), Span(0, 140)
    config = scan.checked_config(rows, query, span)
    waiting = Waiting()  # type: ignore[no-untyped-call]
    waiting.found = []
    with waiting:
        state = scan.scan_type(query, Wanted(), config)(rows, query, 140, Wanted(), config)
        for block in state.blocks(span):
            state.add(block)
        assert waiting.found == []
        state.heads()
    assert waiting.found != []
