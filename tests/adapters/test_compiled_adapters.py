"""Every adapter compiles as one graph, answers as eager code does, and refuses what eager code refuses."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from adapter_cases import small_images
from refusals import refused
from torch import Tensor

from oracle_engine import OracleEngine
from oracle_engine.adapters import (
    DDPMDenoiser,
    DiffusersTransformer,
    EDMDenoiser,
    ODEFunction,
    SmallDiffusionModel,
    SolverModel,
    VelocityModel,
)

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    # its own path is none of those that denoisers are asked on
    return OracleEngine(small_images(generator), "gvp")


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(4, 2, 3, 4, generator=generator)


def first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(call, fullgraph=True, backend="eager")


def test_adapters_compile_as_one_graph(engine: OracleEngine, x: Tensor) -> None:
    y, t = torch.tensor([0, 1, 2, 4]), torch.tensor([0.2, 0.4, 0.6, 0.8])
    edm, rows = EDMDenoiser(engine), torch.eye(4)
    ddpm = DDPMDenoiser(engine, torch.linspace(0.99, 0.01, 100).double(), check_time=False)
    sit, repa = (VelocityModel(engine, name, null_label=4) for name in ("sit", "repa"))
    small, solver, func = SmallDiffusionModel(engine), SolverModel(engine), ODEFunction(engine)
    cfm = VelocityModel(engine, "torchcfm")
    transformer = DiffusersTransformer(engine, null_label=4)
    calls: list[Callable[[Tensor], Any]] = [
        lambda x: sit(x, t, y),
        lambda x: repa(x, t, y=y),
        lambda x: cfm(t, x),
        lambda x: transformer(hidden_states=x, timestep=700.0, class_labels=y, return_dict=False),
        lambda x: edm(x, t, rows),
        lambda x: edm(x, 0.7, force_fp32=True, augment_labels=torch.zeros(4, 9)),
        lambda x: small(x, t, torch.tensor([0, 1, 2, 3])),
        lambda x: solver(x, 0.4),
        lambda x: func(torch.tensor(0.4), x),
        lambda x: ddpm.denoise(x, torch.tensor([3, 50, 80, 99])),
    ]
    for call in calls:
        assert torch.equal(first(compiled(call)(x)), first(call(x)))


def test_compiled_adapters_refuse_what_they_cannot_answer(engine: OracleEngine, x: Tensor) -> None:
    edm, solver = EDMDenoiser(engine), SolverModel(engine)
    with refused("`sigma` must be positive and finite"):
        compiled(lambda x: edm(x, torch.tensor([1.0, 0.0, 1.0, 1.0])))(x)
    with refused("`class_labels` must be one-hot rows"):
        compiled(lambda x: edm(x, 1.0, torch.full((4, 4), 0.25)))(x)
    with refused("`augment_labels` must be None, empty or zeros"):
        compiled(lambda x: edm(x, 1.0, augment_labels=torch.ones(4, 9)))(x)
    with refused(r"`t` must lie in \[0, 1\]"):
        compiled(solver)(x, torch.tensor(1.5))


def test_copies_of_a_denoiser_follow_their_own_engine(engine: OracleEngine, x: Tensor) -> None:
    edm = EDMDenoiser(engine)
    copy = deepcopy(edm)
    copy.engine.point_std = 0.5
    for model in (edm, copy):
        again = compiled(partial(model, sigma=0.7))(x)
        assert torch.equal(again, model(x, 0.7))
    assert not torch.equal(edm(x, 0.7), copy(x, 0.7))
    assert copy(x, 0.7).shape == x.shape
