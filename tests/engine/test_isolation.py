"""Answers do not depend on modes, defaults, threads and copies around an engine, and calls change none of them."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from closed_form import normal
from engine_cases import X, twenty
from tolerances import assert_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, Posterior


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    return twenty(generator)


def everything(engine: OracleEngine, x: Tensor) -> Posterior:
    """Ask for all there is, so that every cache of the data set is filled where this is called."""
    engine.velocity(x, 0.3, labels=1, guidance=2.0, exclude=4)
    return engine.posterior(x, 0.3, labels=torch.tensor([[0, 1]] * len(x)), exclude=4)


AROUND: dict[str, Any] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("dim", [4, 64])
def test_answers_do_not_depend_on_what_is_around(generator: torch.Generator, name: str, dim: int) -> None:
    points = normal(90, dim, generator).float()
    x = torch.randn(3, dim, generator=generator)
    expected = everything(OracleEngine(OracleDataset(points, torch.arange(90) % 3)), x)
    engine = OracleEngine(OracleDataset(points, torch.arange(90) % 3))
    with AROUND[name]():
        inside = everything(engine, x)
    # what was prepared inside serves outside too
    for answer in (inside, everything(engine, x)):
        assert torch.equal(answer.mean, expected.mean)
        assert torch.equal(answer.log_density, expected.log_density)
        assert torch.equal(answer.top_indices, expected.top_indices)
    assert torch.is_grad_enabled()


def test_the_default_dtype_of_torch_changes_nothing(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(90, 64, generator).float(), torch.arange(90) % 3))
    x = torch.randn(3, 64, generator=generator)
    expected = everything(engine, x)
    torch.set_default_dtype(torch.float64)
    try:
        answer = everything(engine, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(answer.mean, expected.mean)
    assert torch.equal(answer.log_density, expected.log_density)


def test_calls_leave_their_arguments_alone(engine: OracleEngine) -> None:
    x, t, labels, exclude = (
        torch.ones(2, 4),
        torch.full((2,), 0.5),
        torch.tensor([[0, 1], [2, -1]]),
        torch.tensor([1, -1]),
    )
    held = [tensor.clone() for tensor in (x, t, labels, exclude)]
    stored = engine.data.rows.stored.clone()
    engine.velocity(x, t, labels=labels, guidance=2.0, exclude=exclude)
    engine.posterior(x, t, labels=labels, exclude=exclude)
    for before, after in zip(held, (x, t, labels, exclude), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(engine.data.rows.stored, stored)


def through_torch_save(engine: OracleEngine) -> OracleEngine:
    buffer = io.BytesIO()
    torch.save(engine, buffer)
    buffer.seek(0)
    loaded: OracleEngine = torch.load(buffer, weights_only=False)
    return loaded


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine)), through_torch_save]
)
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_answers_alike(engine: OracleEngine, copied: Any, used: bool) -> None:
    if used:
        everything(engine, X)
    twin = copied(engine)
    assert torch.equal(everything(twin, X).mean, everything(engine, X).mean)
    assert (twin.backend, twin.path, twin.t_max) == (engine.backend, engine.path, engine.t_max)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_threads_that_share_an_engine_get_the_answers_of_one(generator: torch.Generator, precision: str) -> None:
    points = normal(800, 64, generator).float()
    t = torch.tensor([0.05, 0.3, 0.6, 0.9, 0.99], dtype=torch.float64).repeat(4)
    x = t[:, None] * points[:20] + (1 - t[:, None]) * normal(20, 64, generator)
    alone = everything(OracleEngine(OracleDataset(points, torch.arange(800) % 3)), x).mean
    shared = OracleEngine(OracleDataset(points, torch.arange(800) % 3))
    torch.set_float32_matmul_precision(precision)
    try:
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda _: everything(shared, x).mean, range(12)):
                assert_close(answer, alone, "float32 output")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
