"""What is passed in place of an engine or a velocity is refused in words, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flow_matching.path import CondOTProbPath
from other_libraries import ConditionalFlowMatcher
from refusals import refused
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, OracleTarget, oracle_loss, posterior_draw
from oracle_engine.adapters import (
    DDPMDenoiser,
    DiffusersTransformer,
    EDMDenoiser,
    ODEFunction,
    OracleMatcher,
    SmallDiffusionModel,
    SolverModel,
    VelocityModel,
    with_oracle,
)
from oracle_engine.paths.time_grids import sampling_times
from oracle_engine.samplers.fields import Switch
from oracle_engine.samplers.runs import initial_noise, noised, sample


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return OracleDataset(torch.randn(6, 3, generator=generator))


def calls_with(engine: Any, data: OracleDataset) -> list[Callable[[], Any]]:
    """Return every call of the training, adapter and sampler rooms that takes an engine, with `engine` in its place."""
    x = data[:]
    drawn = CondOTProbPath().sample(x_0=torch.randn(6, 3), x_1=x, t=torch.full((6,), 0.5))
    return [
        lambda: OracleTarget(engine),
        lambda: posterior_draw(engine, x, 0.5),
        lambda: VelocityModel(engine, "sit"),
        lambda: DiffusersTransformer(engine),
        lambda: SolverModel(engine),
        lambda: ODEFunction(engine),
        lambda: EDMDenoiser(engine),
        lambda: SmallDiffusionModel(engine),
        lambda: DDPMDenoiser(engine, torch.linspace(0.9, 0.1, 10)),
        lambda: OracleMatcher(ConditionalFlowMatcher(), engine),
        lambda: with_oracle(drawn, engine),
        lambda: initial_noise(engine, 2),
        lambda: noised(engine, x, 0.5),
    ]


@pytest.mark.parametrize("kind", ["None", "data", "tensor", "name", "class", "function", "namespace"])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_engine_is_refused(kind: str, data: OracleDataset) -> None:
    other = {
        "None": None,
        "data": data,
        "tensor": data[:],
        "name": "digits",
        "class": OracleEngine,
        "function": lambda x, t: x,
        "namespace": SimpleNamespace(data=data, path="vp", engine=None),
    }[kind]
    for call in calls_with(other, data):
        with refused("`engine` must be an OracleEngine; received "):
            call()


@pytest.mark.usefixtures("unchecked")
def test_what_has_an_engine_says_so(data: OracleDataset) -> None:
    engine = OracleEngine(data)
    for other in (OracleTarget(engine), SolverModel(engine), EDMDenoiser(engine)):
        for call in calls_with(other, data):
            with refused(r"`engine` must be an OracleEngine; received \w+\. Remedy: pass the engine inside of it"):
                call()


@pytest.mark.usefixtures("unchecked")
def test_losses_need_a_target(data: OracleDataset) -> None:
    for other in (OracleEngine(data), None, lambda x, t: x):
        with refused("`target` must be an OracleTarget"):
            oracle_loss(lambda x, t: x, other, data[:])  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_samplers_follow_velocities_only(data: OracleDataset) -> None:
    engine, x, grid = OracleEngine(data), torch.randn(2, 3), sampling_times(4)
    for other in (None, 3, data[:], "sit", OracleEngine, torch.nn.Linear):
        for velocity in (other, Switch(engine, other, 0.5)):  # type: ignore[arg-type]
            with refused("`velocity` must be an engine, an object with"):
                sample(velocity, x, grid)  # type: ignore[arg-type]
    denoisers = [
        EDMDenoiser(engine),
        SmallDiffusionModel(engine),
        *(OracleTarget(engine, name) for name in ("denoiser", "score", "noise")),
    ]
    for model in denoisers:
        with refused(r"`velocity` must return a velocity; received \w+, which returns a (denoiser|score|noise)"):
            sample(model, x, grid)
    assert torch.allclose(sample(OracleTarget(engine), x, grid).x, sample(engine, x, grid).x, atol=1e-5)


@pytest.mark.parametrize("path", ["vp", "gvp", "edm"])
def test_models_that_have_an_engine_bring_its_path(path: str, data: OracleDataset) -> None:
    engine, grid = OracleEngine(data, path), sampling_times(6)
    x = initial_noise(engine, 2).double()
    expected = sample(engine, x, grid).x
    for model in (VelocityModel(engine, "sit"), SolverModel(engine), OracleTarget(engine)):
        found: Tensor = sample(model, x, grid).x
        assert torch.allclose(found, expected, atol=1e-5)
        with refused("`path` must be the path of the engine"):
            sample(model, x, grid, path="rectified_flow")
