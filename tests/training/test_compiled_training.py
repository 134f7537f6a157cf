"""Targets, losses and draws compile as whole graphs and give what eager code gives."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from closed_form import normal
from derivative_cases import TIMES
from torch import Tensor, func

import oracle_engine as oe
from oracle_engine import InputError, OracleDataset, OracleEngine, OracleTarget

LABELS, SOURCE = torch.tensor([0, 1, 2, 0, 1]), torch.arange(5)

pytestmark = pytest.mark.usefixtures("recompiled")


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    return OracleEngine(OracleDataset(normal(30, 3, generator).float(), torch.arange(30) % 3))


@pytest.fixture
def x(engine: OracleEngine, generator: torch.Generator) -> Tensor:
    return oe.path_sample("rectified_flow", engine.data[SOURCE].double(), normal(5, 3, generator), TIMES)


def assert_alike(call: Callable[[Tensor], Tensor], x: Tensor, backend: str = "aot_eager") -> None:
    """Compare compiled and eager code, which draw the same numbers."""
    answers = []
    for side in (call, torch.compile(call, fullgraph=True, backend=backend)):
        torch.manual_seed(0)
        answers.append(side(x))
    torch.testing.assert_close(answers[1], answers[0])


# torch itself uses it
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_target_compiles_by_itself_with_generated_code(engine: OracleEngine, x: Tensor) -> None:
    target = OracleTarget(engine)
    compiled = torch.compile(target, fullgraph=True)
    assert torch.equal(compiled(x, TIMES, LABELS, SOURCE), target(x, TIMES, LABELS, SOURCE))
    assert torch.equal(compiled(x, TIMES), target(x, TIMES))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction": "denoiser", "leave_one_out": True},
        {"guidance": 2.0},
        {"augmentation": oe.Flip()},
        {"estimate": oe.References(8)},
        {"estimate": oe.PosteriorDraw()},
    ],
)
def test_every_target_compiles(engine: OracleEngine, x: Tensor, options: dict[str, Any], backend: str) -> None:
    target = OracleTarget(engine, **options)
    assert_alike(lambda x: target(x, TIMES, LABELS, SOURCE), x, backend)


@pytest.mark.parametrize("t", [[0.1, 0.3, 0.5, 0.7, 0.9], np.linspace(0.1, 0.9, 5), 0.25, 0])
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1], LABELS.numpy(), 1, None])
def test_targets_take_lists_and_arrays(engine: OracleEngine, x: Tensor, t: Any, labels: Any) -> None:
    target = OracleTarget(engine)
    assert_alike(lambda x: target(x, t, labels), x)


def test_labels_and_draws_compile(engine: OracleEngine, x: Tensor) -> None:
    assert_alike(lambda x: oe.drop_labels(LABELS, 0.5), x)
    assert_alike(lambda x: oe.posterior_draw(engine, x, TIMES, labels=LABELS), x)
    with pytest.raises(InputError, match="`labels` must be classes of the data"):
        torch.compile(lambda x: oe.posterior_draw(engine, x, 0.5, labels=9), fullgraph=True, backend="aot_eager")(x)


# in an interpreter of its own: the type checker of the tests makes dataclasses that torch cannot trace
UNCHECKED = """
import torch
import oracle_engine as oe

def whole(call):
    return torch.compile(call, fullgraph=True, backend="aot_eager")

def refused(call, x):
    try:
        whole(call)(x)
    except oe.InputError as error:
        return str(error)

x, t = torch.randn(5, 3), torch.rand(5)
for call in (
    lambda x: oe.path_sample("vp", x, 2 * x, t),
    lambda x: oe.conditional_target("gvp", x, 2 * x, [0.1, 0.3, 0.5, 0.7, 0.9]),
    lambda x: oe.conditional_target(oe.EDM(), x, 2 * x, 0.5, prediction="score"),
):
    torch.testing.assert_close(whole(call)(x), call(x))
assert "`t` must lie in [0, 1]" in refused(lambda x: oe.path_sample("vp", x, x, 1.5), x)
assert "`t` must leave a finite" in refused(lambda x: oe.conditional_target("vp", x, x, 1.0), x)

data = oe.OracleDataset(torch.randn(30, 3), torch.arange(30) % 3)
target, network, source = oe.OracleTarget(oe.OracleEngine(data)), torch.nn.Linear(3, 3), torch.arange(5)
for labels in (None, torch.tensor([0, 1, 2, 0, 1])):
    def loss(x1):
        model = lambda x, t, *shown: network(x)
        return oe.oracle_loss(model, target, x1, labels, source=source, label_dropout=0.3).loss
    gradients = []
    for side in (loss, whole(loss)):
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(side(data[source]), network.weight)[0])
    torch.testing.assert_close(gradients[1], gradients[0])
"""


def test_samples_of_paths_and_losses_compile() -> None:
    found = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]


def test_a_target_refuses_as_in_eager_code(engine: OracleEngine, x: Tensor) -> None:
    target = torch.compile(OracleTarget(engine, leave_one_out=True), fullgraph=True, backend="aot_eager")
    with pytest.raises(InputError, match=r"`t` must lie in \[0, 1\]"):
        target(x, 2.0, None, SOURCE)
    with pytest.raises(InputError, match="`source` is needed for leave_one_out"):
        target(x, 0.5)


def test_a_copy_of_a_target_answers_for_itself(engine: OracleEngine, x: Tensor, generator: torch.Generator) -> None:
    target = OracleTarget(engine)
    other = copy.deepcopy(target)
    other.engine.data = OracleDataset(normal(4, 3, generator))
    call = torch.compile(lambda side: side(x, TIMES), fullgraph=True, backend="aot_eager")
    for side in (target, other):
        assert torch.equal(call(side), side(x, TIMES))
    assert not torch.equal(call(target), call(other))
    del target, side
    gc.collect()


def test_estimates_inside_a_transform_are_refused_in_words(engine: OracleEngine, x: Tensor) -> None:
    exact = OracleTarget(engine)
    one_by_one = func.vmap(lambda x, t: exact(x[None], t)[0])(x, TIMES)
    torch.testing.assert_close(one_by_one, exact(x, TIMES))
    for options in ({"estimate": oe.PosteriorDraw()}, {"augmentation": oe.Flip()}):
        target = OracleTarget(engine, **options)
        with pytest.raises(InputError, match="`estimate` has no derivative and no batching rule"):
            func.vmap(lambda x, t, side=target: side(x[None], t)[0])(x, TIMES)
    with pytest.raises(InputError, match="`posterior_draw` has no derivative and no batching rule"):
        func.vmap(lambda x, t: oe.posterior_draw(engine, x[None], t))(x, TIMES)
