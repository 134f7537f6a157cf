"""An engine says which backend runs and what a call will cost, and behaves as a module without parameters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from closed_form import normal
from engine_cases import X, twenty
from refusals import refused
from tolerances import assert_close

from oracle_engine import OracleDataset, OracleEngine, load_dataset
from oracle_engine.compare.memory import peak_extra_bytes
from oracle_engine.kernels import native_library
from oracle_engine.scans.backends import BACKENDS, Backend

# what auto takes on the CPU of this machine
BEST = "torch" if native_library().library is None else "native"


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    return twenty(generator)


def test_a_data_set_of_few_samples_has_a_posterior_without_further_arguments() -> None:
    posterior = OracleEngine(OracleDataset(torch.eye(3))).posterior(torch.zeros(2, 3), 0.5)
    assert_close(posterior.top_weights[:, :3], torch.full((2, 3), 1 / 3), "moment")


@pytest.mark.usefixtures("unchecked")
def test_whole_numbers_are_times_and_scales_too(engine: OracleEngine) -> None:
    assert torch.equal(engine.velocity(X, 0), engine.velocity(X, 0.0))
    assert torch.equal(engine.velocity(X, 0.5, labels=1, guidance=2), engine.velocity(X, 0.5, labels=1, guidance=2.0))


def test_the_backend_is_named_with_the_reason(engine: OracleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORACLE_BACKEND", raising=False)
    assert OracleEngine(engine.data).backend == BEST
    assert native_library().reason in OracleEngine(engine.data).backend_reason
    asked = OracleEngine(engine.data, backend="reference")
    assert (asked.backend, asked.backend_reason.split(";")[0]) == ("reference", "backend reference was asked for")
    monkeypatch.setenv("ORACLE_BACKEND", "reference")
    settled = OracleEngine(engine.data)
    assert settled.backend == "reference"
    assert "set by ORACLE_BACKEND" in settled.backend_reason
    assert OracleEngine(engine.data, backend="torch").backend == "torch"


def test_native_kernels_can_be_switched_off(engine: OracleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_NATIVE", "off")
    off = OracleEngine(engine.data)
    assert off.backend == "torch"
    assert "native kernels are switched off by ORACLE_NATIVE" in off.plan().reason
    assert_close(off.velocity(X, 0.5), engine.velocity(X, 0.5), "float32 output")
    with refused("`backend` can be native where these kernels run; received .*switched off by ORACLE_NATIVE"):
        OracleEngine(engine.data, backend="native")


def test_the_backend_that_is_named_is_the_one_that_runs(engine: OracleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def recorded(name: str, backend: Backend) -> Backend:
        def state(*arguments: Any) -> Any:
            ran.append(name)
            return backend.state(*arguments)

        return replace(backend, state=state)

    for name, backend in BACKENDS.items():
        monkeypatch.setitem(BACKENDS, name, recorded(name, backend))
    for name in ("torch", "reference"):
        OracleEngine(engine.data, backend=name).velocity(X, 0.5)
    assert ran == ["torch", "reference"]


def test_the_plan_can_be_read_before_any_work(engine: OracleEngine) -> None:
    plan = engine.plan(batch=64)
    assert (plan.batch, plan.backend, plan.route) == (64, engine.backend, "exact")
    assert plan.operations == 4 * 64 * 20 * 4
    assert plan.memory > 0
    assert plan.seconds > 0
    text = str(plan)
    assert [line.split()[0] for line in text.splitlines()] == [
        *("data", "values", "batch", "backend", "route", "reason", "late", "resident", "memory", "cost", "expected"),
    ]
    assert "OracleDataset('twenty', 20 x [4]" in text
    assert engine.backend_reason in text
    with refused("`batch` must be a whole number of at least 1; received 0"):
        engine.plan(batch=0)


def test_memory_of_the_plan_does_not_grow_with_the_data() -> None:
    def memory(count: int) -> int:
        return OracleEngine(OracleDataset(torch.zeros(count, 256, dtype=torch.uint8))).plan(batch=32).memory

    assert memory(400_000) == memory(100_000)


@pytest.mark.parametrize("batch", [1, 64])
def test_a_call_needs_no_more_memory_than_planned(generator: torch.Generator, batch: int) -> None:
    engine = OracleEngine(load_dataset("patches", count=3000))
    t = torch.linspace(0.1, 0.9, batch)
    x = normal(batch, 3072, generator).reshape(batch, 3, 32, 32)
    engine(x, t)
    peak = peak_extra_bytes(lambda: engine(x, t), torch.device("cpu"))
    # measured on Linux only
    assert peak is None or peak <= engine.plan(batch).memory


def test_every_query_says_which_way_it_took(engine: OracleEngine) -> None:
    assert engine.posterior(X, 0.5).route == ("exact", "exact")


def test_printing_shows_data_path_and_backend(engine: OracleEngine) -> None:
    text = repr(engine)
    assert re.search(rf"OracleDataset\('twenty', 20 x \[4\].*path=RectifiedFlow\(\).*backend='{BEST}'", text)


def test_a_module_without_parameters_or_state(engine: OracleEngine) -> None:
    assert list(engine.parameters()) == []
    assert list(engine.buffers()) == []
    assert engine.state_dict() == {}
    engine.load_state_dict({})


@pytest.mark.parametrize("cast", ["half", "double", "bfloat16", "float", "eval", "train"])
def test_casts_leave_the_data_as_they_are(engine: OracleEngine, cast: str) -> None:
    before = engine.velocity(X, 0.5)
    data = engine.data
    assert getattr(engine, cast)() is engine
    assert engine.data is data
    assert torch.equal(engine.velocity(X, 0.5), before)


def test_moving_follows_the_device_and_not_the_dtype(engine: OracleEngine) -> None:
    data = engine.data
    assert engine.to("cpu").data is data
    assert engine.to("cpu", torch.float16).data is data
    parent = torch.nn.Sequential(engine)
    parent.to("meta")
    assert engine.data.device.type == "meta"
    assert OracleEngine(data, device="meta").data.device.type == "meta"
    assert data.device.type == "cpu"


def test_a_velocity_is_made_without_a_graph_inside_a_training_step(engine: OracleEngine) -> None:
    model = torch.nn.Linear(4, 4)
    (model(X + 1) - engine(X + 1, 0.5)).square().mean().backward()
    assert model.weight.grad is not None
