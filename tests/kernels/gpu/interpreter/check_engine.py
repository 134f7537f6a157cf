"""The engine answers with the Triton kernels, in full and in half precision, and plans for them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from kernel_problems import (
    BAR,
    all_times,
    make_query,
    make_rows,
    scanned,
    small_backend,
    two_phase_scan,
    velocity_error,
)
from recording import Waiting, begin_capture
from tolerances import assert_within
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, OracleTarget, PosteriorDraw, conditional_target, path_sample
from oracle_engine.base.errors import InputError
from oracle_engine.engine.plans import plan
from oracle_engine.kernels import Span, reference_state
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.operands.splits import EXACT, HALF
from oracle_engine.kernels.gpu.scans.memory import triton_memory
from oracle_engine.scans import backends

ANSWERS = ("velocity", "log_density")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines scan in small blocks."""
    monkeypatch.setitem(backends.BACKENDS, "triton", small_backend())


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans time nothing, since what the interpreter takes says nothing."""
    monkeypatch.setattr(plan, "fixed_seconds", lambda engine: 1e-3)
    monkeypatch.setattr(plan, "resident_seconds", lambda engine, batch, fixed: 1.0)


def test_the_engine_runs_on_the_kernels(counted: Counter[str], generator: torch.Generator) -> None:
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
    assert counted["score_digits"] > 0
    assert counted["weigh"] > 0
    assert counted["score"] == 0


@pytest.mark.parametrize("dim", [20, 150])
def test_a_graph_can_record_every_answer(dim: int, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    values = torch.randn(150, dim, generator=generator)
    # one fused launch a block, and digits on the int8 matrix unit
    points = values.half() if dim == 20 else (40 * values + 128).clamp(0, 255).to(torch.uint8)
    data = OracleDataset(points, labels=torch.arange(150) % 4)
    ours, truth = (OracleEngine(data, backend=name) for name in ("triton", "reference"))
    t, own = all_times(5), torch.tensor([149, -1, 3, 0, 7])
    x = t[:, None] * data[own].double() + (1 - t)[:, None] * torch.randn(5, dim, generator=generator).double()
    unions = torch.tensor([[0, -1], [2, 3], [-1, -1], [1, -1], [3, 0]])
    asked: list[dict[str, Any]] = [{}, {"labels": 2}, {"labels": unions, "exclude": own}, {"source": own}]
    expected = [[getattr(truth, name)(x, t, **options) for name in ANSWERS] for options in asked]
    # as before every capture: a call that compiles what is missing and keeps what is kept
    ours.velocity(x, t, exclude=0)
    begin_capture(monkeypatch)
    with Waiting() as waiting:
        found = [[getattr(ours, name)(x, t, **options) for name in ANSWERS] for options in asked]
        assert waiting.found == []
    for given, wanted in zip(found, expected, strict=True):
        for one, other in zip(given, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_a_graph_can_record_a_training_target(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    data = OracleDataset(torch.randn(150, 77, generator=generator).half(), labels=torch.arange(150) % 4)
    target = OracleTarget(OracleEngine(data, backend="triton"), leave_one_out=True)
    own, t = torch.tensor([3, 149, 0, 77]), torch.tensor([0.1, 0.4, 0.6, 0.9])
    x1, eps = data[own], torch.randn(4, 77, generator=generator)

    def step() -> Tensor:
        x_t = path_sample("rectified_flow", x1, eps, t)
        velocity: Tensor = target(x_t, t, source=own)
        return velocity - conditional_target("rectified_flow", x1, eps, t)

    expected = step()
    begin_capture(monkeypatch)
    with Waiting() as waiting:
        recorded = step()
    assert waiting.found == []
    assert torch.equal(recorded, expected)
    with pytest.raises(InputError, match=r"`estimate` must not need .*Remedy: use Exact\(\)"):
        OracleTarget(target.engine, estimate=PosteriorDraw())(x1, t)


def test_the_plan_of_the_engine_is_that_of_the_kernels(generator: torch.Generator) -> None:
    data = OracleDataset(torch.randn(150, 77, generator=generator))
    memory = {name: OracleEngine(data, backend=name).plan(40).memory for name in backends.BACKENDS}
    assert memory["triton"] == triton_memory(data.rows, 40)
    assert len(set(memory.values())) == len(memory)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [20, 150])
def test_half_precision_keeps_its_promise_with_half_the_products(
    dtype: torch.dtype, dim: int, generator: torch.Generator
) -> None:
    rows = make_rows(dtype, 140, dim, generator)
    query = make_query(rows, all_times(17), generator)
    work = Work(rows, query, Span(0, 140))
    found, true = scanned(work, HALF), reference_state(work)
    assert_within(velocity_error(rows, query, found, true), "half precision")
    # tiles hold a power of two of parts, of which the last may be empty
    exact, half = (
        [part for part in two_phase_scan(work, split).operand.parts if part.any()] for split in (EXACT, HALF)
    )
    assert len(half) == len(exact) - 1


def test_half_precision_reaches_the_engine(counted: Counter[str], generator: torch.Generator) -> None:
    data = OracleDataset((60 * torch.randn(200, 77, generator=generator) + 128).clamp(0, 255).to(torch.uint8))
    x, t = torch.randn(9, 77, generator=generator), all_times(9)
    ours, truth = OracleEngine(data, backend="triton", precision="half"), OracleEngine(data, backend="reference")
    found, true = (side.velocity(x.double(), t) for side in (ours, truth))
    error = (found - true).norm(dim=1) / true.norm(dim=1)
    assert_within(error, "half precision")
    assert float(error.max()) > BAR / 10
    assert counted["score_digits"] > 0
    assert "1e-3" in ours.plan(9).reason


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_samples_that_half_precision_cannot_read_are_refused(offset: float, generator: torch.Generator) -> None:
    dtype = torch.float16 if offset else torch.float32
    data = OracleDataset((torch.randn(20, 77, generator=generator) + offset).to(dtype))
    with pytest.raises(InputError, match=r"`precision` must be full .*read as torch.float32. Remedy: pass prec"):
        OracleEngine(data, backend="triton", precision="half")(torch.zeros(2, 77), 0.5)
